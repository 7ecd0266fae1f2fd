"""Deduplication in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import _core
from penstock._arguments import duration
from penstock.table import Table, arrow, names

if TYPE_CHECKING:
    import datetime as dt

    from penstock._typing import ArrowLike


def deduplicate(
    events: ArrowLike,
    *,
    key: str | list[str] = "idempotency_key",
    at: str | None = None,
    horizon: str | dt.timedelta | None = None,
) -> Table:
    """Keep the first row of each key; the order of rows stays.

    Args:
        events: Any Arrow table.
        key: The column, or columns, that make a row what it is.
        at: The column of event time; needed with `horizon`.
        horizon: For how long of event time a key is remembered (`24h`); None: exact over the whole input.

    Raises:
        DataError: A column is missing or has a type that cannot be a key or a time.
        SettingsError: `horizon` is no duration.

    Example:
        >>> import polars as pl, penstock
        >>> events = pl.DataFrame({"id": ["a", "b", "a"], "n": [1, 2, 3]})
        >>> penstock.deduplicate(events, key="id").to_polars()["n"].to_list()
        [1, 2]
    """
    return Table(
        _core.deduplicate(
            arrow(events, "events"), key=names(key, "key"), at=at, horizon_us=duration(horizon, "horizon")
        )
    )
