"""Tables that come out of the engine: Arrow for whoever asks for it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from penstock._html import escape
from penstock.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from penstock import _core
    from penstock._typing import ArrowLike

_SHOWN = 10


class Table:
    """Rows in Arrow memory, given to any library that speaks Arrow without a copy.

    `polars.DataFrame(table)`, `pyarrow.table(table)` and every function of Penstock take it as it is, any number of
    times.
    """

    def __init__(self, inner: _core.Table) -> None:
        self._inner = inner

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self._inner.num_rows

    @property
    def column_names(self) -> list[str]:
        """The columns' names."""
        return list(self._inner.column_names)

    def __len__(self) -> int:
        return self._inner.num_rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._inner.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._inner.__arrow_c_schema__()

    def to_pyarrow(self) -> pa.Table:
        """The same as a `pyarrow.Table`.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        return needs("pyarrow", "to_pyarrow").table(self)

    def to_polars(self) -> pl.DataFrame:
        """The same as a `polars.DataFrame`.

        Raises:
            MissingExtraError: Polars is not installed.
        """
        return needs("polars", "to_polars").DataFrame(self)

    def to_pandas(self) -> pd.DataFrame:
        """The same as a `pandas.DataFrame`, by way of pyarrow.

        Raises:
            MissingExtraError: pandas or pyarrow is not installed.
        """
        needs("pandas", "to_pandas")
        return needs("pyarrow", "to_pandas").table(self).to_pandas()

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {kind}" for name, kind in self._inner.columns())
        return f"penstock.Table({self.num_rows:,} rows; {columns})"

    def _repr_html_(self) -> str:
        rows = _rows(self, _SHOWN)
        head = "".join(
            f"<th>{escape(name)}<br><small>{escape(kind)}</small></th>" for name, kind in self._inner.columns()
        )
        body = "".join("<tr>" + "".join(f"<td>{escape(_short(value))}</td>" for value in row) + "</tr>" for row in rows)
        note = f"{self.num_rows:,} rows" + (f", the first {len(rows)} shown" if 0 < len(rows) < self.num_rows else "")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{note}</p>"


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _rows(table: Table, count: int) -> list[tuple[Any, ...]]:
    """The first rows as Python values, with whatever library is there; none without one."""
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError:
        try:
            return list(importlib.import_module("polars").DataFrame(table).head(count).rows())
        except ImportError:
            return []
    head = pyarrow.table(table).slice(0, count)
    return list(zip(*(column.to_pylist() for column in head.columns), strict=True))


def needs(package: str, what: str) -> Any:
    """Import a package that is not among the core's.

    Raises:
        MissingExtraError: It is not installed; the message says what to do.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{what} needs {package}, which is not installed: pip install {package}") from error


def is_arrow(value: object) -> bool:
    """Whether it speaks Arrow."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


def arrow(value: object, argument: str) -> ArrowLike:
    """The argument, if it speaks Arrow.

    Raises:
        DataError: It does not; the message says what would.
    """
    if isinstance(value, Table):
        return value._inner  # noqa: SLF001 - the engine takes its own rows as they are
    if is_arrow(value):
        return value  # type: ignore[return-value]
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    hint = "hand over a pyarrow, Polars, DuckDB or pandas (2.2 or newer) table"
    if isinstance(value, (list, dict)):
        hint = "make a table of it first: polars.DataFrame(…) or pyarrow.Table.from_pylist(…)"
    raise DataError(f"{argument}: {kind} has no Arrow data (__arrow_c_stream__); {hint}")


def names(value: object, argument: str) -> list[str]:
    """One column name or several, as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)):
        found = [name for name in value if isinstance(name, str)]
        if len(found) == len(value):
            return found
    raise DataError(f"{argument}: {value!r} is neither a column's name nor a list of names")
