"""`penstock migrate`: the tables of a warehouse to the newest version."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline

EXAMPLES = (
    "penstock migrate ecommerce",
    "penstock migrate ecommerce --to postgresql://owner@db.example/shop --sql",
    "penstock migrate ecommerce --to postgresql://admin@db.example/shop --roles",
)


def migrate(
    pipeline: PipelineArgument,
    to: Annotated[
        str | None,
        typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE|postgresql://…"),
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; write the statements that would be run.")] = False,
    roles: Annotated[
        bool, typer.Option("--roles", help="Make the roles owner, loader, reader and modeller, too (PostgreSQL).")
    ] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the tables of a warehouse to the newest version, or make them.

    One transaction: others see the old tables or the new ones, and nothing is lost. Run again, it changes nothing.
    """
    from penstock.cli._warehouse import warn_of_password
    from penstock.warehouse.upgrading import migrate as migrate_warehouse

    out = Output(as_json)
    warn_of_password(to)
    flow = open_pipeline(pipeline, settings)
    report = migrate_warehouse(flow.spec(), to, tables=flow.file.tables, sql=sql, roles=roles)
    if report.sql is not None and not as_json:
        sys.stdout.write(report.sql)
    elif report.before is None:
        out.say(f"[bold]{report.pipeline}[/bold]: made tables of version {report.after} in ", report.warehouse)
    elif report.before == report.after:
        out.say(
            f"[bold]{report.pipeline}[/bold]: its tables are of version {report.after} already, in ", report.warehouse
        )
    else:
        out.say(
            f"[bold]{report.pipeline}[/bold]: tables of version {report.before} brought to {report.after} in ",
            report.warehouse,
        )
    if report.roles:
        out.say("", "roles: " + ", ".join(report.roles))
    out.result(report.as_dict())
