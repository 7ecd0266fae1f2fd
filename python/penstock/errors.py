"""What can go wrong, as one tree of exceptions under [`PenstockError`][penstock.errors.PenstockError].

Every message says what went wrong, where, why, and what to do. The engine raises the same classes as the Python code.
All of them survive pickling (Airflow and Spark send exceptions between processes): the message is the only positional
argument, and whatever else is known stands in attributes.

| class | also a | `penstock` exits with |
|---|---|---|
| `ContractError`, `SettingsError`, `DataError` | `ValueError` | 2 |
| `WrongLakeError`, `WrongWarehouseError` | `SettingsError`, and `LakeError` or `WarehouseError` | 2 |
| `MissingExtraError` | `ImportError` | 2 |
| `SourceError`, `LakeError`, `SpillError`, `WarehouseError`, `ElasticsearchError` | `OSError` | 3 |
| `CheckpointError` | | 3 |
| `SupersededError` | | 4 |
| `LedgerError` | | 1 |
| `ForkedError`, `InternalError` | `RuntimeError` | 5 |

`Stopped` is no error but a `KeyboardInterrupt`: a run that was asked to stop says by it how it ended.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "ContractError",
    "DataError",
    "ElasticsearchError",
    "ForkedError",
    "InternalError",
    "LakeError",
    "LedgerError",
    "MissingExtraError",
    "PenstockError",
    "SettingsError",
    "SourceError",
    "SpillError",
    "SupersededError",
    "WarehouseError",
    "WrongLakeError",
    "WrongWarehouseError",
]


class PenstockError(Exception):
    """The root: catch this to catch everything that Penstock raises on purpose.

    Attributes:
        message: The whole message, as `str(error)` has it.
    """

    def __init__(self, message: str = "", **known: Any) -> None:
        super().__init__(message)
        # Attributes travel through pickle beside `args`: the default `__reduce__` takes `__dict__` along.
        for name, value in known.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no attribute {name!r}")
            setattr(self, name, value)

    @property
    def message(self) -> str:
        """The whole message."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message


class ContractError(PenstockError, ValueError):
    """A contract, or a schema that it names, is broken: mend the file at the line that the message names.

    Also raised when a contract needs what it was not given, such as the secret for `x-penstock-pii: hash`.
    """

    file: str | None = None
    line: int | None = None


class SettingsError(PenstockError, ValueError):
    """A setting or an argument is wrong: the message names it, its file and line, and the nearest right one."""

    name: str | None = None
    file: str | None = None
    line: int | None = None


class DataError(PenstockError, ValueError):
    """Data handed to a kernel lacks a column or has the wrong type for it: cast it, or name another column."""


class MissingExtraError(PenstockError, ImportError):
    """A package of an extra is not installed: the message says which `pip install "penstock[…]"` brings it."""

    extra: str | None = None


class SourceError(PenstockError, OSError):
    """A source cannot be read or is no longer what it was: a file shrank or its head changed, or offsets are gone.

    Nothing is skipped silently: put the source right and run again; the run goes on from the last commit.
    """


class LakeError(PenstockError, OSError):
    """The lake cannot be read or written: no such folder, no permission, a full disk.

    What was committed stays whole; after the cause is gone, run again.
    """


class SpillError(PenstockError, OSError):
    """State beyond `memory` cannot be put on local disk: the disk is full, or the folder cannot be written.

    The epoch in hand is not committed and nothing is lost: make room, name another folder in `PENSTOCK_SPILL_DIR`, or
    give the pipeline more `memory`, and run again.
    """


class WarehouseError(PenstockError, OSError):
    """The warehouse cannot be opened or written: another process has it open, it is another file, its version is newer.

    Nothing of a load that fails stays; after the cause is gone, run again.
    """


class WrongLakeError(SettingsError, LakeError):
    """The lake is there, and is not the one meant: the warehouse was loaded from another, or it has no such layer.

    Trying again does not help: name the right lake, warehouse or layer.
    """


class WrongWarehouseError(SettingsError, WarehouseError):
    """The warehouse refuses, and will again: wrong password, no such database or schema, no rights, a newer version.

    Trying again does not help before the warehouse or the setting is changed.
    """


class ElasticsearchError(PenstockError, OSError):
    """Elasticsearch cannot be reached, lets nobody in, refuses, or has an index that documents cannot go into.

    What went in before stays; documents have ids of their own, so that the next run puts right whatever is missing.
    """


class CheckpointError(PenstockError):
    """The lake's log or state is damaged, or was made by a newer version of Penstock.

    Do not delete anything: restore the named file from a backup, or install the version that the message names.
    """


class SupersededError(PenstockError):
    """A newer run took this pipeline over, so this one ended. Nothing is lost; nothing has to be done."""

    ours: int | None = None
    theirs: int | None = None
    holder: str | None = None


class Stopped(KeyboardInterrupt):
    """A run was asked to stop (Ctrl-C, SIGTERM), and did. What was committed stays; the next run goes on from there.

    Attributes:
        finished: Whether the epoch in hand was finished, so that all that was read is committed. Else it was given up,
            and the next run reads it again.
        ledger: The ledger as it stands, where the epoch was finished.
    """

    finished: bool = False
    ledger: Any = None

    def __init__(self, message: str = "", *, finished: bool = False, ledger: Any = None) -> None:
        super().__init__(message)
        self.finished, self.ledger = finished, ledger


class LedgerError(PenstockError):
    """The ledger does not balance: events would be lost or doubled, so the pipeline stopped. Please report it."""


class ForkedError(PenstockError, RuntimeError):
    """The process was forked while the engine was at work: start workers with `spawn`, or call it in the child only."""


class InternalError(PenstockError, RuntimeError):
    """A fault of Penstock itself. Please report it with the message."""
