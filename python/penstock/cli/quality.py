"""`penstock quality`: the checks of a day, with an alert."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.errors import SettingsError
from penstock.pipeline import Pipeline
from penstock.quality import QualityReport, Slack, run_checks

FAILED = 1
"""Exit code when a check failed."""


def quality(
    pipeline: Annotated[str, typer.Argument(help="A ready-made name, or a pipeline file.")],
    date: Annotated[
        str | None, typer.Option(help="The day to check (UTC): YYYY-MM-DD; yesterday unless told.", metavar="DATE")
    ] = None,
    slack_webhook: Annotated[
        str | None,
        typer.Option(
            envvar="PENSTOCK_SLACK_WEBHOOK",
            help="Where to send an alert when a check fails. A secret: better set in the environment.",
            metavar="URL",
            show_default=False,
        ),
    ] = None,
    output_json: Annotated[Path | None, typer.Option(help="Write the report here too.", metavar="FILE")] = None,
    warehouse: Annotated[
        str | None, typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting of the pipeline file.", metavar="A.B=C")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False,
) -> None:
    """Check a day: fresh, of the usual volume, no nulls where there must be none, few dead letters.

    Ends with code 1 when a check fails, whether or not the alert could be sent.

    Examples:
      penstock quality ecommerce --date 2024-12-17
      PENSTOCK_SLACK_WEBHOOK=https://… penstock quality ecommerce --output-json quality.json
    """
    slack = Slack(slack_webhook) if slack_webhook else None  # a broken address is said before the checks run
    day = date or (dt.datetime.now(dt.timezone.utc).date() - dt.timedelta(days=1)).isoformat()
    report = run_checks(Pipeline.load(pipeline, settings or []).spec(), day, warehouse)
    told = report.as_dict()
    if slack and not report.passed:
        alert = slack.send(report)
        told["alert"] = {"sent": alert.sent, "attempts": alert.attempts, "reason": alert.reason}
        if not alert.sent:
            Console(stderr=True).print(
                f"[yellow]the alert could not be sent after {alert.attempts} attempts: {escape(str(alert.reason))}[/]"
            )
    if as_json:
        typer.echo(json.dumps(told))
    else:
        Console().print(table_of(report))
    if output_json:
        try:
            output_json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--output-json {output_json}: cannot be written ({error.strerror})") from error
    if not report.passed:
        raise typer.Exit(FAILED)


def table_of(report: QualityReport) -> Table:
    """The report for people."""
    table = Table(title=f"{report.pipeline}: quality of {report.date}", title_justify="left")
    table.add_column("check")
    table.add_column("")
    table.add_column("what was seen")
    for check in report.checks:
        table.add_row(check.name, "[green]passed[/]" if check.passed else "[bold red]FAILED[/]", escape(check.message))
    return table
