"""From generated events through the engine into the warehouse, held against what the generator says is true."""

from __future__ import annotations

import json
import random
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from penstock import _core
from penstock.errors import LakeError
from penstock.quality import run_checks
from penstock.warehouse import audit, load

CONTRACT = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce/contract.yaml"
SECOND = 1_000_000
DAY = 86_400 * SECOND
DATES = [f"2024-12-{day}" for day in range(17, 21)]


def spec_of(folder: Path) -> dict[str, Any]:
    """The ecommerce pipeline over a file, with small epochs."""
    return {
        "name": "ecommerce",
        "contract_text": CONTRACT.read_text(),
        "contract_path": str(CONTRACT),
        "source": {"files": {"paths": [str(folder / "events.jsonl")], "bounded": True}},
        "lake": str(folder / "lake"),
        "layers": ["bronze", "silver"],
        "watermark": {
            "lateness_us": 600 * SECOND,
            "idle_timeout_us": 30 * SECOND,
            "max_future_skew_us": 300 * SECOND,
        },
        "deduplicate": {"horizon_us": DAY},
        "sessions": {"gap_us": 1800 * SECOND, "max_duration_us": DAY},
        "epoch": {"max_events": 700, "max_bytes": 64 << 20, "max_wait_us": SECOND},
        "durability": "process",
        "warehouse": {"duckdb": str(folder / "warehouse.duckdb")},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with three days of events in several epochs."""
    made = tmp_path_factory.mktemp("shop")
    options = {"total": 5_000, "seed": 7, "span": 3 * DAY, "bad_rate": 0.005}
    truth = _core.generate("ecommerce", json.dumps(options), str(made / "events.jsonl"))
    (made / "truth.json").write_text(truth)
    ledger = json.loads(_core.run_pipeline(json.dumps(spec_of(made)), until_caught_up=True))
    assert ledger["silver"] == json.loads(truth)["expected"]["silver"]
    return made


def query(warehouse: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask a warehouse."""
    with duckdb.connect(str(warehouse), read_only=True) as con:
        return con.execute(sql).fetchall()


def tables(warehouse: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows that a load writes."""
    names = ("dim_user", "dim_user_changes", "fact_events", "fact_duplicates")
    return {name: query(warehouse, f"SELECT * FROM {name} ORDER BY ALL") for name in names}


def test_the_star_holds_what_the_generator_made(folder: Path) -> None:
    spec, truth = spec_of(folder), json.loads((folder / "truth.json").read_text())
    report = load(spec)
    assert report.counts.inserted == truth["expected"]["silver"]
    warehouse = folder / "warehouse.duckdb"
    assert dict(query(warehouse, "SELECT event_type, count(*) FROM fact_events GROUP BY ALL")) == truth["by_type"]
    assert query(warehouse, "SELECT sum(purchase_amount), count(DISTINCT session_id) FROM fact_events") == [
        (Decimal(truth["purchase_amount"]), truth["sessions"])
    ]
    assert query(
        warehouse,
        "SELECT count(DISTINCT user_id), count(*) FILTER (NOT is_inferred), count(*) FILTER (is_current) FROM dim_user",
    ) == [(truth["users"], truth["plan_rows"], truth["users"])]
    assert query(warehouse, "SELECT count(*) FROM fact_events WHERE device_key IS NULL OR time_key IS NULL") == [(0,)]
    theirs = query(
        warehouse,
        "SELECT u.plan_type, SUM(f.purchase_amount) FROM fact_events f JOIN dim_user u ON f.user_key = u.user_key "
        "WHERE f.event_timestamp BETWEEN u.effective_start_date AND COALESCE(u.effective_end_date, '9999-12-31') "
        "GROUP BY u.plan_type",
    )
    assert sum(revenue or 0 for _, revenue in theirs) == Decimal(truth["purchase_amount"])
    assert load(spec).rows_read == 0


def test_a_load_says_where_the_source_stands_and_whose_log_it_is(folder: Path, tmp_path: Path) -> None:
    spec, target = spec_of(folder), tmp_path / "stands.duckdb"
    load(spec, f"duckdb:{target}", rows_a_transaction=900)
    (stand,) = query(target, "SELECT topic, partition_id, next_offset, log_number FROM penstock_offsets")
    found = json.loads(_core.inspect(json.dumps(spec), epochs=1))
    (read,) = found["partitions"]
    assert stand[:3] == (read["topic"], read["partition"], read["position"])
    assert stand[3] == query(target, "SELECT max(log_number) FROM penstock_loads")[0][0]
    # A copy of the lake is the same lake; one that began anew is not, though its log is the longer one.
    shutil.copytree(folder / "lake", tmp_path / "copy")
    assert load(spec | {"lake": str(tmp_path / "copy")}, f"duckdb:{target}").rows_read == 0
    anew = spec | {"lake": str(tmp_path / "anew"), "epoch": spec["epoch"] | {"max_events": 500}}
    _core.run_pipeline(json.dumps(anew), until_caught_up=True)
    with pytest.raises(LakeError, match="it began anew, or is another one"):
        load(anew, f"duckdb:{target}")
    with pytest.raises(LakeError, match="it began anew, or is another one"):
        audit(anew, f"duckdb:{target}")


def test_dates_in_any_order_give_the_same_rows(folder: Path) -> None:
    spec = spec_of(folder)
    dice = random.Random(3)
    for name in ("whole", "forward", "shuffled"):
        target = f"duckdb:{folder / name}.duckdb"
        if name == "whole":
            load(spec, target)
        for date in DATES if name == "forward" else dice.sample(DATES * 2, 8) if name == "shuffled" else []:
            load(spec, target, date=date)
    whole = tables(folder / "whole.duckdb")
    assert tables(folder / "forward.duckdb") == whole
    assert tables(folder / "shuffled.duckdb") == whole


def test_the_audit_finds_what_is_missing_or_astray(folder: Path) -> None:
    spec, path = spec_of(folder), folder / "audited.duckdb"
    target = f"duckdb:{path}"
    load(spec, target)
    found = audit(spec, target)
    assert found.balanced, found
    assert found.silver == found.facts == json.loads((folder / "truth.json").read_text())["expected"]["silver"]
    load(spec, target, date="2024-12-18")
    assert audit(spec, target).balanced

    def damaged(statement: str) -> Any:
        copy = folder / "damaged.duckdb"
        copy.write_bytes(path.read_bytes())
        with duckdb.connect(str(copy)) as con:
            con.execute("DELETE FROM penstock_loads WHERE event_date IS NOT NULL")
            con.execute(statement)
        return audit(spec, f"duckdb:{copy}")

    assert damaged("SELECT 1").balanced
    one = "(SELECT min(idempotency_key) FROM fact_events)"
    lost = damaged(f"DELETE FROM fact_events WHERE idempotency_key = {one}")
    assert (lost.missing, lost.balanced) == (1, False)
    made_up = damaged(f"UPDATE fact_events SET lake_file = 1 WHERE idempotency_key = {one}")
    assert (made_up.missing, made_up.surplus, made_up.balanced) == (1, 1, False)
    moved = damaged(f"UPDATE fact_events SET user_key = 1 WHERE idempotency_key = {one}")
    assert (moved.astray, moved.balanced) == (1, False)


def test_quality_counts_the_dead_letters_of_the_lake(folder: Path) -> None:
    load(spec_of(folder))
    report = run_checks(spec_of(folder), "2024-12-18")
    checks = {check.name: check for check in report.checks}
    assert checks["freshness"].passed
    assert checks["nulls"].passed
    assert checks["dead_letters"].value is not None
    assert 0 < checks["dead_letters"].value < 0.01


def test_a_lake_that_is_not_there_leaves_no_warehouse(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    with pytest.raises(LakeError, match=r"lake.*(there is no|not there|does not exist|no such)"):
        load(spec)
    assert list(tmp_path.iterdir()) == []
