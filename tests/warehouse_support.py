"""A small lake for the tests of the warehouse: Silver files as the engine writes them, and a log kept by the test."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pytest

UTC = dt.timezone.utc
TIME = pa.timestamp("us", "UTC")
TEXT = pa.string()

SILVER = pa.schema(
    [
        pa.field("event_type", TEXT),
        pa.field("event_time", TIME, nullable=False),
        pa.field("idempotency_key", TEXT, nullable=False),
        ("entity", TEXT),
        ("schema_version", TEXT),
        ("device_type", TEXT),
        ("os", TEXT),
        ("browser", TEXT),
        ("country", TEXT),
        ("ip_address", TEXT),
        ("plan_type", TEXT),
        ("signup_channel", TEXT),
        ("language", TEXT),
        ("marketing_consent", pa.bool_()),
        ("user_agent", TEXT),
        ("page", TEXT),
        ("referrer", TEXT),
        ("load_time_ms", pa.int64()),
        ("order_id", TEXT),
        ("product_id", TEXT),
        ("product_category", TEXT),
        ("quantity", pa.int64()),
        ("amount", pa.decimal128(12, 2)),
        ("currency", TEXT),
        ("payment_method", TEXT),
        ("failure_reason", TEXT),
        ("attempt", pa.int64()),
        ("_extra", TEXT),
        ("session_id", TEXT),
        ("session_start", TIME),
        ("session_seq", pa.int64()),
        ("replayed", pa.bool_()),
        ("_topic", TEXT),
        ("_partition", pa.int32()),
        ("_offset", pa.int64()),
    ]
)

DEAD_LETTERS = pa.schema(
    [
        ("topic", TEXT),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", TIME),
        ("value", pa.binary()),
        ("ingested_at", TIME),
        ("event_time", TIME),
        ("code", TEXT),
        ("epoch", pa.int64()),
    ]
)

_offsets = itertools.count()


def at(text: str) -> dt.datetime:
    """A time in UTC, from ISO 8601."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


def event(key: str, user: str, time: str | dt.datetime, event_type: str = "page_view", **more: Any) -> dict[str, Any]:
    """A Silver row; what is not given is as in any other event."""
    when = at(time) if isinstance(time, str) else time
    row: dict[str, Any] = {
        "event_type": event_type,
        "event_time": when,
        "idempotency_key": key,
        "entity": user,
        "schema_version": "v1",
        "device_type": "desktop",
        "os": "Windows",
        "browser": "Chrome",
        "country": "DE",
        "session_id": f"session-{user}-{when:%Y%m%d}",
        "session_start": when,
        "session_seq": 1,
        "replayed": False,
        "_topic": "events_raw",
        "_partition": 0,
        "_offset": next(_offsets),
    }
    if event_type in ("purchase", "payment_failed"):
        row |= {"amount": Decimal("10.00"), "currency": "EUR", "order_id": f"order-{key}"}
    if event_type == "user_signup":
        row |= {"plan_type": "free", "signup_channel": "organic", "marketing_consent": True}
    return row | more


def micros(time: dt.datetime) -> int:
    """Microseconds since 1970."""
    return (time - dt.datetime(1970, 1, 1, tzinfo=UTC)) // dt.timedelta(microseconds=1)


@dataclass
class Lake:
    """A lake whose log the test writes."""

    root: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def spec(self, **more: Any) -> dict[str, Any]:
        """The pipeline file, read."""
        return {
            "name": "ecommerce",
            "lake": str(self.root),
            "warehouse": {"duckdb": str(self.root.parent / "warehouse.duckdb")},
        } | more

    def _write(self, layer: str, date: dt.date, part: int, table: pa.Table) -> str:
        path = f"{layer}/date={date}/ecommerce-0000-{len(self.entries):010}-{part:04}.parquet"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.root / path, compression="zstd")
        return path

    def commit(
        self,
        rows: Iterable[Mapping[str, Any]] = (),
        *,
        dead: Iterable[Mapping[str, Any]] = (),
        removed: Iterable[str] = (),
        kind: str = "epoch",
    ) -> list[str]:
        """Add an entry to the log; returns the paths of its Silver files."""
        written = []
        by_date: dict[dt.date, list[dict[str, Any]]] = {}
        for row in rows:
            by_date.setdefault((row["session_start"] or row["event_time"]).date(), []).append(dict(row))
        for part, (date, some) in enumerate(sorted(by_date.items())):
            path = self._write("silver/events", date, part, pa.Table.from_pylist(some, SILVER))
            self.rows[path] = some
            times = [micros(row["event_time"]) for row in some]
            written.append(
                {
                    "path": path,
                    "layer": "silver/events",
                    "date": str(date),
                    "rows": len(some),
                    "min_event_time": min(times),
                    "max_event_time": max(times),
                }
            )
        letters = list(dead)
        if letters:
            date = letters[0]["ingested_at"].date()
            path = self._write("dead_letters", date, 0, pa.Table.from_pylist(letters, DEAD_LETTERS))
            written.append({"path": path, "layer": "dead_letters", "date": str(date), "rows": len(letters)})
        removed = list(removed)
        for path in removed:
            (self.root / path).unlink()
            self.rows.pop(path, None)
        self.entries.append(
            {
                "number": len(self.entries),
                "kind": kind,
                "files": written,
                "removed": [{"path": path, "layer": "silver/events"} for path in removed],
            }
        )
        return [file["path"] for file in written if file["layer"] == "silver/events"]

    def live(self, layer: str) -> list[dict[str, Any]]:
        """The files of a layer that were added and not removed, as the log has them."""
        removed = {file["path"] for entry in self.entries for file in entry["removed"]}
        added = [file for entry in self.entries for file in entry["files"] if file["layer"] == layer]
        return [file for file in added if file["path"] not in removed]

    def silver(self) -> list[dict[str, Any]]:
        """All rows of the files that are there."""
        return [row for rows in self.rows.values() for row in rows]


def install(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader read the log of the test's lake."""

    def lake_log(spec_json: str, since: int, **_: Any) -> str:
        assert json.loads(spec_json)["lake"] == str(lake.root)
        return json.dumps([entry for entry in lake.entries if entry["number"] > since])

    def read_lake(root: str, layer: str, *, pipeline: str, **_: Any) -> str:
        assert (root, pipeline) == (str(lake.root), "ecommerce")
        return json.dumps(lake.live(layer))

    monkeypatch.setattr("penstock.warehouse.lakelog._core.lake_log", lake_log)
    monkeypatch.setattr("penstock.warehouse.lakelog._core.inspect", lambda *_, **__: json.dumps({"planned": None}))
    monkeypatch.setattr("penstock.warehouse.lakelog._core.lake_shards", lambda *_, **__: [])
    monkeypatch.setattr("penstock.warehouse.lakelog._core.read_lake", read_lake)
