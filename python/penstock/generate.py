"""Made-up events, with flaws on purpose and the truth beside them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock._arguments import duration
from penstock.errors import SettingsError
from penstock.nearest import did_you_mean
from penstock.progress import Progress
from penstock.resources import ready_made

if TYPE_CHECKING:
    import os


def generate(
    profile: str,
    path: str | os.PathLike[str] | None,
    *,
    total: int = 10_000,
    seed: int = 0,
    bad_rate: float = 0.01,
    duplicate_rate: float = 0.02,
    late_rate: float = 0.0,
    users: int | None = None,
    start: str | dt.datetime | None = None,
    span: str | dt.timedelta | None = None,
    events_per_second: float | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Write made-up events as JSON lines; the same options give the same bytes on every machine.

    Into Kafka they go by `penstock.producer.produce`.

    Args:
        profile: Whose events: a ready-made pipeline's name.
        path: The file (`.gz` and `.zst` compress; its folder is made), or None for standard output.
        total: How many, counting flawed ones and duplicates.
        seed: Another seed, other events.
        bad_rate: The share of events with a flaw.
        duplicate_rate: The share of events delivered a second time.
        late_rate: The share of events that come hours after they happened.
        users: How many users; a twentieth of `total` unless given.
        start: When the first happens (UTC).
        span: Over how much time they spread; a day unless given.
        events_per_second: How many happen in a second of event time, instead of `span`.
        progress: Show it; None: in a terminal or a notebook.

    Returns:
        The truth: totals, flaws by name, and what a pipeline has to find (`expected`).

    Raises:
        SettingsError: An option makes no sense.
        SourceError: The file cannot be written.
        BrokenPipeError: Who read standard output has gone.
    """
    options = event_options(
        profile,
        total=total,
        seed=seed,
        bad_rate=bad_rate,
        duplicate_rate=duplicate_rate,
        late_rate=late_rate,
        users=users,
        start=start,
        span=span,
        events_per_second=events_per_second,
    )
    if path is not None:
        with contextlib.suppress(OSError):  # the engine says why it cannot write there
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Progress(f"produce {profile}", progress) as shown:
        found = _core.generate(profile, json.dumps(options), path, on_progress=shown.callback)
    return dict(json.loads(found))


def event_options(
    profile: str, *, start: str | dt.datetime | None, span: str | dt.timedelta | None, **others: Any
) -> dict[str, Any]:
    """The engine's own form of the options; those that are None are left out."""
    if profile not in ready_made():
        raise SettingsError(
            f"profile {profile!r}: nobody knows how to make such events; {did_you_mean(profile, ready_made())}"
        )
    options = {**others, "span": duration(span, "span"), "start": None if start is None else _micros(start)}
    return {name: value for name, value in options.items() if value is not None}


def _micros(start: str | dt.datetime) -> int:
    if isinstance(start, str):
        try:
            # Python 3.10 does not know the Z.
            moment = dt.datetime.fromisoformat(start[:-1] + "+00:00" if start[-1:] in "Zz" else start)
        except ValueError:
            raise SettingsError(f"start: {start!r} is no time; write 2024-12-17 or 2024-12-17T08:00:00Z") from None
    else:
        moment = start
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.timezone.utc)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) // dt.timedelta(microseconds=1)
