"""What goes wrong between a load and PostgreSQL: nothing is lost, nothing is there twice, nothing half."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.errors import WarehouseError
from penstock.postgres import Postgres
from penstock.warehouse import audit, load, transaction
from penstock.warehouse.backend import BackendGoneError, CommitUnknownError, DeadlockError
from penstock.warehouse.postgres_backend import PostgresBackend
from penstock.warehouse.transaction import transact
from services import missing, until
from services.postgres import Database, postgres_server
from services.postgres_proxy import postgres_proxy
from test_warehouse import Loaded
from warehouse_support import event, install
from warehouse_tables import Warehouses

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKS = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
OURS = "FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"


def new_lake(folder: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Loaded:
    """A lake that is loaded, and to which then came a change of everything."""
    lake = Loaded(folder / "lake")
    lake.root.mkdir()
    lake.warehouses = Warehouses(folder, database)
    install(lake, monkeypatch)
    lake.commit(
        [
            event("s1", "ada", "2024-12-16T10:00:00", "user_signup"),
            event("p1", "ada", "2024-12-17T10:00:00", "purchase"),
            event("p2", "bob", "2024-12-17T11:00:00", "purchase"),
        ]
    )
    load(lake.spec(), lake.warehouses.target())
    (path,) = [path for path in lake.rows if "2024-12-16" in path]
    lake.commit(
        [
            event("s0", "ada", "2024-12-15T10:00:00", "user_signup", plan_type="basic"),
            event("s2", "bob", "2024-12-17T10:30:00", "user_signup", plan_type="premium"),
            event("p3", "ada", "2024-12-18T11:00:00", "purchase"),
        ],
        removed=[path],
    )
    return lake


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Loaded:
    """Such a lake."""
    return new_lake(tmp_path, monkeypatch, database)


def is_as_undisturbed(lake: Loaded) -> None:
    """The warehouse has the rows that one has which nobody disturbed, and the lake's rows, each once."""
    load(lake.spec(), lake.warehouses.target("calm"))
    assert audit(lake.spec(), lake.warehouses.target()).balanced
    disturbed, calm = lake.warehouses.everything(), lake.warehouses.everything("calm")
    assert [row[2] for row in disturbed.pop("penstock_loads")] == [0, 1]
    del calm["penstock_loads"]
    # The calm one has loaded all at once.
    assert [row[:2] for row in disturbed.pop("penstock_days")] == [row[:2] for row in calm.pop("penstock_days")]
    assert disturbed == calm


def through(lake: Loaded, port: int) -> dict[str, Any]:
    """The warehouse, by way of a proxy."""
    target = lake.warehouses.target()["postgres"]
    assert lake.warehouses.database
    return {"postgres": target | {"url": target["url"].replace(str(lake.warehouses.database.server.port), str(port))}}


@pytest.mark.parametrize("cuts", [["before"], ["after"], ["before", "after"], ["before", "before", "before"]])
def test_a_commit_whose_answer_is_lost_is_done_once(lake: Loaded, database: Database, cuts: list[str]) -> None:
    with postgres_proxy(database.server.port, *cuts) as proxy:
        report = load(lake.spec(), through(lake, proxy.port))
        assert proxy.happened == cuts
    assert (report.counts.inserted, report.rows_read) == (3, 3)
    is_as_undisturbed(lake)


def test_a_commit_that_comes_late_is_waited_for(lake: Loaded, database: Database) -> None:
    """The client is cut off, connects again and asks, and only then its COMMIT comes: the lock makes it wait."""
    waiting = f"SELECT 1 {OURS} AND wait_event = 'advisory'"
    done: list[int] = []
    with postgres_proxy(database.server.port, "late") as proxy:
        target = through(lake, proxy.port)
        thread = threading.Thread(target=lambda: done.append(load(lake.spec(), target).counts.inserted))
        thread.start()
        until("the load asks whether it has committed", lambda: database.rows(waiting))
        assert not done
        proxy.let_go.set()
        thread.join(60)
    assert (done, proxy.happened) == ([3], ["late"])
    is_as_undisturbed(lake)


def test_a_connection_that_is_lost_between_two_transactions(
    lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After COMMIT there is nothing left to lose, and what is only looked at is looked at again."""
    commit, rows, happened = PostgresBackend.commit, PostgresBackend.rows, []

    def cut(where: str) -> None:
        happened.append(where)
        database.rows(f"SELECT pg_terminate_backend(pid) {OURS}")

    def commits(backend: PostgresBackend) -> None:
        commit(backend)
        cut("after COMMIT")

    def looks(backend: PostgresBackend, sql: str) -> Any:
        if "max(log_number)" in sql and not happened:
            cut("before")
        return rows(backend, sql)

    monkeypatch.setattr(PostgresBackend, "commit", commits)
    monkeypatch.setattr(PostgresBackend, "rows", looks)
    report = load(lake.spec(), lake.warehouses.target(), rows_a_transaction=1)
    assert (report.counts.inserted, happened) == (3, ["before", "after COMMIT"])
    monkeypatch.undo()
    install(lake, monkeypatch)
    is_as_undisturbed(lake)


def test_a_server_that_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that nobody knows; when the server is there again, the next load knows."""
    monkeypatch.setattr(transaction, "GIVE_UP", 0.2)
    with postgres_server() as server:
        lake = new_lake(tmp_path, monkeypatch, Database(server, server.database()))
        commit = PostgresBackend.commit

        def dies(self: PostgresBackend) -> None:
            server.kill()
            commit(self)

        with monkeypatch.context() as patch:
            patch.setattr(PostgresBackend, "commit", dies)
            with pytest.raises(CommitUnknownError, match=r"whether it was done is not known\. Run this again"):
                load(lake.spec(), lake.warehouses.target())
        with pytest.raises(WarehouseError, match="Connection refused"):
            load(lake.spec(), {"postgres": {"url": server.url("x")}})
        server.start()
        assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 3
        is_as_undisturbed(lake)


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each statement in turn: the load goes on with a new connection, without being run again."""
    with postgres_server() as server:
        lake = new_lake(tmp_path, monkeypatch, Database(server, server.database()))
        script = PostgresBackend.script
        places = iter((3, 9, 15))
        left = next(places)

        def dies(self: PostgresBackend, sql: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                server.kill()
                server.start()
                left = next(places, -1)
            script(self, sql)

        with monkeypatch.context() as patch:
            patch.setattr(PostgresBackend, "script", dies)
            assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 3
        assert left < 0
        is_as_undisturbed(lake)


@pytest.fixture
def tiny() -> Iterator[Path]:
    """A file system with room for next to nothing."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-tiny-"))
    folder.chmod(0o755)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0777", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        missing("a full disk needs the right to mount a small one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    with postgres_server() as server:
        database = Database(server, server.database())
        lake = new_lake(tmp_path, monkeypatch, database)
        # A folder of its own: that of a file system may hold what is not PostgreSQL's.
        place = tiny / "tables"
        place.mkdir(mode=0o700)
        shutil.chown(place, server.data.stat().st_uid, server.data.stat().st_gid)
        database.run(f"CREATE TABLESPACE tiny LOCATION '{place}'")
        database.run("ALTER TABLE warehouse.fact_events SET TABLESPACE tiny")
        lake.commit([event(f"k{n}", "ada", "2024-12-18T12:00:00", page="p" * 100) for n in range(20_000)])
        before = lake.warehouses.everything()
        with pytest.raises(WarehouseError, match=r"No space left on device; its disk is full; make room") as caught:
            load(lake.spec(), lake.warehouses.target())
        assert not isinstance(caught.value, BackendGoneError)
        assert lake.warehouses.everything() == before
        subprocess.run(["mount", "-o", "remount,size=64m", str(tiny)], check=True)
        assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 20_003
        assert audit(lake.spec(), lake.warehouses.target()).balanced


DIES = """
import json, os, signal, sys
from pathlib import Path
from penstock import _core
from penstock.warehouse import load
from penstock.warehouse.postgres_backend import PostgresBackend

spec, entries, last = json.loads(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
_core.lake_log = lambda _, since, **__: json.dumps([entry for entry in entries if entry["number"] > since])
_core.lake_shards = lambda *_, **__: []
_core.read_lake = lambda *_, **__: "[]"  # only --date asks for it
wait, done = PostgresBackend._wait, 0

def step(self, work):
    global done
    done += 1
    if done > last:
        os.kill(os.getpid(), signal.SIGKILL)
    return wait(self, work)

PostgresBackend._wait = step
load(spec)
"""


def dies_after(lake: Loaded, statements: int) -> bool:
    """Load in another process, which is killed after so many statements; says whether it was."""
    log = lake.root.parent / "log.json"
    log.write_text(json.dumps(lake.entries))
    spec = json.dumps(lake.spec(warehouse=lake.warehouses.target()))
    ended = subprocess.run(
        [sys.executable, "-c", DIES, spec, str(log), str(statements)], check=False, capture_output=True, text=True
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


def test_a_load_that_is_killed_leaves_nothing_and_no_lock(lake: Loaded, database: Database) -> None:
    before = lake.warehouses.everything()
    killed = 0
    for statements in range(4, 200, 9):
        if not dies_after(lake, statements) or lake.warehouses.everything() != before:
            break
        killed += 1
        until("the server has given the lock back", lambda: not database.rows(LOCKS))
    assert killed > 4
    # The last one ended by itself or died after its commit.
    is_as_undisturbed(lake)


def test_a_load_that_is_killed_in_the_middle_of_a_statement_gives_its_lock_back(
    lake: Loaded, database: Database
) -> None:
    """The server notices within a second, and not when the statement has ended."""
    holds = (
        "import sys; from penstock.warehouse import connect; w = connect(sys.argv[1]); w.begin('ecommerce'); "
        "w.script('SELECT pg_sleep(600)')"
    )
    running = f"SELECT pid {OURS} AND query LIKE '%pg_sleep(600)%'"
    with subprocess.Popen([sys.executable, "-c", holds, database.url]) as other:
        until("the statement runs", lambda: database.rows(running))
        os.kill(other.pid, signal.SIGKILL)
    until("the server has ended it", lambda: not database.rows(running), seconds=20)
    assert not database.rows(LOCKS)
    assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 3


def test_an_interruption_leaves_nothing(lake: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.warehouses.everything()

    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("penstock.warehouse.star._core.scd2_merge", fails)
        with pytest.raises(KeyboardInterrupt):
            load(lake.spec(), lake.warehouses.target())
    assert lake.warehouses.everything() == before
    assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 3
    is_as_undisturbed(lake)


def test_a_deadlock_is_done_again(lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who takes no lock of ours stands in the way: one of the two goes back, and the load is done."""
    database.run("CREATE TABLE warehouse.others (k INTEGER PRIMARY KEY, n INTEGER)")
    database.run("INSERT INTO warehouse.others VALUES (1, 0)")
    backend = PostgresBackend(Postgres.of(lake.warehouses.target()["postgres"]))
    # The one who has waited for this long looks for the deadlock, and gives way.
    backend.script("SET deadlock_timeout = '20ms'")
    crossed, met = threading.Event(), []

    def other() -> None:
        with database.server.connect(database.name) as con, con.transaction():
            con.execute("SET LOCAL deadlock_timeout = '60s'")
            con.execute("UPDATE warehouse.others SET n = n + 1")
            crossed.set()
            con.execute("UPDATE warehouse.fact_events SET country = 'FR'")

    thread = threading.Thread(target=other)

    def work() -> int:
        backend.change("UPDATE fact_events SET country = 'DE'")
        if not met:
            thread.start()
            assert crossed.wait(60)
            met.append(1)
        return backend.change("UPDATE others SET n = n + 10")

    assert transact(backend, "ecommerce", work) == 1
    thread.join(60)
    backend.close()
    assert lake.warehouses.rows("SELECT n FROM others") == [(11,)]
    assert lake.warehouses.rows("SELECT DISTINCT country FROM fact_events") == [("DE",)]


class Fake:
    """A backend whose calls fail as the test says, one after another."""

    def __init__(self, *fails: Exception | None) -> None:
        self.fails = list(fails)
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.fails and (error := self.fails.pop(0)) is not None:
            raise error

    def begin(self, lock: str) -> None:
        """Named with its lock."""
        self._call(f"begin {lock}")

    def commit(self) -> None:
        """Named."""
        self._call("commit")

    def reopen(self, give_up: float) -> None:
        """Named."""
        self._call("reopen")

    def rollback(self) -> None:
        """Always goes well."""


@pytest.mark.parametrize(
    ("fails", "landed", "ends"),
    [
        ([], None, 1),
        ([BackendGoneError("a")], None, 1),
        ([DeadlockError("a")] * 3, None, 1),
        ([DeadlockError("a")] * 4, None, DeadlockError),
        ([BackendGoneError("a"), BackendGoneError("b")], None, BackendGoneError),
        ([None, CommitUnknownError("a")], True, 1),
        ([None, CommitUnknownError("a")], False, 2),
        ([None, CommitUnknownError("a"), BackendGoneError("b")], True, CommitUnknownError),
        ([None, CommitUnknownError("a"), None, BackendGoneError("b")], True, CommitUnknownError),
        ([None, CommitUnknownError("a")], None, 2),
        ([None, DeadlockError("serialization")], None, 2),
    ],
)
def test_how_often_a_transaction_is_tried(
    fails: list[Exception | None], landed: bool | None, ends: int | type[Exception]
) -> None:
    backend, worked = Fake(*fails), []

    def work() -> int:
        worked.append(1)
        return len(worked)

    asked = None if landed is None else (lambda: landed)
    if isinstance(ends, int):
        assert transact(backend, "l", work, landed=asked) == ends  # type: ignore[arg-type]
        assert len(worked) == ends
    else:
        with pytest.raises(ends):
            transact(backend, "l", work, landed=asked)  # type: ignore[arg-type]
