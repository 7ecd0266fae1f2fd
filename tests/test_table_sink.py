"""Epochs into the warehouse by the run itself: rows, offsets and number together, each once, whoever else is there."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from payments_lake import PaymentsLake, install, transaction
from penstock.errors import LakeError, SettingsError, SupersededError, WarehouseError, WrongLakeError
from penstock.settings import load_file
from penstock.warehouse import audit, flat, load, loader, sink
from penstock.warehouse.lakelog import LakeFile, absolute
from penstock.warehouse.sink import TableSink
from services import until
from services.postgres_proxy import postgres_proxy
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from services.postgres import Database

LOADS = "SELECT log_number, kind, term, rows_read FROM penstock_loads ORDER BY load_number"
OFFSETS = "SELECT log, topic, partition_id, next_offset, log_number FROM penstock_offsets ORDER BY partition_id"
IDS = "SELECT CAST(transaction_id AS TEXT) FROM transactions ORDER BY 1"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaymentsLake:
    """An empty lake."""
    made = PaymentsLake(tmp_path / "lake")
    made.root.mkdir()
    install(made, monkeypatch)
    return made


@pytest.fixture(params=KINDS)
def warehouses(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouses:
    """Warehouses of either kind."""
    database = request.getfixturevalue("database") if request.param == "postgres" else None
    return Warehouses(tmp_path, database)


@pytest.fixture
def make(lake: PaymentsLake) -> Iterator[Callable[[Any], TableSink]]:
    """Makes sinks, and closes them."""
    made = []

    def makes(warehouse: dict[str, Any]) -> TableSink:
        made.append(TableSink(lake.spec(warehouse)))
        return made[-1]

    yield makes
    for one in made:
        one.close()


def ids(warehouses: Warehouses) -> list[int]:
    """The transactions that are there, by their small numbers."""
    return sorted(int(text.replace("-", ""), 16) for (text,) in warehouses.rows(IDS))


def write(sink: TableSink, told: dict[str, Any], **other: Any) -> bool:
    """Write an epoch as the engine tells of it."""
    return sink.write(json.dumps(told | other))


def test_rows_offsets_and_number_go_in_together(
    lake: PaymentsLake, warehouses: Warehouses, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(warehouses.target())
    assert write(one, lake.plan([transaction(1), transaction(2), transaction(3)]))
    lake.commit()
    assert ids(warehouses) == [1, 2, 3]
    stand = sorted(lake.offsets.items())
    assert warehouses.rows(OFFSETS) == [("payments", "transactions", p, n, 0) for p, n in stand]
    assert warehouses.rows(LOADS) == [(0, "epoch", 1, 3)]
    assert warehouses.rows("SELECT * FROM penstock_terms") == [("payments", 1)]
    before = warehouses.everything()
    told = lake.plan([transaction(4)])
    with monkeypatch.context() as patch:
        patch.setattr(loader, "put_stand", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(one, told)
    assert warehouses.everything() == before
    assert write(one, told)
    # Once more, as by a run that was killed before its commit: it is there.
    after = warehouses.everything()
    assert write(one, told)
    assert warehouses.everything() == after
    assert ids(warehouses) == [1, 2, 3, 4]


def test_what_comes_before_is_caught_up_with(lake: PaymentsLake, warehouses: Warehouses, make: Any) -> None:
    """A new database, epochs that no sink was told of, a replay, a backfill."""
    lake.add([transaction(1), transaction(2)])
    lake.add([transaction(3)])
    one = make(warehouses.target())
    assert write(one, lake.plan([transaction(4)]))
    lake.commit()
    (path,) = [path for path, rows in lake.rows.items() if len(rows) == 2]
    lake.replace([path], [lake.rows[path][1:]])
    lake.add([transaction(5)])
    assert write(one, lake.plan([transaction(6)], term=2))
    lake.commit()
    assert ids(warehouses) == [2, 3, 4, 5, 6]
    assert warehouses.rows(LOADS) == [
        (1, "load", None, 3),
        (2, "epoch", 1, 1),
        (4, "load", None, 2),
        (5, "epoch", 2, 1),
    ]
    assert audit(lake.spec(warehouses.target())).balanced
    lake.add([transaction(7)])
    one.catch_up()
    newest = {p["partition"]: (p["position"], e["number"]) for e in lake.entries for p in e.get("partitions", ())}
    told = [("payments", "transactions", p, *stand) for p, stand in sorted(newest.items())]
    assert warehouses.rows(OFFSETS) == told
    # A warehouse that was filled before loads wrote it down.
    warehouses.run("DELETE FROM penstock_offsets")
    one.catch_up()
    assert warehouses.rows(OFFSETS) == told
    assert ids(warehouses) == [2, 3, 4, 5, 6, 7]


def test_an_epoch_is_not_looked_for_in_the_whole_lake(
    lake: PaymentsLake, warehouses: Warehouses, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine hands over is there, and brings the Bronze of its rows."""
    looks: list[str] = []
    look = flat.live_files

    def looked(spec: Any, layer: str) -> list[LakeFile]:
        looks.append(layer)
        return look(spec, layer)

    monkeypatch.setattr(flat, "live_files", looked)
    one = make(warehouses.target())
    known = "SELECT count(*), count(processing_time) FROM transactions"
    assert write(one, lake.plan([transaction(n, processing_time=None) for n in range(3)]))
    assert (looks, warehouses.rows(known)) == ([], [(3, 3)])
    lake.commit()
    # An event that was held back comes with a later epoch than its Bronze.
    held = lake.plan([transaction(3, processing_time=None)])["files"]
    (raw,) = [file for file in held if file["layer"] == "bronze/events"]
    lake.entries[-1]["files"].append(raw)
    told = lake.plan([transaction(4, processing_time=None)])
    assert write(one, told, files=[*told["files"], *(file for file in held if file is not raw)])
    assert (looks, warehouses.rows(known)) == (["bronze/events"], [(5, 5)])


def test_what_is_handed_over_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of a bucket grows with the lake."""
    listed: list[str] = []

    class Objects:
        """Nothing is there."""

        def list(self, prefix: str) -> list[tuple[str, int]]:
            """Take notice."""
            listed.append(prefix)
            return []

    bucket = SimpleNamespace(objects=Objects(), path=lambda path: f"there://{path}")
    monkeypatch.setattr("penstock.filesystem.opened", lambda *_: bucket)
    file = LakeFile("silver/events/a.parquet", "silver/events", 1, None, None)
    spec = {"name": "payments", "lake": "s3://bucket/lake"}
    assert absolute(spec, [file], handed=True) == [("there://silver/events/a.parquet", file.number)]
    assert not listed
    with pytest.raises(LakeError, match="it is not there"):
        absolute(spec, [file])
    assert listed


def test_the_newest_term_wins(lake: PaymentsLake, warehouses: Warehouses, make: Any) -> None:
    old, new = make(warehouses.target()), make(warehouses.target())
    assert write(old, lake.plan([transaction(1)]), term=1)
    lake.commit()
    told = lake.plan([transaction(2)])
    assert write(new, told, term=3)
    before = warehouses.everything()
    with pytest.raises(
        SupersededError, match=r"this run \(term 1\) was replaced by a newer one, .* \(term 3\)"
    ) as said:
        write(old, told, term=1)
    assert (said.value.ours, said.value.theirs) == (1, 3)
    with pytest.raises(SupersededError):
        old.forbid(1, 2)
    assert warehouses.everything() == before
    assert ids(warehouses) == [1, 2]


def test_what_is_given_up_never_goes_in(lake: PaymentsLake, warehouses: Warehouses, make: Any) -> None:
    zombie, one = make(warehouses.target()), make(warehouses.target())
    lake.add([transaction(1)])
    told = lake.plan([transaction(2)])
    # What comes before is loaded first: the number that is taken must not hide it.
    assert one.forbid(1, 2)
    assert one.forbid(1, 2)
    assert ids(warehouses) == [1]
    assert not write(one, told, term=2)
    lake.commit(void=True)
    again = lake.plan([transaction(2)], term=2)
    assert write(one, again)
    lake.commit()
    with pytest.raises(SupersededError):
        write(zombie, told, term=1)
    assert ids(warehouses) == [1, 2]
    assert not one.forbid(2, 2)
    assert [row[:2] for row in warehouses.rows(LOADS)] == [(0, "load"), (1, "void"), (2, "epoch")]
    assert load(lake.spec(warehouses.target())).rows_read == 0
    assert audit(lake.spec(warehouses.target())).balanced


def test_a_load_beside_it_finds_less_to_do(lake: PaymentsLake, warehouses: Warehouses, make: Any) -> None:
    spec = lake.spec(warehouses.target())
    one = make(warehouses.target())
    for n in (1, 2):
        told = lake.plan([transaction(n)])
        assert write(one, told)
        if lake.entries:
            report = load(spec)
            assert (report.log_number, report.rows_read) == (told["number"], 0)
            found = audit(spec)
            assert found.balanced and (found.log_number, found.silver, found.facts) == (told["number"], n, n)
        lake.commit()
        assert load(spec).rows_read == 0
    lake.add([transaction(3)])
    assert load(spec).rows_read == 1
    # A load that came first is as good as the sink.
    told = lake.plan([transaction(4)])
    assert write(one, told)
    lake.commit()
    # That of another lake is still told.
    lake.entries = lake.entries[:2]
    with pytest.raises(WrongLakeError, match="its log has no entry 3"):
        load(spec)


def test_another_lake_is_not_taken_for_this_one(lake: PaymentsLake, warehouses: Warehouses, make: Any) -> None:
    """A lake that was reset begins at 0 again: its epochs are none of those that are there."""
    one = make(warehouses.target())
    for n in (1, 2):
        assert write(one, lake.plan([transaction(n)]))
        lake.commit()
    lake.entries, lake.rows = [], {}
    with pytest.raises(WrongLakeError, match=r"it comes to epoch 0 now.* This is another lake than before"):
        write(one, lake.plan([transaction(3), transaction(4)]))
    assert ids(warehouses) == [1, 2]


def test_a_lake_that_began_anew_is_told_from_the_old_one(
    lake: PaymentsLake, warehouses: Warehouses, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log may be the longer one, its files are called the same, and its terms are counted from 1 again."""
    spec = lake.spec(warehouses.target())
    one = make(warehouses.target())
    for n in range(2):
        assert write(one, lake.plan([transaction(n)]), term=5)
        lake.commit()
    before = warehouses.everything()
    one.close()
    anew = PaymentsLake(lake.root)
    install(anew, monkeypatch)
    for n in range(4):
        anew.add([transaction(50 + n)])
    other = "it began anew, or is another one"
    for work in (lambda: load(spec), lambda: load(spec, date="2024-12-17"), lambda: audit(spec)):
        with pytest.raises(WrongLakeError, match=other):
            work()
    two = make(warehouses.target())
    with pytest.raises(WrongLakeError, match=other):
        two.catch_up()
    with pytest.raises(WrongLakeError, match=other):
        write(two, anew.plan([transaction(60)]), term=1)
    with pytest.raises(WrongLakeError, match=other):
        two.forbid(4, 1)
    assert warehouses.everything() == before
    # What a version loaded that did not write down whose log it was, is taken as before.
    warehouses.run("UPDATE penstock_loads SET lake = NULL")
    assert load(spec).rows_read == 2
    assert warehouses.rows("SELECT count(DISTINCT lake) FROM penstock_loads") == [(1,)]


def test_the_audit_sees_through_an_epoch_that_is_on_its_way(
    lake: PaymentsLake, warehouses: Warehouses, make: Any
) -> None:
    spec = lake.spec(warehouses.target())
    one = make(warehouses.target())
    lake.add([transaction(1), transaction(2)])
    assert write(one, lake.plan([transaction(3), transaction(4)]))
    assert audit(spec).balanced
    warehouses.run("DELETE FROM transactions WHERE CAST(transaction_id AS TEXT) LIKE '%4'")
    found = audit(spec)
    assert (found.balanced, found.missing, found.surplus) == (False, 1, 0)
    warehouses.run("DELETE FROM transactions WHERE CAST(transaction_id AS TEXT) LIKE '%1'")
    assert audit(spec).missing == 2


def test_a_day_waits_for_the_epoch_that_is_on_its_way(
    lake: PaymentsLake, warehouses: Warehouses, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take the epoch's rows for such that are gone, and nobody would bring them again."""
    spec = lake.spec(warehouses.target())
    one = make(warehouses.target())
    lake.add([transaction(1)])
    assert write(one, lake.plan([transaction(2)]))
    monkeypatch.setattr(loader, "PATIENCE", 0.0)
    with pytest.raises(WarehouseError, match=r"it holds epoch 1, which the log of payments does not"):
        load(spec, date="2024-12-17")
    assert ids(warehouses) == [1, 2]
    lake.commit()
    assert load(spec, date="2024-12-17").rows_read == 2
    assert ids(warehouses) == [1, 2]


@pytest.mark.parametrize("cuts", [["before"], ["after"], ["before", "after"]])
def test_a_commit_whose_answer_is_lost_is_done_once(
    lake: PaymentsLake, database: Database, make: Any, tmp_path: Path, cuts: list[str]
) -> None:
    warehouses = Warehouses(tmp_path, database)
    target = warehouses.target()
    lake.add([transaction(1)])
    load(lake.spec(target))
    with postgres_proxy(database.server.port, *cuts) as proxy:
        url = target["postgres"]["url"].replace(str(database.server.port), str(proxy.port))
        one = make({"postgres": target["postgres"] | {"url": url}})
        assert write(one, lake.plan([transaction(2)]))
        lake.commit()
        assert proxy.happened == cuts
        assert write(one, lake.plan([transaction(3)]))
        lake.commit()
        one.close()
    assert ids(warehouses) == [1, 2, 3]
    assert [row[:2] for row in warehouses.rows(LOADS)] == [(0, "load"), (1, "epoch"), (2, "epoch")]
    assert audit(lake.spec(target)).balanced


def test_a_run_that_is_given_up_waits_for_no_lock(
    lake: PaymentsLake, database: Database, make: Any, tmp_path: Path
) -> None:
    warehouses = Warehouses(tmp_path, database)
    one = make(warehouses.target())
    assert write(one, lake.plan([transaction(1)]))
    lake.commit()
    told = lake.plan([transaction(2)])
    said: list[BaseException] = []

    def writes() -> None:
        try:
            write(one, told)
        except WarehouseError as error:
            said.append(error)

    with database.server.connect(database.name, options="-c search_path=warehouse") as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE penstock_terms IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=writes)
        thread.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        until("the sink waits", lambda: database.rows(waiting))
        one.close()
        thread.join(30)
        assert not thread.is_alive() and len(said) == 1
    with pytest.raises(WarehouseError, match="the run was given up"):
        write(one, told)
    assert ids(warehouses) == [1]


def test_the_file_is_free_between_two_epochs(
    lake: PaymentsLake, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouses = Warehouses(tmp_path)
    one = make(warehouses.target())
    assert write(one, lake.plan([transaction(1)]))
    lake.commit()
    holds = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    file = warehouses.target()["duckdb"]
    with subprocess.Popen(
        [sys.executable, "-c", holds, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "open\n"
        monkeypatch.setattr(sink, "WAIT", 0.0)
        told = lake.plan([transaction(2)])
        with pytest.raises(WarehouseError, match="another process") as said:
            write(one, told)
        # The engine knows no other class.
        assert type(said.value) is WarehouseError
        monkeypatch.setattr(sink, "WAIT", 60.0)
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(write(one, told)))
        thread.start()
        other.stdin.close()
        thread.join(60)
    assert done == [True]
    assert ids(warehouses) == [1, 2]


def test_the_setting(tmp_path: Path) -> None:
    contract = {"name": "c", "roles": {}, "events": {}}
    (tmp_path / "contract.yaml").write_text(json.dumps(contract))
    base = {"name": "p", "contract": "contract.yaml", "lake": "l", "source": {"files": {"paths": ["x"]}}}

    def spec(**more: Any) -> dict[str, Any]:
        (tmp_path / "pipeline.yaml").write_text(json.dumps(base | more))
        return load_file(tmp_path / "pipeline.yaml").spec()

    file = str(tmp_path / "w.duckdb")
    assert spec(warehouse={"duckdb": "w.duckdb", "fill": "load"})["warehouse"] == {"duckdb": file}
    assert spec(warehouse={"duckdb": "w.duckdb", "fill": "epoch"})["warehouse"] == {"duckdb": file, "fill": "epoch"}
    with pytest.raises(SettingsError, match=r"warehouse\.fill"):
        spec(warehouse={"duckdb": "w.duckdb", "fill": "row"})
    with pytest.raises(SettingsError, match="epochs are read from Silver"):
        spec(warehouse={"duckdb": "w.duckdb", "fill": "epoch"}, layers=["bronze"])
