"""The demo's stream: a producer that fills a topic while the pipeline drains it."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock.errors import SettingsError, SourceError
from penstock.kafka import check_brokers
from penstock.producer import ProducerStopped, produce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from penstock.ledger import Ledger
    from penstock.pipeline import Pipeline

PARTITIONS = 8
# What an event takes on the wire at most, without compression: with it, some five times less.
_EVENT_BYTES = 500
# So many seconds a broker has to answer.
_PATIENCE = 10.0


class DemoStream:
    """A topic, on a broker of our own in this process or on a real one.

    Args:
        brokers: The real one; None: our own.
        settings: librdkafka's own settings, for both sides.
        topic: The topic; a new name unless given.
    """

    def __init__(
        self, brokers: str | None, *, settings: Mapping[str, str] | None = None, topic: str | None = None
    ) -> None:
        try:
            self._real = None if brokers is None else check_brokers(brokers)
        except ValueError as error:
            raise SettingsError(f"--brokers: {error}", name="--brokers") from None
        self.settings = dict(settings or {})
        now = dt.datetime.now(dt.timezone.utc)
        self.topic = topic or ("events_raw" if brokers is None else f"penstock_demo_{now:%Y%m%d_%H%M%S}")
        self.most_lag = 0
        self.lag: int | None = None
        self.produced: dict[str, Any] = {}
        self.seconds = 0.0
        self._sent: dict[str, Any] = {}
        self._read = 0
        self._failed: BaseException | None = None
        self._over = False
        self._ends = threading.Event()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._embedded = None
        self.brokers = self._real or ""
        # Our own broker keeps the newest 5 MiB of a partition: never so many ahead that one could be lost.
        self._most_ahead: int | None = None
        if self._real is None:
            self._embedded = _core.EmbeddedKafka()
            self._embedded.create_topic(self.topic, partitions=PARTITIONS)
            self.brokers = self._embedded.bootstrap
            self._most_ahead = PARTITIONS * _core.EmbeddedKafka.PARTITION_BYTES // _EVENT_BYTES // 2
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        if self._thread:
            self._thread.join()
        if self._embedded:
            self._embedded.stop()

    def knock(self) -> None:
        """See whether somebody listens where the real one should be.

        Raises:
            SourceError: Nobody does.
        """
        for address in self.brokers.split(","):
            host, _, port = address.strip().rpartition("://")[2].rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
            except (OSError, ValueError, OverflowError):
                continue
            return
        raise SourceError(f"--brokers: no broker answered at {self.brokers}; nothing was removed")

    @property
    def is_ours(self) -> bool:
        """Whether the broker is our own, in this process."""
        return self._real is None

    @property
    def place(self) -> str:
        """Where the topic is, for people."""
        which = "broker in this process" if self._embedded else "Kafka"
        return f"topic {self.topic} of the {which} at {self.brokers}"

    def source(self) -> dict[str, Any]:
        """`source` in the pipeline file."""
        kafka = {"topics": [self.topic], "group": "penstock-demo", "brokers": self.brokers}
        return {"kafka": {**kafka, **self.settings}}

    def fill(self, profile: str, **events: Any) -> None:
        """Start the producer, and come back when each partition has an event.

        One without any counts as idle and holds no watermark back: its first events would come late.
        """
        began = time.perf_counter()

        def send() -> None:
            try:
                self.produced = produce(
                    profile,
                    brokers=self.brokers,
                    topic=self.topic,
                    partitions=PARTITIONS if self._real else None,
                    kafka=self.settings,
                    progress=False,
                    on_progress=self._look,
                    **events,
                )
            except ProducerStopped:
                pass
            except BaseException as error:  # noqa: BLE001 - raised where the producer is waited for
                self._failed = error
            finally:
                self.seconds = time.perf_counter() - began
                with self._change:
                    self._over = True
                    self._change.notify_all()

        self._thread = threading.Thread(target=send, name="penstock-demo-producer", daemon=True)
        self._thread.start()
        with self._change:
            while not self._over and not (self._sent and self._sent["begun"] == self._sent["partitions"]):
                self._change.wait(0.1)
        self._check()

    def drain(self, flow: Pipeline, watch: Callable[[dict[str, Any]], object]) -> Ledger:
        """Run the pipeline until all that is produced is committed, and nothing is held."""
        committed = 0

        def take(event: dict[str, Any]) -> None:
            nonlocal committed
            kind = event.get("event")
            if kind == "committed":
                committed += int(event["counts"]["consumed"])
            elif kind == "lag":
                self.lag = sum(p["lag"] for p in event["partitions"])
                self.most_lag = max(self.most_lag, self.lag)
            with self._change:
                self._read = committed + (int(event["events"]) if kind == "progress" else 0)
                self._change.notify_all()
            watch(event)

        while True:
            self._check()
            # Caught up are the ends seen at the start: only a run that starts after the last event reaches it.
            last = self._over
            ledger = flow.run(until_caught_up=True, drain=last, progress=False, on_event=take)
            if last:
                self._check()
                return ledger

    def _look(self, sent: dict[str, Any]) -> bool | str:
        with self._change:
            self._sent = sent
            self._change.notify_all()
            ahead = sent["events"] - self._read
        if self._ends.is_set():
            return False
        return "wait" if self._most_ahead is not None and ahead > self._most_ahead else True

    def _check(self) -> None:
        if self._over and self._failed is not None:
            raise self._failed
