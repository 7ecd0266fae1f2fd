"""`penstock inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table
from penstock.units import format_size, time_of

if TYPE_CHECKING:
    from penstock.pipeline import Inspection

EXAMPLES = ("penstock inspect pipeline.yaml", "penstock inspect ecommerce --epochs 50 --json | jq .watermark")


def inspect(
    pipeline: PipelineArgument,
    epochs: Annotated[int, typer.Option(min=1, help="How many of the newest log entries to show.")] = 10,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a pipeline from outside, also while it runs: epochs, watermark, partitions, state, layers."""
    out = Output(as_json)
    found = open_pipeline(pipeline, settings).inspect(epochs=epochs)
    raw = found.raw
    mark = f"{found.watermark:%Y-%m-%d %H:%M:%S.%f} UTC" if found.watermark else "none yet"
    last = raw["last"]
    when = time_of(last["committed_at"])
    out.print(
        f"[bold]{found.counts.consumed:,}[/bold] events, watermark {mark}\n"
        f"last commit: entry {last['number']} by term {last['term']}, {when:%Y-%m-%d %H:%M:%S} UTC"
    )
    if found.planned is not None:
        out.print(
            f"[yellow]epoch {found.planned} is planned and not committed: a run is at work, or was killed[/yellow]"
        )
    if found.shards:
        out.print(
            simple_table(
                "Shards", (">shard", ">entry", ">consumed", ">silver", ">pending", "watermark"), _shards(found)
            )
        )
    out.print(
        simple_table(
            "Layers",
            ("layer", ">files", ">rows", ">size"),
            [(n, f"{s['files']:,}", f"{s['rows']:,}", format_size(s["bytes"])) for n, s in found.layers.items()],
        )
    )
    state: dict[str, list[int]] = {}
    for file in raw["state"]:
        state.setdefault(file["table"], []).append(int(file["bytes"]))
    out.print(
        simple_table(
            "State",
            ("table", ">files", ">size"),
            [(n, f"{len(sizes):,}", format_size(sum(sizes))) for n, sizes in sorted(state.items())],
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
