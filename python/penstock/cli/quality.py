"""`penstock quality`."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, checks_table, open_pipeline

EXAMPLES = (
    "penstock quality ecommerce --date 2024-12-17",
    'penstock quality pipeline.yaml --date 2024-12-17 --slack-webhook "$PENSTOCK_SLACK_WEBHOOK" --output-json report.json',
)


def quality(
    pipeline: PipelineArgument,
    date: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM-DD", help="The day (UTC), by the time of the events; yesterday unless told."),
    ] = None,
    slack_webhook: Annotated[
        str | None,
        typer.Option(envvar="PENSTOCK_SLACK_WEBHOOK", show_envvar=True, help="Where a failed check is told."),
    ] = None,
    output_json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report there too.")] = None,
    warehouse: Annotated[str | None, typer.Option(metavar="KIND:PLACE", help="Another warehouse: duckdb:FILE.")] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a day: fresh, of the usual volume, no nulls in critical columns, few dead letters.

    Ends with exit code 1 when a check fails. An alert that cannot be sent is told, and never hides the failed check.
    """
    from penstock.errors import SettingsError
    from penstock.quality import Slack, run_checks

    out = Output(as_json)
    slack = Slack(slack_webhook) if slack_webhook else None
    flow = open_pipeline(pipeline, settings)
    yesterday = dt.datetime.now(dt.timezone.utc).date() - dt.timedelta(days=1)
    report = run_checks(flow.spec(), date or yesterday.isoformat(), warehouse)
    found = report.as_dict()
    out.print(checks_table([(c.name, c.passed, c.message) for c in report.checks], f"Quality of {flow.name}, {report.date}"))
    if slack and not report.passed:
        alert = slack.send(report)
        found["alert"] = {"sent": alert.sent, "attempts": alert.attempts, "reason": alert.reason}
        if not alert.sent:
            typer.echo(f"The alert could not be sent: {alert.reason} ({alert.attempts} attempts)", err=True)
    unwritten = None
    if output_json:
        try:
            output_json.write_text(json.dumps(found, indent=2, default=str) + "\n", encoding="utf-8")
        except OSError as error:
            unwritten = SettingsError(f"--output-json {output_json}: cannot be written ({error.strerror})")
    if not report.passed:
        if unwritten:
            typer.echo(f"Error: {unwritten}", err=True)
        out.result(found)
        raise typer.Exit(1)
    if unwritten:
        raise unwritten
    out.result(found)
