"""Progress of long calls: a line in a terminal, a paragraph in a notebook, nothing anywhere else unless asked for."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

# Short calls end before anything is drawn.
_QUIET_SECONDS = 0.5
_REDRAW_SECONDS = 0.1


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel (a terminal with IPython is a terminal)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class Progress:
    """Shows what the engine tells through its callback.

    Args:
        title: What is going on.
        show: True or False; None: in a terminal (standard error) or a notebook.
        also: Called with each event as well.
    """

    def __init__(
        self, title: str, show: bool | None = None, *, also: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        self._title = title
        self._also = also
        self._notebook = in_notebook()
        self._shown = show if show is not None else (self._notebook or sys.stderr.isatty())
        self._began = self._drawn = time.monotonic()
        self._events = self._committed = self._epochs = 0
        self._reading = ""
        self._status: Any = None
        self._handle: Any = None

    @property
    def callback(self) -> Callable[[str], object] | None:
        """What the engine calls with a line of JSON; None when nobody looks."""
        return self._take if self._shown or self._also else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the display away; the result speaks for itself."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._handle is not None:
            self._handle.update(_html(self._text() + ", done"))
            self._handle = None

    def _take(self, line: str) -> None:
        event = json.loads(line)
        kind = event.get("event")
        if kind == "progress":
            self._events = int(event.get("events", 0))
            self._reading = str(event.get("reading", ""))
        elif kind == "committed":
            self._committed += int(event["counts"]["consumed"])
            self._epochs += 1
            self._events = 0
        if self._also:
            self._also(event)
        now = time.monotonic()
        if self._shown and now - self._began > _QUIET_SECONDS and now - self._drawn > _REDRAW_SECONDS:
            self._drawn = now
            self._draw()

    def _text(self) -> str:
        events = self._committed + self._events
        seconds = max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self._title}: {events:,} events", f"{events / seconds:,.0f}/s"]
        if self._epochs:
            parts.append(f"{self._epochs:,} epochs committed")
        if self._reading:
            parts.append(self._reading if len(self._reading) <= 60 else "…" + self._reading[-59:])
        return ", ".join(parts)

    def _draw(self) -> None:
        if self._notebook:
            from IPython.display import display

            if self._handle is None:
                self._handle = display(_html(self._text()), display_id=True)
            else:
                self._handle.update(_html(self._text()))
            return
        from rich.console import Console
        from rich.text import Text

        if self._status is None:
            self._status = Console(stderr=True).status("")
            self._status.start()
        self._status.update(Text(self._text()))


def _html(text: str) -> Any:
    from IPython.display import HTML

    from penstock._html import escape

    return HTML(f"<small>{escape(text)}</small>")
