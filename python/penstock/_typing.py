"""The Arrow PyCapsule interface, as types: what goes in and out without pyarrow."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class ArrowSchemaExportable(Protocol):
    """Anything that hands out an Arrow schema."""

    def __arrow_c_schema__(self) -> object: ...


@runtime_checkable
class ArrowArrayExportable(Protocol):
    """Anything that hands out one Arrow array or record batch."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


@runtime_checkable
class ArrowStreamExportable(Protocol):
    """Anything that hands out a stream of Arrow batches (pyarrow, polars, DuckDB and pandas objects do)."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


ArrowLike: TypeAlias = ArrowStreamExportable | ArrowArrayExportable
Json: TypeAlias = dict[str, Any]
