"""A small lake of transactions for the tests of raw tables: files as the engine writes them, a log kept by the test."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import uuid
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from warehouse_support import TEXT, TIME, UTC, at, micros

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pytest

POSITION = [("_topic", TEXT), ("_partition", pa.int32()), ("_offset", pa.int64())]
SILVER = pa.schema(
    [
        ("idempotency_key", TEXT),
        ("transaction_id", TEXT),
        ("user_id", TEXT),
        ("amount", pa.decimal128(18, 2)),
        ("currency", TEXT),
        ("status", TEXT),
        ("event_time", TIME),
        ("processing_time", TIME),
        *POSITION,
    ]
)
BRONZE = pa.schema(
    [
        ("topic", TEXT),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", TIME),
        ("ingested_at", TIME),
        ("value", pa.binary()),
    ]
)
SCHEMAS = {"silver/events": SILVER, "bronze/events": BRONZE}
LATE = dt.timedelta(minutes=2)


def transaction(n: int, time: str | dt.datetime = "2024-12-17T10:00:00", **more: Any) -> dict[str, Any]:
    """A Silver row: the n-th transaction, processed after a second, at no position yet."""
    when = at(time) if isinstance(time, str) else time
    identity = str(uuid.UUID(int=n))
    return {
        "idempotency_key": identity,
        "transaction_id": identity,
        "user_id": str(uuid.UUID(int=1_000 + n % 3)),
        "amount": Decimal("10.00"),
        "currency": "EUR",
        "status": "completed",
        "event_time": when,
        "processing_time": when + dt.timedelta(seconds=1),
    } | more


@dataclass
class PaymentsLake:
    """A lake whose log the test writes: epochs are planned first, and committed afterwards."""

    root: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    planned: dict[str, Any] | None = None
    offsets: Counter[int] = field(default_factory=Counter)
    parts: Any = field(default_factory=itertools.count)

    def spec(self, warehouse: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The pipeline file, read."""
        return {
            "name": "payments",
            "lake": str(self.root),
            "warehouse": dict(warehouse or {"duckdb": str(self.root.parent / "payments.duckdb")}),
        }

    def _write(self, layer: str, rows: list[dict[str, Any]], times: list[dt.datetime]) -> dict[str, Any]:
        date = min(times).date()
        path = f"{layer}/date={date}/payments-0000-{len(self.entries):010}-{next(self.parts):04}.parquet"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[layer]), self.root / path)
        low, high = micros(min(times)), micros(max(times))
        return {"path": path, "layer": layer, "rows": len(rows), "min_event_time": low, "max_event_time": high}

    def silver_file(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Write a Silver file."""
        file = self._write("silver/events", rows, [row["event_time"] for row in rows])
        self.rows[file["path"]] = rows
        return file

    def plan(self, rows: Iterable[Mapping[str, Any]], term: int = 1) -> dict[str, Any]:
        """Write the files of the next epoch; gives what a sink is told. Rows take the next positions, with Bronze."""
        placed = []
        for row in rows:
            partition = uuid.UUID(row["user_id"]).int % 2
            placed.append({"_topic": "transactions", "_partition": partition, "_offset": self.offsets[partition]} | row)
            self.offsets[partition] += 1
        files = []
        if placed:
            files.append(self.silver_file(placed))
            raw = [
                {
                    "topic": row["_topic"],
                    "partition": row["_partition"],
                    "offset": row["_offset"],
                    "timestamp": row["event_time"] + dt.timedelta(seconds=200 * (n % 2)),
                    "ingested_at": at("2030-01-01T00:00:00"),
                    "value": b"",
                }
                for n, row in enumerate(placed)
            ]
            files.append(self._write("bronze/events", raw, [row["event_time"] for row in placed]))
        partitions = [{"topic": "transactions", "partition": p, "position": n} for p, n in sorted(self.offsets.items())]
        self.planned = {"number": len(self.entries), "files": files, "partitions": partitions}
        return {**self.planned, "term": term, "pipeline": "payments", "shard": 0}

    def commit(self, *, void: bool = False) -> None:
        """Commit the planned epoch, or make it void."""
        assert self.planned is not None
        files = [] if void else self.planned["files"]
        partitions = [] if void else self.planned["partitions"]
        if void:
            for file in self.planned["files"]:
                (self.root / file["path"]).unlink()
                self.rows.pop(file["path"], None)
        self._append("void" if void else "epoch", files, [])
        self.entries[-1]["partitions"] = partitions
        self.planned = None

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """An epoch with its commit, that no sink was told of."""
        self.plan(rows)
        self.commit()

    def replace(self, paths: list[str], new: list[list[dict[str, Any]]], kind: str = "backfill") -> None:
        """An entry that swaps Silver files for others."""
        files = [self.silver_file(rows) for rows in new if rows]
        for path in paths:
            (self.root / path).unlink()
            self.rows.pop(path)
        self._append(kind, files, paths)

    def throw_away_bronze(self) -> None:
        """An entry of retention: all Bronze goes."""
        found = [file for entry in self.entries for file in entry["files"] if file["layer"] == "bronze/events"]
        gone = [file for file in found if (self.root / file["path"]).exists()]
        for file in gone:
            (self.root / file["path"]).unlink()
        self._append("retention", [], [])
        self.entries[-1]["removed"] = gone

    def _append(self, kind: str, files: list[dict[str, Any]], removed: list[str]) -> None:
        gone = [{"path": path, "layer": "silver/events"} for path in removed]
        self.entries.append({"number": len(self.entries), "kind": kind, "files": files, "removed": gone})

    def live(self) -> list[dict[str, Any]]:
        """The Silver rows that count: those of a planned epoch do not."""
        planned = {file["path"] for file in (self.planned or {"files": []})["files"]}
        return [row for path, rows in self.rows.items() if path not in planned for row in rows]

    def clean(self) -> list[tuple[Any, ...]]:
        """What `transactions_clean` has to hold, counted another way."""
        raw = self._raw_times()
        first: dict[str, dict[str, Any]] = {}
        order = ("event_time", "_topic", "_partition", "_offset")
        for row in sorted(self.live(), key=lambda row: tuple(row[name] for name in order)):
            first.setdefault(row["transaction_id"], row)
        found = []
        for row in first.values():
            when = row["event_time"].replace(tzinfo=None)
            done = (row["processing_time"] or raw[row["_partition"], row["_offset"]]).replace(tzinfo=None)
            hour = when.replace(minute=0, second=0, microsecond=0)
            latency = Decimal((done - when) // dt.timedelta(microseconds=1)) / 1_000_000
            ids = (uuid.UUID(row["transaction_id"]), uuid.UUID(row["user_id"]))
            own = (*ids, row["amount"], row["currency"], row["status"], when, done)
            found.append((*own, when.date(), hour, latency, done - when > LATE))
        return sorted(found)

    def _raw_times(self) -> dict[tuple[int, int], dt.datetime]:
        paths = [file["path"] for entry in self.entries for file in entry["files"] if file["layer"] == "bronze/events"]
        rows = [row for path in paths for row in pq.ParquetFile(self.root / path).read().to_pylist()]
        return {(row["partition"], row["offset"]): row["timestamp"].astimezone(UTC) for row in rows}


def install(lake: PaymentsLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader read the log of the test's lake, and begin the pipeline in it."""
    identity = lake.root / "_penstock/payments/pipeline.json"
    identity.parent.mkdir(parents=True, exist_ok=True)
    identity.write_text(json.dumps({"name": "payments", "key": uuid.uuid4().hex, "created_at": 0}))

    def read_lake(root: str, layer: str, **_: Any) -> str:
        removed = {file["path"] for entry in lake.entries for file in entry["removed"]}
        added = [file for entry in lake.entries for file in entry["files"] if file["layer"] == layer]
        return json.dumps([file for file in added if file["path"] not in removed])

    def lake_log(_: str, since: int, **__: Any) -> str:
        return json.dumps([entry for entry in lake.entries if entry["number"] > since])

    def inspect(*_: Any, **__: Any) -> str:
        return json.dumps({"planned": lake.planned and lake.planned["number"]})

    core = "penstock.warehouse.lakelog._core"
    monkeypatch.setattr(f"{core}.lake_log", lake_log)
    monkeypatch.setattr(f"{core}.lake_shards", lambda *_, **__: [])
    monkeypatch.setattr(f"{core}.read_lake", read_lake)
    monkeypatch.setattr(f"{core}.inspect", inspect)
