"""What the tests of the Kafka source share: a small pipeline over topics, and what became of its events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import penstock
from services import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from penstock.ledger import Ledger
    from services.kafka import KafkaBroker

RUNNER = Path(__file__).with_name("kafka_run.py")
CONTRACT = {
    "name": "clicks",
    "roles": {"event_type": "/type", "event_time": {"path": "/at", "unit": "ms"}, "idempotency_key": "/id",
              "entity": "/user"},
    "events": {"click": {"v1": {
        "type": "object", "required": ["type", "at", "id", "user"],
        "properties": {"type": {"const": "click"}, "at": {"type": "integer"}, "id": {"type": "string"},
                       "user": {"type": "string"}}}}},
}  # fmt: skip
BEGAN = 1_760_000_000_000
"""The time of the first event, in milliseconds."""


def event(n: int, **other: Any) -> dict[str, Any]:
    """The n-th event: one a second, of ten users."""
    return {"type": "click", "at": BEGAN + 1_000 * n, "id": f"e{n}", "user": f"u{n % 10}", **other}


def message(n: int, **other: Any) -> dict[str, Any]:
    """The n-th event as a message keyed by its user, with its own time."""
    return {"value": event(n), "key": f"u{n % 10}", "timestamp": BEGAN + 1_000 * n, **other}


@dataclass
class Flow:
    """A pipeline over topics, in a folder of its own."""

    folder: Path
    broker: KafkaBroker
    topics: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    keyed_by: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def group(self) -> str:
        """Its consumer group."""
        return f"group-{self.folder.name}"

    def pipeline(self, **kafka: Any) -> penstock.Pipeline:
        """The pipeline, with more settings of `source.kafka`."""
        own = self.broker.settings()
        brokers = own.pop("bootstrap.servers")
        source = {"topics": self.topics, "group": self.group, "brokers": brokers, **own, **self.source, **kafka}
        whole = {
            "name": "flow",
            "contract": CONTRACT,
            "source": {"kafka": source, "keyed_by": self.keyed_by},
            "lake": "lake",
            "durability": "process",
            "watermark": {"lateness": "0s", "idle_timeout": "10000d"},
            "epoch": {"max_wait": "200ms", "tick": "20ms"},
            **self.settings,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "pipeline.yaml"
        file.write_text(json.dumps(whole))
        return penstock.Pipeline.load(file)

    def run(
        self,
        *,
        accept_gap: bool = False,
        max_epochs: int | None = None,
        drain: bool = False,
        shard: str | None = None,
        **kafka: Any,
    ) -> Ledger:
        """Run it until it has caught up; what it told is kept in `events`."""
        self.events.clear()
        found = self.pipeline(**kafka).run(
            on_event=self.events.append,
            progress=False,
            accept_gap=accept_gap,
            max_epochs=max_epochs,
            drain=drain,
            shard=shard,
        )
        assert found.balanced
        return found

    def warnings(self) -> list[str]:
        """The codes of the warnings of the last run."""
        return [found["code"] for found in self.events if found["event"] == "warning"]

    def rows(self, layer: str = "bronze/events") -> list[dict[str, Any]]:
        """The rows of a layer, in order of their positions."""
        table = pa.table(penstock.read_lake(self.folder / "lake", layer))
        names = [name for name in ("topic", "_topic") if name in table.column_names]
        under = "_" if names == ["_topic"] else ""
        order = [(f"{under}{name}", "ascending") for name in ("topic", "partition", "offset")]
        found: list[dict[str, Any]] = table.sort_by(order).to_pylist()
        return found

    def ids(self) -> list[str]:
        """The keys of Silver's rows, sorted."""
        return sorted(row["idempotency_key"] for row in self.rows("silver/events"))

    def audit(self) -> None:
        """The audit agrees."""
        found = self.pipeline().audit()
        assert found.balanced, [check for check in found.checks if not check.passed]

    def log(self, kind: str = "plan") -> list[dict[str, Any]]:
        """The plans, or the commits, of the log."""
        folder = self.folder / "lake/_penstock/flow/epochs"
        return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*.{kind}"))]

    def everything_written(self) -> Iterable[bytes]:
        """Every object of the log."""
        return (path.read_bytes() for path in (self.folder / "lake/_penstock").rglob("*") if path.is_file())


class Running:
    """A run in a process of its own, until it is stopped or killed; its events are read as they come."""

    def __init__(self, flow: Flow, *options: str, failpoint: str | None = None, **kafka: Any) -> None:
        flow.pipeline(**kafka)
        env = {name: value for name, value in os.environ.items() if name != "PENSTOCK_FAILPOINT"}
        if failpoint:
            env["PENSTOCK_FAILPOINT"] = failpoint
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(RUNNER), str(flow.folder / "pipeline.yaml"), *options],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._hear, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _hear(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line)

    @property
    def said(self) -> str:
        """Its standard error."""
        return "".join(self._said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def consumed(self) -> int:
        """How many events this run has committed so far."""
        return sum(found["counts"]["consumed"] for found in list(self.events) if found["event"] == "committed")

    def seen(self, kind: str, **facts: Any) -> list[dict[str, Any]]:
        """Its events of a kind."""
        return [e for e in list(self.events) if e["event"] == kind and all(e.get(k) == v for k, v in facts.items())]

    def wait(self, what: str, check: Callable[[], object], *, seconds: float = 90.0) -> None:
        """Wait until something can be seen; a run that ends before is a failure."""

        def seen() -> object:
            found = check()
            if not found and self.process.poll() is not None:
                raise AssertionError(f"{what}: the run ended with {self.process.returncode}: {self.said}")
            return found or None

        until(what, seen, seconds=seconds)

    def end(self, *, seconds: float = 90.0) -> int:
        """Wait until it has ended by itself; gives its exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join()
        return code

    def stop(self) -> int:
        """SIGINT, as Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        code = self.end()
        assert code >= 0, f"the run ended by signal {-code}: {self.said}"
        return code

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.end()
