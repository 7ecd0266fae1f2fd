"""`penstock load`: takes what is new in the lake's log, or one date, into the warehouse."""
# ruff: noqa: S608 - what is put into the statements are names, numbers and dates of our own, or quoted

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import DataError, LakeError, SettingsError
from penstock.warehouse import days, star
from penstock.warehouse.lakelog import (
    BEGINNING,
    Entry,
    LakeFile,
    absolute,
    file_number,
    files_left,
    live_files,
    logs,
    read_log,
)
from penstock.warehouse.migrate import SCHEMA_VERSION, ddl_of, make_or_upgrade, require_current, version_of
from penstock.warehouse.target import Target, connect, warehouse_of
from penstock.warehouse.transaction import transact

if TYPE_CHECKING:
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend

SILVER = "silver/events"

DDL = ("1_dimensions.sql", "2_facts.sql", "3_seed.sql")

Progress = Callable[[int, int], None]
"""Called with the rows loaded so far and the rows to load."""


@dataclass
class LoadReport:
    """What a load did.

    Attributes:
        log_number: The last entry of the lake's log that is loaded; of the logs of several shards the highest.
        shards: The same for each shard, by the name of its log.
    """

    pipeline: str
    warehouse: str
    date: dt.date | None
    log_number: int
    shards: dict[str, int] = field(default_factory=dict)
    files: int = 0
    rows_read: int = 0
    counts: star.Counts = field(default_factory=star.Counts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "counts"},
            "date": self.date.isoformat() if self.date else None,
            **asdict(self.counts),
        }


@dataclass(frozen=True)
class _Step:
    """What goes into the warehouse in one transaction: of one log."""

    log: str
    since: int
    log_number: int
    files: list[LakeFile]
    removed: list[str]
    rows: int


def load(
    spec: Mapping[str, Any],
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    date: str | dt.date | None = None,
    tables: Path | Traversable | None = None,
    rows_a_transaction: int = 500_000,
    progress: Progress | None = None,
) -> LoadReport:
    """Load Silver rows of the lake into the star schema.

    Without `date`: all that the lake's log says since the last load; rows of removed files go, rewritten rows replace
    the old ones. With `date`: all rows whose event time falls on that day, again, in whatever file they are; this
    leaves the place in the log alone. Both can be repeated and mixed in any order: equal Silver gives equal tables.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.
        date: A day (UTC), as a date or `YYYY-MM-DD`.
        tables: The folder with the SQL files of the star; that of the ready-made pipeline of this name unless given.
        rows_a_transaction: About how many rows are committed together. A load that is killed goes on after the last
            such part, and memory follows it.
        progress: Called after each part.

    Raises:
        SettingsError: `date` is no date, or the warehouse setting is wrong.
        LakeError: The lake, or a file that its log names, is not there.
        WarehouseError: The warehouse cannot be opened or written, or was made by a newer version.
        DataError: Silver has not the columns that the tables need.
    """
    day = parse_day(date) if date is not None else None
    target = warehouse_of(spec, warehouse)
    folder = tables if tables is not None else tables_of(spec["name"])
    sql = {name: _read(folder, name) for name in (*DDL, "silver.sql", "lookup.sql")} | ddl_of(folder, target.kind)
    held = live_files(spec, SILVER)  # before the warehouse is opened: a missing lake leaves no empty file
    backend = connect(target)
    try:
        return _Loader(backend, spec, sql, rows_a_transaction, progress).load(held, day)
    except BaseException:
        backend.rollback()
        raise
    finally:
        backend.close()


def tables_of(pipeline: str) -> Traversable:
    """The folder with the SQL files of a ready-made pipeline's star."""
    folder = files("penstock") / "pipelines" / pipeline / "warehouse"
    if not folder.joinpath(DDL[0]).is_file():
        raise SettingsError(
            f"pipeline {pipeline}: it has no warehouse tables. Put {', '.join(DDL)}, silver.sql and lookup.sql into a "
            "folder `warehouse` beside the pipeline file (`penstock init ecommerce` shows how they look)"
        )
    return folder


def _read(folder: Path | Traversable, name: str) -> str:
    try:
        return folder.joinpath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{folder}/{name}: cannot be read ({error.strerror or error}); the warehouse needs it"
        ) from error


def parse_day(date: str | dt.date) -> dt.date:
    """A day from `YYYY-MM-DD`; raises SettingsError when it is none."""
    if isinstance(date, dt.datetime):
        return date.date()
    if isinstance(date, dt.date):
        return date
    try:
        return dt.datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=dt.timezone.utc).date()
    except ValueError:
        raise SettingsError(
            f"date: {date!r} is not a date. Write it as YYYY-MM-DD, such as 2024-12-17", name="date"
        ) from None


def last_entry(warehouse: Backend, log: str) -> int:
    """The last entry of a log of the lake (the pipeline's, or a shard's) that was loaded."""
    ((last,),) = warehouse.rows(
        f"SELECT max(log_number) FROM penstock_loads WHERE pipeline = {_literal(log)} AND event_date IS NULL"
    )
    return BEGINNING if last is None else int(last)


class _OvertakenError(Exception):
    """Another load has taken up what this one was about to."""


class _Loader:
    def __init__(
        self,
        warehouse: Backend,
        spec: Mapping[str, Any],
        sql: Mapping[str, str],
        rows_a_transaction: int,
        progress: Progress | None,
    ) -> None:
        self.warehouse = warehouse
        self.spec = spec
        self.pipeline = str(spec["name"])
        self.sql = sql
        self.rows_a_transaction = rows_a_transaction
        self.progress = progress

    def load(self, held: list[LakeFile], day: dt.date | None) -> LoadReport:
        """Load what is new, or the day, one transaction a step."""
        self._prepare()
        report = LoadReport(self.pipeline, self.warehouse.place, day, BEGINNING)
        while True:
            reached, steps = self._plan(held, day)
            report.log_number = max(reached.values())
            report.shards = {} if self.pipeline in reached else reached
            todo = report.rows_read + sum(step.rows for step in steps)
            try:
                for planned in steps:
                    step, counts = self._load_step(planned, day)
                    report.counts.add(counts)
                    report.files += len(step.files)
                    report.rows_read += step.rows
                    if self.progress:
                        self.progress(report.rows_read, todo)
            except _OvertakenError:
                continue  # another load has done it, or a part of it: see what is left
            return report

    def _plan(self, held: list[LakeFile], day: dt.date | None) -> tuple[dict[str, int], list[_Step]]:
        """How far each log is loaded afterwards, and the steps there."""
        reached: dict[str, int] = {}
        steps: list[_Step] = []
        for log, shard in logs(self.spec).items():
            last = last_entry(self.warehouse, log)
            new = self._new(last, shard)
            reached[log] = last if day or not new else new[-1].number
            steps += [] if day else self._since(log, last, new)
        if day:
            # Of all shards at once: the place in no log changes.
            steps = [_one_day(held, day, self.pipeline, reached.get(self.pipeline, BEGINNING))]
        return reached, steps

    def _prepare(self) -> None:
        """Make the tables of a new warehouse; refuse one made by a newer version."""
        if version_of(self.warehouse, self.pipeline) == SCHEMA_VERSION:
            return
        if self.warehouse.kind == "postgres":
            # Others may use these tables, and who loads need not be who may change them.
            require_current(self.warehouse, self.pipeline)
        ddl = {file: sql for file, sql in self.sql.items() if file[0].isdigit()}
        transact(self.warehouse, "tables", lambda: make_or_upgrade(self.warehouse, self.pipeline, ddl))

    def _new(self, last: int, shard: int) -> list[Entry]:
        """The entries of a log after the last that was loaded."""
        # From that one on, it included: it must be there still.
        log = read_log(self.spec, last - 1 if last > BEGINNING else BEGINNING, SILVER, shard)
        if last > BEGINNING and (not log or log[0].number != last):
            raise LakeError(
                f"lake {self.spec['lake']}: its log has no entry {last}, and the warehouse {self.warehouse.place} has "
                "loaded it. This is another lake than before; name the right one, or another warehouse"
            )
        return [entry for entry in log if entry.number > last]

    def _since(self, log: str, last: int, entries: list[Entry]) -> Iterator[_Step]:
        """Entries of a log after the last one loaded, cut into steps between them."""
        left = files_left(entries)
        gone = {path: place for place, entry in enumerate(entries) for path in entry.removed}
        new: list[LakeFile] = []
        removed: list[str] = []
        rows = until = 0
        for place, entry in enumerate(entries):
            # A file that a later entry takes away again is not read: it may be gone from the disk already. Its rows
            # come with what took its place, in the same transaction: nobody sees the facts in between.
            added = [file for file in entry.added if left.get(file.path) == file]
            until = max([until, *(gone[file.path] for file in entry.added if file.path in gone)])
            new += added
            removed += entry.removed
            rows += sum(file.rows for file in added)
            if (rows >= self.rows_a_transaction and place >= until) or entry is entries[-1]:
                yield _Step(log, last, entry.number, new, removed, rows)
                new, removed, rows, last = [], [], 0, entry.number

    def _load_step(self, step: _Step, day: dt.date | None) -> tuple[_Step, star.Counts]:
        warehouse = self.warehouse
        load_id = uuid.uuid4().hex

        def work() -> tuple[_Step, star.Counts]:
            _core.pass_failpoint("load.begin")
            # Under the lock: another load may have gone on since this one looked, and another penstock upgraded.
            require_current(warehouse, self.pipeline)
            last = last_entry(warehouse, step.log)
            now = _one_day(live_files(self.spec, SILVER), day, step.log, last) if day else step
            if now.since != last:
                raise _OvertakenError
            replaced = self._stage(now, day)
            _core.pass_failpoint("load.staged")
            counts = star.apply(warehouse, replaced)
            _core.pass_failpoint("load.applied")
            self._record(now, day, counts, load_id)
            _core.pass_failpoint("load.recorded")
            return now, counts

        def landed() -> bool:
            return bool(warehouse.rows(f"SELECT 1 FROM penstock_loads WHERE load_id = {_literal(load_id)}"))

        done = transact(warehouse, self.pipeline, work, landed=landed)
        _core.pass_failpoint("load.committed")
        warehouse.drop(*star.TEMPORARY)
        return done

    def _stage(self, step: _Step, day: dt.date | None) -> str | None:
        """Make the table `stage`; returns the condition for the facts that it replaces."""
        warehouse = self.warehouse
        placed = absolute(self.spec, step.files)
        within = (
            f"event_timestamp >= TIMESTAMP '{day}' AND event_timestamp < TIMESTAMP '{day + dt.timedelta(days=1)}'"
            if day
            else None
        )
        if placed:
            chosen = f"SELECT * FROM ({self.sql['silver.sql']}) AS silver_rows" + (f" WHERE {within}" if within else "")
            warehouse.stage("staged", chosen, placed, "silver")
            warehouse.temporary("stage", self.sql["lookup.sql"])
        else:
            warehouse.temporary("stage", "SELECT *, 0 AS nothing FROM fact_duplicates LIMIT 0")
        if within:
            return within
        if not step.removed:
            return None
        numbers = ", ".join(str(file_number(path)) for path in step.removed)
        return f"lake_file IN ({numbers})"

    def _record(self, step: _Step, day: dt.date | None, counts: star.Counts, load_id: str) -> None:
        now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
        of_all_shards = f"split_part(pipeline, '/', 1) = {_literal(self.pipeline)}"
        values = {
            "pipeline": _literal(step.log),
            "load_number": f"(SELECT coalesce(max(load_number), 0) + 1 FROM penstock_loads WHERE {of_all_shards})",
            "log_number": step.log_number,
            "event_date": f"DATE '{day}'" if day else "NULL",
            "facts_inserted": counts.inserted,
            "facts_updated": counts.updated,
            "facts_deleted": counts.deleted,
            "facts_repointed": counts.repointed,
            "duplicates": counts.duplicates,
            "users_changed": counts.users,
            "finished_at": f"TIMESTAMP '{now}'",
            "load_id": _literal(load_id),
            "rows_read": step.rows,
        }
        listed = ", ".join(str(value) for value in values.values())
        written = self.warehouse.change(f"INSERT INTO penstock_loads ({', '.join(values)}) SELECT {listed}")
        if written != 1:
            raise DataError(f"warehouse {self.warehouse.place}: the load could not be recorded; nothing was loaded")
        if counts.facts:
            ((number,),) = self.warehouse.rows(
                f"SELECT load_number FROM penstock_loads WHERE load_id = {_literal(load_id)}"
            )
            days.record(self.warehouse, self.pipeline, number)


def _one_day(held: list[LakeFile], day: dt.date, log: str, last: int) -> _Step:
    """All files that may hold events of the day, by their statistics."""
    midnight = dt.datetime.combine(day, dt.time(), dt.timezone.utc)
    start = int(midnight.timestamp()) * 1_000_000
    found = [file for file in held if file.may_hold(start, start + 86_400_000_000)]
    return _Step(log, last, last, found, [], sum(file.rows for file in found))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
