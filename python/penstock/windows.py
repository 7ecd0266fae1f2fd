"""Windows in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import _core
from penstock._arguments import duration
from penstock.errors import DataError
from penstock.table import Table, arrow, names

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from penstock._typing import ArrowLike


def aggregate_windows(
    events: ArrowLike,
    *,
    at: str,
    size: str | dt.timedelta,
    slide: str | dt.timedelta | None = None,
    by: str | list[str] | None = None,
    aggregates: Mapping[str, str],
) -> Table:
    """Aggregate rows by windows of event time, aligned to the Unix epoch, half-open.

    Args:
        events: Any Arrow table.
        at: The column of event time.
        size: The length of a window.
        slide: The distance between two windows' starts; `size` unless given (tumbling).
        by: Columns that windows are kept apart by.
        aggregates: Name and expression of each: `count()`, `sum(x)`, `avg(x)`, `min(x)`, `max(x)`,
            `approx_count_distinct(x)`. Sums of decimals are exact, sums of floats do not depend on the order of rows.

    Returns:
        `window_start`, `window_end`, the columns of `by`, the aggregates; sorted.

    Raises:
        DataError: A column is missing or has the wrong type.
        SettingsError: A duration or an expression is none.
    """
    if not hasattr(aggregates, "items"):
        raise DataError('aggregates: a mapping of names to expressions is needed, as {"total": "sum(amount)"}')
    return Table(
        _core.aggregate_windows(
            arrow(events, "events"),
            at=at,
            size_us=duration(size, "size"),
            slide_us=duration(slide, "slide"),
            by=names(by, "by"),
            aggregates=list(aggregates.items()),
        )
    )
