"""`penstock quality`: the checks of a day, with an alert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli._common import (
    ExitCode,
    JsonOption,
    Output,
    PipelineArgument,
    SetOption,
    checks_table,
    open_pipeline,
    warn,
)

EXAMPLES = (
    "penstock quality ecommerce --date 2024-12-17",
    "PENSTOCK_SLACK_WEBHOOK=https://… penstock quality ecommerce --output-json quality.json",
)


def quality(
    context: typer.Context,
    pipeline: PipelineArgument,
    date: Annotated[
        str | None, typer.Option(help="The day to check (UTC); yesterday unless told.", metavar="YYYY-MM-DD")
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
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a day: fresh, of the usual volume, no nulls where there must be none, few dead letters.

    Of payments, too: few that took long, the raw table as Silver, the clean one and the hours as the raw one.

    Ends with code 1 when a check fails, whether or not the alert could be sent and the report written.
    """
    import datetime as dt
    import json

    from penstock.errors import SettingsError
    from penstock.quality import Slack, run_checks

    out = Output(as_json)
    source = context.get_parameter_source("slack_webhook")
    if slack_webhook and source is not None and source.name == "COMMANDLINE":
        warn(
            "Warning: --slack-webhook is a secret, which other users of this machine see among its processes. "
            "Give it in PENSTOCK_SLACK_WEBHOOK"
        )
    slack = Slack(slack_webhook) if slack_webhook else None  # a broken address is said before the checks run
    day = date or (dt.datetime.now(dt.timezone.utc).date() - dt.timedelta(days=1)).isoformat()
    flow = open_pipeline(pipeline, settings)
    report = run_checks(flow.spec(), day, warehouse, tables=flow.file.tables)
    told = report.as_dict()
    rows = [(c.name, c.passed, c.message if c.passed else f"FAILED: {c.message}") for c in report.checks]
    default = "" if date else ", which is yesterday (UTC): --date names another day"
    out.print(checks_table(rows, f"{report.pipeline}: quality of {report.date}{default}"))
    if slack and not report.passed:
        alert = slack.send(report)
        told["alert"] = {"sent": alert.sent, "attempts": alert.attempts, "reason": alert.reason}
        if not alert.sent:
            warn(f"the alert could not be sent after {alert.attempts} attempts: {alert.reason}")
    unwritten = None
    if output_json:
        try:
            output_json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            unwritten = SettingsError(f"--output-json {output_json}: cannot be written ({error.strerror})")
    if unwritten and report.passed:
        raise unwritten
    if unwritten:
        # The failed check decides how the command ends.
        warn(str(unwritten))
    out.result(told)
    if not report.passed:
        raise typer.Exit(ExitCode.CHECK_FAILED)
