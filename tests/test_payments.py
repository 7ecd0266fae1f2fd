"""The ready-made pipeline `payments`: what is produced, judged and kept is what the truth says, hour by hour."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from penstock import Contract, read_lake
from penstock.resources import ready_made, ready_made_folder
from test_cli import found, ok

if TYPE_CHECKING:
    from pathlib import Path

    from services.kafka import KafkaBroker

EVENTS = ("--total-events", 20_000, "--seed", 11, "--bad-data-rate", 0.02, "--late-rate", 0.03)
FILES = ("--set", "source.files.paths=in/*.jsonl")
HEADINGS = ("consumed", "silver", "rejected", "duplicate", "late", "pending", "rejected_by_code")
HOURS = """
    SELECT strftime(date_trunc('hour', event_time), '%Y-%m-%dT%H:%M:%SZ') AS hour, count(*) AS total_transactions,
           sum(amount)::VARCHAR AS total_amount,
           count(*) FILTER (processing_time - event_time > INTERVAL 2 MINUTE) AS late_transactions
    FROM silver GROUP BY 1 ORDER BY 1
"""
GOOD = {
    "transaction_id": "0f7c1b52-7c53-4c0c-9a57-0a1f6f3c0b11",
    "user_id": "5b1e6f0e-2f43-4b7e-8d0a-cf9c6d5f2a10",
    "amount": 12.5,
    "currency": "EUR",
    "status": "completed",
    "event_time": "2024-12-17T10:11:12Z",
    "processing_time": "2024-12-17T10:11:13Z",
}


def hours(lake: Path) -> dict[str, dict[str, Any]]:
    """The hours of Silver, by its own columns."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        silver = read_lake(lake, "silver/events").to_duckdb(connection)
        rows = silver.query("silver", HOURS)
        names = rows.columns
        return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows.fetchall()}


def test_from_a_file_to_silver(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    truth = found("produce", "payments", *EVENTS, "--to", "in/transactions.jsonl", cwd=tmp_path)
    assert truth["profile"] == "payments"
    assert truth["expected"]["late"] == truth["expected"]["pending"] == 0
    ran = found("run", "payments", "--until-caught-up", *FILES, cwd=tmp_path)
    assert {name: ran[name] for name in HEADINGS} == {name: truth["expected"][name] for name in HEADINGS}
    assert ran["balanced"] and ran["silver"] > 18_000 and ran["duplicate"] > 300
    assert hours(tmp_path / "lake") == truth["hours"]
    assert found("audit", "payments", *FILES, cwd=tmp_path)["balanced"]
    again = found("run", "payments", "--until-caught-up", *FILES, cwd=tmp_path)
    assert (again["run"]["consumed"], again["consumed"]) == (0, 20_000)


def test_from_the_topic_to_silver(kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BROKERS", kafka_broker.bootstrap)
    truth = found("produce", "payments", *EVENTS, "--heartbeat", "1h", cwd=tmp_path)
    assert (truth["topic"], truth["created"], truth["delivered"]) == ("transactions", True, 20_004)
    assert json.loads((tmp_path / "transactions.truth.json").read_text())["hours"] == truth["hours"]
    # All of one user come through one partition.
    users: dict[str, int] = {}
    for message in kafka_broker.consume("transactions"):
        assert users.setdefault(message.key().decode(), message.partition()) == message.partition()
    assert len(set(users.values())) == 4
    ran = found("run", "payments", "--until-caught-up", cwd=tmp_path)
    # Nothing is held: the heartbeats are in Silver, too.
    assert {name: ran[name] for name in HEADINGS} == {name: truth["expected"][name] for name in HEADINGS}
    assert (ran["balanced"], ran["pending"], ran["late"]) == (True, 0, 0)
    assert hours(tmp_path / "lake") == truth["hours"]
    ends = kafka_broker.end_offsets("transactions")
    assert kafka_broker.group_offsets("penstock-payments", "transactions") == ends
    assert found("audit", "payments", "--broker", cwd=tmp_path)["balanced"]


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({}, []),
        ({"processing_time": None}, [("wrong_type", "/processing_time")]),
        ({"amount": 0}, []),
        ({"amount": 1200}, []),
        ({"amount": 9_999_999_999_999_999}, []),
        ({"amount": 10_000_000_000_000_000}, [("not_representable", "/amount")]),
        ({"amount": 0.005}, [("not_representable", "/amount")]),
        ({"amount": -0.01}, [("out_of_range", "/amount")]),
        ({"amount": "12.50"}, [("wrong_type", "/amount")]),
        ({"currency": "eur"}, [("not_allowed", "/currency")]),
        ({"status": "lost", "user_id": "me"}, [("not_allowed", "/status"), ("bad_format", "/user_id")]),
        ({"event_time": "17/12/2024"}, [("bad_format", "/event_time")]),
        ({"merchant": "a shop"}, []),
    ],
)
def test_what_the_contract_takes(change: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    contract = Contract.load(ready_made_folder("payments") / "contract.yaml")
    judged = contract.validate(json.dumps(GOOD | change).encode())
    letters = pa.table(judged.dead_letters).to_pylist()
    assert [(p["code"], p["pointer"]) for letter in letters for p in letter["problems"]] == problems
    assert len(judged.valid) == (0 if problems else 1)


@pytest.mark.parametrize("name", ["transaction_id", "user_id", "amount", "currency", "status", "event_time"])
def test_what_must_be_there(name: str) -> None:
    contract = Contract.load(ready_made_folder("payments") / "contract.yaml")
    assert len(contract.validate(json.dumps({k: v for k, v in GOOD.items() if k != name}).encode()).valid) == 0


def test_without_a_processing_time_it_is_valid(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    event = {name: value for name, value in GOOD.items() if name != "processing_time"}
    (tmp_path / "in/one.jsonl").write_text(json.dumps(event) + "\n")
    assert found("run", "payments", "--until-caught-up", *FILES, cwd=tmp_path)["silver"] == 1


def test_a_load_speaks_of_rows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.jsonl").write_text(json.dumps(GOOD) + "\n")
    own = (*FILES, "--set", "warehouse={duckdb: w.duckdb}")
    assert found("run", "payments", "--until-caught-up", *own, cwd=tmp_path)["silver"] == 1
    said = ok("load", "payments", *own, cwd=tmp_path)
    assert "rows inserted" in said
    assert "fact" not in said and "dim_user" not in said


def test_it_is_ready_made(tmp_path: Path) -> None:
    assert ready_made() == ["ecommerce", "payments"]
    assert "transaction" in ok("contract", "check", "payments")
    said = ok("init", "payments", tmp_path / "mine [1]")
    # What is said to come next can be pasted; all that is copied belongs to it.
    assert f"cd '{tmp_path / 'mine [1]'}'" in said.replace("\n", "")
    assert "penstock refresh pipeline.yaml" in said and "penstock load" not in said
    assert not (tmp_path / "mine [1]/dbt").exists()
    assert "penstock load pipeline.yaml" in ok("init", "ecommerce", tmp_path / "shop")
    assert (tmp_path / "shop/dbt/dbt_project.yml").is_file()
    (tmp_path / "mine [1]").rename(tmp_path / "mine")
    assert (tmp_path / "mine/schemas/transaction.v1.json").is_file()
