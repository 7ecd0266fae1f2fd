"""The command line `penstock`.

One module a command. A module imports only what its options need; the rest is imported when the command runs, so that
`penstock --help` stays quick.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import typer

from penstock.cli import (
    _common,
    _pipe,
    audit,
    backfill,
    compact,
    completion,
    contract,
    demo,
    doctor,
    init,
    inspect,
    load,
    manifest,
    produce,
    quality,
    replay,
    reset,
    retention,
    run,
)
from penstock.cli._common import EXIT_CODES, ExitCode, examples

_EPILOG = (
    "[bold]Exit codes[/bold]\n\n"
    + "\n\n".join(f"  [cyan]{code.value:>3}[/cyan]  {meaning}" for code, meaning in EXIT_CODES.items())
    + "\n\nPENSTOCK_DEBUG=1 shows the traceback of an error."
)

app = typer.Typer(
    name="penstock",
    help="Event streams into tables, without a cluster: every event accounted for.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(asked: bool) -> None:
    if asked:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def _penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Event streams into tables, without a cluster: every event accounted for."""


_WORK = "See it work"
_RUN = "Run pipelines"
_KEEP = "Mend and maintain"
_LOOK = "Look inside"

app.command("demo", rich_help_panel=_WORK, epilog=examples(*demo.EXAMPLES))(demo.demo)
app.command("init", rich_help_panel=_WORK, epilog=examples(*init.EXAMPLES))(init.init)
app.command("produce", rich_help_panel=_WORK, epilog=examples(*produce.EXAMPLES))(produce.produce)
app.command("run", rich_help_panel=_RUN, epilog=examples(*run.EXAMPLES))(run.run)
app.command("load", rich_help_panel=_RUN, epilog=examples(*load.EXAMPLES))(load.load)
app.command("quality", rich_help_panel=_RUN, epilog=examples(*quality.EXAMPLES))(quality.quality)
app.command("audit", rich_help_panel=_RUN, epilog=examples(*audit.EXAMPLES))(audit.audit)
app.command("replay", rich_help_panel=_KEEP, epilog=examples(*replay.EXAMPLES))(replay.replay)
app.command("backfill", rich_help_panel=_KEEP, epilog=examples(*backfill.EXAMPLES))(backfill.backfill)
app.command("compact", rich_help_panel=_KEEP, epilog=examples(*compact.EXAMPLES))(compact.compact)
app.command("retention", rich_help_panel=_KEEP, epilog=examples(*retention.EXAMPLES))(retention.retention)
app.command("reset", rich_help_panel=_KEEP, epilog=examples(*reset.EXAMPLES))(reset.reset)
app.command("manifest", rich_help_panel=_LOOK, epilog=examples(*manifest.EXAMPLES))(manifest.manifest)
app.command("inspect", rich_help_panel=_LOOK, epilog=examples(*inspect.EXAMPLES))(inspect.inspect)
app.command("doctor", rich_help_panel=_LOOK, epilog=examples(*doctor.EXAMPLES))(doctor.doctor)
app.add_typer(contract.app, name="contract", rich_help_panel=_LOOK)


def main() -> NoReturn:
    """The command `penstock`: no traceback for a user's mistake."""
    # What the engine logs is for who asked for a log; else Python would print its warnings among the output.
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    _pipe.listen_no_more()
    try:
        app(completion.with_shell(sys.argv[1:]), prog_name="penstock")
    except SystemExit as end:
        # Typer ends an interrupted command so, without a word.
        if end.code == ExitCode.INTERRUPTED and not _common.was_said():
            _common.fail(KeyboardInterrupt())
        raise
    except Exception as error:  # noqa: BLE001 - the one gate: whatever it is, people get a message and an exit code
        _common.fail(error)
    finally:
        # What is left in the buffer finds out only now that nobody reads it.
        sys.stdout.flush()
    sys.exit(0)
