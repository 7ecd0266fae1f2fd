"""What the tests of failpoints over Kafka share: a pipeline over a topic that can be run again byte for byte, what a
reader sees of its lake, and the count of what was fired."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import pyarrow as pa

import crash
import penstock
import s3_support

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.kafka import KafkaBroker

Made = TypeVar("Made", bound=crash.Pipeline)

ENTRY = Path(__file__).with_name("engine_entry.py")
POSITION = {"bronze/events": ("partition", "offset"), "dead_letters": ("partition", "offset"),
            "silver/events": ("_partition", "_offset")}  # fmt: skip


def over(pipeline: Made, broker: KafkaBroker, topic: str) -> Made:
    """The same pipeline over a topic, with a consumer group of its own.

    Of one partition an epoch takes the same offsets however the messages come: as many as it may hold.
    """
    spec = json.loads(pipeline.spec.read_text())
    spec["source"] = {"kafka": {"brokers": broker.bootstrap, "topics": [topic], "group": group(pipeline)}}
    pipeline.spec.write_text(json.dumps(spec))
    return pipeline


def group(pipeline: crash.Pipeline) -> str:
    """Its consumer group."""
    return f"{pipeline.folder.parent.name}-{pipeline.folder.name}"


def entry(pipeline: crash.Pipeline, kind: str, options: dict[str, Any], failpoint: str | None = None) -> Any:
    """Makes an entry of the log in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k != "PENSTOCK_FAILPOINT"}
    # What a killed one leaves goes with the test.
    env["PENSTOCK_SPILL_DIR"] = str(pipeline.folder / "spill")
    if failpoint:
        env["PENSTOCK_FAILPOINT"] = failpoint
    command = [sys.executable, str(ENTRY), str(pipeline.spec), kind, json.dumps(options)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def on_disk(pipeline: crash.Pipeline) -> crash.Pipeline:
    """The same with its lake in a folder, as it is now."""
    return pipeline.fetched() if isinstance(pipeline, s3_support.BucketPipeline) else pipeline


def read(pipeline: crash.Pipeline, layer: str, *without: str) -> list[dict[str, Any]]:
    """The rows of a layer as `read_lake` gives them; none where nothing was written yet."""
    lake, storage, keys = str(pipeline.lake), None, {}
    if isinstance(pipeline, s3_support.BucketPipeline):
        lake, storage, keys = pipeline.url, pipeline.server.settings, pipeline.keys
    with mock.patch.dict(os.environ, keys):
        table = penstock.read_lake(lake, layer, storage=storage)
        if not table.files:
            return []
        rows: list[dict[str, Any]] = pa.table(table).to_pylist()
    return [{name: value for name, value in row.items() if name not in without} for row in rows]


def all_rows(pipeline: crash.Pipeline, *without: str) -> dict[str, list[str]]:
    """Every row of every layer, in an order of its own."""
    layers = (*POSITION, "silver/sessions", "gold/per_minute")
    return {layer: sorted(map(repr, read(pipeline, layer, *without))) for layer in layers}


def positions(rows: Iterable[dict[str, Any]], layer: str) -> Counter[tuple[int, int]]:
    """How often each position stands in these rows."""
    partition, offset = POSITION[layer]
    return Counter((row[partition], row[offset]) for row in rows)


def assert_readable(pipeline: crash.Pipeline) -> dict[int, int]:
    """A reader sees all up to the last commit, and nothing twice. Gives the positions of that commit."""
    lake = on_disk(pipeline).lake
    commits = sorted((lake / "_penstock" / crash.PIPELINE / "epochs").glob("*.commit"))
    ends: dict[int, int] = {}
    for commit in map(json.loads, (path.read_text() for path in commits)):
        ends |= {p["partition"]: p["position"] for p in commit["partitions"] if commit["kind"] == "run"}
    if not commits:
        return {}
    ledger = json.loads(commits[-1].read_text())["ledger"]
    bronze = positions(read(pipeline, "bronze/events"), "bronze/events")
    assert bronze == Counter((p, offset) for p, end in ends.items() for offset in range(end))
    silver = read(pipeline, "silver/events")
    dead = read(pipeline, "dead_letters")
    assert (len(silver), len(dead)) == (ledger["silver"], ledger["rejected"] + ledger["late"])
    for rows, layer in ((silver, "silver/events"), (dead, "dead_letters")):
        found = positions(rows, layer)
        assert set(found.values()) <= {1} and found.keys() <= bronze.keys(), layer
    assert len({row["idempotency_key"] for row in silver}) == len(silver)
    return ends


@dataclass
class Tally:
    """What was fired, and what became of the events."""

    places: set[str] = field(default_factory=set)
    fired: int = 0
    by_action: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0

    def failed(self, done: Any, place: str, action: str, *, survives: bool = False) -> None:
        """The failure happened, and it ended as it should."""
        said = done.stderr
        assert f"failpoint {place}" in said, f"it did not fire: {done.returncode} {said}"
        self.places.add(place)
        self.fired += 1
        self.by_action[action] += 1
        wanted = {"kill": -signal.SIGKILL, "error": 0 if survives else 3, "panic": 3}[action]
        assert done.returncode == wanted, said
        if wanted == 3:
            kind = "Lake" if (place, action) == ("upload.part", "error") else "Internal"
            assert re.search(rf"^{kind}Error: .*failpoint {place}\b", said, re.MULTILINE), said
        # An error of Penstock, whatever it was: never a traceback, never a panic as Python would show it.
        assert "Traceback" not in said and "PanicException" not in said, said

    def count(self, sent: int, undisturbed: list[dict[str, Any]], pipeline: crash.Pipeline) -> None:
        """Counts what was lost or doubled: Bronze beside the topic, Silver beside that of an undisturbed run."""
        bronze = positions(read(pipeline, "bronze/events"), "bronze/events")
        silver = Counter(row["idempotency_key"] for row in read(pipeline, "silver/events"))
        wanted = Counter({(0, offset): 1 for offset in range(sent)})
        keys = Counter(row["idempotency_key"] for row in undisturbed)
        lost = (wanted - bronze).total() + (keys - silver).total()
        doubled = (bronze - wanted).total() + (silver - keys).total()
        self.lost += lost
        self.duplicated += doubled
        assert (lost, doubled) == (0, 0)
