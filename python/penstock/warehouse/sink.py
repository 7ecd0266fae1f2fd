"""`fill: epoch`: a run writes each epoch into the tables itself, with its offsets, before it commits it to the lake.

One way into a table: an epoch is a step of the loader's, as those of `penstock load`. It reads the epoch's files from
the lake, where they are durable by then. What the log has before it (a replay, a backfill, all of it for a new
database) is loaded first. The number of the epoch stands in `penstock_loads`, the positions after it in
`penstock_offsets`, in the same transaction as the rows.
"""
# ruff: noqa: S608 - what is put into the statements are numbers of our own, or quoted

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock.errors import LakeError, SupersededError, WarehouseError, WrongLakeError
from penstock.warehouse.duckdb_backend import quoted
from penstock.warehouse.flat import BRONZE
from penstock.warehouse.lakelog import BEGINNING, file_of, live_files, logs, read_log
from penstock.warehouse.loader import SILVER, Loader, Step, last_entry, moved_by, put_stand
from penstock.warehouse.star import Counts
from penstock.warehouse.target import connect, warehouse_of
from penstock.warehouse.transaction import transact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend

WAIT = 60.0
"""For so many seconds a DuckDB file that another process has open is waited for."""

WAIT_FOR_CANCEL = 5.0
"""For so many seconds a run that is given up tries to end the statement that it waits for."""


class _BehindError(Exception):
    """The warehouse lacks entries that come before."""


class TableSink:
    """A warehouse that every epoch of a run is written into before its commit.

    A connection to PostgreSQL is kept for the whole run. A DuckDB file is open only while an epoch is written: others
    may look into it between two.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.
    """

    def __init__(self, spec: Mapping[str, Any], tables: Path | Traversable | None = None) -> None:
        self._target = warehouse_of(spec)
        self._loader = Loader(spec, tables)
        self._spec = spec
        self._pipeline = str(spec["name"])
        self._idle: Backend | None = None
        self._used: Backend | None = None
        self._closed = False
        shard = spec.get("shard")
        self._shard = int(shard["number"]) if shard else 0
        self._log = self._log_of(self._shard)

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"warehouse {self._target.place}"

    def _log_of(self, shard: int) -> str:
        return f"{self._pipeline}/{shard:04}" if shard else self._pipeline

    def close(self) -> None:
        """Close the connection. A statement that a run waits for is ended: its epoch is not written."""
        self._closed = True
        deadline = time.monotonic() + WAIT_FOR_CANCEL
        while (used := self._used) is not None and time.monotonic() < deadline:
            used.cancel()  # once may not be enough: it may be between two statements
            time.sleep(0.05)
        if self._idle is not None:
            self._loader.let_go()
            self._idle.close()
            self._idle = None

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Loader]:
        if self._closed:
            raise WarehouseError(f"{self.name}: the run was given up")
        backend, self._idle = self._idle, None
        keep = False
        try:
            if backend is None:
                backend = connect(self._target, wait=WAIT)
                self._loader.into(backend)
            self._used = backend
            yield self._loader
            keep = backend.kind == "postgres"
        except WarehouseError as error:
            if type(error).__module__ == WarehouseError.__module__:
                raise
            # The engine knows the classes of `penstock.errors` alone.
            raise WarehouseError(str(error)) from error
        finally:
            self._used = None
            if keep:
                self._idle = backend
            elif backend is not None:
                # Nothing of it stays: where the run is given up, its thread keeps this object to the end.
                self._loader.let_go()
                backend.close()

    def catch_up(self) -> None:
        """Load all that the log has; nothing where there is no lake yet.

        Raises:
            WarehouseError: It cannot be opened or written, or was made by a newer version.
            WrongLakeError: It has loaded what this lake does not have.
        """
        try:
            held = live_files(self._spec, SILVER)
        except LakeError:
            return  # nothing was written yet; if it is something else, the run says so
        with self._connected() as loader:
            loader.load(held, None)
            for log, shard in logs(self._spec).items():
                transact(loader.warehouse, self._pipeline, partial(self._find_stand, loader.warehouse, log, shard))

    def _find_stand(self, warehouse: Backend, log: str, shard: int) -> None:
        """Where the source stands, in a warehouse that was filled before loads wrote it down."""
        if warehouse.rows(f"SELECT 1 FROM penstock_offsets WHERE log = {quoted(log)} LIMIT 1"):
            return
        last = last_entry(warehouse, log)
        if last > BEGINNING:
            entries = [entry for entry in read_log(self._spec, BEGINNING, SILVER, shard) if entry.number <= last]
            put_stand(warehouse, log, moved_by(entries))

    def write(self, epoch: str) -> bool:
        """Write an epoch and its number in one transaction, or do nothing where it is there."""
        told = json.loads(epoch)
        number, shard = int(told["number"]), int(told["shard"])
        files = [file_of(file) for file in told["files"]]
        silver = [file for file in files if file.layer == SILVER]
        bronze = tuple(file for file in files if file.layer == BRONZE)
        partitions = tuple((number, partition) for partition in told["partitions"])
        rows = sum(file.rows for file in silver)
        log, term, load_id = self._log_of(shard), int(told["term"]), _id_of(told)
        step = Step(log, number - 1, number, silver, [], rows, "epoch", term, bronze, partitions)

        def work(loader: Loader) -> bool:
            if not self._is_next(loader, log, number):
                return self._holds(loader, log, shard, number, load_id)
            loader.apply(step, None, load_id)
            return True

        return self._once(work, log, shard, number, term, load_id)

    def forbid(self, epoch: int, term: int) -> bool:
        """See to it that an epoch is never written, by nobody."""
        log, load_id = self._log_of(self._shard), uuid.uuid4().hex
        step = Step(log, epoch - 1, epoch, [], [], 0, "void", term)

        def work(loader: Loader) -> bool:
            if not self._is_next(loader, log, epoch):
                return self._found(loader, log, epoch)[0] == "void"
            loader.record(step, None, Counts(), load_id, loader.next_number())
            return True

        return self._once(work, log, self._shard, epoch, term, load_id)

    def _once(self, work: Callable[[Loader], bool], log: str, shard: int, number: int, term: int, load_id: str) -> bool:
        """Do something in one transaction, under the term, once the warehouse has all that comes before."""
        with self._connected() as loader:

            def under_the_term() -> bool:
                # Before the term: those of another lake are counted from 1 again.
                loader.require_same_lake(log)
                self._take_term(loader.warehouse, log, term)
                return work(loader)

            while True:
                with contextlib.suppress(_BehindError):
                    return transact(
                        loader.warehouse,
                        self._pipeline,
                        under_the_term,
                        landed=lambda: loader.has_landed(load_id),
                    )
                loader.catch_up(log, shard, number - 1)

    def _is_next(self, loader: Loader, log: str, number: int) -> bool:
        """Whether the entry before this one is the last that is loaded; not when this one is, too."""
        last = last_entry(loader.warehouse, log)
        if last < number - 1:
            raise _BehindError
        return last < number

    def _found(self, loader: Loader, log: str, number: int) -> tuple[str | None, str | None]:
        """Kind and id of what is there under a number."""
        found = loader.warehouse.rows(
            f"SELECT kind, load_id FROM penstock_loads WHERE pipeline = {quoted(log)} AND log_number = {number} "
            "AND event_date IS NULL"
        )
        return (found[0][0], found[0][1]) if found else (None, None)

    def _holds(self, loader: Loader, log: str, shard: int, number: int, load_id: str) -> bool:
        """Whether the number that is taken is that of this epoch; not where it was given up.

        Raises:
            WrongLakeError: It is an epoch of another lake.
        """
        kind, held = self._found(loader, log, number)
        if kind == "void":
            return False
        if held != load_id and not loader.log_has(number, shard):
            raise WrongLakeError(
                f"lake {self._spec['lake']}: it comes to epoch {number} now, and {self.name} has loaded another one "
                "under this number. This is another lake than before; name the right one, or another warehouse"
            )
        return True

    def _take_term(self, warehouse: Backend, log: str, term: int) -> None:
        """The newest run wins, whoever comes to the lock first."""
        found = warehouse.rows(f"SELECT term FROM penstock_terms WHERE log = {quoted(log)}")
        if not found:
            warehouse.change(f"INSERT INTO penstock_terms (log, term) VALUES ({quoted(log)}, {term})")
            return
        newest = int(found[0][0])
        if newest > term:
            raise SupersededError(
                f"{self.name}: this run (term {term}) was replaced by a newer one, which has written here already "
                f"(term {newest})",
                ours=term,
                theirs=newest,
                holder="another run",
            )
        if newest < term:
            warehouse.change(f"UPDATE penstock_terms SET term = {term} WHERE log = {quoted(log)}")


def _id_of(told: Mapping[str, Any]) -> str:
    """The same for an epoch that is run again: it follows from its plan."""
    names = ("path", "rows", "min_event_time", "max_event_time")
    files = sorted([file.get(name) for name in names] for file in told["files"])
    stand = sorted([p["topic"], p["partition"], p["position"]] for p in told["partitions"])
    return hashlib.sha256(json.dumps([told["number"], told["shard"], files, stand]).encode()).hexdigest()[:32]
