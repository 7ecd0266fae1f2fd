"""`penstock retention`: old files leave the lake."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table
from penstock.units import format_size

EXAMPLES = (
    "penstock retention pipeline.yaml --dry-run",
    "penstock retention ecommerce --bronze 30d --dead-letters 90d",
    "penstock retention ecommerce --json | jq .expired",
)


def retention(
    pipeline: PipelineArgument,
    bronze: Annotated[str | None, typer.Option(metavar="AGE", help="Keep Bronze so long, e.g. 30d.")] = None,
    silver: Annotated[str | None, typer.Option(metavar="AGE", help="Keep Silver and its sessions so long.")] = None,
    dead_letters: Annotated[
        str | None, typer.Option(metavar="AGE", help="Keep dead letters that are settled so long.")
    ] = None,
    gold: Annotated[str | None, typer.Option(metavar="AGE", help="Keep windows so long.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Throw away files that are older than they are to be kept; without options, as `retention` in the file says.

    The age counts from the end of a partition's day. Dead letters stay until they are settled, Bronze until nothing of
    it is held any more. The ledger keeps its counts, and says how much has expired.
    """
    out = Output(as_json)
    given = {"bronze": bronze, "silver": silver, "dead_letters": dead_letters, "gold": gold}
    keep = {name: age for name, age in given.items() if age is not None}
    report = open_pipeline(pipeline, settings).retention(keep or None, dry_run=dry_run)
    rows = [
        (layer, f"before {size['before']}", f"{size['files']:,}", f"{size['rows']:,}", format_size(size["bytes"]), note)
        for note, found in (("would go" if dry_run else "expired", report.expired), ("stays", report.held_back))
        for layer, size in found.items()
    ]
    columns = ("layer", "days", ">files", ">rows", ">size", "")
    out.print(simple_table("", columns, rows) if rows else "nothing is old enough")
    if report.held_back:
        out.print("what stays is not settled: dead letters to be replayed, or events that the stream still holds")
    out.result(report.to_dict())
