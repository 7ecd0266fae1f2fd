"""What an operator says in the log of its task while the engine works."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY = 10.0
_LOG = logging.getLogger("penstock.airflow")


class TaskLog:
    """Every epoch in a line, and how far a run is every ten seconds.

    Args:
        pipeline: Its name.
        clock: Tells the seconds.
    """

    def __init__(self, pipeline: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._events = 0
        self._going = 0
        self._lag: int | None = None
        self._watermark: int | None = None
        self._said_at = clock()
        self._said = 0

    def take(self, event: dict[str, Any]) -> None:
        """Take in one event of the engine (see `Pipeline.run`, `on_event`)."""
        from penstock.logs import log_event

        kind = event.get("event")
        if kind == "progress":
            self._going = int(event["events"])
        elif kind == "committed":
            self._events += int(event["counts"]["consumed"])
            self._going, self._watermark = 0, event.get("watermark", self._watermark)
        elif kind == "lag":
            self._lag = sum(partition["lag"] for partition in event["partitions"])
        log_event(self._pipeline, event)
        self._say()

    def _say(self) -> None:
        now = self._clock()
        if now - self._said_at < _EVERY:
            return
        from penstock.units import time_of

        events = self._events + self._going
        parts = [f"{events:,} events", f"{(events - self._said) / (now - self._said_at):,.0f} events/s"]
        if self._lag is not None:
            parts.append(f"lag {self._lag:,}")
        watermark = time_of(self._watermark)
        if watermark is not None:
            parts.append(f"watermark {watermark:%Y-%m-%d %H:%M:%S} UTC")
        _LOG.info("%s: %s", self._pipeline, ", ".join(parts))
        self._said_at, self._said = now, events
