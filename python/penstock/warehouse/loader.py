"""`penstock load`: takes what is new in the lake's log, or one date, into the warehouse."""
# ruff: noqa: S608 - what is put into the statements are names, numbers and dates of our own, or quoted

from __future__ import annotations

import datetime as dt
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import DataError, SettingsError, WarehouseError, WrongLakeError
from penstock.storage import secrets_of
from penstock.warehouse import star
from penstock.warehouse.lakelog import BEGINNING, Entry, LakeFile, files_left, identity_of, live_files, logs, read_log
from penstock.warehouse.migrate import SCHEMA_VERSION, ddl_of, make_or_upgrade, require_current, version_of
from penstock.warehouse.model import Model, Rows, model_of, read_sql, tables_of
from penstock.warehouse.target import WAIT, Target, connect, warehouse_of
from penstock.warehouse.transaction import looked, transact

if TYPE_CHECKING:
    from importlib.abc import Traversable
    from pathlib import Path

    from typing_extensions import Self

    from penstock.warehouse.backend import Backend

SILVER = "silver/events"

PATIENCE = 60.0
"""For so many seconds an epoch that is on its way is waited for by who loads a day."""

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
class Step:
    """What goes into the warehouse in one transaction: of one log.

    Attributes:
        log: Whose it is.
        since: The last entry that is loaded before.
        log_number: The last one that is loaded afterwards.
        files: Silver files that come.
        removed: Paths of Silver files that go.
        rows: Of `files`.
        kind: `load`, `date`, `epoch` or `void`.
        term: Of the run that writes it.
        bronze: Bronze files of an epoch that no commit names yet.
        partitions: Those of the source that moved, as they stand afterwards, each with the entry that moved it.
    """

    log: str
    since: int
    log_number: int
    files: list[LakeFile]
    removed: list[str]
    rows: int
    kind: str = "load"
    term: int | None = None
    bronze: tuple[LakeFile, ...] = ()
    partitions: tuple[tuple[int, Mapping[str, Any]], ...] = ()


def load(
    spec: Mapping[str, Any],
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    date: str | dt.date | None = None,
    tables: Path | Traversable | None = None,
    rows_a_transaction: int = 500_000,
    progress: Progress | None = None,
    wait: float = WAIT,
) -> LoadReport:
    """Load Silver rows of the lake into the tables of the warehouse.

    Without `date`: all that the lake's log says since the last load; rows of removed files go, rewritten rows replace
    the old ones. With `date`: all rows whose event time falls on that day, again, in whatever file they are; this
    leaves the place in the log alone. Both can be repeated and mixed in any order: equal Silver gives equal tables.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.
        date: A day (UTC), as a date or `YYYY-MM-DD`.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.
        rows_a_transaction: About how many rows are committed together. A load that is killed goes on after the last
            such part, and memory follows it.
        progress: Called after each part.
        wait: For so many seconds a DuckDB file that another process has open is waited for.

    Raises:
        SettingsError: `date` is no date, or the warehouse setting is wrong.
        LakeError: The lake, or a file that its log names, is not there.
        WarehouseError: The warehouse cannot be opened or written, or was made by a newer version.
        DataError: Silver has not the columns that the tables need.
    """
    day = parse_day(date) if date is not None else None
    target = warehouse_of(spec, warehouse)
    loader = Loader(spec, tables, rows_a_transaction, progress)
    held = live_files(spec, SILVER)  # before the warehouse is opened: a missing lake leaves no empty file
    backend = connect(target, wait=wait)
    try:
        return loader.into(backend).load(held, day)
    except BaseException:
        backend.rollback()
        raise
    finally:
        backend.close()


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
    """The last entry of a log of the lake (the pipeline's, or a shard's) that was loaded.

    Where the run itself writes its epochs, that may be one that is planned, and not yet committed.
    """
    ((last,),) = warehouse.rows(
        f"SELECT max(log_number) FROM penstock_loads WHERE pipeline = {_literal(log)} AND event_date IS NULL"
    )
    return BEGINNING if last is None else int(last)


def require_same_lake(warehouse: Backend, spec: Mapping[str, Any], log: str, lake: str | None) -> None:
    """See to it that what was loaded of a log came from this lake, and not from one that was there before it.

    Args:
        warehouse: Where to look.
        spec: The pipeline file, read.
        log: The pipeline's, or a shard's.
        lake: What the lake of the pipeline is told by; none: nothing can be said.

    Raises:
        WrongLakeError: It is another one.
    """
    found = warehouse.rows(
        f"SELECT lake FROM penstock_loads WHERE pipeline = {_literal(log)} AND lake IS NOT NULL "
        "ORDER BY load_number DESC LIMIT 1"
    )
    if lake is not None and found and found[0][0] != lake:
        raise WrongLakeError(
            f"lake {spec['lake']}: it began anew, or is another one: what the warehouse {warehouse.place} has loaded "
            "came from another lake than this. Name the right one, or another warehouse"
        )


class _OvertakenError(Exception):
    """Another load has taken up what this one was about to."""


class _OnItsWayError(Exception):
    """The warehouse holds an epoch that the log does not: its rows are in no file that a day could be read from."""


def is_planned(spec: Mapping[str, Any], number: int, shard: int) -> bool:
    """Whether an epoch is planned, and not committed."""
    found = json.loads(_core.inspect(json.dumps(spec), epochs=0, storage_secrets=secrets_of(spec)))
    planned = [look["planned"] for look in found.get("shards", ()) if look["shard"] == shard] or [found["planned"]]
    return number in planned


class Loader:
    """Brings entries of the log into a warehouse.

    Args:
        spec: The pipeline file, read.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.
        rows_a_transaction: About how many rows are committed together.
        progress: Called after each part.
    """

    warehouse: Backend

    def __init__(
        self,
        spec: Mapping[str, Any],
        tables: Path | Traversable | None = None,
        rows_a_transaction: int = 500_000,
        progress: Progress | None = None,
    ) -> None:
        self.spec = spec
        self.pipeline = str(spec["name"])
        self.folder = tables if tables is not None else tables_of(self.pipeline)
        self.model: Model = model_of(self.folder)
        self.sql = {name: read_sql(self.folder, name) for name in (*self.model.ddl, *self.model.queries)}
        self.rows_a_transaction = rows_a_transaction
        self.progress = progress
        self._lake: str | None = None

    @property
    def lake(self) -> str | None:
        """What the lake is told by; none as long as the pipeline has not begun in it."""
        if self._lake is None:
            self._lake = identity_of(self.spec)
        return self._lake

    def require_same_lake(self, log: str) -> None:
        """See to it that the warehouse has this log from this lake.

        Raises:
            WrongLakeError: It has it from another one.
        """
        require_same_lake(self.warehouse, self.spec, log, self.lake)

    def into(self, warehouse: Backend) -> Self:
        """Use this connection, and make the tables of a new warehouse.

        Raises:
            SettingsError: They are in PostgreSQL, and older.
            WrongWarehouseError: They were made by a newer version.
        """
        self.warehouse = warehouse
        if version_of(warehouse, self.pipeline) == SCHEMA_VERSION:
            return self
        if warehouse.kind == "postgres":
            # Others may use these tables, and who loads need not be who may change them.
            require_current(warehouse, self.pipeline)
        ddl = ddl_of(self.folder, warehouse.kind)
        transact(warehouse, "tables", lambda: make_or_upgrade(warehouse, self.pipeline, ddl))
        return self

    def let_go(self) -> None:
        """Forget the connection."""
        self.__dict__.pop("warehouse", None)

    def load(self, held: list[LakeFile], day: dt.date | None) -> LoadReport:
        """Load what is new, or the day, one transaction a step."""
        report = LoadReport(self.pipeline, self.warehouse.place, day, BEGINNING)
        while True:
            reached, steps = looked(self.warehouse, lambda: self._plan(held, day))
            report.log_number = max(reached.values())
            report.shards = {} if self.pipeline in reached else reached
            todo = report.rows_read + sum(step.rows for step in steps)
            try:
                for planned in steps:
                    step, counts = self.load_step(planned, day)
                    report.counts.add(counts)
                    report.files += len(step.files)
                    report.rows_read += step.rows
                    if self.progress:
                        self.progress(report.rows_read, todo)
            except _OvertakenError:
                continue  # another load has done it, or a part of it: see what is left
            return report

    def _plan(self, held: list[LakeFile], day: dt.date | None) -> tuple[dict[str, int], list[Step]]:
        """How far each log is loaded afterwards, and the steps there."""
        reached: dict[str, int] = {}
        steps: list[Step] = []
        for log, shard in logs(self.spec).items():
            self.require_same_lake(log)
            last = last_entry(self.warehouse, log)
            new = self._new(last, shard)
            reached[log] = last if day or not new else new[-1].number
            steps += [] if day else self._since(log, last, new)
        if day:
            # Of all shards at once: the place in no log changes.
            steps = [_one_day(held, day, self.pipeline, reached.get(self.pipeline, BEGINNING))]
        return reached, steps

    def catch_up(self, log: str, shard: int, until: int) -> None:
        """Load the entries of a log up to one, it included."""
        while True:
            last = looked(self.warehouse, lambda: last_entry(self.warehouse, log))
            try:
                for step in self._since(log, last, [e for e in self._new(last, shard) if e.number <= until]):
                    self.load_step(step)
            except _OvertakenError:
                continue
            return

    def _new(self, last: int, shard: int) -> list[Entry]:
        """The entries of a log after the last that was loaded."""
        # From that one on, it included: it must be there still.
        since = max(last - 1, BEGINNING)
        log = read_log(self.spec, since, SILVER, shard)
        if last > BEGINNING and not log:
            # The run itself has written it, and goes on to commit it; or has, since we looked.
            if last == 0 or is_planned(self.spec, last, shard):
                return []
            log = read_log(self.spec, since, SILVER, shard)
        if last > BEGINNING and (not log or log[0].number != last):
            raise WrongLakeError(
                f"lake {self.spec['lake']}: its log has no entry {last}, and the warehouse {self.warehouse.place} has "
                "loaded it. This is another lake than before; name the right one, or another warehouse"
            )
        return [entry for entry in log if entry.number > last]

    def _since(self, log: str, last: int, entries: list[Entry]) -> Iterator[Step]:
        """Entries of a log after the last one loaded, cut into steps between them."""
        left = files_left(entries)
        gone = {path: place for place, entry in enumerate(entries) for path in entry.removed}
        new: list[LakeFile] = []
        removed: list[str] = []
        seen: list[Entry] = []
        rows = until = 0
        for place, entry in enumerate(entries):
            # A file that a later entry takes away again is not read: it may be gone from the disk already. Its rows
            # come with what took its place, in the same transaction: nobody sees the facts in between.
            added = [file for file in entry.added if left.get(file.path) == file]
            until = max([until, *(gone[file.path] for file in entry.added if file.path in gone)])
            new += added
            removed += entry.removed
            seen.append(entry)
            rows += sum(file.rows for file in added)
            if (rows >= self.rows_a_transaction and place >= until) or entry is entries[-1]:
                yield Step(log, last, entry.number, new, removed, rows, partitions=moved_by(seen))
                new, removed, seen, rows, last = [], [], [], 0, entry.number

    def load_step(self, step: Step, day: dt.date | None = None) -> tuple[Step, star.Counts]:
        """Load a step, in a transaction; a day with the files that hold something of it then."""
        load_id = uuid.uuid4().hex

        def work() -> tuple[Step, star.Counts]:
            _core.pass_failpoint("load.begin")
            # Under the lock: another load may have gone on since this one looked, and another penstock upgraded.
            require_current(self.warehouse, self.pipeline)
            self.require_same_lake(step.log)
            last = last_entry(self.warehouse, step.log)
            if day:
                self._see_that_nothing_is_on_its_way()
            now = _one_day(live_files(self.spec, SILVER), day, step.log, last) if day else step
            if now.since != last:
                raise _OvertakenError
            return now, self.apply(now, day, load_id)

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                done = transact(self.warehouse, self.pipeline, work, landed=lambda: self.has_landed(load_id))
            except _OnItsWayError as error:
                if time.monotonic() > deadline:
                    raise WarehouseError(f"warehouse {self.warehouse.place}: {error}") from None
                time.sleep(0.1)  # nothing tells when the run has committed it
                continue
            _core.pass_failpoint("load.committed")
            return done

    def apply(self, step: Step, day: dt.date | None, load_id: str) -> star.Counts:
        """Load and record a step, inside a transaction."""
        number = self.next_number()
        rows = Rows(self.spec, step.files, step.removed, day, number, step.bronze, step.kind == "epoch")
        counts = self.model.load(self.warehouse, self.sql, rows)
        _core.pass_failpoint("load.applied")
        put_stand(self.warehouse, step.log, step.partitions)
        self.record(step, day, counts, load_id, number)
        # Here, and not after COMMIT: a connection that is lost then takes nothing back.
        self.warehouse.drop(*self.model.temporary)
        _core.pass_failpoint("load.recorded")
        return counts

    def next_number(self) -> int:
        """The number of the load that comes next; that of all shards together. Asked for under the lock."""
        of_all_shards = f"split_part(pipeline, '/', 1) = {_literal(self.pipeline)}"
        ((number,),) = self.warehouse.rows(
            f"SELECT coalesce(max(load_number), 0) + 1 FROM penstock_loads WHERE {of_all_shards}"
        )
        return int(number)

    def has_landed(self, load_id: str) -> bool:
        """Whether the load of this id was committed."""
        return bool(self.warehouse.rows(f"SELECT 1 FROM penstock_loads WHERE load_id = {_literal(load_id)}"))

    def _see_that_nothing_is_on_its_way(self) -> None:
        """Loading a day would take the rows of an epoch that is in no commit for such that are gone."""
        for log, shard in logs(self.spec).items():
            last = last_entry(self.warehouse, log)
            if last > BEGINNING and not self.log_has(last, shard):
                raise _OnItsWayError(
                    f"it holds epoch {last}, which the log of {log} does not; a day cannot be loaded before it does. "
                    f"Run `penstock run {self.pipeline}`, and then this again"
                )

    def log_has(self, number: int, shard: int) -> bool:
        """Whether an entry is committed."""
        return any(entry.number == number for entry in read_log(self.spec, number - 1, SILVER, shard))

    def record(self, step: Step, day: dt.date | None, counts: star.Counts, load_id: str, number: int) -> None:
        """Write the row of a load, inside its transaction."""
        now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
        values = {
            "pipeline": _literal(step.log),
            "load_number": number,
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
            "kind": _literal("date" if day else step.kind),
            "term": "NULL" if step.term is None else step.term,
            "lake": "NULL" if self.lake is None else _literal(self.lake),
        }
        listed = ", ".join(str(value) for value in values.values())
        written = self.warehouse.change(f"INSERT INTO penstock_loads ({', '.join(values)}) SELECT {listed}")
        if written != 1:
            raise DataError(f"warehouse {self.warehouse.place}: the load could not be recorded; nothing was loaded")


def moved_by(entries: Iterable[Entry]) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    """The partitions that entries moved, as they stand afterwards, each with the last entry that moved it."""
    moved = {(told["topic"], told["partition"]): (entry.number, told) for entry in entries for told in entry.partitions}
    return tuple(moved.values())


def put_stand(warehouse: Backend, log: str, partitions: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Where reading of partitions stands after the entries that moved them."""
    for start in range(0, len(partitions), 1_000):
        rows = ", ".join(
            f"({_literal(log)}, {_literal(told['topic'])}, {int(told['partition'])}, {int(told['position'])}, {number})"
            for number, told in partitions[start : start + 1_000]
        )
        warehouse.change(
            f"INSERT INTO penstock_offsets (log, topic, partition_id, next_offset, log_number) VALUES {rows} "
            "ON CONFLICT (log, topic, partition_id) "
            "DO UPDATE SET next_offset = excluded.next_offset, log_number = excluded.log_number"
        )


def _one_day(held: list[LakeFile], day: dt.date, log: str, last: int) -> Step:
    """All files that may hold events of the day, by their statistics."""
    midnight = dt.datetime.combine(day, dt.time(), dt.timezone.utc)
    start = int(midnight.timestamp()) * 1_000_000
    found = [file for file in held if file.may_hold(start, start + 86_400_000_000)]
    return Step(log, last, last, found, [], sum(file.rows for file in found))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
