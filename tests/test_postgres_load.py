"""The same loads give the same tables in PostgreSQL as in DuckDB, and two loads at once get in nobody's way."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import Pipeline
from penstock.doctor import examine
from penstock.errors import DataError, WarehouseError
from penstock.postgres import Postgres
from penstock.quality import run_checks
from penstock.warehouse import audit, auditing, load, star
from penstock.warehouse.migrate import SCHEMA_VERSION
from penstock.warehouse.postgres_backend import PostgresBackend
from penstock.warehouse.upgrading import migrate
from services import missing, until
from services.postgres import new_database
from test_warehouse import Loaded, random_log
from test_warehouse_cli import GOOD, READY_MADE, penstock
from warehouse_support import Lake, event, install
from warehouse_tables import Warehouses

if TYPE_CHECKING:
    from services.postgres import Database, PostgresServer

WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Loaded:
    """A lake with a few events, and warehouses in PostgreSQL."""
    made = Loaded(tmp_path / "lake")
    made.root.mkdir()
    made.warehouses = Warehouses(tmp_path, database)
    install(made, monkeypatch)
    made.commit(
        [
            event("s1", "ada", "2024-12-16T10:00:00", "user_signup"),
            event("p1", "ada", "2024-12-17T10:00:00", "purchase"),
            event("p2", "bob", "2024-12-17T11:00:00", "purchase"),
        ]
    )
    return made


MANY_LOADS = """
INSERT INTO penstock_loads
SELECT 'ecommerce', 1 + n, n - 10001, NULL, 0, 0, 0, 0, 0, 0, now(), 'a' || n FROM generate_series(1, 10000) AS n;
ANALYZE penstock_loads
"""
LOOKED_AT = (
    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables "
    "WHERE schemaname = 'warehouse' AND relname = 'penstock_loads'"
)
NOBODY_ELSE = (
    "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
    "AND backend_type = 'client backend' AND pid <> pg_backend_pid())"
)


def test_the_loads_before_are_not_read_through(lake: Loaded, database: Database) -> None:
    """There is one for each epoch where the run fills the tables."""
    load(lake.spec(), lake.warehouses.target())
    lake.warehouses.run(MANY_LOADS)
    lake.commit([event("p3", "bob", "2024-12-18T11:00:00", "purchase")])

    def looked_at() -> int:
        # Who goes tells its numbers first.
        until("the others have gone", lambda: database.rows(NOBODY_ELSE))
        ((rows,),) = database.rows(LOOKED_AT)
        return int(rows)

    before = looked_at()
    assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 1
    assert looked_at() - before < 100


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_loads_give_the_same_tables_in_both(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, database: Database
) -> None:
    """The law: whatever is loaded, in whatever order, every table of both databases holds the same rows."""
    folder = tmp_path_factory.mktemp("law")
    lake = Lake(folder / "lake")
    lake.root.mkdir()
    here, there = Warehouses(folder), Warehouses(folder, database)
    name = f"law_{folder.name.rpartition('-')[2]}_{random.getrandbits(64)}"
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    with pytest.MonkeyPatch.context() as patch:
        install(lake, patch)
        for step in data.draw(st.lists(st.sampled_from(["entries", "load", "parts", "date"]), min_size=2, max_size=8)):
            if step == "entries":
                random_log(lake, dice, dice.randint(1, 3))
                continue
            more: dict[str, Any] = {
                "load": {},
                "parts": {"rows_a_transaction": 1},
                "date": {"date": f"2024-12-{dice.randint(10, 15)}"},
            }[step]
            told = [load(lake.spec(), target.target(name), **more).as_dict() for target in (here, there)]
            for report in told:
                del report["warehouse"]
            assert told[0] == told[1]
        for target in (here, there):
            load(lake.spec(), target.target(name))
        found = here.everything(name)
        assert there.everything(name) == found
        assert audit(lake.spec(), there.target(name)).as_dict() == audit(lake.spec(), here.target(name)).as_dict()
    assert found["dim_time"][0][0] == 96_432
    there.run(f"DROP SCHEMA {name} CASCADE", name)


def test_text_that_postgresql_has_no_character_for(lake: Loaded) -> None:
    lake.commit([event("k\0", "a\0da", "2024-12-17T10:00:00", page="/\0")])
    load(lake.spec(), lake.warehouses.target())
    got = lake.warehouses.rows("SELECT idempotency_key, user_id, page FROM fact_events WHERE page IS NOT NULL")
    assert got == [("k\ufffd", "a\ufffdda", "/\ufffd")]


def test_two_loads_at_once_take_turns(lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits for the first, and then finds nothing left to do: no row is loaded or counted twice."""
    target = lake.warehouses.target()
    load(lake.spec(), target)
    for n in range(4):
        lake.commit([event(f"k{n}", "ada", f"2024-12-18T1{n}:00:00", "purchase")])
    holds, goes_on = threading.Event(), threading.Event()
    apply = star.apply

    def slow(*args: Any) -> star.Counts:
        counts = apply(*args)
        if not holds.is_set():
            holds.set()
            assert goes_on.wait(60)
        return counts

    monkeypatch.setattr("penstock.warehouse.loader.star.apply", slow)
    inserted: list[int] = []

    def loads() -> None:
        inserted.append(load(lake.spec(), target, rows_a_transaction=1).counts.inserted)

    threads = [threading.Thread(target=loads) for _ in range(2)]
    threads[0].start()
    assert holds.wait(60)
    threads[1].start()
    until("the second load waits for the first", lambda: database.rows(WAITING))
    goes_on.set()
    for thread in threads:
        thread.join(60)
    assert sum(inserted) == 4
    assert lake.warehouses.rows("SELECT log_number FROM penstock_loads ORDER BY load_number") == [
        (0,), (1,), (2,), (3,), (4,)
    ]  # fmt: skip
    assert audit(lake.spec(), target).balanced


def test_two_loads_at_once_into_a_new_warehouse(lake: Loaded) -> None:
    target = lake.warehouses.target()
    inserted: list[int] = []
    threads = [
        threading.Thread(target=lambda: inserted.append(load(lake.spec(), target).counts.inserted)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(inserted) == [0, 0, 3]
    assert lake.warehouses.rows("SELECT count(*) FROM dim_device") == [(16,)]


def test_an_audit_beside_a_load_sees_one_moment(
    lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = lake.warehouses.target()
    load(lake.spec(), target)
    lake.commit([event("p3", "ada", "2024-12-18T10:00:00", "purchase")])
    look, looked = auditing.last_entry, []

    def looks(*given: Any) -> int:
        found = look(*given)
        looked.append(load(lake.spec(), target).counts.inserted)
        return found

    monkeypatch.setattr(auditing, "last_entry", looks)
    found = audit(lake.spec(), target)
    assert (found.balanced, found.facts, found.silver, looked) == (True, 3, 3, [1])
    monkeypatch.setattr(auditing, "last_entry", look)
    assert audit(lake.spec(), target).facts == 4


def test_the_order_of_words_of_the_database_changes_nothing(
    lake: Loaded, postgres: PostgresServer, tmp_path: Path
) -> None:
    at = "2024-12-18T10:00:00"
    lake.commit(
        [
            event("a", "cyd", at, "user_signup", plan_type="free", _topic="Events_b", _offset=1),
            event("b", "cyd", at, "user_signup", plan_type="premium", _topic="events_a", _offset=1),
            event("k", "dee", at, "purchase", _topic="Events_b", _offset=2),
            event("k", "dee", at, "purchase", _topic="events_a", _offset=2),
        ]
    )
    if postgres.version < 15:
        missing("databases with ICU's order of words, which PostgreSQL has since version 15")
    with new_database(postgres, "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C' TEMPLATE template0") as words:
        assert words.rows("SELECT 'events_a' < 'Events_b'") == [(True,)]
        found = []
        for warehouses in (Warehouses(tmp_path), Warehouses(tmp_path, words)):
            load(lake.spec(), warehouses.target())
            found.append(warehouses.everything(without=["warehouse"]))
    del found[0]["penstock_loads"], found[1]["penstock_loads"]
    assert {row for row in found[0]["dim_user"] if "cyd" in row} <= set(found[1]["dim_user"])
    assert {table: found[1].get(table) for table in found[0]} == found[0]


def test_a_date_beside_a_load_loses_nothing(lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a load brings while a date waits for it stays: the date looks at the lake when it is its turn."""
    target = lake.warehouses.target()
    load(lake.spec(), target)
    backend = PostgresBackend(Postgres.of(target["postgres"]))
    backend.begin("ecommerce")
    thread = threading.Thread(target=load, args=(lake.spec(), target), kwargs={"date": "2024-12-17"})
    thread.start()
    until("the date waits", lambda: database.rows(WAITING))
    lake.commit([event("p3", "ada", "2024-12-17T12:00:00", "purchase")])
    backend.rollback()
    backend.close()
    thread.join(60)
    assert lake.warehouses.rows("SELECT count(*) FROM fact_events") == [(4,)]
    assert load(lake.spec(), target).counts.inserted == 0
    assert audit(lake.spec(), target).balanced


def test_what_is_in_the_way_is_said_and_nothing_stays(lake: Loaded, database: Database) -> None:
    target = lake.warehouses.target()
    load(lake.spec(), target)
    before = lake.warehouses.everything()
    lake.warehouses.run(f"UPDATE penstock_schema SET version = {SCHEMA_VERSION + 1}")
    with pytest.raises(WarehouseError, match="made by a newer penstock"):
        load(lake.spec(), target)
    lake.warehouses.run(f"UPDATE penstock_schema SET version = {SCHEMA_VERSION}")
    lake.commit([event("k9", "ada", "2024-12-17T10:00:00", entity=None)])
    with pytest.raises(DataError, match="1 Silver rows name no user"):
        load(lake.spec(), target)
    assert lake.warehouses.everything() == before
    database.run("CREATE SCHEMA taken; CREATE TABLE taken.dim_user (name TEXT)")
    with pytest.raises(WarehouseError, match=r'"dim_user" already exists.*another schema'):
        load(lake.spec(), lake.warehouses.target("taken"))
    assert lake.warehouses.tables("taken") == ["dim_user"]


def test_a_day_is_found_without_going_through_it_for_every_row(
    lake: Loaded, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No plan goes through the keys of a load once for each of its rows: counted in rows, not in time."""
    rows = 3_000
    kinds = ("page_view", "user_signup", "purchase")
    for day in (16, 18):
        lake.commit([event(f"k{day}-{n}", f"u{n % 997}", f"2024-12-{day}T12:00:00", kinds[n % 3]) for n in range(rows)])
    target = lake.warehouses.target()
    load(lake.spec(), target)
    database.run("ANALYZE")
    read: dict[str, int] = {}
    drop = PostgresBackend.drop

    def counts(self: PostgresBackend, *names: str) -> None:
        if "gone" in names and "stage" in names:  # at the end of the transaction
            found = self.rows(
                "SELECT relname::text, seq_tup_read FROM pg_stat_xact_all_tables WHERE schemaname LIKE 'pg_temp%'"
            )
            read.update(found)
        drop(self, *names)

    monkeypatch.setattr(PostgresBackend, "drop", counts)
    load(lake.spec(), target, date="2024-12-18")
    assert {"gone", "known", "stage"} <= set(read)
    assert max(read.values()) < 40 * rows, read


def test_the_rights_that_the_guide_names_are_enough_and_no_more(lake: Loaded, database: Database) -> None:
    page = (Path(__file__).parents[1] / "docs/guide/postgres.md").read_text()
    grants = page.partition("```sql\n")[2].partition("```")[0]
    load(lake.spec(), database.url)
    database.run(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC; CREATE SCHEMA marts")
    migrate(lake.spec(), database.url, roles=True)
    suffix = database.name.removeprefix("test_")
    for role in ("loader", "metabase"):
        database.run(f"CREATE ROLE {role}_{suffix} LOGIN")
        grants = grants.replace(f"TO {role}", f"TO {role}_{suffix}")
    try:
        loader = database.server.url(database.name, f"loader_{suffix}")
        reader = database.server.url(database.name, f"metabase_{suffix}")
        for url in (loader, reader):
            with pytest.raises(WarehouseError, match="permission denied"):
                audit(lake.spec(), url)
        database.run(grants)
        lake.commit([event("p3", "ada", "2024-12-18T11:00:00", "purchase")], removed=list(lake.rows)[:1])
        with pytest.raises(WarehouseError, match=r"permission denied to create temporary tables.*needs more rights"):
            load(lake.spec(), reader)
        assert load(lake.spec(), loader).counts.inserted == 1
        assert audit(lake.spec(), reader).balanced
        database.run(f"GRANT USAGE ON SCHEMA marts TO loader_{suffix}")
        with pytest.raises(WarehouseError, match="permission denied for schema marts"):
            load(lake.spec(), {"postgres": {"url": loader, "schema": "marts"}})
    finally:
        for role in ("loader", "metabase"):
            database.run(f"DROP OWNED BY {role}_{suffix}; DROP ROLE {role}_{suffix}")


def test_the_pipeline_ecommerce_from_its_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load, audit and quality as commands, with the URL from the environment: it is shown nowhere."""
    from penstock import _core

    _core.generate(
        "ecommerce",
        json.dumps({"total": 3_000, "seed": 5, "span": 3 * 86_400_000_000, "bad_rate": 0.004}),
        str(tmp_path / "events.jsonl"),
    )
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"name: ecommerce\ncontract: {READY_MADE / 'contract.yaml'}\nsource: {{files: {{paths: [events.jsonl]}}}}\n"
        "lake: lake\ndeduplicate: {horizon: 24h}\nsessions: {gap: 30m}\nwarehouse: {postgres: '${WAREHOUSE}'}\n"
    )
    shutil.copytree(READY_MADE / "warehouse", tmp_path / "warehouse")
    monkeypatch.setenv("WAREHOUSE", database.url.replace("postgres@", "postgres:hunter2@"))
    flow = Pipeline.load(file)
    flow.run(progress=False)
    assert "no tables yet" in warehouse_finding(file)
    assert "Silver = the warehouse" not in [check.name for check in flow.audit().checks]
    done = penstock("load", str(file), "--json")
    told = json.loads(done.stdout)
    assert told["inserted"] == told["rows_read"] > 2_900
    assert told["warehouse"].endswith(f"/{database.name}")
    assert "hunter2" not in done.output
    again = json.loads(penstock("load", str(file), "--to", database.url, "--date", GOOD, "--json").stdout)
    assert (again["inserted"], again["updated"], again["deleted"], again["date"]) == (0, 0, 0, GOOD)
    checked = penstock("quality", str(file), "--date", GOOD, "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["checks"][3]["value"] is not None
    report = run_checks(flow.spec(), dt.date.fromisoformat(GOOD))
    assert report.passed
    assert audit(flow.spec()).balanced
    assert flow.audit().balanced
    assert "Silver = the warehouse" in [check.name for check in flow.audit().checks]
    found = warehouse_finding(file)
    assert f"/{database.name}, PostgreSQL" in found
    assert "as postgres, tables of version" in found
    assert "hunter2" not in found
    database.run("UPDATE penstock_schema SET version = 1")
    assert "Run: penstock migrate ecommerce" in warehouse_finding(file)
    monkeypatch.setenv("WAREHOUSE", "postgresql://u:hunter2@127.0.0.1:1/x")
    assert "Connection refused" in warehouse_finding(file)


def warehouse_finding(file: Path) -> str:
    """What `penstock doctor` says of the warehouse."""
    (found,) = [finding for finding in examine(str(file)) if finding.name == "warehouse"]
    return found.said
