"""`penstock load`: Silver into the warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli._common import (
    JsonOption,
    Output,
    PipelineArgument,
    QuietOption,
    SetOption,
    open_pipeline,
    simple_table,
    transient_bar,
)

if TYPE_CHECKING:
    from penstock.warehouse import LoadReport

EXAMPLES = (
    "penstock load ecommerce",
    "penstock load ecommerce --date 2024-12-17",
    "penstock load shop/pipeline.yaml --to duckdb:/data/shop.duckdb --json",
    "penstock load ecommerce --to postgresql://loader@db.example/shop?sslmode=verify-full",
)


def load(
    pipeline: PipelineArgument,
    date: Annotated[
        str | None,
        typer.Option(help="Load again all events of this day (UTC), wherever they are.", metavar="YYYY-MM-DD"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE|postgresql://…"),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Load what is new in the lake into the warehouse, or one day again.

    A load is one transaction: killed in the middle, nothing of it is seen. It can be repeated, and days can be loaded
    in any order: the tables end up the same.
    """
    from rich.text import Text

    from penstock.cli._warehouse import warn_of_password
    from penstock.warehouse import load as load_warehouse
    from penstock.warehouse.flat import Flat
    from penstock.warehouse.model import model_of, tables_of

    out = Output(as_json)
    warn_of_password(to)
    flow = open_pipeline(pipeline, settings)
    spec = flow.spec()
    with transient_bar("loading", "rows", show=not quiet) as progress:
        report = load_warehouse(spec, to, date=date, tables=flow.file.tables, progress=progress)
    what = f"events of {report.date}" if report.date else f"the log up to entry {report.log_number}"
    if report.shards and not report.date:
        what = "the logs of " + ", ".join(f"{log} up to entry {number}" for log, number in report.shards.items())
    out.print(Text(report.pipeline, "bold").append(f": {what}, into {report.warehouse}", "not bold"))
    out.print(table_of(report, star=not isinstance(model_of(flow.file.tables or tables_of(flow.name)), Flat)))
    out.result(report.as_dict())


def table_of(report: LoadReport, *, star: bool) -> Any:
    """The report for people: of a star schema, or of a table."""
    counts, what = report.counts, "facts" if star else "rows"
    rows = [
        (f"read from {report.files} Silver files", report.rows_read),
        (f"{what} inserted", counts.inserted),
        (f"{what} updated", counts.updated),
        (f"{what} deleted", counts.deleted),
        ("duplicates kept aside", counts.duplicates),
    ]
    if star:
        rows[-1:-1] = [
            ("facts pointed to another row of their user", counts.repointed),
            ("rows of dim_user written or removed", counts.users),
        ]
    return simple_table("", ("", ">rows"), [(name, f"{count:,}") for name, count in rows])
