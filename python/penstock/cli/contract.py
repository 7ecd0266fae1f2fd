"""`penstock contract check` and `penstock contract diff`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.cli import _usage
from penstock.cli._common import JsonOption, Output, examples, simple_table

app = typer.Typer(
    help="Explain a contract, or compare two.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

ContractArgument = Annotated[str, typer.Argument(metavar="CONTRACT", help="A contract file, or a ready-made pipeline.")]


class Compatibility(str, Enum):
    """What `contract diff` may demand."""

    backward = "backward"
    forward = "forward"
    full = "full"


def _load(contract: str) -> Any:
    from penstock.contract import Contract
    from penstock.errors import ContractError
    from penstock.nearest import did_you_mean
    from penstock.resources import ready_made, ready_made_folder

    if contract in ready_made():
        return Contract.load(ready_made_folder(contract) / "contract.yaml")
    if not Path(contract).exists() and "/" not in contract and "." not in contract:
        raise ContractError(f"contract {contract!r}: there is no such file; {did_you_mean(contract, ready_made())}")
    return Contract.load(contract)


@app.command(
    "check",
    cls=_usage.Command,
    epilog=examples("penstock contract check contract.yaml", "penstock contract check ecommerce --json"),
)
def check(contract: ContractArgument, as_json: JsonOption = False) -> None:
    """Say what a contract accepts, and which path each event type takes and why.

    A broken one is refused with file, line and reason.
    """
    from rich.text import Text

    out = Output(as_json)
    loaded = _load(contract)
    found = loaded.explain()
    out.say("", f"{loaded.name}, {len(loaded.event_types)} event types, digest {loaded.digest[:16]}")
    rows = [
        (
            name,
            version,
            said["path"],
            "; ".join(said["why"]) or "every keyword is on it",
            str(len(said["required"])),
            said["unknown_properties"],
        )
        for name, event in found["event_types"].items()
        for version, said in event["versions"].items()
    ]
    columns = ("event type", "version", "path", "why", ">required", "unknown properties")
    out.print(simple_table("Event types", columns, rows))
    for name, event in found["event_types"].items():
        for version, said in event["versions"].items():
            if said["ignored"]:
                out.print(Text(f"{name} {version}: not looked at: {', '.join(map(str, said['ignored']))}", "yellow"))
            for role in said["undeclared_roles"]:
                near = f" (did you mean {role['nearest']}?)" if role["nearest"] else ""
                what = f"{role['role']} is read from {role['pointer']}, which the schema does not declare{near}"
                out.print(Text(f"{name} {version}: {what}: an event without it is a dead letter", "yellow"))
    out.print(simple_table("Columns of Silver", ("column", "type"), loaded.columns))
    if found["needs_secret"]:
        out.print("properties are hashed: a run needs [bold]pii.secret[/bold] in the pipeline file")
    out.result({"valid": True, **found})


@app.command(
    "diff",
    cls=_usage.Command,
    epilog=examples(
        "penstock contract diff old.yaml new.yaml", "penstock contract diff old.yaml new.yaml --require backward --json"
    ),
)
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The contract as it is.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The contract as it is to be.")],
    require: Annotated[
        Compatibility | None, typer.Option(help="End with exit code 1 unless the change is compatible in this way.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which changes between two contracts break readers or writers.

    [bold]backward[/bold]: readers of the new one can read old events. [bold]forward[/bold]: readers of the old one can
    read new events. [bold]full[/bold]: both.
    """
    out = Output(as_json)
    found = _load(old).diff(_load(new))
    rows = [
        (
            change["event_type"] or "all",
            change["version"] or "",
            change["pointer"],
            change["change"],
            ", ".join(change["breaks"]) or "nobody",
        )
        for change in found.changes
    ]
    if rows:
        out.print(simple_table("Changes", ("event type", "version", "where", "change", "breaks"), rows))
    else:
        out.print("no changes")
    for name in ("backward", "forward", "full"):
        holds = getattr(found, name)
        out.print(f"{name}: {'[green]compatible[/green]' if holds else '[red]not compatible[/red]'}")
    out.result(found.to_dict())
    if require is not None and not getattr(found, require.value):
        raise typer.Exit(1)
