"""`penstock load`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline, simple_table

EXAMPLES = (
    "penstock load pipeline.yaml",
    "penstock load ecommerce --date 2024-12-17",
    "penstock load pipeline.yaml --to duckdb:other.duckdb --json",
)


def load(
    pipeline: PipelineArgument,
    date: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Load again all events of this day (UTC), wherever they are.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="KIND:PLACE", help="Another warehouse: duckdb:FILE.")] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load Silver into the warehouse: everything since the last load, or one day again.

    Can be repeated and mixed in any order: equal Silver gives equal tables.
    """
    from penstock.warehouse import load as load_warehouse

    out = Output(as_json)
    flow = open_pipeline(pipeline, settings)
    report = load_warehouse(flow.spec(), to, date=date, tables=flow.file.tables).as_dict()
    what = f"the events of {date}" if date else "what is new"
    out.print(f"{flow.name}: {what} is in [bold]{report['warehouse']}[/bold]")
    shown = {name: value for name, value in report.items() if isinstance(value, int) and not isinstance(value, bool)}
    out.print(simple_table("", ("", ">"), [(name.replace("_", " "), f"{value:,}") for name, value in shown.items()]))
    out.result(report)
