"""`penstock doctor`."""

from __future__ import annotations

import typer

from penstock.cli._common import JsonOption, Output, SetOption, checks_table

EXAMPLES = ("penstock doctor", "penstock doctor pipeline.yaml", "penstock doctor --json | jq .checks")


def doctor(
    pipeline: str | None = typer.Argument(None, metavar="[PIPELINE]", help="Look at what this pipeline needs, too."),
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is there, what is missing, and how to get it.

    Ends with exit code 1 when something that is needed does not work; a missing extra is no fault.
    """
    from penstock.doctor import examine

    out = Output(as_json)
    checks = examine(pipeline, settings or ())
    for group in dict.fromkeys(check.group for check in checks):
        rows = [(c.name, c.ok, c.said + (f"; {c.remedy}" if c.remedy else "")) for c in checks if c.group == group]
        out.print(checks_table(rows, group))
    healthy = all(check.ok or not check.needed for check in checks)
    out.print("[green]all that is needed is there[/green]" if healthy else "[red]something that is needed does not work[/red]")
    out.result({"ok": healthy, "checks": [check.to_dict() for check in checks]})
    if not healthy:
        raise typer.Exit(1)
