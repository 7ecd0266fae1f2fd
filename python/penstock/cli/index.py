"""`penstock index`: the hourly view as documents."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from penstock.cli._common import (
    ExitCode,
    JsonOption,
    Output,
    PipelineArgument,
    SetOption,
    open_pipeline,
    simple_table,
    warn,
)

EXAMPLES = (
    "penstock index payments --to https://search.example:9200",
    "penstock index payments --to file:hourly_metrics.ndjson",
    "penstock index payments --since 2024-12-17T00 --json",
)
# So many failures are shown; the JSON has all of them.
_SHOWN = 20


def index(
    pipeline: PipelineArgument,
    to: Annotated[
        str | None,
        typer.Option(
            help="Another place than that of the pipeline file; user and key belong into the setting index.",
            metavar="URL|file:FILE",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="How long a month is kept from its end; 400d unless set.", metavar="400d|forever"),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only hours from this one on (UTC).", metavar="YYYY-MM-DDTHH")
    ] = None,
    warehouse: Annotated[
        str | None,
        typer.Option(help="Another warehouse than that of the pipeline file.", metavar="duckdb:FILE|postgresql://…"),
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the documents in Elasticsearch up to date with the hourly view; or write them into a file.

    Each hour is one document whose id is the hour: it can be repeated, what has not changed is not touched, and hours
    that are gone are removed. Ends with code 1 when the server refused a document; all others are in.
    """
    from rich.text import Text

    out = Output(as_json)
    if re.match(r"https?://[^/]*@", to or ""):
        warn(
            "Warning: --to holds a password, which other users of this machine see among its processes. Give it as "
            "${VARIABLE} in the setting index of the pipeline file"
        )
    report = open_pipeline(pipeline, settings).index(to, warehouse=warehouse, since=since, keep=keep)
    for note in report.notes:
        warn(note)
    out.print(Text(report.pipeline, "bold").append(f": {report.view} to {report.to}", "not bold"))
    rows = (
        ("hours in the view", report.documents),
        ("written", report.indexed),
        ("there already, as they are", report.unchanged),
        ("removed", report.deleted),
        (f"left out: older than {report.lifecycle}", report.expired),
        ("refused", len(report.failed)),
    )
    shown = [(name, f"{count:,}") for name, count in rows if count or not name.startswith(("left out", "refused"))]
    out.print(simple_table("", ("", ">documents"), shown))
    for failure in report.failed[:_SHOWN]:
        warn(str(failure))
    if len(report.failed) > _SHOWN:
        warn(f"and {len(report.failed) - _SHOWN:,} more; --json has all of them")
    out.result(report.as_dict())
    if not report.ok:
        raise typer.Exit(ExitCode.CHECK_FAILED)
