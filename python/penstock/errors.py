"""What can go wrong, as one tree of exceptions under `PenstockError`.

Every message says what is wrong, where (topic, partition, offset, path, field), why, and what to do. The classes are
plain Python, so that Airflow and Spark can pickle them, and derive from the builtin that fits.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ContractError",
    "DataError",
    "ForkedError",
    "InternalError",
    "LakeError",
    "LedgerError",
    "PenstockError",
    "QualityError",
    "SettingsError",
    "SourceError",
    "SupersededError",
    "WarehouseError",
]


class PenstockError(Exception):
    """The root of all errors of Penstock."""


class ContractError(PenstockError, ValueError):
    """A contract file, or a schema that it names, is wrong. Mend the line that the message names."""


class SettingsError(PenstockError, ValueError):
    """A setting of a pipeline, a command line or a call is wrong. Mend the setting that the message names."""


class DataError(PenstockError, ValueError):
    """Data handed to a function has not the columns or types that it needs."""


class SourceError(PenstockError, OSError):
    """A source cannot be read, or is no longer what it was when it was read before."""


class LakeError(PenstockError, OSError):
    """The lake cannot be read or written: a full disk, missing rights, a folder that is not there."""


class CheckpointError(PenstockError):
    """The lake's log or state is damaged, or was made by a newer version. Nothing was changed."""


class SupersededError(PenstockError):
    """A newer run owns the pipeline. Nothing was lost: the newer run goes on from the last commit."""


class LedgerError(PenstockError):
    """An event is not accounted for. The pipeline stopped before it committed anything; please report it."""


class WarehouseError(PenstockError):
    """The warehouse cannot be opened, is locked by another process, or has a schema that does not fit."""


class QualityError(PenstockError):
    """A quality check failed, or could not be made."""


class ForkedError(PenstockError, RuntimeError):
    """The process was forked at a moment that the engine cannot survive. Make it in the child process instead."""


class InternalError(PenstockError, RuntimeError):
    """A fault of Penstock. Please report it with the message."""
