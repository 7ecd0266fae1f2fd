"""`penstock inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table
from penstock.units import format_size, time_of

if TYPE_CHECKING:
    from penstock.inspection import Inspection
    from penstock.pipeline import Pipeline

EXAMPLES = (
    "penstock inspect pipeline.yaml",
    "penstock inspect pipeline.yaml --samples 5",
    "penstock inspect pipeline.yaml --state dedup/keys --to keys.parquet",
    "penstock inspect ecommerce --epochs 50 --json | jq .lag",
)

MOST_PARTITIONS = 50


def inspect(
    pipeline: PipelineArgument,
    epochs: Annotated[int, typer.Option(min=1, help="How many of the newest log entries to show.")] = 10,
    samples: Annotated[int, typer.Option(min=0, help="How many dead letters of each code to show.")] = 1,
    broker: Annotated[bool, typer.Option(help="Ask the source's broker for the lag.")] = True,
    state: Annotated[str | None, typer.Option(metavar="TABLE", help="Write a table of the state, with --to.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The Parquet file for --state.")] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a pipeline from outside, also while it runs: ledger, lag, watermark, dead letters, layers, state, epochs."""
    out = Output(as_json)
    flow = open_pipeline(pipeline, settings)
    if (state is None) != (to is None):
        raise typer.BadParameter("give both: --state TABLE --to FILE.parquet", param_hint="--state, --to")
    if state is not None and to is not None:
        out.result(_export(flow, state, to, out))
        return
    found = flow.inspect(epochs=epochs, samples=samples, broker=broker)
    _show_head(found, out)
    if found.shards:
        heads = (">shard", ">entry", ">consumed", ">silver", ">pending", "watermark")
        out.print(simple_table("Shards", heads, _shards(found)))
    _show_partitions(found, out)
    _show_dead_letters(found, out)
    out.print(
        simple_table(
            "Layers",
            ("layer", ">files", ">rows", ">size"),
            [(n, f"{s['files']:,}", f"{s['rows']:,}", format_size(s["bytes"])) for n, s in found.layers.items()],
        )
    )
    tables: dict[str, list[int]] = {}
    for file in found.raw["state"]:
        tables.setdefault(file["table"], []).append(int(file["bytes"]))
    out.print(
        simple_table(
            "State",
            ("table", ">files", ">size"),
            [(n, f"{len(sizes):,}", format_size(sum(sizes))) for n, sizes in sorted(tables.items())],
        )
    )
    rows = []
    for entry in found.epochs:
        counts = entry["counts"]
        numbers = [f"{counts[name]:,}" for name in ("consumed", "silver", "pending", "rejected", "duplicate", "late")]
        shard = f"{entry['shard']}: " if "shard" in entry else ""
        rows.append([f"{shard}{entry['number']} {entry['kind']}", str(entry["term"]), *numbers, str(entry["files"])])
    columns = (">entry", ">term", ">consumed", ">silver", ">pending", ">rejected", ">duplicate", ">late", ">files")
    out.print(simple_table("Newest entries of the log", columns, rows))
    out.result(found.to_dict())


def _export(flow: Pipeline, table: str, to: Path, out: Output) -> dict[str, Any]:
    from penstock.lake import write_parquet

    rows = flow.state(table)
    write_parquet(rows, to, replace=True)
    out.print(f"{len(rows):,} rows of {table}: {', '.join(rows.column_names)}\nwritten to {to}")
    return {"table": table, "rows": len(rows), "columns": rows.column_names, "path": str(to)}


def _show_head(found: Inspection, out: Output) -> None:
    last = found.raw["last"]
    mark = f"{found.watermark:%Y-%m-%d %H:%M:%S.%f} UTC" if found.watermark else "none yet"
    when = time_of(last["committed_at"])
    lag = f", {found.lag:,} not yet read" if found.lag is not None else ""
    out.print(
        f"[bold]{found.counts.consumed:,}[/bold] events{lag}, watermark {mark}\n"
        f"last commit: entry {last['number']} by term {last['term']}, {when:%Y-%m-%d %H:%M:%S} UTC"
    )
    if "broker_said" in found.raw:
        out.print(f"[yellow]the lag is not known: {found.raw['broker_said']}[/yellow]")
    if found.planned is not None:
        out.print(
            f"[yellow]epoch {found.planned} is planned and not committed: a run is at work, or was killed[/yellow]"
        )
    counts = found.counts
    shares = [(n, getattr(counts, n)) for n in ("consumed", "silver", "pending", "rejected", "duplicate", "late")]
    if counts.lost:
        shares.append(("lost before they were read", counts.lost))
    verdict = "it balances" if found.balanced else "IT DOES NOT BALANCE"
    out.print(simple_table(f"Ledger: {verdict}", ("", ">events"), [(name, f"{count:,}") for name, count in shares]))


def _show_partitions(found: Inspection, out: Output) -> None:
    rows = []
    partitions = found.partitions
    for one in partitions[:MOST_PARTITIONS]:
        mark = time_of(one.get("watermark"))
        read = "-" if one["position"] is None else f"{one['position']:,}"
        lag = f"{one['lag']:,}" if "lag" in one else "-"
        shown = f"{mark:%Y-%m-%d %H:%M:%S}" if mark else "-"
        rows.append((one["topic"], str(one["partition"]), read, lag, shown, "" if one.get("holds_back") else "idle"))
    columns = ("topic", ">partition", ">read to", ">lag", "watermark", "")
    out.print(simple_table("Partitions", columns, rows))
    if len(partitions) > MOST_PARTITIONS:
        out.print(f"... and {len(partitions) - MOST_PARTITIONS:,} more: --json has all of them")


def _show_dead_letters(found: Inspection, out: Output) -> None:
    codes = dict(found.counts.rejected_by_code)
    if found.counts.late:
        codes["late"] = found.counts.late
    rows = []
    for code, count in codes.items():
        shown = [_sample(sample) for sample in found.samples if sample["code"] == code]
        for n, sample in enumerate(shown or [("", "")]):
            rows.append((code if n == 0 else "", f"{count:,}" if n == 0 else "", *sample))
    if rows:
        out.print(simple_table("Dead letters", ("code", ">events", "for example", "where"), rows))


def _sample(sample: dict[str, Any]) -> tuple[str, str]:
    at = f"{sample['pointer']}: " if sample["pointer"] else ""
    return f"{at}{sample['message']}", f"{sample['topic']} {sample['partition']} @ {sample['offset']}"


def _shards(found: Inspection) -> list[list[str]]:
    rows = []
    for shard in found.shards:
        mark = time_of(shard["watermark"])
        rows.append(
            [
                str(shard["shard"]),
                str(shard["last"]["number"]) if shard["last"] else "none yet",
                *(f"{shard[name]:,}" for name in ("consumed", "silver", "pending")),
                f"{mark:%Y-%m-%d %H:%M:%S} UTC" if mark else "none yet",
            ]
        )
    return rows
