"""`penstock refresh`: whatever came in whatever way and order, the clean rows are those of one full rebuild."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import random
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payments_lake import PaymentsLake, install, transaction
from penstock.errors import SettingsError, WarehouseError
from penstock.warehouse import audit, load
from penstock.warehouse.refresh import refresh
from penstock.warehouse.sink import TableSink
from penstock.warehouse.upgrading import migrate
from test_cli import cli
from warehouse_support import at
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.postgres import Database

TABLES = ("transactions", "transactions_clean", "hourly_metrics", "hourly_metrics_by_currency")
CLEAN = (
    "transaction_id, user_id, amount, currency, status, event_time, processing_time, event_date, event_hour, "
    "latency_seconds, is_late"
)
STEPS = ("epoch", "epoch", "crash", "void", "replay", "backfill", "compact", "load", "parts", "date", "refresh", "full")


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


def some_rows(dice: random.Random, count: int) -> list[dict[str, Any]]:
    """Transactions of few ids, so that some come again; some do not say when they were processed."""
    rows = []
    for _ in range(count):
        when = at("2024-12-16T22:00:00") + dt.timedelta(minutes=dice.randrange(300))
        took = dice.choice([None, dt.timedelta(seconds=1.5), dt.timedelta(minutes=2), dt.timedelta(days=2, minutes=3)])
        amount = Decimal(dice.randrange(1_000)) / 100
        done = when + took if took else None
        rows.append(transaction(dice.randrange(12), when, amount=amount, processing_time=done))
    return rows


def changed(dice: random.Random, row: dict[str, Any]) -> dict[str, Any]:
    """The same position, judged otherwise."""
    how = dice.randrange(4)
    if how == 0:
        return row | {"amount": row["amount"] + 1}
    if how == 1:
        return row | {name: transaction(dice.randrange(12))[name] for name in ("transaction_id", "idempotency_key")}
    return row


def step_lake(lake: PaymentsLake, dice: random.Random, step: str) -> None:
    """What happens to the lake alone."""
    paths = sorted(lake.rows)
    if step == "replay":
        lake.add(some_rows(dice, 1))
    elif step == "compact" and len(paths) > 1:
        lake.replace(paths[:2], [lake.rows[paths[0]] + lake.rows[paths[1]]], "compact")
    elif step == "backfill" and paths:
        chosen = dice.sample(paths, min(2, len(paths)))
        rows = [changed(dice, row) for path in chosen for row in lake.rows[path] if dice.random() > 0.2]
        lake.replace(chosen, [rows[::2], rows[1::2]])


def loads(lake: PaymentsLake, target: dict[str, Any], **more: Any) -> None:
    """`penstock load`."""
    load(lake.spec(target), **more)


def refreshes(lake: PaymentsLake, target: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`penstock refresh`."""
    return refresh(lake.spec(target), **more).as_dict()


def to_all(targets: list[tuple[Warehouses, str]], work: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """The same in every warehouse."""
    return [work(warehouses.target(name)) for warehouses, name in targets]


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_way_there_gives_the_rows_of_one_full_rebuild(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, database: Database
) -> None:
    """The law, on both databases at once."""
    folder = tmp_path_factory.mktemp("law")
    lake = PaymentsLake(folder / "lake")
    lake.root.mkdir()
    targets = [(Warehouses(folder), "law"), (Warehouses(folder, database), f"law_{random.getrandbits(64)}")]
    dice = random.Random(data.draw(st.integers(0, 2**32)))
    term = 1
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        install(lake, patch)
        sinks = to_all(targets, lambda target: TableSink(lake.spec(target)))
        for sink in sinks:
            stack.callback(sink.close)
        for step in ["epoch", "refresh", *dice.choices(STEPS, k=data.draw(st.integers(6, 14)))]:
            if step in ("epoch", "crash", "void"):
                told = lake.plan(some_rows(dice, dice.randrange(5)), term)
                if step == "void":
                    assert [sink.forbid(told["number"], term) for sink in sinks] == [True, True]
                    assert [sink.write(json.dumps(told)) for sink in sinks] == [False, False]
                else:
                    assert [sink.write(json.dumps(told)) for sink in sinks] == [True, True]
                if step == "crash":
                    term += 1
                    assert [sink.forbid(told["number"], term) for sink in sinks] == [False, False]
                    assert [sink.write(json.dumps(told | {"term": term})) for sink in sinks] == [True, True]
                if lake.entries:
                    to_all(targets, lambda target: load(lake.spec(target)))
                    assert all(to_all(targets, lambda target: audit(lake.spec(target)).balanced))
                lake.commit(void=step == "void")
            elif not lake.entries:
                continue
            elif step in ("load", "parts"):
                to_all(targets, partial(loads, lake, rows_a_transaction=1 if step == "parts" else 500_000))
            elif step == "date":
                to_all(targets, partial(loads, lake, date=dice.choice(["2024-12-16", "2024-12-17"])))
            elif step in ("refresh", "full"):
                to_all(targets, partial(loads, lake))
                one, other = to_all(targets, partial(refreshes, lake, full=step == "full"))
                assert one | {"warehouse": ""} == other | {"warehouse": ""}
            else:
                step_lake(lake, dice, step)
        lake.add(some_rows(dice, 1))
        found = []
        for (warehouses, name), sink in zip(targets, sinks, strict=True):
            sink.catch_up()
            sink.close()
            spec = lake.spec(warehouses.target(name))
            refresh(spec)
            assert audit(spec).balanced
            assert sorted(warehouses.rows(f"SELECT {CLEAN} FROM transactions_clean", name)) == lake.clean()
            found.append(warehouses.everything(name, TABLES, {"load_number"}))
            again = refresh(spec, full=True).transactions_clean
            assert again and (again.inserted, again.updated, again.deleted) == (0, 0, 0)
        one, other = targets[0][0], "rebuilt"
        load(lake.spec(one.target(other)))
        refresh(lake.spec(one.target(other)), full=True)
        found.append(one.everything(other, TABLES, {"load_number"}))
    assert found[0] == found[1] == found[2]
    targets[1][0].run(f"DROP SCHEMA {targets[1][1]} CASCADE", targets[1][1])


def test_only_what_changed_is_made_anew(lake: PaymentsLake, warehouses: Warehouses) -> None:
    spec = lake.spec(warehouses.target())
    lake.add([transaction(1), transaction(2)])
    load(spec)
    clean = refresh(spec).transactions_clean
    assert clean and (clean.full, clean.load_number, clean.inserted, clean.rows) == (True, 1, 2, 2)
    # An earlier event of an id takes its place; another one comes.
    lake.add([transaction(2, "2024-12-17T09:00:00"), transaction(3)])
    load(spec)
    clean = refresh(spec, only="transactions_clean").transactions_clean
    assert clean and not clean.full
    assert (clean.load_number, clean.inserted, clean.updated, clean.deleted, clean.rows) == (2, 1, 1, 0, 3)
    # A backfill takes one away, and moves the others to another file.
    (first, second) = sorted(lake.rows)
    lake.replace([first], [lake.rows[first][1:]])
    load(spec)
    assert warehouses.rows("SELECT count(*) FROM transactions_touched") == [(1,)]
    clean = refresh(spec).transactions_clean
    assert clean and (clean.inserted, clean.updated, clean.deleted, clean.rows) == (0, 0, 1, 2)
    assert warehouses.rows("SELECT count(*) FROM transactions_touched") == [(0,)]
    clean = refresh(spec).transactions_clean
    assert clean and (clean.inserted, clean.updated, clean.deleted) == (0, 0, 0)
    assert sorted(warehouses.rows(f"SELECT {CLEAN} FROM transactions_clean")) == lake.clean()


def test_what_is_late_and_the_hours(lake: PaymentsLake, warehouses: Warehouses) -> None:
    spec = lake.spec(warehouses.target())
    took = [dt.timedelta(minutes=2), dt.timedelta(minutes=2, microseconds=1), dt.timedelta(seconds=-3), None]
    at_ten = at("2024-12-17T10:59:59.999999")
    lake.add([transaction(n, at_ten, processing_time=at_ten + t if t else None) for n, t in enumerate(took)])
    lake.add([transaction(9, "2024-12-17T11:00:00", amount=Decimal("0.01"), currency="JPY")])
    load(spec)
    views = refresh(spec).views
    assert views and (views.hours, views.total_transactions, views.late_transactions) == (2, 5, 2)
    assert warehouses.rows("SELECT * FROM hourly_metrics ORDER BY event_hour") == [
        (at("2024-12-17T10:00:00").replace(tzinfo=None), 4, Decimal("40.00"), 2, 0.5),
        (at("2024-12-17T11:00:00").replace(tzinfo=None), 1, Decimal("0.01"), 0, 0.0),
    ]
    latencies = warehouses.rows("SELECT latency_seconds FROM transactions_clean WHERE is_late ORDER BY 1")
    # The last one did not say when it was processed: Bronze does.
    assert latencies == [(Decimal("120.000001"),), (Decimal("200.000000"),)]


@pytest.mark.parametrize("date", [None, "2024-12-17"])
def test_a_processing_time_that_is_known_stays(lake: PaymentsLake, warehouses: Warehouses, date: str | None) -> None:
    """It stood in Bronze alone, which is gone when Silver is read again: compacted, or for a date."""
    spec = lake.spec(warehouses.target())
    lake.add([transaction(n, processing_time=None) for n in range(3)])
    load(spec)
    refresh(spec)
    kept = "SELECT processing_time, is_late, amount FROM transactions_clean ORDER BY transaction_id"
    before = warehouses.rows(kept)
    assert [late for _, late, _ in before] == [False, True, False]
    assert all(time for time, _, _ in before)
    ((path, rows),) = lake.rows.items()
    lake.throw_away_bronze()
    load(spec)
    lake.replace([path], [rows], "compact")
    report = load(spec, date=date)
    assert (report.rows_read, report.counts.updated) == (3, 0)
    refresh(spec)
    assert warehouses.rows(kept) == before
    # What did change goes in all the same.
    ((path, rows),) = lake.rows.items()
    lake.replace([path], [[row | {"amount": row["amount"] + 1} for row in rows]])
    assert load(spec).counts.updated == 3
    refresh(spec)
    assert warehouses.rows(kept) == [(time, late, amount + 1) for time, late, amount in before]
    assert audit(spec).balanced


def test_what_cannot_be_refreshed(lake: PaymentsLake, warehouses: Warehouses, tmp_path: Path) -> None:
    spec = lake.spec(warehouses.target())
    with pytest.raises(WarehouseError, match=r"nothing was loaded. Run `penstock run payments` first"):
        refresh(spec)
    with pytest.raises(SettingsError, match="'view' is no part of a refresh; there are transactions_clean and views"):
        refresh(spec, only="view")
    with pytest.raises(SettingsError, match="pipeline ecommerce: it has no raw table"):
        refresh(spec | {"name": "ecommerce"})
    done = cli("refresh", "payments", "--to", f"duckdb:{tmp_path / 'empty.duckdb'}", cwd=tmp_path)
    assert done.returncode == 3
    assert "nothing was loaded" in done.stderr


def test_who_may_only_load_can_write_epochs_and_refresh(lake: PaymentsLake, database: Database, tmp_path: Path) -> None:
    """With the rights of `penstock migrate --roles`, and no table or view of one's own."""
    warehouses = Warehouses(tmp_path, database)
    target = warehouses.target()
    migrate(lake.spec(target), roles=True)
    joe = f"joe_{random.getrandbits(64)}"
    database.run(f"CREATE ROLE {joe} LOGIN IN ROLE penstock_loader")
    try:
        own = target["postgres"] | {"url": target["postgres"]["url"].replace("//postgres@", f"//{joe}@")}
        spec = lake.spec({"postgres": own})
        sink = TableSink(spec)
        assert sink.write(json.dumps(lake.plan([transaction(1), transaction(2)])))
        lake.commit()
        sink.close()
        told = refresh(spec)
        assert told.views and told.views.total_transactions == 2
        assert audit(spec).balanced
        assert sorted(warehouses.rows(f"SELECT {CLEAN} FROM transactions_clean")) == lake.clean()
    finally:
        database.run(f"DROP ROLE {joe}")
