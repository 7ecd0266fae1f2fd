"""The warehouse load, against real Parquet files, DuckDB and PostgreSQL."""

from __future__ import annotations

import csv
import datetime as dt
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock.warehouse import LoadReport, audit, load
from warehouse_support import UTC, Lake, at, event, install
from warehouse_tables import KINDS, Warehouses

THEIR_QUERY = """
SELECT u.plan_type, SUM(f.purchase_amount)
FROM fact_events f JOIN dim_user u ON f.user_key = u.user_key
WHERE f.event_timestamp BETWEEN u.effective_start_date AND COALESCE(u.effective_end_date, '9999-12-31')
GROUP BY u.plan_type;
"""

TABLES = ("dim_user", "dim_user_changes", "fact_events", "fact_duplicates")


class Loaded(Lake):
    """A lake with its warehouses."""

    warehouses: Warehouses


@pytest.fixture(params=KINDS)
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Loaded:
    """An empty lake."""
    made = Loaded(tmp_path / "lake")
    made.root.mkdir()
    made.warehouses = Warehouses(tmp_path, request.getfixturevalue("database") if request.param == "postgres" else None)
    install(made, monkeypatch)
    return made


def run(lake: Loaded, date: str | None = None, name: str = "warehouse", **more: Any) -> LoadReport:
    """Load into a warehouse of this name, and check what must hold after every load."""
    report = load(lake.spec(), lake.warehouses.target(name), date=date, **more)
    astray = query(
        lake,
        "SELECT count(*) FROM fact_events f LEFT JOIN dim_user u ON u.user_key = f.user_key "
        "WHERE u.user_key IS NULL OR u.user_id <> f.user_id OR f.event_timestamp < u.effective_start_date "
        "OR f.event_timestamp >= u.effective_end_date",
        name,
    )
    assert astray == [(0,)]
    with_facts = query(lake, "SELECT DISTINCT CAST(event_timestamp AS DATE) FROM fact_events ORDER BY 1", name)
    assert query(lake, "SELECT event_date FROM penstock_days ORDER BY 1", name) == with_facts
    return report


def query(lake: Loaded, sql: str, name: str = "warehouse") -> list[tuple[Any, ...]]:
    """Ask the warehouse."""
    return lake.warehouses.rows(sql, name)


def tables(lake: Loaded, name: str = "warehouse", **more: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables that a load writes, but for the record of the loads."""
    return lake.warehouses.everything(name, TABLES, **more)


def history(lake: Loaded, user: str, name: str = "warehouse") -> list[tuple[Any, ...]]:
    """The rows of a user in dim_user."""
    return query(
        lake,
        "SELECT plan_type, effective_start_date, effective_end_date, is_current, is_inferred FROM dim_user "
        f"WHERE user_id = '{user}' ORDER BY effective_start_date",
        name,
    )


def day(text: str) -> dt.datetime:
    """A time as the warehouse gives it."""
    return at(text).replace(tzinfo=None)


EVER = day("0001-01-01")


def test_dimensions_are_seeded(lake: Loaded) -> None:
    run(lake)
    assert query(lake, "SELECT count(*), min(hour_start), max(hour_start) FROM dim_time") == [
        (96_432, day("2020-01-01"), day("2030-12-31T23:00:00"))
    ]
    assert query(lake, "SELECT * FROM dim_time WHERE time_key = 2024022913") == [
        (
            2024022913, day("2024-02-29T13:00:00"), dt.date(2024, 2, 29),
            2024, 1, 2, "February", 9, 29, 4, "Thursday", 13, False,
        )
    ]  # fmt: skip
    assert query(lake, "SELECT count(*) FROM dim_device") == [(16,)]


def test_devices_are_those_of_the_generator(lake: Loaded) -> None:
    run(lake)
    listed = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce/devices.csv"
    with listed.open(encoding="utf-8") as file:
        named = [(row["device_type"], row["os"], row["browser"]) for row in csv.DictReader(file)]
    assert query(lake, "SELECT device_type, os, browser FROM dim_device ORDER BY device_key") == named


def test_facts_get_their_keys(lake: Loaded) -> None:
    lake.commit(
        [
            event("k1", "ada", "2024-12-17T10:00:00", "user_signup", plan_type="premium"),
            event(
                "k2",
                "ada",
                "2024-12-17T10:59:59.999999",
                "purchase",
                amount=Decimal("19.99"),
                os="macOS",
                browser="Safari",
            ),
            event("k3", "ada", "2024-12-17T11:00:00", "payment_failed", amount=Decimal("5.00"), os="BeOS"),
            event("k4", "ada", "2035-01-01T00:00:00"),
        ]
    )
    report = run(lake)
    assert (report.counts.inserted, report.log_number, report.rows_read) == (4, 0, 4)
    assert query(
        lake,
        "SELECT idempotency_key, time_key, device_key, purchase_amount, failed_amount, plan_type "
        "FROM fact_events JOIN dim_user USING (user_key) ORDER BY 1",
    ) == [
        ("k1", 2024121710, 1, None, None, "premium"),
        ("k2", 2024121710, 4, Decimal("19.99"), None, "premium"),
        ("k3", 2024121711, None, None, Decimal("5.00"), "premium"),
        ("k4", None, 1, None, None, "premium"),
    ]


def test_their_query_counts_nothing_twice(lake: Loaded) -> None:
    """BETWEEN takes both ends of an interval, so an event at a change of plan fits two rows; the key settles it."""
    lake.commit(
        [
            event("s1", "ada", "2024-12-01T00:00:00", "user_signup", plan_type="free"),
            event("s2", "ada", "2024-12-10T00:00:00", "user_signup", plan_type="premium"),
            event("p1", "ada", "2024-12-05T00:00:00", "purchase", amount=Decimal("1.00")),
            event("p2", "ada", "2024-12-10T00:00:00", "purchase", amount=Decimal("10.00")),
            event("p3", "ada", "2024-12-11T00:00:00", "purchase", amount=Decimal("100.00")),
            event("p4", "ada", "2024-11-01T00:00:00", "purchase", amount=Decimal("1000.00")),
            event("p5", "bob", "2024-12-11T00:00:00", "purchase", amount=Decimal("10000.00")),
        ]
    )
    run(lake)
    got = dict(query(lake, THEIR_QUERY))
    assert got == {"free": Decimal("1.00"), "premium": Decimal("110.00"), None: Decimal("11000.00")}


def test_a_load_without_news_changes_nothing(lake: Loaded) -> None:
    lake.commit([event("k1", "ada", "2024-12-17T10:00:00")])
    run(lake)
    before, loads = tables(lake), query(lake, "SELECT * FROM penstock_loads")
    report = run(lake)
    assert (report.files, report.counts.inserted) == (0, 0)
    assert (tables(lake), query(lake, "SELECT * FROM penstock_loads")) == (before, loads)


def test_a_load_takes_what_came_since(lake: Loaded) -> None:
    lake.commit([event("k1", "ada", "2024-12-17T10:00:00")])
    run(lake)
    lake.commit([event("k2", "ada", "2024-12-17T11:00:00")])
    lake.commit([event("k3", "ada", "2024-12-17T12:00:00")])
    report = run(lake)
    assert (report.files, report.counts.inserted) == (2, 2)
    assert query(lake, "SELECT log_number FROM penstock_loads ORDER BY load_number") == [(0,), (2,)]


def test_a_late_change_splits_the_history_and_points_the_facts_again(lake: Loaded) -> None:
    lake.commit(
        [
            event("s1", "ada", "2024-12-01T00:00:00", "user_signup", plan_type="free"),
            event("s2", "ada", "2024-12-20T00:00:00", "user_signup", plan_type="free"),
            event("p1", "ada", "2024-12-05T00:00:00", "purchase"),
            event("p2", "ada", "2024-12-15T00:00:00", "purchase"),
            event("p3", "ada", "2024-12-25T00:00:00", "purchase"),
        ]
    )
    run(lake)
    assert history(lake, "ada") == [("free", day("2024-12-01"), None, True, False)]
    lake.commit([event("s3", "ada", "2024-12-10T00:00:00", "user_signup", plan_type="premium")])
    report = run(lake)
    # What confirmed the first row on the 20th now opens a row of its own.
    assert history(lake, "ada") == [
        ("free", day("2024-12-01"), day("2024-12-10"), False, False),
        ("premium", day("2024-12-10"), day("2024-12-20"), False, False),
        ("free", day("2024-12-20"), None, True, False),
    ]
    assert report.counts.repointed == 3  # the purchases of the 15th and 25th, and the sign-up of the 20th
    assert dict(query(lake, THEIR_QUERY)) == {"free": Decimal("20.00"), "premium": Decimal("10.00")}


def test_an_inferred_user_is_completed_by_a_later_load(lake: Loaded) -> None:
    lake.commit(
        [event("p1", "ada", "2024-12-05T00:00:00", "purchase"), event("p2", "ada", "2024-12-15T00:00:00", "purchase")]
    )
    run(lake)
    assert history(lake, "ada") == [(None, EVER, None, True, True)]
    assert dict(query(lake, THEIR_QUERY)) == {None: Decimal("20.00")}

    lake.commit([event("s1", "ada", "2024-12-10T00:00:00", "user_signup", plan_type="free", country="FR")])
    run(lake)
    assert history(lake, "ada") == [
        (None, EVER, day("2024-12-10"), False, True),
        ("free", day("2024-12-10"), None, True, False),
    ]
    assert query(lake, "SELECT country, signup_channel FROM dim_user WHERE is_inferred") == [(None, None)]
    assert dict(query(lake, THEIR_QUERY)) == {None: Decimal("10.00"), "free": Decimal("10.00")}

    lake.commit([event("s0", "ada", "2024-12-05T00:00:00", "user_signup", plan_type="free")])
    run(lake)
    assert history(lake, "ada") == [("free", day("2024-12-05"), None, True, False)]
    assert dict(query(lake, THEIR_QUERY)) == {"free": Decimal("20.00")}


def test_other_attributes_are_type_1(lake: Loaded) -> None:
    lake.commit(
        [
            event("s1", "ada", "2024-12-01T00:00:00", "user_signup", plan_type="free", country="DE"),
            event("s2", "ada", "2024-12-10T00:00:00", "user_signup", plan_type="premium", country="FR"),
        ]
    )
    run(lake)
    assert query(lake, "SELECT plan_type, country FROM dim_user ORDER BY 1") == [("free", "FR"), ("premium", "FR")]


def test_removed_rows_remove_their_facts(lake: Loaded) -> None:
    (first,) = lake.commit(
        [
            event("s1", "ada", "2024-12-17T10:00:00", "user_signup", plan_type="premium"),
            event("k1", "ada", "2024-12-17T10:10:00", "purchase"),
            event("k2", "ada", "2024-12-17T10:20:00", "purchase"),
        ]
    )
    lake.commit([event("k3", "ada", "2024-12-18T10:00:00", "purchase")])
    run(lake)
    kept = [row for row in lake.rows[first] if row["idempotency_key"] == "k1"]
    lake.commit([kept[0] | {"session_id": "another", "amount": Decimal("7.00")}], removed=[first], kind="backfill")
    report = run(lake)
    assert (report.counts.deleted, report.counts.updated, report.counts.inserted) == (2, 1, 0)
    assert query(lake, "SELECT idempotency_key, session_id, purchase_amount FROM fact_events ORDER BY 1") == [
        ("k1", "another", Decimal("7.00")),
        ("k3", "session-ada-20241218", Decimal("10.00")),
    ]
    assert history(lake, "ada") == [(None, EVER, None, True, True)]


def test_compaction_changes_only_where_the_rows_lie(lake: Loaded) -> None:
    paths = [lake.commit([event(f"k{n}", "ada", f"2024-12-17T1{n}:00:00")])[0] for n in range(3)]
    run(lake)
    before = tables(lake, without=["lake_file"])
    lake.commit(lake.silver(), removed=paths, kind="compact")
    report = run(lake)
    assert (report.counts.updated, report.counts.deleted, report.counts.inserted) == (3, 0, 0)
    assert tables(lake, without=["lake_file"]) == before


def test_a_file_that_came_and_went_is_not_read(lake: Loaded) -> None:
    paths = lake.commit([event("k1", "ada", "2024-12-17T10:00:00")])
    lake.commit(removed=paths, kind="retention")
    report = run(lake, rows_a_transaction=1)
    assert (report.files, query(lake, "SELECT count(*) FROM fact_events")) == (0, [(0,)])


@pytest.mark.parametrize("first", ["early", "late"])
def test_of_two_rows_with_one_key_the_earliest_is_the_fact(lake: Loaded, first: str) -> None:
    """A key may come again after the deduplication horizon; which of the two is loaded first must not matter."""
    early = event("k1", "ada", "2024-12-01T10:00:00", "purchase", amount=Decimal("1.00"))
    late = event("k1", "ada", "2024-12-09T10:00:00", "purchase", amount=Decimal("2.00"))
    for row in (early, late) if first == "early" else (late, early):
        lake.commit([row])
        run(lake)
    assert query(lake, "SELECT purchase_amount FROM fact_events") == [(Decimal("1.00"),)]
    assert query(lake, "SELECT purchase_amount FROM fact_duplicates") == [(Decimal("2.00"),)]
    # When the earliest is taken away, the other takes its place.
    path = next(path for path, rows in lake.rows.items() if rows == [early])
    lake.commit(removed=[path], kind="retention")
    run(lake)
    assert query(lake, "SELECT purchase_amount FROM fact_events") == [(Decimal("2.00"),)]
    assert query(lake, "SELECT count(*) FROM fact_duplicates") == [(0,)]


def test_a_date_is_found_by_event_time_not_by_partition(lake: Loaded) -> None:
    """A session that began yesterday holds events of today."""
    yesterday = at("2024-12-16T23:50:00")
    lake.commit(
        [
            event("k1", "ada", yesterday),
            event("k2", "ada", "2024-12-17T00:00:00", session_start=yesterday),
            event("k3", "ada", "2024-12-17T23:59:59.999999"),
            event("k4", "ada", "2024-12-18T00:00:00"),
        ]
    )
    report = run(lake, date="2024-12-17")
    assert query(lake, "SELECT idempotency_key FROM fact_events ORDER BY 1") == [("k2",), ("k3",)]
    assert report.files == 2
    assert query(lake, "SELECT event_date FROM penstock_loads") == [(dt.date(2024, 12, 17),)]
    # The place in the log stays: the rest comes with the next load.
    assert run(lake).counts.inserted == 2


def test_a_date_loaded_again_loses_what_silver_has_lost(lake: Loaded) -> None:
    paths = lake.commit([event("k1", "ada", "2024-12-17T10:00:00"), event("k2", "ada", "2024-12-17T11:00:00")])
    run(lake, date="2024-12-17")
    lake.commit([lake.rows[paths[0]][0]], removed=paths, kind="backfill")
    assert run(lake, date="2024-12-17").counts.deleted == 1
    assert query(lake, "SELECT idempotency_key FROM fact_events") == [("k1",)]


def model(lake: Loaded) -> tuple[dict[str, Any], dict[str, list[tuple[Any, ...]]]]:
    """The star that Silver gives, the slow and obvious way: the facts by key, and each user's rows."""
    facts: dict[str, dict[str, Any]] = {}
    for row in lake.silver():
        order = ("event_time", "_topic", "_partition", "_offset")
        other = facts.get(row["idempotency_key"])
        if other is None or [row[c] for c in order] < [other[c] for c in order]:
            facts[row["idempotency_key"]] = row
    users: dict[str, list[tuple[Any, ...]]] = {}
    for user in {row["entity"] for row in facts.values()}:
        mine = [row for row in facts.values() if row["entity"] == user]
        plans: dict[dt.datetime, str] = {}
        for row in sorted(mine, key=lambda row: row["_offset"]):
            if row["event_type"] == "user_signup":
                plans[row["event_time"]] = row["plan_type"]
        starts: list[tuple[Any, dt.datetime, bool]] = []
        if not plans or min(row["event_time"] for row in mine) < min(plans):
            starts.append((None, EVER.replace(tzinfo=UTC), True))
        for time, plan in sorted(plans.items()):
            if not starts or starts[-1][2] or starts[-1][0] != plan:
                starts.append((plan, time, False))
        ends = [start for _, start, _ in starts[1:]] + [None]
        users[user] = [
            (plan, start.replace(tzinfo=None), end.replace(tzinfo=None) if end else None, end is None, inferred)
            for (plan, start, inferred), end in zip(starts, ends, strict=True)
        ]
    return facts, users


def random_log(lake: Loaded, dice: random.Random, entries: int) -> None:
    """Entries with new rows, sometimes with a key used before, and now and then with rows rewritten or removed."""
    start = at("2024-12-10T00:00:00")
    for _ in range(entries):
        rows = []
        for _ in range(dice.randint(0, 12)):
            user = dice.choice("abc")
            time = start + dt.timedelta(hours=dice.randint(0, 24 * 3))
            kind = dice.choice(["page_view", "purchase", "user_signup"])
            more: dict[str, Any] = {"plan_type": dice.choice(["free", "basic"])} if kind == "user_signup" else {}
            rows.append(event(f"key-{dice.randint(0, 60)}", user, time, kind, **more))
        removed: list[str] = []
        if lake.rows and dice.random() < 0.4:
            removed = dice.sample(sorted(lake.rows), dice.randint(1, min(2, len(lake.rows))))
            for path in removed:
                for row in lake.rows[path]:
                    fate = dice.random()
                    if fate < 0.5:
                        rows.append(row)
                    elif fate < 0.8:
                        moved = row["event_time"] + dt.timedelta(days=dice.choice([0, 0, 1]))
                        rows.append(row | {"session_id": f"s{dice.random()}", "event_time": moved})
        lake.commit(rows, removed=removed, kind="backfill" if removed else "epoch")


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_loads_gives_the_same_tables(lake: Loaded, seed: int) -> None:
    """The law: one load, a load for every entry, and dates in any order, mixed with loads, end in equal tables."""
    dice = random.Random(seed)
    dates = [f"2024-12-{number}" for number in range(10, 16)]
    for _ in range(3):
        random_log(lake, dice, dice.randint(1, 3))
        if dice.random() < 0.7:
            run(lake, name="often")
        for date in dice.sample(dates, 2):
            run(lake, date=date, name="often")
    run(lake, name="often")
    run(lake, name="once")
    run(lake, name="parts", rows_a_transaction=1)
    for name in ("forward", "backward", "shuffled"):
        order = dates if name == "forward" else dates[::-1] if name == "backward" else dice.sample(dates, len(dates))
        for date in order:
            run(lake, date=date, name=name)
    run(lake, date=dates[3], name="shuffled")

    once = tables(lake, "once")
    for name in ("often", "parts", "forward", "backward", "shuffled"):
        assert tables(lake, name) == once, name
    found = audit(lake.spec(), lake.warehouses.target("often"))
    assert found.balanced, found
    facts, users = model(lake)
    got = query(
        lake, "SELECT idempotency_key, user_id, event_timestamp, session_id, lake_offset FROM fact_events", "once"
    )
    assert sorted(got) == sorted(
        (key, row["entity"], row["event_time"].replace(tzinfo=None), row["session_id"], row["_offset"])
        for key, row in facts.items()
    )
    assert {user: history(lake, user, "once") for user in users} == users
    assert query(lake, "SELECT count(DISTINCT user_id) FROM dim_user", "once") == [(len(users),)]
    assert query(lake, "SELECT count(*) FROM fact_duplicates", "once") == [(len(lake.silver()) - len(facts),)]
