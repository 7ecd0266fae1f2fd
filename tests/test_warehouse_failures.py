"""What goes wrong with a load: it is said clearly, and nothing of the load is seen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pytest

from penstock.errors import DataError, LakeError, PenstockError, SettingsError, WarehouseError, WrongWarehouseError
from penstock.warehouse import load
from penstock.warehouse.duckdb_backend import DuckDBBackend
from penstock.warehouse.migrate import SCHEMA_VERSION
from services import until
from warehouse_support import Lake, event, install


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake with a few events."""
    made = Lake(tmp_path / "lake")
    made.root.mkdir()
    install(made, monkeypatch)
    made.commit(
        [
            event("s1", "ada", "2024-12-16T10:00:00", "user_signup"),
            event("p1", "ada", "2024-12-17T10:00:00", "purchase"),
            event("p2", "bob", "2024-12-17T11:00:00", "purchase"),
        ]
    )
    return made


def warehouse(lake: Lake) -> Path:
    """The file that the pipeline of the test names."""
    return lake.root.parent / "warehouse.duckdb"


def everything(lake: Lake, name: str = "warehouse.duckdb") -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, but for the time of a load."""
    with duckdb.connect(str(warehouse(lake).with_name(name)), read_only=True) as con:
        names = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
        without = {"penstock_loads": "EXCLUDE (finished_at, load_id)"}
        return {
            name: con.execute(f"SELECT * {without.get(name, '')} FROM {name} ORDER BY ALL").fetchall() for name in names
        }


DIES = """
import json, os, signal, sys
from pathlib import Path
from penstock import _core
from penstock.warehouse import load
from penstock.warehouse.duckdb_backend import DuckDBBackend

spec, entries, last = json.loads(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), int(sys.argv[3])
_core.lake_log = lambda _, since, **__: json.dumps([entry for entry in entries if entry["number"] > since])
_core.lake_shards = lambda *_, **__: []
_core.read_lake = lambda *_, **__: "[]"  # only --date asks for it
run, commit, done = DuckDBBackend._run, DuckDBBackend.commit, 0

def step(self, *args):
    global done
    done += 1
    if done > last:
        os.kill(os.getpid(), signal.SIGKILL)

DuckDBBackend._run = lambda self, sql: (step(self), run(self, sql))[1]
DuckDBBackend.commit = lambda self: (step(self), commit(self))[1]
load(spec)
"""


def dies_after(lake: Lake, statements: int) -> bool:
    """Load in another process, which is killed after so many statements; says whether it was."""
    log = lake.root.parent / "log.json"
    log.write_text(json.dumps(lake.entries))
    ended = subprocess.run(
        [sys.executable, "-c", DIES, json.dumps(lake.spec()), str(log), str(statements)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


def test_a_load_that_is_killed_leaves_nothing_and_is_made_good_by_the_next(lake: Lake) -> None:
    load(lake.spec())
    before = everything(lake)
    (path,) = [path for path in lake.rows if "2024-12-16" in path]
    lake.commit(
        [
            event("s0", "ada", "2024-12-15T10:00:00", "user_signup", plan_type="basic"),
            event("s2", "bob", "2024-12-17T10:30:00", "user_signup", plan_type="premium"),
            event("p3", "ada", "2024-12-18T11:00:00", "purchase"),
        ],
        removed=[path],
    )
    killed = 0
    for statements in range(1, 200, 8):
        if not dies_after(lake, statements) or everything(lake) != before:
            break
        killed += 1
    assert killed > 5
    # The last one ended by itself or died after its commit: it is all there. Another warehouse that was never disturbed
    # has the same rows.
    assert len(everything(lake)["penstock_loads"]) == 2
    load(lake.spec(), f"duckdb:{lake.root.parent / 'calm.duckdb'}")
    disturbed, calm = everything(lake), everything(lake, "calm.duckdb")
    for tables in (calm, disturbed):
        # The one has loaded all at once.
        del tables["penstock_loads"], tables["penstock_days"]
    assert disturbed == calm


def test_a_new_warehouse_that_is_killed_is_made_good_by_the_next(lake: Lake) -> None:
    for statements in (1, 3, 5, 7, 20, 40):
        assert dies_after(lake, statements)
    assert load(lake.spec()).counts.inserted == 3


def test_an_error_in_the_middle_leaves_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    load(lake.spec())
    before = everything(lake)
    lake.commit([event("s2", "ada", "2024-12-17T10:30:00", "user_signup", plan_type="premium")])

    def fails(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("penstock.warehouse.star._core.scd2_merge", fails)
        with pytest.raises(KeyboardInterrupt):
            load(lake.spec())
    assert everything(lake) == before
    assert load(lake.spec()).counts.inserted == 1


def test_a_warehouse_that_another_process_has_open(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "penstock.warehouse")
    load(lake.spec())
    holds = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(warehouse(lake))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(WarehouseError, match=rf"another process \(process {other.pid}, python.*\) has it open"):
            load(lake.spec(), wait=0.1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(load, lake.spec(), wait=60)
            until("the load waits", lambda: "Waiting for it" in caplog.text)
            assert not waiting.done()
            other.stdin.close()
            assert waiting.result(60).counts.inserted == 0


def test_a_file_that_is_no_warehouse(lake: Lake) -> None:
    warehouse(lake).write_bytes(b"name,amount\n" * 1000)
    with pytest.raises(WarehouseError, match="not a DuckDB database"):
        load(lake.spec())
    assert warehouse(lake).read_bytes() == b"name,amount\n" * 1000


def test_a_folder_and_a_folder_that_is_not_there(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="this is a folder, not a file"):
        load(lake.spec(), f"duckdb:{tmp_path}")
    with pytest.raises(WarehouseError, match="there is no folder"):
        load(lake.spec(), f"duckdb:{tmp_path / 'none' / 'w.duckdb'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_must_not_be_written(lake: Lake, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(WrongWarehouseError, match="no permission"):
        load(lake.spec(), f"duckdb:{closed / 'w.duckdb'}")


def test_a_warehouse_that_was_made_by_a_newer_version(lake: Lake) -> None:
    load(lake.spec())
    with duckdb.connect(str(warehouse(lake))) as con:
        con.execute(f"UPDATE penstock_schema SET version = {SCHEMA_VERSION + 1}")
    before = everything(lake)
    with pytest.raises(WrongWarehouseError, match=r"made by a newer penstock.*Upgrade penstock"):
        load(lake.spec())
    assert everything(lake) == before


def test_a_warehouse_with_tables_of_somebody_else(lake: Lake) -> None:
    with duckdb.connect(str(warehouse(lake))) as con:
        con.execute("CREATE TABLE dim_user (name TEXT)")
    with pytest.raises(WarehouseError, match="dim_user"):
        load(lake.spec())
    with duckdb.connect(str(warehouse(lake))) as con:
        assert con.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("dim_user",)]


def test_another_lake_than_before(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.warehouse.loader.is_planned", lambda *_: False)  # nothing is on its way
    lake.commit([event("k9", "ada", "2024-12-18T10:00:00")])
    load(lake.spec())
    lake.entries.pop()
    with pytest.raises(LakeError, match="another lake than before"):
        load(lake.spec())


def test_a_file_of_the_lake_that_is_missing(lake: Lake) -> None:
    path = next(iter(lake.rows))
    (lake.root / path).unlink()
    with pytest.raises(LakeError, match=re.escape(path) + r".*penstock audit"):
        load(lake.spec())


def test_a_file_of_the_lake_that_is_damaged(lake: Lake) -> None:
    path = next(iter(lake.rows))
    (lake.root / path).write_bytes(b"PAR1 and no more")
    with pytest.raises(PenstockError, match=re.escape(path)):
        load(lake.spec())


def test_a_lake_in_a_store_that_is_not_known_is_refused(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    with pytest.raises(SettingsError, match="use a folder or s3://"):
        load({"name": "ecommerce", "lake": "gs://bucket/lake", "warehouse": {"duckdb": str(warehouse)}})
    assert not warehouse.exists(), "a missing lake leaves no empty file"


@pytest.mark.parametrize("date", ["yesterday", "2024-13-01", "17.12.2024", ""])
def test_a_date_that_is_none(lake: Lake, date: str) -> None:
    with pytest.raises(SettingsError, match="YYYY-MM-DD"):
        load(lake.spec(), date=date)


@pytest.mark.parametrize("setting", [None, {}, {"oracle": "x"}, "mysql://localhost/x"])
def test_a_warehouse_that_is_none(lake: Lake, setting: Any) -> None:
    with pytest.raises(SettingsError, match=r"warehouse: \{duckdb: FILE\}"):
        load(lake.spec(warehouse=setting))


def test_a_pipeline_without_tables(lake: Lake) -> None:
    with pytest.raises(SettingsError, match=r"it has no warehouse tables.*`penstock init ecommerce`"):
        load(lake.spec(name="unheard_of"))


def test_silver_of_another_contract(lake: Lake, tmp_path: Path) -> None:
    tables = tmp_path / "warehouse"
    tables.mkdir()
    for file in (Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce/warehouse").iterdir():
        text = file.read_text()
        other = text.replace("plan_type,", "subscription AS plan_type,") if file.stem == "silver" else text
        (tables / file.name).write_text(other)
    with pytest.raises(DataError, match="subscription"):
        load(lake.spec(), tables=tables)


def test_an_event_without_a_user(lake: Lake) -> None:
    lake.commit([event("k9", "ada", "2024-12-17T10:00:00", entity=None)])
    with pytest.raises(DataError, match="1 Silver rows name no user"):
        load(lake.spec())


@pytest.mark.parametrize("setting", ["duckdb:", "snowflake:host=x,password=hunter2", "mysql://u:hunter2@h/x"])
def test_a_warehouse_of_another_kind_is_refused_without_its_password(lake: Lake, setting: str) -> None:
    with pytest.raises(SettingsError, match=r"warehouse: \{duckdb: FILE\}") as refused:
        load(lake.spec(), setting)
    assert "hunter2" not in str(refused.value)


def test_an_interrupted_statement_is_an_interruption(tmp_path: Path) -> None:
    backend = DuckDBBackend(tmp_path / "w.duckdb", read_only=False)

    class Interrupted:
        def execute(self, sql: str) -> None:
            raise RuntimeError("Query interrupted")

        def rollback(self) -> None: ...

        def close(self) -> None: ...

    backend.connection.close()
    backend.connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        backend.rows("SELECT 1")
