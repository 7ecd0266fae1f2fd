"""`penstock load`: Silver into the warehouse."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from penstock.pipeline import Pipeline
from penstock.warehouse import LoadReport
from penstock.warehouse import load as load_warehouse


def load(
    pipeline: Annotated[str, typer.Argument(help="A ready-made name, or a pipeline file.")],
    date: Annotated[
        str | None,
        typer.Option(help="Load again all events of this day (UTC): YYYY-MM-DD.", metavar="DATE"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting of the pipeline file.", metavar="A.B=C")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False,
) -> None:
    """Load what is new in the lake into the warehouse, or one day again.

    A load is one transaction: killed in the middle, nothing of it is seen. It can be repeated, and days can be loaded
    in any order: the tables end up the same.

    Examples:
      penstock load ecommerce
      penstock load ecommerce --date 2024-12-17
      penstock load shop/pipeline.yaml --to duckdb:/data/shop.duckdb --json
    """
    opened = Pipeline.load(pipeline, settings or [])
    with Progress(
        TextColumn("loading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("loading", total=None)
        report = load_warehouse(
            opened.spec(),
            to,
            date=date,
            tables=opened.file.tables,
            progress=lambda done, todo: progress.update(task, completed=done, total=todo),
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        what = f"events of {report.date}" if report.date else f"the log up to entry {report.log_number}"
        Console().print(f"[bold]{escape(report.pipeline)}[/]: {what}, into {escape(report.warehouse)}", soft_wrap=True)
        Console().print(table_of(report))


def table_of(report: LoadReport) -> Table:
    """The report for people."""
    table = Table()
    table.add_column("")
    table.add_column("rows", justify="right")
    counts = report.counts
    for name, count in (
        (f"read from {report.files} Silver files", report.rows_read),
        ("facts inserted", counts.inserted),
        ("facts updated", counts.updated),
        ("facts deleted", counts.deleted),
        ("facts pointed to another row of their user", counts.repointed),
        ("rows of dim_user written or removed", counts.users),
        ("duplicates kept aside", counts.duplicates),
    ):
        table.add_row(name, f"{count:,}")
    return table
