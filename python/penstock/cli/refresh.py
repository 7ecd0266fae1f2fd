"""`penstock refresh`: the tables that are made of raw rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli._common import (
    JsonOption,
    Output,
    PipelineArgument,
    SetOption,
    open_pipeline,
    simple_table,
)

if TYPE_CHECKING:
    from penstock.warehouse.refresh import RefreshReport

EXAMPLES = (
    "penstock refresh payments",
    "penstock refresh payments --full",
    "penstock refresh payments --only views --to postgresql://loader@db.example/shop --json",
)


def refresh(
    pipeline: PipelineArgument,
    full: Annotated[
        bool, typer.Option("--full", help="Make all rows anew, not only those that changed; they are the same.")
    ] = False,
    only: Annotated[str | None, typer.Option(help="This alone.", metavar="transactions_clean|views")] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE|postgresql://…"),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make transactions_clean and the views of the hourly metrics out of the raw transactions.

    Only what changed since the last time is made anew, and only what differs is written: readers never wait. It can be
    repeated, killed and run beside a stream.
    """
    from rich.text import Text

    out = Output(as_json)
    report = open_pipeline(pipeline, settings).refresh(to, full=full, only=only)
    out.print(Text(report.pipeline, "bold").append(f": refreshed in {report.warehouse}", "not bold"))
    out.print(table_of(report))
    out.result(report.as_dict())


def table_of(report: RefreshReport) -> Any:
    """The report for people."""
    rows: list[tuple[str, int]] = []
    if clean := report.transactions_clean:
        rows += [
            (f"transactions_clean, {'all of it' if clean.full else 'what changed'}: inserted", clean.inserted),
            ("updated", clean.updated),
            ("deleted", clean.deleted),
            ("now there", clean.rows),
        ]
    if views := report.views:
        rows += [
            ("hourly_metrics: hours", views.hours),
            ("transactions", views.total_transactions),
            ("of them late", views.late_transactions),
        ]
    return simple_table("", ("", ">rows"), [(name, f"{count:,}") for name, count in rows])
