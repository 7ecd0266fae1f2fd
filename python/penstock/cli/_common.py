"""What commands share: their options, their output, exit codes, the gate for errors."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from penstock.cli._pipe import is_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from penstock.ledger import Ledger
    from penstock.pipeline import Pipeline


class ExitCode(IntEnum):
    """How `penstock` ends. Stable; `docs/reference/cli.md` has the same table."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    UNAVAILABLE = 3
    SUPERSEDED = 4
    INTERNAL = 5
    GIVEN_UP = 6
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.OK: "done, and every check passed",
    ExitCode.CHECK_FAILED: "a check failed, counts disagree, or the ledger does not balance",
    ExitCode.USAGE: "wrong usage, setting, contract or data, or a missing extra: change something before you try again",
    ExitCode.UNAVAILABLE: "source, lake, local disk, checkpoint, warehouse or Elasticsearch cannot be read or written: "
    "trying again may help",
    ExitCode.SUPERSEDED: "a newer run took the pipeline over; nothing is lost",
    ExitCode.INTERNAL: "a fault of penstock's own: please report it",
    ExitCode.GIVEN_UP: "interrupted, and the epoch in hand was given up: the next run reads it again",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C, SIGTERM); what was committed stays; a run has finished its epoch",
}

PipelineArgument = Annotated[
    str,
    typer.Argument(metavar="PIPELINE", help="A ready-made pipeline (ecommerce, …), a pipeline file, or its folder."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a setting, e.g. sessions.gap=45m; can be repeated."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One line of JSON, last on standard output; messages go to standard error.")
]
SetKafkaOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="A setting of librdkafka's; ${NAME} is filled in from the environment. Can be repeated.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


class Output:
    """Where a command writes: for people on standard output, or for programs one line of JSON there."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        # The gate has to know how to speak if the command fails.
        _STATE["json"] = as_json

    @property
    def console(self) -> Console:
        """For people; silent under `--json`."""
        from rich.console import Console

        return Console(quiet=self.as_json, highlight=False)

    def print(self, *what: Any) -> None:
        """Say something to people."""
        if not self.as_json:
            self.console.print(*what)

    def say(self, marked: str, *plain: str) -> None:
        """Say something with markup, followed by text that is taken as it is: paths and names may hold brackets."""
        if not self.as_json:
            from rich.text import Text

            self.console.print(Text.assemble(Text.from_markup(marked), *plain))

    def result(self, found: dict[str, Any]) -> None:
        """Say the result to programs; call it last."""
        if self.as_json:
            sys.stdout.write(json.dumps(found, ensure_ascii=not is_utf8(sys.stdout), default=str) + "\n")
            sys.stdout.flush()


_STATE: dict[str, bool] = {}


def kafka_settings(given: Sequence[str]) -> dict[str, str]:
    """What `--set-kafka` was given."""
    from penstock.errors import SettingsError

    found = {}
    for setting in given:
        name, is_there, value = setting.partition("=")
        if not is_there or not name:
            # Not shown: what was meant as the name of a setting may hold its value.
            raise SettingsError("--set-kafka: write NAME=VALUE, e.g. linger.ms=50")
        found[name.strip()] = value
    return found


def examples(*lines: str) -> str:
    """An epilog with examples."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  [cyan]{line}[/cyan]".replace("[m", r"\[m") for line in lines)


def open_pipeline(pipeline: str, overrides: Sequence[str] | None) -> Pipeline:
    """The pipeline that a command line names."""
    with _own_models():
        from penstock.pipeline import Pipeline

    return Pipeline.load(pipeline, list(overrides or ()))


@contextlib.contextmanager
def _own_models() -> Iterator[None]:
    """Pydantic looks for plugins in all packages that are installed; they are for models of others than ours."""
    name = "PYDANTIC_DISABLE_PLUGINS"
    said = os.environ.get(name)
    os.environ[name] = "__all__"
    try:
        yield
    finally:
        if said is None:
            del os.environ[name]
        else:
            os.environ[name] = said


def ledger_table(ledger: Ledger, truth: dict[str, Any] | None = None) -> Any:
    """The ledger for a terminal, beside what was expected if that is known."""
    from rich.table import Table

    table = Table(title="Ledger: what became of every event", title_justify="left", box=_box())
    table.add_column("")
    table.add_column("since the beginning", justify="right")
    if truth is None:
        table.add_column("this run", justify="right")
    else:
        table.add_column("expected", justify="right")
        table.add_column("")
    for heading, total, run in ledger.rows():
        style = "bold" if heading == "consumed" else "dim" if heading.startswith(" ") else ""
        if truth is None:
            table.add_row(heading, f"{total:,}", f"{run:,}", style=style)
            continue
        name = heading.strip()
        expected = truth["rejected_by_code"].get(name, 0) if heading.startswith(" ") else truth.get(name, 0)
        mark = "[green]✓[/green]" if total == expected else "[red]✗[/red]"
        table.add_row(heading, f"{total:,}", f"{expected:,}", mark, style=style)
    return table


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD


def checks_table(rows: Sequence[tuple[str, bool | None, str]], title: str) -> Any:
    """Checks for a terminal: name, whether it passed (None: it does not matter), detail."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=_box(), show_header=False)
    for name, passed, detail in rows:
        mark = Text("✓", "green") if passed else Text("-", "yellow") if passed is None else Text("✗", "bold red")
        table.add_row(mark, Text(name), Text(detail, "red" if passed is False else ""))
    return table


def simple_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A plain table for a terminal; columns whose names begin with `>` stand to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=_box())
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


@contextlib.contextmanager
def transient_bar(title: str, what: str, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while something is done, in a terminal only; yields what to call with done and todo."""
    if not show or not sys.stderr.isatty():
        yield lambda _done, _todo: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, todo: progress.update(task, completed=done, total=todo)


def leaves_nothing() -> None:
    """The command says that all is written but for standard output."""
    _STATE["written"] = True


def nothing_is_left() -> bool:
    """Whether the command said so."""
    return _STATE.get("written", False)


def was_said() -> bool:
    """Whether the way out for errors was taken already."""
    return _STATE.get("said", False)


def warn(message: str) -> None:
    """Say on standard error what does not end the command."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message, "yellow"))


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for an error."""
    from penstock import errors

    if isinstance(error, errors.Stopped) and not error.finished:
        return ExitCode.GIVEN_UP
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    classes: list[tuple[type[BaseException], ExitCode]] = [
        (errors.LedgerError, ExitCode.CHECK_FAILED),
        (errors.SupersededError, ExitCode.SUPERSEDED),
        (errors.MissingExtraError, ExitCode.USAGE),
        (errors.ContractError, ExitCode.USAGE),
        (errors.SettingsError, ExitCode.USAGE),
        (errors.DataError, ExitCode.USAGE),
        (errors.CheckpointError, ExitCode.UNAVAILABLE),
        (errors.ForkedError, ExitCode.INTERNAL),
        (errors.InternalError, ExitCode.INTERNAL),
        # What is left of ours (source, lake, warehouse), and what the system itself refuses.
        (errors.PenstockError, ExitCode.UNAVAILABLE),
        (OSError, ExitCode.UNAVAILABLE),
    ]
    return next((code for kind, code in classes if isinstance(error, kind)), ExitCode.INTERNAL)


def fail(error: BaseException, also: dict[str, Any] | None = None) -> NoReturn:
    """The one way out for errors: a message in red on standard error, JSON if asked for, and the exit code.

    Args:
        error: What happened.
        also: What is known all the same; it stands in the JSON beside the error.
    """
    from penstock import errors

    _STATE["said"] = True
    code = exit_code_of(error)
    kind = type(error).__name__
    message = str(error) or kind
    if isinstance(error, errors.Stopped) or also is not None:
        message = str(error)
    elif code is ExitCode.INTERRUPTED:
        message = "interrupted; what was committed stays, and the next run goes on from there"
    elif code is ExitCode.INTERNAL:
        message = (
            f"{kind}: {message}\nThis is a fault of penstock's own. PENSTOCK_DEBUG=1 shows where; please report it."
        )
    _print_error(message)
    if _STATE.get("json"):
        fail_as_json(kind, message, code, also)
    if os.environ.get("PENSTOCK_DEBUG"):
        import traceback

        traceback.print_exception(error)
    sys.exit(int(code))


def fail_as_json(kind: str, message: str, code: ExitCode, also: dict[str, Any] | None = None) -> None:
    """The line of JSON for a command that failed; people have been told."""
    # Standard output may be what the error is about.
    with contextlib.suppress(OSError):
        Output(True).result({**(also or {}), "error": {"type": kind, "message": message}, "exit_code": int(code)})


def _print_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("Error: ", "bold red").append(message, "red"))
