"""`penstock compact`: small files become larger ones."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table
from penstock.units import format_size

EXAMPLES = (
    "penstock compact pipeline.yaml",
    "penstock compact ecommerce --layer bronze/events --target 256MiB",
    "penstock compact ecommerce --dry-run --json | jq .files_before",
)


def compact(
    pipeline: PipelineArgument,
    layer: Annotated[
        list[str] | None, typer.Option(help="This layer, e.g. silver/events; all unless given; can be repeated.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="The size of a file afterwards; one that has a quarter of it is left alone.")
    ] = "128MiB",
    min_age: Annotated[str, typer.Option(help="Nothing younger is touched.")] = "10m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the small files of each partition together, row for row in the same order.

    It works beside a running stream. Readers of the log see every row once at every moment; the old files lie in the
    trash for an hour, for those who have begun to read them.
    """
    out = Output(as_json)
    flow = open_pipeline(pipeline, settings)
    report = flow.compact(layers=layer or (), target=target, min_age=min_age, dry_run=dry_run)
    rows = [(name, f"{before:,}", "" if dry_run else f"{after:,}") for name, (before, after) in report.layers.items()]
    out.print(simple_table("", ("layer", ">files", ">now"), rows) if rows else "nothing to put together")
    if rows and not dry_run:
        sizes = f"{format_size(report.bytes_before)} → {format_size(report.bytes_after)}"
        out.print(f"{report.rows:,} rows, {sizes}, log entries {', '.join(map(str, report.entries))}")
    if report.swept:
        out.print(f"{report.swept:,} files that no commit named moved to the trash")
    out.result(report.to_dict())
