"""The command line `penstock`.

One module a command. The module of a command that is named is imported alone, and it imports only what its options
need; the rest is imported when the command runs. `penstock --help` imports them all.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from penstock.cli import _common, _pipe, _usage, completion
from penstock.cli._common import EXIT_CODES, ExitCode, examples

if TYPE_CHECKING:
    from collections.abc import Iterable

    # All commands; made when first asked for.
    app: typer.Typer

_EPILOG = (
    "[bold]Exit codes[/bold]\n\n"
    + "\n\n".join(f"  [cyan]{code.value:>3}[/cyan]  {meaning}" for code, meaning in EXIT_CODES.items())
    + "\n\nPENSTOCK_DEBUG=1 shows the traceback of an error."
)

_WORK = "See it work"
_RUN = "Run pipelines"
_KEEP = "Mend and maintain"
_LOOK = "Look inside"

# Each command, in the order of the help: the module of its name, and the panel that it stands in.
_COMMANDS = {
    "demo": _WORK,
    "init": _WORK,
    "produce": _WORK,
    "run": _RUN,
    "load": _RUN,
    "refresh": _RUN,
    "index": _RUN,
    "quality": _RUN,
    "audit": _RUN,
    "replay": _KEEP,
    "backfill": _KEEP,
    "compact": _KEEP,
    "retention": _KEEP,
    "migrate": _KEEP,
    "reset": _KEEP,
    "manifest": _LOOK,
    "inspect": _LOOK,
    "doctor": _LOOK,
    "contract": _LOOK,
}
# Those that work on many events; the process is theirs alone.
_MANY_EVENTS = ("demo", "produce", "run", "load", "audit", "replay", "backfill", "compact")


def _version(asked: bool) -> None:
    if asked:
        from penstock import __version__

        typer.echo(f"penstock {__version__}")
        raise typer.Exit


def _penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Event streams into tables, without a cluster: every event accounted for."""


def _app_of(names: Iterable[str]) -> typer.Typer:
    """The command line with these commands."""
    found = typer.Typer(
        name="penstock",
        cls=_usage.Group,
        help="Event streams into tables, without a cluster: every event accounted for.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    found.callback()(_penstock)
    for name in names:
        panel, module = _COMMANDS[name], importlib.import_module(f"penstock.cli.{name}")
        if hasattr(module, "app"):
            found.add_typer(module.app, name=name, rich_help_panel=panel)
        else:
            epilog = examples(*module.EXAMPLES)
            found.command(name, cls=_usage.Command, rich_help_panel=panel, epilog=epilog)(getattr(module, name))
    return found


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module 'penstock.cli' has no attribute {name!r}")
    globals()["app"] = _app_of(_COMMANDS)
    return globals()["app"]


def main() -> NoReturn:
    """The command `penstock`: no traceback for a user's mistake."""
    # What the engine logs is for who asked for a log; else Python would print its warnings among the output.
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    _pipe.listen_no_more()
    arguments = sys.argv[1:]
    try:
        arguments = completion.with_shell(arguments)
        # What does not begin with the name of a command (an option, a name that is none) is answered by all of them.
        named = arguments[:1] if arguments[:1] and arguments[0] in _COMMANDS else []
        app = _app_of(named or _COMMANDS)
        if named and named[0] in _MANY_EVENTS:
            from penstock import _core

            _core.give_back_large_blocks()
        app(arguments, prog_name="penstock")
    except KeyboardInterrupt:  # while a command was imported
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as end:
        # The process ends: nobody needs what a last walk over all its objects would find. But for DuckDB, which calls
        # what is left a leak, on people's terminals.
        if "duckdb" not in sys.modules:
            gc.freeze()
        # Typer ends an interrupted command so, without a word.
        if end.code == ExitCode.INTERRUPTED and not _common.was_said():
            _common.fail(KeyboardInterrupt())
        wrong = _usage.found()
        if wrong is not None and _usage.asks_for_json(arguments):
            _common.fail_as_json("UsageError", wrong, ExitCode.USAGE)
        raise
    except Exception as error:  # noqa: BLE001 - the one gate: whatever it is, people get a message and an exit code
        _common.fail(error)
    finally:
        # What is left in the buffer finds out only now that nobody reads it.
        _pipe.flush()
    sys.exit(0)
