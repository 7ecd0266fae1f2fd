"""`penstock replay`: dead letters once more."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table

EXAMPLES = (
    "penstock replay pipeline.yaml --dry-run",
    "penstock replay ecommerce --code missing_field --event-type purchase",
    "penstock replay ecommerce --code late --from 2024-12-17 --to 2024-12-18 --json",
)


def replay(
    pipeline: PipelineArgument,
    code: Annotated[
        list[str] | None,
        typer.Option(help="Dead letters with this code; all but late unless given; can be repeated."),
    ] = None,
    event_type: Annotated[
        list[str] | None, typer.Option(help="Dead letters of this event type; can be repeated.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="Those that came on this day or moment (UTC), or later.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="Those that came before this day or moment (UTC).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of them, and do nothing.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge dead letters once more by today's contract; those that are good now go to Silver, each once.

    With --code late, late events find their place: the session that they fall into, else a new one. Closed windows stay
    as they are. What is still bad stays. It works beside a running stream.
    """
    out = Output(as_json)
    flow = open_pipeline(pipeline, settings)
    report = flow.replay(codes=code or (), event_types=event_type or (), start=start, end=end, dry_run=dry_run)
    rows = [
        ("dead letters judged again", report.letters),
        ("to Silver" if not dry_run else "would go to Silver", report.silver),
        ("  into sessions that were there", report.joined_sessions),
        ("duplicates: Silver has their key", report.duplicate),
        ("still not accepted", report.still_bad),
        *((f"  {name}", count) for name, count in report.still_bad_by_code.items()),
        ("not passed by the watermark yet", report.waiting),
    ]
    out.print(simple_table("", ("", ">events"), [(name, f"{count:,}") for name, count in rows]))
    if report.entries:
        out.print(f"log entries: {', '.join(str(number) for number in report.entries)}")
    out.result(report.to_dict())
