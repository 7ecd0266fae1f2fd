"""What the commands over a pipeline's log did: replay, backfill, compaction, retention, reset, and the manifest."""
# ruff: noqa: S608 - what is put into the query are quoted paths

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import SettingsError
from penstock.shards import together
from penstock.units import time_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from penstock.pipeline import Pipeline


@dataclass(frozen=True)
class Report:
    """What a command over the log did.

    Attributes:
        entries: The numbers of the log entries that it made; none when there was nothing to do. Each shard has a log of
            its own; those of all are named here.
        dry_run: Whether it only said what it would do.
        raw: Everything that the engine said.
    """

    entries: tuple[int, ...] = ()
    dry_run: bool = False
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def of(cls, found: Mapping[str, Any], *, dry_run: bool = False) -> Self:
        """From the engine's JSON."""
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        raw = {**found, "dry_run": dry_run}
        return cls(**{**known, "entries": tuple(found.get("entries", ())), "dry_run": dry_run}, raw=raw)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.raw)


@dataclass(frozen=True)
class ReplayReport(Report):
    """What became of dead letters that were judged again.

    Attributes:
        letters: Dead letters that were looked at.
        silver: Those that are in Silver now.
        duplicate: Those whose key Silver had.
        still_bad: Those that the contract still does not accept: they stay.
        waiting: Those that the watermark has not passed yet: they stay, for a later replay.
        joined_sessions: How many of `silver` fell into sessions that were there.
        new_sessions: How many sessions are new.
        silver_by_code: By the code that they had, how many went to Silver.
        still_bad_by_code: By the code that they have now, how many stay.
    """

    letters: int = 0
    silver: int = 0
    duplicate: int = 0
    still_bad: int = 0
    waiting: int = 0
    joined_sessions: int = 0
    new_sessions: int = 0
    silver_by_code: dict[str, int] = field(default_factory=dict)
    still_bad_by_code: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BackfillReport(Report):
    """What a backfill changed.

    Attributes:
        judged: Events of Bronze that were judged: those of the days and of their surroundings.
        rows_before: Rows of Silver that were replaced.
        rows_after: Rows that took their place.
        sessions_before: Sessions that were replaced.
        sessions_after: Sessions that took their place.
        accepted: Dead letters that are in Silver now.
        found_duplicate: Dead letters whose key Silver has.
        no_duplicate: Events that were duplicates and are in Silver now.
        duplicate: Rows of Silver that are duplicates now.
        rejected: Events that the contract no longer accepts: they are dead letters now.
        left_to_stream: Events of the days that the stream still works on: it holds them, or their session is open.
        files_removed: Files that went.
        files_added: Files that came.
    """

    judged: int = 0
    rows_before: int = 0
    rows_after: int = 0
    sessions_before: int = 0
    sessions_after: int = 0
    accepted: int = 0
    found_duplicate: int = 0
    no_duplicate: int = 0
    duplicate: int = 0
    rejected: int = 0
    left_to_stream: int = 0
    files_removed: int = 0
    files_added: int = 0


@dataclass(frozen=True)
class CompactReport(Report):
    """What compaction did.

    Attributes:
        files_before: Files that were put together.
        files_after: Files that they became.
        rows: Their rows.
        bytes_before: Their bytes before.
        bytes_after: Their bytes now.
        swept: Files that no commit named any more, moved to the trash.
        layers: By layer, files before and after.
    """

    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    swept: int = 0
    layers: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class RetentionReport(Report):
    """What retention took.

    Attributes:
        expired: By layer: `files`, `rows`, `bytes` that went, and `before` which day they were.
        held_back: The same of what is old enough and stays: dead letters that are not settled, events that are held.
        swept: Files that no commit named any more, moved to the trash.
    """

    expired: dict[str, dict[str, Any]] = field(default_factory=dict)
    held_back: dict[str, dict[str, Any]] = field(default_factory=dict)
    swept: int = 0


@dataclass(frozen=True)
class ResetReport(Report):
    """What a reset removed.

    Attributes:
        files: Data files.
        bytes: Their bytes.
        control: Objects of the log, the state and the contracts.
    """

    files: int = 0
    bytes: int = 0
    control: int = 0


@dataclass(frozen=True)
class Manifest:
    """The data files that count as of one commit.

    Attributes:
        pipeline: The pipeline's name.
        lake: The lake.
        entry: The newest entry of the log.
        committed_at: When it was committed.
        files: `path` below the lake, `layer`, `rows`, `bytes`, `min_event_time` and `max_event_time` in microseconds.
        raw: Everything that the engine said.
    """

    pipeline: str
    lake: str
    entry: int
    committed_at: dt.datetime | None
    files: list[dict[str, Any]]
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Manifest:
        """From the engine's JSON."""
        when = time_of(found["committed_at"])
        return cls(found["pipeline"], found["lake"], found["entry"], when, list(found["files"]), dict(found))

    @property
    def paths(self) -> list[str]:
        """Where the files lie: paths, or URLs of an object store."""
        from penstock.lake import place

        return [place(self.lake, str(file["path"])) for file in self.files]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every file with its `place` too."""
        files = [{**file, "place": path} for file, path in zip(self.files, self.paths, strict=True)]
        return {**self.raw, "files": files}

    def text(self) -> str:
        """One path a line."""
        return "\n".join(self.paths)

    def sql(self) -> str:
        """A query for DuckDB over these files."""
        listed = ",\n".join("    '" + path.replace("'", "''") + "'" for path in self.paths)
        types = "'date': DATE" + (", 'event_type': VARCHAR" if any("/event_type=" in p for p in self.paths) else "")
        return (
            f"SELECT * FROM read_parquet([\n{listed}\n], union_by_name = true, hive_partitioning = true, "
            f"hive_types_autocast = false, hive_types = {{{types}}})"
        )

    def spark(self) -> str:
        """An expression of PySpark over these files."""
        from penstock.lake import place

        layers = sorted({str(file["layer"]) for file in self.files})
        base = place(self.lake, layers[0]) if len(layers) == 1 else self.lake
        listed = ",\n".join(f"    {path!r}" for path in self.paths)
        return (
            f'spark.read.option("basePath", {base!r}).option("mergeSchema", "true").parquet(\n{listed},\n)'
            if listed
            else "spark.createDataFrame([], '')"
        )


def moment(value: str | dt.date | None, name: str) -> int | None:
    """A day (`YYYY-MM-DD`: its beginning) or a moment (`2024-12-17T10:00`, UTC if it does not say) in microseconds.

    Raises:
        SettingsError: It is neither.
    """
    if value is None:
        return None
    try:
        found = dt.datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value
    except ValueError:
        raise SettingsError(
            f"{name}: {value!r} is no day and no moment. Write it as YYYY-MM-DD or 2024-12-17T10:00:00Z", name=name
        ) from None
    if not isinstance(found, dt.datetime):
        found = dt.datetime.combine(found, dt.time())
    if found.tzinfo is None:
        found = found.replace(tzinfo=dt.timezone.utc)
    return round((found - dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)) / dt.timedelta(microseconds=1))


def day(value: str | dt.date, name: str) -> int:
    """The beginning of a day (`YYYY-MM-DD`) in microseconds.

    Raises:
        SettingsError: It is none.
    """
    found = moment(value, name)
    if found is None or found % 86_400_000_000:
        raise SettingsError(f"{name}: {value!r} is no day. Write it as YYYY-MM-DD, such as 2024-12-17", name=name)
    return found


def judged(pipeline: Pipeline) -> tuple[str, dict[str, Any]]:
    """What the engine needs to judge events again: the pipeline as JSON, and what goes beside it."""
    spec, transform = pipeline.spec(), pipeline.file.transform()
    if transform is not None:
        spec["transform"]["code"] = transform.code
    beside = {"secret": pipeline.file.secret, "storage_secrets": pipeline.file.storage.secrets}
    return json.dumps(spec), {"transform": transform, **beside}


def _reached(pipeline: Pipeline) -> dict[str, Any]:
    return {"storage_secrets": pipeline.file.storage.secrets}


def replay(pipeline: Pipeline, options: Mapping[str, Any]) -> ReplayReport:
    """Judge dead letters again; see `Pipeline.replay`."""
    spec, beside = judged(pipeline)
    found = together(json.loads(_core.replay(spec, json.dumps(options), **beside)))
    return ReplayReport.of(found, dry_run=bool(options.get("dry_run")))


def backfill(pipeline: Pipeline, options: Mapping[str, Any]) -> BackfillReport:
    """Make days of Silver anew; see `Pipeline.backfill`."""
    spec, beside = judged(pipeline)
    found = together(json.loads(_core.backfill(spec, json.dumps(options), **beside)))
    return BackfillReport.of(found, dry_run=bool(options.get("dry_run")))


def compact(pipeline: Pipeline, options: Mapping[str, Any]) -> CompactReport:
    """Put small files together; see `Pipeline.compact`."""
    done = json.loads(_core.compact(json.dumps(pipeline.spec()), json.dumps(options), **_reached(pipeline)))
    found = together(done)
    return CompactReport.of(found, dry_run=bool(options.get("dry_run")))


def retention(pipeline: Pipeline, options: Mapping[str, Any]) -> RetentionReport:
    """Throw away what is old; see `Pipeline.retention`."""
    done = json.loads(_core.retention(json.dumps(pipeline.spec()), json.dumps(options), **_reached(pipeline)))
    found = together(done)
    return RetentionReport.of(found, dry_run=bool(options.get("dry_run")))


def reset(pipeline: Pipeline, *, dry_run: bool) -> ResetReport:
    """Remove everything that the pipeline has in its lake; see `Pipeline.reset`."""
    found = json.loads(_core.reset(json.dumps(pipeline.spec()), dry_run=dry_run, **_reached(pipeline)))
    return ResetReport.of(found, dry_run=dry_run)


def manifest(pipeline: Pipeline, layers: list[str]) -> Manifest:
    """The files that count; see `Pipeline.manifest`."""
    return Manifest.of(json.loads(_core.manifest(json.dumps(pipeline.spec()), layers, **_reached(pipeline))))
