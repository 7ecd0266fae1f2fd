"""Histories of dimensions (SCD type 2) in one call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock._html import escape
from penstock.table import Table, arrow, names

if TYPE_CHECKING:
    from penstock._typing import ArrowLike


class Merge:
    """The outcome of a merge: the history, and what a warehouse has to write. Hand it to the next merge as `current`.

    It remembers what confirmed each row, which a bare history has forgotten; so any order of loads gives the same
    history.
    """

    def __init__(self, inner: _core.Merge) -> None:
        self._inner = inner
        self._history: Table | None = None

    @property
    def history(self) -> Table:
        """Every row of the dimension; made when first read.

        Key, tracked and other columns, `effective_start`, `effective_end` (null while current), `is_current`,
        `surrogate_key`.
        """
        if self._history is None:
            self._history = Table(self._inner.history())
        return self._history

    @property
    def upserts(self) -> Table:
        """Rows of the history that are new or changed."""
        return Table(self._inner.upserts())

    @property
    def removed(self) -> Table:
        """Rows that are no longer part of the history."""
        return Table(self._inner.removed())

    @property
    def counts(self) -> dict[str, Any]:
        """How many rows came, changed and went."""
        return dict(json.loads(self._inner.counts()))

    @property
    def notes(self) -> list[str]:
        """What is worth knowing about this merge, such as a bare history whose past may be incomplete."""
        return list(self._inner.notes)

    def __repr__(self) -> str:
        return f"penstock.Merge({', '.join(f'{value} {name}' for name, value in self.counts.items())})"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in self.counts.items()
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<table>{items}</table>" + (f"<ul>{notes}</ul>" if notes else "")


def scd2_merge(
    current: Merge | _core.History | ArrowLike | None,
    changes: ArrowLike,
    *,
    key: str | list[str],
    at: str,
    tracked: list[str],
    op: str | None = None,
    order: str | list[str] | None = None,
) -> Merge:
    """Merge changes into the history of a dimension.

    Intervals are half-open `[effective_start, effective_end)` in event time. A change that comes late splits the
    interval that it falls into; one that changes nothing makes no row; null is a value, distinct from `''`. Any order
    of arrival, in any number of loads, gives the same history.

    Args:
        current: None to begin, an earlier result, or a bare history (which has forgotten what confirmed its rows).
        changes: The changes, one a row, in any order.
        key: The column, or columns, that name the entity.
        at: The column of event time.
        tracked: The columns whose changes make rows; the others hold their newest value (type 1).
        op: A column of I, U or D; a D closes the row.
        order: The column of positions, which decides between two changes of one entity at one time.

    Raises:
        DataError: A column is missing or has the wrong type.
    """
    if isinstance(current, Merge):
        before: Any = current._inner  # noqa: SLF001
    elif current is None or isinstance(current, (_core.Merge, _core.History)):
        before = current
    else:
        before = arrow(current, "current")
    return Merge(
        _core.scd2_merge(
            before,
            arrow(changes, "changes"),
            key=names(key, "key"),
            at=at,
            tracked=names(tracked, "tracked"),
            op=op,
            order=order,
        )
    )
