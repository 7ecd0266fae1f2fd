"""What the lake's log says: which files are there now, and what came and went since a load."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import LakeError
from penstock.lake import TRASH, is_bucket, place
from penstock.storage import secrets_of, storage_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTROL = "_penstock"
"""The folder of the lake where the logs stand."""

BEGINNING = -1
"""The number before the first entry."""


@dataclass(frozen=True)
class LakeFile:
    """A data file of the lake, by its path below the lake's root."""

    path: str
    layer: str
    rows: int
    min_event_time: int | None
    max_event_time: int | None

    @property
    def number(self) -> int:
        """A number for the file that is the same in every load and every warehouse."""
        return file_number(self.path)

    def may_hold(self, start: int, end: int) -> bool:
        """Whether events of [start, end), in microseconds since 1970, may be in it."""
        if self.min_event_time is None or self.max_event_time is None:
            return True
        return self.min_event_time < end and self.max_event_time >= start


@dataclass(frozen=True)
class Entry:
    """One entry of the lake's log, with the files of one layer, and the partitions of the source that moved."""

    number: int
    kind: str
    added: tuple[LakeFile, ...]
    removed: tuple[str, ...]
    partitions: tuple[Mapping[str, Any], ...] = ()


def file_number(path: str) -> int:
    """63 bits of the path's hash."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") >> 1


def in_files(paths: Iterable[str]) -> str | None:
    """The condition that a row came from one of these files; none where there are none."""
    numbers = ", ".join(str(file_number(path)) for path in paths)
    return f"lake_file IN ({numbers})" if numbers else None


def logs(spec: Mapping[str, Any]) -> dict[str, int]:
    """The logs of a pipeline, one or one a shard, by their names; with the shard's number, 0 where it has none.

    Raises:
        LakeError: There is no lake.
    """
    name = str(spec["name"])
    shards = _core.lake_shards(json.dumps(spec), storage_secrets=secrets_of(spec))
    return {f"{name}/{shard:04}": shard for shard in shards} or {name: 0}


def read_log(spec: Mapping[str, Any], since: int, layer: str, shard: int = 0) -> list[Entry]:
    """The log after entry `since`, with the files of one layer, in order.

    Args:
        spec: The pipeline file, read.
        since: The number of the last entry that is not wanted; `BEGINNING` for all.
        layer: Such as `silver/events`.
        shard: Whose log, where the pipeline has shards.

    Raises:
        LakeError: There is no lake.
    """
    entries = [
        Entry(
            number=entry["number"],
            kind=entry.get("kind", "epoch"),
            added=tuple(file_of(file) for file in entry.get("files", ()) if file["layer"] == layer),
            removed=tuple(file["path"] for file in entry.get("removed", ()) if file["layer"] == layer),
            partitions=tuple(entry.get("partitions", ())),
        )
        for entry in json.loads(_core.lake_log(json.dumps(spec), since, shard=shard, storage_secrets=secrets_of(spec)))
        if entry["number"] > since
    ]
    return sorted(entries, key=lambda entry: entry.number)


def identity_of(spec: Mapping[str, Any]) -> str | None:
    """What tells the pipeline in this lake from one of the same name that began anew; none where it has not begun.

    It follows from what the pipeline keeps for ever: a copy of the lake has the same.

    Raises:
        LakeError: There is no lake, or it cannot be read.
    """
    path = f"{CONTROL}/{spec['name']}/pipeline.json"
    objects = _core.LakeObjects(str(spec["lake"]), **storage_of(spec).for_engine())
    found = objects.head(path)
    if found is None:
        return None
    kept = json.loads(objects.read(path, 0, found[0]))
    told = json.dumps([kept["name"], kept["key"], kept["created_at"]])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def files_left(entries: Iterable[Entry]) -> dict[str, LakeFile]:
    """The files that these entries added and did not take away again, by path."""
    files: dict[str, LakeFile] = {}
    for entry in entries:
        for path in entry.removed:
            files.pop(path, None)
        for file in entry.added:
            files[file.path] = file
    return files


def live_files(spec: Mapping[str, Any], layer: str) -> list[LakeFile]:
    """All files of a layer that count now.

    Raises:
        LakeError: There is no lake, or the pipeline has not written to it yet.
    """
    reached = storage_of(spec).for_engine()
    found = json.loads(_core.read_lake(str(spec["lake"]), layer, pipeline=str(spec["name"]), **reached))
    return [file_of(file) for file in found]


def file_of(told: Mapping[str, Any]) -> LakeFile:
    """A data file as the engine tells of it."""
    return LakeFile(
        path=told["path"],
        layer=told["layer"],
        rows=told["rows"],
        min_event_time=told.get("min_event_time"),
        max_event_time=told.get("max_event_time"),
    )


def absolute(spec: Mapping[str, Any], files: Iterable[LakeFile], *, handed: bool = False) -> list[tuple[str, int]]:
    """Where DuckDB has to read the files, each with its number; in the trash, where one was removed just now.

    Args:
        spec: The pipeline file, read.
        files: Which ones.
        handed: They are there for certain: a bucket is not asked, which is a listing that grows with the lake.

    Raises:
        LakeError: A file is missing.
    """
    files = list(files)
    lake = str(spec["lake"])
    if is_bucket(lake):
        from penstock.filesystem import opened

        bucket = opened(lake, storage_of(spec))
        placed = [(bucket.path(file.path), file.number) for file in files]
        if handed:
            return placed
        layers = sorted({file.layer for file in files})
        there = {path for layer in layers for path, _ in bucket.objects.list(layer)}
        there |= {path.removeprefix(f"{TRASH}/") for path, _ in bucket.objects.list(TRASH)}
    else:
        root = Path(lake.removeprefix("file://")).absolute()
        placed = [(place(str(root), file.path), file.number) for file in files]
        there = {file.path for file, (path, _) in zip(files, placed, strict=True) if Path(path).exists()}
    for file in files:
        if file.path not in there:
            raise LakeError(
                f"lake {lake}: the log names {file.path}, and it is not there. If a backfill or compaction ran just "
                "now, run this again; else run `penstock audit`"
            )
    return placed
