"""`transform: module:function`: called once a tick, checked, and named where it fails."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import penstock

CONTRACT = {
    "name": "sales",
    "roles": {
        "event_type": {"const": "sale"},
        "event_time": "/at",
        "idempotency_key": "/id",
        "entity": "/store",
    },
    "events": {
        "sale": {
            "v1": {
                "type": "object",
                "required": ["at", "id", "store", "amount"],
                "properties": {
                    "at": {"type": "string", "format": "date-time"},
                    "id": {"type": "string"},
                    "store": {"type": "string"},
                    "amount": {"type": "number"},
                },
            }
        }
    },
}
EVENTS = 3_000

MODULE = """
import pyarrow as pa
import pyarrow.compute as pc

calls = []

def enrich(rows):
    table = pa.table(rows)
    calls.append(table.num_rows)
    return table.append_column("cents", pc.cast(pc.round(pc.multiply(table["amount"], 100)), pa.int64()))

def by_polars(rows):
    import polars as pl
    return rows.to_polars().with_columns(cents=(pl.col("amount") * 100).round().cast(pl.Int64))

def widened(rows):
    table = pa.table(rows)
    return table.set_column(table.column_names.index("amount"), "amount", pc.cast(table["amount"], pa.string()))

def drops(rows):
    return pa.table(rows).slice(1)

def undeclared(rows):
    return enrich(rows).append_column("surprise", pa.nulls(len(rows), pa.string()))

def fails(rows):
    table = pa.table(rows)
    raise ValueError("no rate for EUR")

def nothing(rows):
    return None

number = 7
"""


def pipeline(folder: Path, transform: Any, **overrides: Any) -> penstock.Pipeline:
    """A pipeline over a file of sales, with this transform."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "logic.py").write_text(MODULE)
    lines = (
        json.dumps(
            {
                "at": f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z",
                "id": str(n),
                "store": "s",
                "amount": n / 4,
            }
        )
        for n in range(EVENTS)
    )
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "name": "sales",
        "contract": CONTRACT,
        "source": {"files": {"paths": ["in.jsonl"]}},
        "lake": "lake",
        "durability": "process",
        "transform": transform,
        **overrides,
    }
    (folder / "pipeline.yaml").write_text(json.dumps(settings))
    return penstock.Pipeline.load(folder / "pipeline.yaml")


def silver(folder: Path) -> pa.Table:
    return pa.table(penstock.read_lake(folder / "lake", "silver/events"))


def plans(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((folder / "lake/_penstock/sales/epochs").glob("*.plan"))]


@pytest.mark.parametrize("function", ["enrich", "by_polars"])
def test_called_once_a_tick(tmp_path: Path, function: str) -> None:
    declared = {"function": f"logic:{function}", "columns": {"cents": "integer"}}
    flow = pipeline(tmp_path, declared, epoch={"max_events": 1_000})
    ledger = flow.run()
    assert (ledger.silver, ledger.balanced) == (EVENTS, True)
    rows = silver(tmp_path)
    assert rows["cents"].to_pylist() == [round(a * 100) for a in rows["amount"].to_pylist()]
    assert rows.schema.field("cents").type == pa.int64()
    assert flow.audit().balanced
    pinned = plans(tmp_path)[0]["shape"]["transform"]
    assert pinned["function"] == f"logic:{function}"
    assert pinned["code"]
    if function == "enrich":
        import sys

        calls = sys.modules["logic"].calls
        ticks = sum(len(plan["ticks"]) for plan in plans(tmp_path))
        assert len(calls) == ticks, "once a tick, never once an event"
        assert sum(calls) == EVENTS


def test_the_short_form_keeps_the_columns_of_the_contract(tmp_path: Path) -> None:
    with pytest.raises(penstock.DataError, match=r"'cents'.*not declared"):
        pipeline(tmp_path / "a", "logic:enrich").run()
    flow = pipeline(tmp_path / "b", {"function": "logic:widened", "columns": {"amount": "text"}})
    flow.run()
    assert silver(tmp_path / "b").schema.field("amount").type == pa.string()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("drops", "gave 2999 rows for 3000"),
        ("undeclared", "'surprise'"),
        ("fails", r"raised ValueError: no rate for EUR \(.*logic\.py:28\)"),
        ("nothing", "gave a NoneType, which is no Arrow table"),
        ("widened", "gave 'amount' as Utf8, declared is Float64"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, function: str, said: str) -> None:
    flow = pipeline(tmp_path, {"function": f"logic:{function}", "columns": {"cents": "integer"}})
    with pytest.raises(penstock.DataError, match=said) as caught:
        flow.run()
    assert f"transform logic:{function}, epoch 0, tick 0 (in.jsonl partition 0 0.." in str(caught.value)
    assert not plans(tmp_path), "nothing was planned"


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        ("logic", "names no function; write it as module:function"),
        ({"function": "logic:enrich", "columns": {"x": "varchar"}}, "'varchar' is no column type"),
        ({"function": "logic:enrich", "columns": {"event_time": "text"}}, "role of the contract"),
        ({"function": "logic:enrich", "columns": {"session_id": "text"}}, "name of our own"),
        ("logic:number", "number is no function"),
        ("logic:enrych", "enrych is not there"),
        ("nowhere_at_all:f", "cannot be imported.*beside the pipeline file"),
    ],
)
def test_wrong_settings(tmp_path: Path, transform: Any, said: str) -> None:
    with pytest.raises(penstock.SettingsError, match=said):
        pipeline(tmp_path, transform).run()


def test_two_pipelines_with_modules_of_one_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        flow = pipeline(tmp_path / name, {"function": "logic:tag", "columns": {"tag": "text"}})
        (tmp_path / name / "logic.py").write_text(
            textwrap.dedent(
                f"""
                import pyarrow as pa
                def tag(rows):
                    return pa.table(rows).append_column("tag", pa.array(["{name}"] * len(rows)))
                """
            )
        )
        flow.run()
        assert set(silver(tmp_path / name)["tag"].to_pylist()) == {name}
