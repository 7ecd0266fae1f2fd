"""The objects of a lake as files, for DuckDB: read by the engine, with its settings, retries and errors."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from penstock import _core
from penstock.errors import PenstockError
from penstock.lake import TRASH

if TYPE_CHECKING:
    from collections.abc import Callable

    import duckdb

    from penstock.storage import Storage

_BLOCK = 4 * 2**20
_Answer = TypeVar("_Answer")


class LakeFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """What lies in one lake, read only; paths are those below the lake's root.

    Args:
        lake: `s3://bucket/prefix`.
        storage: How it is reached.
    """

    cachable = False
    protocol = "penstock"

    def __init__(self, lake: str, storage: Storage) -> None:
        super().__init__()
        self.objects = _core.LakeObjects(lake, **storage.for_engine())
        self.lake = lake
        # What the engine said when it could not read: DuckDB tells of it in words of its own.
        self.refused: PenstockError | None = None
        told = json.dumps([lake, storage.spec(), storage.secrets], sort_keys=True)
        # Several lakes may be read on one connection: each has a scheme of its own.
        self.protocol = f"penstock{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def path(self, path: str) -> str:
        """What DuckDB has to call an object."""
        return f"{self.protocol}://{path}"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).partition("://")[2] or str(path)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and kind of an object; raises FileNotFoundError when there is none.

        What was removed within the last hour is found in the trash.
        """
        name = self._strip_protocol(path)
        for place in (name, f"{TRASH}/{name}"):
            found = self.ask(self.objects.head, place)
            if found is not None:
                break
        else:
            raise FileNotFoundError(name)
        return {"name": place, "size": found[0], "type": "file", "mtime": found[1] / 1e6}

    def ask(self, question: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Ask the engine, and keep why it could not answer."""
        try:
            answer = question(*arguments)
        except PenstockError as error:
            # DuckDB goes on to ask for what may be a folder, which tells nothing.
            self.refused = self.refused or error
            raise
        self.refused = None
        return answer

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """The objects below a path."""
        found = self.objects.list(self._strip_protocol(path))
        return [{"name": name, "size": size, "type": "file"} if detail else name for name, size in found]

    def modified(self, path: str) -> Any:
        """When an object was written."""
        import datetime as dt

        return dt.datetime.fromtimestamp(self.info(path)["mtime"], dt.timezone.utc)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> LakeFile:
        return LakeFile(self, self.info(path)["name"], mode, block_size or _BLOCK, **options)


class LakeFile(AbstractBufferedFile):  # type: ignore[misc]
    """An object, read in blocks."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= self.size or start >= end:
            return b""
        fetched: bytes = self.fs.ask(self.fs.objects.read, self.path, start, min(end, self.size))
        return fetched


_OPENED: dict[str, LakeFileSystem] = {}


def opened(lake: str, storage: Storage) -> LakeFileSystem:
    """The file system of a lake: made once, so that its connections are used again."""
    files = LakeFileSystem(lake, storage)
    return _OPENED.setdefault(files.protocol, files)


def refused() -> PenstockError | None:
    """What the engine said when it could not read an object for DuckDB; told once."""
    for files in _OPENED.values():
        said, files.refused = files.refused, None
        if said is not None:
            return said
    return None


def enable(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    """Let a connection read files whose paths `LakeFileSystem.path` gave; those of a disk need nothing."""
    for protocol in {path.partition("://")[0] for path in paths if path.startswith(LakeFileSystem.protocol)}:
        files = _OPENED.get(protocol)
        if files is not None and not connection.filesystem_is_registered(protocol):
            connection.register_filesystem(files)
