"""`penstock backfill`: days of Silver made anew."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table

EXAMPLES = (
    "penstock backfill pipeline.yaml --from 2024-12-17 --to 2024-12-18 --dry-run",
    "penstock backfill ecommerce --from 2024-12-01 --to 2025-01-01",
    "penstock backfill ecommerce --from 2024-12-17 --to 2024-12-18 --json | jq .accepted",
)


def backfill(
    pipeline: PipelineArgument,
    start: Annotated[str, typer.Option("--from", metavar="YYYY-MM-DD", help="The first day of Silver (UTC).")],
    end: Annotated[str, typer.Option("--to", metavar="YYYY-MM-DD", help="The day after the last.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and do nothing.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make days of Silver anew from Bronze by today's contract, as one batch.

    Every session that touches the days is replaced whole, by one commit: readers see the old rows or the new ones. It
    works beside a running stream; what the stream still works on is left to it. Windows stay as they are; load the
    warehouse again afterwards.
    """
    out = Output(as_json)
    report = open_pipeline(pipeline, settings).backfill(start, end, dry_run=dry_run)
    rows = [
        ("events judged", report.judged, None),
        ("rows of Silver", report.rows_before, report.rows_after),
        ("sessions", report.sessions_before, report.sessions_after),
        ("dead letters → Silver", report.accepted, None),
        ("dead letters → duplicates", report.found_duplicate, None),
        ("duplicates → Silver", report.no_duplicate, None),
        ("Silver → duplicates", report.duplicate, None),
        ("→ dead letters", report.rejected, None),
        ("left to the stream", report.left_to_stream, None),
    ]
    shown = [(name, f"{before:,}", "" if after is None else f"{after:,}") for name, before, after in rows]
    out.print(simple_table("", ("", ">before", ">after"), shown))
    if report.entries:
        out.print(f"log entry {report.entries[0]}: {report.files_removed:,} files went, {report.files_added:,} came")
    elif not dry_run:
        out.print("nothing to replace on these days")
    out.result(report.to_dict())
