"""A sink of epochs over SQLite: small, and obviously right. What a warehouse does, without a warehouse."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from penstock.errors import SupersededError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
    CREATE TABLE IF NOT EXISTS term (number INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS epochs (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, term INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS events (topic TEXT, part INTEGER, position INTEGER, idempotency_key TEXT, epoch INTEGER);
    CREATE TABLE IF NOT EXISTS offsets (topic TEXT, part INTEGER, next INTEGER, PRIMARY KEY (topic, part));
"""


class SqliteSink:
    """Silver's rows in a table, with the numbers of their epochs."""

    name = "SQLite"

    def __init__(self, file: Path, spec: str) -> None:
        self.file = file
        self.lake = json.loads(spec)["lake"]

    @contextlib.contextmanager
    def _transaction(self, term: int) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.file, timeout=60, isolation_level=None)) as connection:
            connection.executescript(TABLES)
            connection.execute("BEGIN IMMEDIATE")
            (newest,) = connection.execute("SELECT coalesce(max(number), 0) FROM term").fetchone()
            if term < newest:
                said = f"{self.name}: this run (term {term}) was replaced by a newer one: term {newest}"
                raise SupersededError(said, ours=term, theirs=newest, holder="another run")
            connection.execute("DELETE FROM term")
            connection.execute("INSERT INTO term VALUES (?)", (term,))
            yield connection
            connection.execute("COMMIT")

    @staticmethod
    def _kind(connection: sqlite3.Connection, number: int) -> str | None:
        found = connection.execute("SELECT kind FROM epochs WHERE number = ?", (number,)).fetchone()
        return found[0] if found else None

    def write(self, epoch: str) -> bool:
        """Write an epoch, unless it is there or forbidden."""
        told = json.loads(epoch)
        number = told["number"]
        with self._transaction(told["term"]) as connection:
            kind = self._kind(connection, number)
            if kind is not None:
                return kind == "epoch"
            rows: list[Any] = []
            for file in told["files"]:
                if file["layer"] == "silver/events":
                    columns = ["_topic", "_partition", "_offset", "idempotency_key"]
                    table = pq.ParquetFile(f"{self.lake}/{file['path']}").read(columns)
                    assert table.num_rows == file["rows"]
                    rows += [(*row.values(), number) for row in table.to_pylist()]
            connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", rows)
            for partition in told["partitions"]:
                place = (partition["topic"], partition["partition"], partition["position"])
                connection.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", place)
            connection.execute("INSERT INTO epochs VALUES (?, 'epoch', ?)", (number, told["term"]))
        return True

    def forbid(self, epoch: int, term: int) -> bool:
        """Take the number of an epoch, unless the epoch has it."""
        with self._transaction(term) as connection:
            kind = self._kind(connection, epoch)
            if kind is None:
                connection.execute("INSERT INTO epochs VALUES (?, 'void', ?)", (epoch, term))
        return kind != "epoch"


class BrokenSink:
    """A sink that raises."""

    name = "broken"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or WarehouseError("warehouse broken: the disk is full; make room, and run again")

    def write(self, epoch: str) -> bool:
        """Fail."""
        raise self.error

    def forbid(self, epoch: int, term: int) -> bool:
        """Fail."""
        raise self.error


def held(file: Path) -> tuple[dict[int, str], Counter[str], dict[tuple[str, int], int]]:
    """What a database holds: the kinds of epochs by number, how often each key, and where reading stands."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(TABLES)
        epochs = dict(connection.execute("SELECT number, kind FROM epochs"))
        keys = Counter(key for (key,) in connection.execute("SELECT idempotency_key FROM events"))
        offsets = {(topic, part): at for topic, part, at in connection.execute("SELECT * FROM offsets")}
    return epochs, keys, offsets
