"""`penstock audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, checks_table, open_pipeline

EXAMPLES = (
    "penstock audit pipeline.yaml",
    "penstock audit pipeline.yaml --broker",
    "penstock audit ecommerce --json | jq .balanced",
)


def audit(
    pipeline: PipelineArgument,
    broker: Annotated[bool, typer.Option("--broker", help="Count what the broker still has, too (Kafka).")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count everything again from the files, the log and the state, and compare it with the ledger.

    Ends with exit code 1 when something does not agree.
    """
    out = Output(as_json)
    found = open_pipeline(pipeline, settings).audit(broker=broker)
    out.print(checks_table([(c.name, c.passed, c.detail) for c in found.checks], "Audit: counted again"))
    if found.uncommitted_files:
        out.print(
            f"{len(found.uncommitted_files):,} files belong to no commit (a run was killed, or is at "
            "work); readers of the log never see them"
        )
    out.print("[green]everything agrees[/green]" if found.balanced else "[red]something does not agree[/red]")
    out.result(found.to_dict())
    if not found.balanced:
        raise typer.Exit(1)
