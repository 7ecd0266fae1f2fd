"""Whether what is waited for has come: events up to a moment in Kafka or in the lake, or a lag that is small enough."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from penstock import _core
from penstock.errors import LakeError, SettingsError
from penstock.units import time_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.pipeline import Pipeline

_PATIENCE = 10_000_000
"""For so long a broker is waited for at each look, in microseconds."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        ready: Whether it has come.
        said: What there is to see, for people.
    """

    ready: bool
    said: str


class Waiting:
    """Looks again and again, and remembers since when a partition has not grown.

    Args:
        flow: The pipeline.
        until: Events up to this moment, in microseconds since 1970: every partition has a message of this time or a
            newer one, or has got nothing for `idle_timeout` (`by="broker"`); or the committed watermark has passed it
            (`by="lake"`).
        lag_at_most: The pipeline has at most so many messages of the topics unread.
        by: Who is asked for `until`.
        idle_timeout: Seconds.
        clock: Tells the seconds.

    Raises:
        SettingsError: There is nothing to wait for.
    """

    def __init__(
        self,
        flow: Pipeline,
        *,
        until: int | None = None,
        lag_at_most: int | None = None,
        by: Literal["broker", "lake"] = "broker",
        idle_timeout: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if until is None and lag_at_most is None:
            raise SettingsError("until: nothing is waited for; name a moment (until), or a lag (lag_at_most)")
        if by not in ("broker", "lake"):
            raise SettingsError(f"by: {by!r} cannot be asked; write broker or lake", name="by")
        self._flow = flow
        self._until = until
        self._lag_at_most = lag_at_most
        self._by = by
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._grown: dict[tuple[str, int], tuple[int, float]] = {}

    def look(self) -> Look:
        """Look once.

        Raises:
            SourceError: The broker cannot be asked.
            LakeError: The lake cannot be read; one that is not there yet is waited for.
        """
        looks = []
        if self._until is not None:
            looks.append(self._lake(self._until) if self._by == "lake" else self._broker(self._until))
        if self._lag_at_most is not None:
            looks.append(self._lag(self._lag_at_most))
        return Look(all(look.ready for look in looks), f"{self._flow.name}: {'; '.join(look.said for look in looks)}")

    def _broker(self, until: int) -> Look:
        partitions = self._ask(at=until)
        if partitions is None:
            return Look(True, "it reads files: there is no broker to wait for")
        behind, idle, now = [], 0, self._clock()
        for one in partitions:
            key, end = (one["topic"], one["partition"]), one["end"]
            known, since = self._grown.get(key, (end, now))
            self._grown[key] = (end, since if known == end else now)
            if one.get("reached") is not None:
                continue
            if now - self._grown[key][1] >= self._idle_timeout:
                idle += 1
            else:
                behind.append(f"{key[0]} {key[1]}")
        moment = _text(until)
        if behind:
            return Look(False, f"not all events up to {moment} have come: {', '.join(behind)}")
        quiet = f", but for {idle} that get nothing" if idle else ""
        return Look(True, f"events up to {moment} have come in all {len(partitions)} partitions{quiet}")

    def _lake(self, until: int) -> Look:
        try:
            watermark = self._flow.inspect(epochs=0).watermark
        except LakeError as error:
            return Look(False, f"there is nothing in the lake yet ({error})")
        wanted = _text(until)
        if watermark is None:
            return Look(False, f"the watermark has to pass {wanted}; there is none yet")
        ready = (watermark - _EPOCH) / dt.timedelta(microseconds=1) >= until
        passed = "has" if ready else "has not"
        return Look(ready, f"the watermark, {watermark:%Y-%m-%d %H:%M:%S} UTC, {passed} passed {wanted}")

    def _lag(self, at_most: int) -> Look:
        try:
            partitions = self._ask()
        except LakeError as error:
            return Look(False, f"nothing was read yet ({error})")
        if partitions is None:
            return Look(True, "it reads files: there is no lag")
        lag = sum(one["lag"] for one in partitions)
        return Look(lag <= at_most, f"the lag is {lag:,} ({at_most:,} at most)")

    def _ask(self, at: int | None = None) -> list[dict[str, Any]] | None:
        self._flow.file.check_source()
        spec, file = self._flow.spec(), self._flow.file
        kafka = spec["source"].get("kafka")
        if kafka is None:
            return None
        kafka["give_up_us"] = min(kafka["give_up_us"], _PATIENCE)
        hidden, keys = file.source_secrets, file.storage.secrets
        return list(json.loads(_core.broker(json.dumps(spec), at=at, source_secrets=hidden, storage_secrets=keys)))


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def _text(micros: int) -> str:
    moment = time_of(micros)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else f"{micros} µs"
