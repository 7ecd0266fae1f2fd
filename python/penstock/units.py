"""Durations and sizes as people write them: `30m`, `250ms`, `256MiB`."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal

_DURATIONS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 7 * 86_400_000_000,
}
_SIZES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_LIMIT = 2**63


def parse_duration(value: str | dt.timedelta) -> int:
    """A duration in microseconds from `30m`, `1h30m`, `250ms`, or a `timedelta`.

    Raises:
        ValueError: It is none, negative, or not a whole number of microseconds.
    """
    if isinstance(value, dt.timedelta):
        micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        if micros < 0:
            raise ValueError(f"{value} is negative; a duration is not")
        return micros
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit; write a duration as 250ms, 30s, 10m, 24h or 7d")  # noqa: TRY004
    if value.strip() == "0":
        return 0
    return _parse(value, _DURATIONS, "duration", "250ms, 30s, 10m, 24h or 7d")


def parse_size(value: str | int) -> int:
    """A size in bytes from `256MiB`, `1GB`, or a number of bytes.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"{value} is negative; a size is not")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no size; write it as 512KiB, 256MiB or 1GiB")  # noqa: TRY004
    if value.strip().isdecimal():
        return int(value)
    return _parse(value, _SIZES, "size", "512KiB, 256MiB or 1GiB")


def _parse(text: str, units: dict[str, int], what: str, examples: str) -> int:
    rest, total = text.strip(), Decimal(0)
    if not rest:
        raise ValueError(f"an empty text is no {what}; write it as {examples}")
    while rest:
        found = _PART.match(rest)
        if not found or found[2] not in units:
            raise ValueError(f"{text!r} is no {what}; write it as {examples}")
        total += Decimal(found[1]) * units[found[2]]
        rest = rest[found.end() :]
    if total != int(total):
        raise ValueError(f"{text!r} is not a whole number of {'microseconds' if what == 'duration' else 'bytes'}")
    if total >= _LIMIT:
        raise ValueError(f"{text!r} is too large a {what}")
    return int(total)


def format_duration(micros: int) -> str:
    """Microseconds as the shortest text that `parse_duration` takes: `1h30m`."""
    if micros == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, micros = divmod(micros, _DURATIONS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def format_size(size: float) -> str:
    """Bytes for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def time_of(micros: int | None) -> dt.datetime | None:
    """A UTC time from microseconds since the Unix epoch; None beyond what `datetime` can say."""
    if micros is None:
        return None
    try:
        return dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc) + dt.timedelta(microseconds=micros)
    except OverflowError:
        return None
