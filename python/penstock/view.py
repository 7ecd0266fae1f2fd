"""The terminal while a pipeline runs: rates, lag, the ledger, the last epoch."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from penstock.units import time_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console, RenderableType
    from typing_extensions import Self

_RATE_SECONDS = 10.0
_MOST_PARTITIONS = 8
_HEADINGS = ("consumed", "silver", "pending", "rejected", "duplicate", "late")


class RunView:
    """Shows a run on a terminal from the engine's events; nothing of it stays when it ends.

    Args:
        title: The pipeline.
        console: Where it is shown.
        clock: Seconds, from anywhere.
    """

    def __init__(self, title: str, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._title = title
        self._clock = clock
        self._began = clock()
        self._term = 0
        self._epoch: dict[str, Any] = {}
        self._partitions_now: list[dict[str, Any]] = []
        self._sums: dict[str, int] = dict.fromkeys(_HEADINGS, 0)
        self._going = 0
        self._reading = ""
        # (when, events so far), over the last seconds.
        self._seen: deque[tuple[float, int]] = deque([(self._began, 0)])
        self._live = Live(self, console=console, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def take(self, event: dict[str, Any]) -> None:
        """Take in one event of the engine (see `Pipeline.run`, `on_event`)."""
        kind = event.get("event")
        if kind == "started":
            self._term = int(event["term"])
        elif kind == "progress":
            self._going = int(event["events"])
            self._reading = str(event.get("reading", ""))
        elif kind == "committed":
            self._epoch, self._going = event, 0
            for name in _HEADINGS:
                self._sums[name] += int(event["counts"][name])
        elif kind == "lag":
            self._partitions_now = event["partitions"]
        self._remember()

    def _remember(self) -> None:
        now = self._clock()
        self._seen.append((now, self._sums["consumed"] + self._going))
        while len(self._seen) > 2 and self._seen[1][0] < now - _RATE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Events a second over the last ten seconds."""
        (first, before), now = self._seen[0], self._clock()
        events = self._sums["consumed"] + self._going - before
        return events / (now - first) if now > first else 0.0

    @property
    def lag(self) -> int | None:
        """Messages of all partitions that are not yet read; None where the source tells none."""
        return sum(p["lag"] for p in self._partitions_now) if self._partitions_now else None

    def __rich__(self) -> RenderableType:
        """What is shown now."""
        from rich.console import Group
        from rich.text import Text

        seconds = self._clock() - self._began
        head = Text.assemble(
            (self._title, "bold"), f"  term {self._term}  {seconds:,.0f} s  ", (f"{self.rate:,.0f} events/s", "cyan")
        )
        if self.lag is not None:
            head.append(f"  lag {self.lag:,}", "green" if self.lag == 0 else "yellow")
        if self._reading:
            head.append(f"  reading {self._reading if len(self._reading) <= 50 else '…' + self._reading[-49:]}", "dim")
        parts: list[RenderableType] = [head, self._ledger()]
        partitions = self._partitions()
        if partitions is not None:
            parts.append(partitions)
        parts.append(self._last())
        return Group(*parts)

    def _ledger(self) -> RenderableType:
        from rich.text import Text

        sums = "  ".join(f"{name} {self._sums[name]:,}" for name in _HEADINGS if self._sums[name] or name == "consumed")
        return Text(f"this run: {sums}" + (f"  (+{self._going:,} in hand)" if self._going else ""))

    def _partitions(self) -> RenderableType | None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        lagging = self._partitions_now
        if not lagging:
            return None
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("partition")
        for name in ("position", "end", "lag"):
            table.add_column(name, justify="right")
        for found in sorted(lagging, key=lambda p: -p["lag"])[:_MOST_PARTITIONS]:
            partition = Text(f"{found['topic']}[{found['partition']}]")
            table.add_row(partition, f"{found['position']:,}", f"{found['end']:,}", f"{found['lag']:,}")
        if len(lagging) > _MOST_PARTITIONS:
            table.add_row(f"… and {len(lagging) - _MOST_PARTITIONS} more", "", "", "")
        return table

    def _last(self) -> RenderableType:
        from rich.text import Text

        if not self._epoch:
            return Text("no epoch committed yet", "dim")
        read, files, state, total = self._epoch["seconds"]
        watermark = time_of(self._epoch.get("watermark"))
        mark = f", watermark {watermark:%Y-%m-%d %H:%M:%S} UTC" if watermark else ""
        consumed = self._epoch["counts"]["consumed"]
        return Text(
            f"epoch {self._epoch['epoch']}: {consumed:,} events, {self._epoch['files']} files, "
            f"{total:.2f} s (read {read:.2f}, files {files:.2f}, state {state:.2f}){mark}",
            "dim",
        )
