"""What it means that a file of the lake cannot be read: damage, its removal, or a bucket that does not answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import LakeError, PenstockError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Whose errors may mean a damaged file, when all that they do is read.
_READERS = ("duckdb", "_duckdb", "pyarrow", "polars")
# Errors of theirs that are of the connection, the machine or the user, and not of a file.
_OTHERS = re.compile("Memory|Interrupt|Connection|Permission|Transaction")


def meaning(error: Exception, files: Sequence[str]) -> PenstockError | None:
    """What a reader's error means, as far as the files are its reason.

    Args:
        error: What DuckDB, Polars or pyarrow said.
        files: Those that it read: paths on disk, or objects as `penstock.filesystem` names them.

    Returns:
        The error that tells it; none where no file is found to be the reason.
    """
    kind = type(error)
    if kind.__module__.partition(".")[0] not in _READERS or _OTHERS.search(kind.__name__):
        return None
    from penstock import filesystem

    refused = filesystem.refused()
    if refused is not None:
        return refused
    said = str(error)
    named = [file for file in files if file in said]
    for file in named or files:
        if "://" in file:
            continue
        if not Path(file).exists():
            return LakeError(
                f"lake {file}: was removed since the log was read (by a compaction, a backfill or retention): call "
                "read_lake again. If it is missing then, too, `penstock audit PIPELINE` says what it held"
            )
        reason = _broken(file)
        if reason is not None:
            return LakeError(
                f"lake {file}: a Parquet file cannot be read: it is damaged or cut off ({reason}). The ledger counts "
                "what it held: bring it back from a backup. `penstock audit PIPELINE` compares files and log"
            )
    return None


def _broken(file: str) -> str | None:
    """Why a file cannot be read to its end; none where it can."""
    import duckdb

    try:
        duckdb.connect().execute("SELECT max(hash(t)) FROM read_parquet(?) AS t", [file]).fetchall()
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        if _OTHERS.search(type(error).__name__):
            return None
        said = str(error).strip().splitlines()
        return re.sub(r"^[A-Z][A-Za-z ]*[Ee]rror: ", "", said[0]) if said else type(error).__name__
    return None
