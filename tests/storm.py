"""A storm: a producer fills a topic while all that takes part is killed, put to sleep or enlarged at random moments."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

import penstock
from kafka_support import Flow, Running
from penstock.producer import ProducerStopped, produce
from services import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from services.kafka import KafkaBroker
    from services.s3 import S3Server

CONTRACT = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce/contract.yaml"
# How often each kind comes in a deck; decks are shuffled, and the first is always played to its end.
DECK = {
    "penstock killed": 4,
    "broker killed": 1,
    "store killed": 2,
    "partitions added": 1,
    "two runs at once": 1,
    "run woke up late": 1,
}
MOST_PARTITIONS = 24
# What ends a run by itself: the one while something that it needs is away, the other when a newer run took over.
ENDS = ("SourceError", "LakeError", "SupersededError")


@dataclass
class Producer:
    """Sends events with flaws and duplicates until it is stopped; what was delivered is the truth."""

    broker: KafkaBroker
    topic: str
    seed: int
    rate: float
    total: int
    found: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.delivered = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def _told(self, seen: dict[str, Any]) -> bool:
        self.delivered = seen["delivered"]
        return not self._stop.is_set()

    def _produce(self) -> None:
        try:
            self.found = produce(
                "ecommerce",
                brokers=self.broker.bootstrap,
                topic=self.topic,
                total=self.total,
                seed=self.seed,
                users=500,
                bad_rate=0.03,
                duplicate_rate=0.05,
                events_per_second=self.rate,
                # So that new partitions get events soon.
                kafka={"topic.metadata.refresh.interval.ms": "500", "reconnect.backoff.max.ms": "500"},
                progress=False,
                on_progress=self._told,
            )
        except ProducerStopped as stopped:
            self.found = stopped.produced
        except BaseException as error:  # told by the thread that waits for it
            self.error = error

    def check(self) -> None:
        """It goes on."""
        if self.error is not None:
            raise self.error
        assert self._thread.is_alive(), "the producer has sent all that it may: give it more"

    def halt(self) -> None:
        """Let it send what is on its way, and end."""
        self._stop.set()

    def stop(self) -> dict[str, Any]:
        """The same, and wait for it. Gives the truth."""
        self.halt()
        self._thread.join(180)
        assert not self._thread.is_alive(), "the producer does not end"
        if self.error is not None:
            raise self.error
        assert self.found["undelivered"] == {}, self.found["undelivered"]
        return self.found


class Storm:
    """One storm over one topic, into a lake on S3.

    Attributes:
        happened: What really happened, by kind.
        beside: What else was seen.
    """

    def __init__(self, folder: Path, broker: KafkaBroker, store: S3Server, *, seed: int, rate: float, total: int):
        self.chance = random.Random(seed)
        self.broker, self.store = broker, store
        self.happened: Counter[str] = Counter()
        self.beside: Counter[str] = Counter()
        self.topic = broker.create_topic("storm", partitions=2)
        self.lake = f"s3://{store.bucket()}/storm"
        self.flow = Flow(
            folder / "flow",
            broker,
            [self.topic],
            settings={
                "contract": str(CONTRACT),
                "lake": self.lake,
                "storage": store.settings,
                "watermark": {"lateness": "10m", "max_future_skew": "5m"},
                "deduplicate": {"horizon": "24h"},
                "sessions": {"gap": "30m", "max_duration": "24h"},
                "epoch": {"max_events": 2_000, "max_wait": "300ms", "tick": "50ms"},
            },
            source={"topic.metadata.refresh.interval.ms": "500", "reconnect.backoff.max.ms": "500"},
        )
        self.producer = Producer(broker, self.topic, seed, rate, total)
        self.run = Running(self.flow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.producer.halt()
        self.run.kill()

    # --- what happens -----------------------------------------------------------------------------------------------

    def rage(self, seconds: float) -> None:
        """Let it rage for this time, and at least until each kind has come as often as it is in the deck."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not self.beside["decks"]:
            deck = [kind for kind, count in DECK.items() for _ in range(count)]
            self.chance.shuffle(deck)
            for kind in deck:
                if time.monotonic() >= deadline and self.beside["decks"]:
                    break
                self._pause(3.0)
                self._go_on()
                self._kinds()[kind]()
            self.beside["decks"] += 1
            self._advance()
            self._look()

    def _kinds(self) -> dict[str, Callable[[], None]]:
        return {
            "penstock killed": self._kill_penstock,
            "broker killed": lambda: self._kill_service("broker killed", self.broker),
            "store killed": lambda: self._kill_service("store killed", self.store),
            "partitions added": self._add_partitions,
            "two runs at once": self._two_runs,
            "run woke up late": self._sleeper,
        }

    def _pause(self, most: float) -> None:
        """The next comes at a random moment."""
        threading.Event().wait(self.chance.uniform(0.0, most))

    def _go_on(self) -> None:
        """The producer and a run are there; a run that has ended by itself had a reason, and is started again."""
        self.producer.check()
        if self.run.process.poll() is None:
            return
        code = self.run.end()
        reason = self.run.said.strip().splitlines()[-1:] or [""]
        assert code == 3 and reason[0].split(":")[0].rpartition(".")[2] in ENDS, (code, self.run.said)
        self.beside[f"ended by {reason[0].split(':')[0]}"] += 1
        self.run = Running(self.flow)

    def _kill_penstock(self) -> None:
        self.run.process.kill()
        code = self.run.end()
        self.happened["penstock killed"] += code == -signal.SIGKILL
        self.run = Running(self.flow)

    def _kill_service(self, kind: str, service: KafkaBroker | S3Server) -> None:
        assert service.process is not None and service.process.running()
        service.kill()
        self.happened[kind] += 1
        self._pause(2.0)
        if self.chance.random() < 0.4:
            # Both are away: the next run begins without the service.
            self._go_on()
            self._kill_penstock()
            self._pause(1.0)
        service.start()

    def _add_partitions(self) -> None:
        count = self.broker.partitions(self.topic)
        if count >= MOST_PARTITIONS:
            return
        more = count + self.chance.randint(1, 2)
        self.broker.add_partitions(self.topic, more)
        self.happened["partitions added"] += 1

    def _two_runs(self) -> None:
        """A second run begins while one is at work: the newer one goes on, the older one says so and ends."""
        self._advance()
        older, self.run = self.run, Running(self.flow)
        self._superseded(older)
        self.happened["two runs at once"] += 1

    def _sleeper(self) -> None:
        """A run is stopped wherever it is, another goes on, and then the first wakes up."""
        # It has its term: else it would take a newer one than the other when it wakes.
        self._advance()
        older = self.run
        older.process.send_signal(signal.SIGSTOP)
        self.run = Running(self.flow)
        try:
            self._advance()
        finally:
            older.process.send_signal(signal.SIGCONT)
        self._superseded(older)
        self.happened["run woke up late"] += 1

    def _superseded(self, older: Running) -> None:
        until("the older of two runs ends", lambda: older.process.poll() is not None, seconds=120)
        code = older.end()
        assert code == 3 and "SupersededError" in older.said, (code, older.said)

    def _advance(self) -> None:
        """Wait until the run has committed something."""

        def committed() -> bool:
            self._go_on()
            return self.run.consumed() > 0

        until("the run commits", committed, seconds=180)

    def _look(self) -> None:
        """Whoever reads the lake meanwhile sees no event twice, and none missing before those that are there."""
        table = self._read("bronze/events", ["partition", "offset"])
        for partition in pc.unique(table["partition"]).to_pylist():
            offsets = sorted(table.filter(pc.equal(table["partition"], partition))["offset"].to_pylist())
            assert offsets == list(range(len(offsets))), f"partition {partition}"
        self.beside["looks"] += 1

    def _read(self, layer: str, columns: list[str]) -> Any:
        return penstock.read_lake(self.lake, layer, columns=columns, storage=self.store.settings).to_pyarrow()

    # --- what is left -----------------------------------------------------------------------------------------------

    def settle(self) -> dict[str, int]:
        """The calm after it: everything is read to its end and compared with the truth. Gives what was counted."""
        truth = self.producer.stop()
        self._kill_penstock()
        self.run.kill()
        pipeline = self.flow.pipeline()
        found = pipeline.run(until_caught_up=True, drain=True, progress=False)
        sent = {(m.partition(), m.offset()): m.value() for m in self.broker.consume(self.topic)}
        bronze = self._read("bronze/events", ["partition", "offset", "value"]).to_pydict()
        places = Counter(zip(bronze["partition"], bronze["offset"], strict=True))
        silver = Counter(self._read("silver/events", ["idempotency_key"])["idempotency_key"].to_pylist())
        expected = truth["expected"]
        counted = {
            "events": truth["delivered"],
            "lost": len(sent.keys() - places.keys()) + max(0, expected["silver"] - len(silver)),
            "duplicated": places.total() - len(places) + silver.total() - len(silver),
        }
        assert (counted["lost"], counted["duplicated"]) == (0, 0), counted
        assert places.keys() == sent.keys() and len(sent) == truth["delivered"]
        values = zip(bronze["partition"], bronze["offset"], bronze["value"], strict=True)
        assert all(sent[partition, offset] == value for partition, offset, value in values)
        for name in ("consumed", "silver", "rejected", "duplicate", "late", "pending", "rejected_by_code"):
            assert getattr(found, name) == expected[name], name
        assert silver.total() == expected["silver"]
        audit = pipeline.audit()
        assert audit.balanced, [check for check in audit.checks if not check.passed]
        return counted


def again(seed: int, seconds: float, test: str) -> str:
    """How a storm is run again."""
    return f"PENSTOCK_STORM_SEED={seed} PENSTOCK_STORM_SECONDS={seconds:g} pytest -m '' -s --timeout 0 {test}"
