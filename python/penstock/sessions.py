"""Sessions in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import _core
from penstock._arguments import duration
from penstock.table import Table, arrow

if TYPE_CHECKING:
    import datetime as dt

    from penstock._typing import ArrowLike


def sessionize(
    events: ArrowLike,
    *,
    entity: str,
    at: str,
    gap: str | dt.timedelta = "30m",
    max_duration: str | dt.timedelta | None = None,
) -> Table:
    """Add the session of each row: `session_id`, `session_start`, and `session_seq` (from 1, in the order of time).

    An event opens a new session of its entity when it comes more than `gap` after the one before, or when the session
    would last longer than `max_duration`. The order of rows stays. The same events in any order get the same sessions.

    Args:
        events: Any Arrow table.
        entity: The column that says whose event it is.
        at: The column of event time.
        gap: The longest pause inside a session.
        max_duration: The longest session, if there is a limit.

    Raises:
        DataError: A column is missing or has the wrong type.
        SettingsError: `gap` or `max_duration` is no duration.
    """
    return Table(
        _core.sessionize(
            arrow(events, "events"),
            entity=entity,
            at=at,
            gap_us=duration(gap, "gap"),
            max_duration_us=duration(max_duration, "max_duration"),
        )
    )
