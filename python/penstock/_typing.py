"""What goes in and out of the engine, as types: the Arrow PyCapsule interface without pyarrow, and sinks of epochs."""

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


class EpochSink(Protocol):
    """A database that a run writes every epoch into before it is committed.

    `penstock.errors` that it raises go through the engine as they are; any other exception is a fault of its own.
    """

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    def write(self, epoch: str) -> bool:
        """Write an epoch and its number in one transaction, or do nothing where it is there.

        Args:
            epoch: JSON: `number`, `term`, `pipeline`, `shard`, `partitions` (those that moved, with the `position`
                after it), `files` (of all layers, in the lake: `path`, `layer`, `rows`, …).

        Returns:
            Whether it is there now; False where `forbid` was told that it never may be.

        Raises:
            SupersededError: A newer term was here.
            WarehouseError: It cannot be written; it comes again with the next run.
        """
        ...

    def forbid(self, epoch: int, term: int) -> bool:
        """See to it that an epoch is never written, by nobody.

        Returns:
            Whether that is so; False where the epoch is there already.

        Raises:
            SupersededError: A newer term was here.
            WarehouseError: It cannot be written.
        """
        ...


ArrowLike: TypeAlias = ArrowStreamExportable | ArrowArrayExportable
Json: TypeAlias = dict[str, Any]
