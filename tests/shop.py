"""What the tests of replay, backfill, compaction, retention and manifest share: a small shop with a pipeline file."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from penstock import Pipeline, read_lake

if TYPE_CHECKING:
    from pathlib import Path

UTC = dt.timezone.utc
STRICT = 0
LENIENT = -5

CONTRACT = """
name: shop
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  view:
    v1:
      type: object
      required: [type, at, id, user, amount]
      properties:
        type: {type: string}
        at: {type: string, format: date-time}
        id: {type: string}
        user: {type: string}
        amount: {type: integer, minimum: MINIMUM}
"""

PIPELINE = """
name: shop
contract: contract.yaml
source: {files: {paths: ["in/*.jsonl"]}}
lake: lake
sessions: {gap: 30m}
epoch: {max_events: EVENTS, max_bytes: 1MiB}
durability: process
"""


def event(day: int, minute: int, key: str, user: str, amount: int = 1) -> dict[str, Any]:
    """An event of December 2024."""
    at = dt.datetime(2024, 12, day, tzinfo=UTC) + dt.timedelta(minutes=minute)
    return {"type": "view", "at": at.isoformat(), "id": key, "user": user, "amount": amount}


def some_events(count: int) -> list[dict[str, Any]]:
    """Events of a few days and users: good ones, bad ones (`amount` is -1), duplicates."""
    bad = [n % 11 == 3 and n < count - 1 for n in range(count)]
    return [
        event(17 + n // 120, n * 7 % 1400, f"k{n - (n % 13 == 5)}", f"u{n % 5}", -1 if bad[n] else n)
        for n in range(count)
    ]


@dataclass(frozen=True)
class Shop:
    """A pipeline in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *, epoch_events: int = 50) -> Shop:
        """Write its files."""
        (folder / "in").mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(PIPELINE.replace("EVENTS", str(epoch_events)))
        shop = cls(folder)
        shop.contract(STRICT)
        return shop

    def contract(self, minimum: int) -> None:
        """What `amount` has to be at least."""
        (self.folder / "contract.yaml").write_text(CONTRACT.replace("MINIMUM", str(minimum)))

    def put(self, name: str, events: list[dict[str, Any]]) -> None:
        """Put a file of events."""
        lines = "".join(json.dumps(one) + "\n" for one in events)
        (self.folder / "in" / f"{name}.jsonl").write_text(lines)

    @property
    def file(self) -> str:
        """The pipeline file."""
        return str(self.folder / "pipeline.yaml")

    @property
    def lake(self) -> Path:
        """The lake."""
        return self.folder / "lake"

    def pipeline(self) -> Pipeline:
        """The pipeline as its files are now."""
        return Pipeline.load(self.file)

    def run(self) -> Any:
        """Run it until caught up."""
        return self.pipeline().run(until_caught_up=True, progress=False)

    def rows(self, layer: str = "silver/events", columns: str = "*") -> list[tuple[Any, ...]]:
        """The rows of a layer as the log has them, in order."""
        table = read_lake(self.lake, layer)
        if not table.files:
            return []
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            rows = table.to_duckdb(connection)
            return rows.query("t", f"SELECT {columns} FROM t ORDER BY ALL").fetchall()

    def assert_sound(self) -> dict[str, Any]:
        """The ledger, counted again."""
        found = self.pipeline().audit()
        failed = [check for check in found.checks if not check.passed]
        assert found.balanced and not failed, failed
        return found.to_dict()
