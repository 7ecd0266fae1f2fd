"""How `penstock run` is seen from outside: the terminal, log lines, Prometheus."""

from __future__ import annotations

import contextlib
import logging
import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class LogStyle(str, Enum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="HOST:PORT", help="Serve /metrics (Prometheus), /healthz and /readyz, e.g. 127.0.0.1:9464."
    ),
]
LogOption = Annotated[
    LogStyle | None,
    typer.Option("--log", help="Log lines on standard error, one an epoch; default: text where there is no terminal."),
]


@contextlib.contextmanager
def watching(
    pipeline: str, *, log: LogStyle | None, metrics: str | None, quiet: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields what the engine's events go to: the view of a terminal, or log lines; and metrics where asked for."""
    from penstock import __version__
    from penstock.logs import log_event, to_stderr

    terminal = sys.stderr.isatty() and log is None and not quiet
    # In a terminal the view shows the epochs: log what goes wrong alone.
    to_stderr("json" if log is LogStyle.JSON else "text", level=logging.WARNING if terminal or quiet else logging.INFO)
    takers: list[Callable[[dict[str, Any]], None]] = [lambda event: log_event(pipeline, event)]
    with contextlib.ExitStack() as stack:
        if metrics is not None:
            from penstock.metrics import Exporter, Metrics

            shown = Metrics(pipeline, __version__)
            exporter = stack.enter_context(Exporter(shown, metrics))
            logging.getLogger("penstock.metrics").info("serving http://%s/metrics", exporter.address)
            takers.append(shown.take)
        if terminal:
            from rich.console import Console

            from penstock.view import RunView

            takers.append(stack.enter_context(RunView(pipeline, Console(stderr=True))).take)

        def take(event: dict[str, Any]) -> None:
            for taker in takers:
                taker(event)

        yield take
