"""What a run shows to Prometheus, and whether it lives: `penstock run … --metrics 127.0.0.1:9464`.

`/metrics` speaks Prometheus' text format (and OpenMetrics when asked), `/healthz` answers 200 while the run gives signs
of life, `/readyz` answers 200 from when the run owns its pipeline until it ends.

Names and units follow Prometheus' conventions; the alert rules in `prometheus/penstock.rules.yml` (`penstock init`
copies them out) are written against them.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

STALL_SECONDS = 300.0
"""Without a sign of life for this long, `/healthz` answers 503. A request to the lake ends after a minute."""

_STAGES = ("read", "files", "state", "total")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_VERDICTS = ("silver", "rejected", "duplicate", "late")


class Metrics:
    """The metrics of one pipeline, fed with the engine's events.

    Args:
        pipeline: Its name; the label `pipeline` of every metric.
        version: Penstock's version.
        clock: Seconds since the Unix epoch.
    """

    def __init__(self, pipeline: str, version: str, *, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self.ready = False
        self._clock = clock
        self._alive = clock()
        self._pipeline = pipeline
        self._watermark: float | None = None
        self._partitions: set[tuple[str, str]] = set()
        own = ("pipeline",)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"penstock_{name}", text, (*own, *labels), registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"penstock_{name}", text, (*own, *labels), registry=self.registry)

        self._events = counter("events", "Events of committed epochs by what became of them.", "verdict")
        self._consumed = counter("consumed_events", "Events of committed epochs.")
        self._rejected = counter(
            "rejected_events", "Rejected events of committed epochs by their first problem.", "code"
        )
        self._lost = counter("lost_offsets", "Offsets that were gone before they were read, by --accept-gap.")
        self._epochs = counter("epochs", "Epochs committed.")
        self._files = counter("files", "Data files put.")
        self._retries = counter("retries", "Requests to source or store that were tried again.", "where")
        self._conflicts = counter("commit_conflicts", "Plans and commits that another run had put before.", "what")
        self._warnings = counter("warnings", "Things that went wrong and did not stop the run.", "code")
        self._pending = gauge("pending_events", "Events held until the watermark passes them.")
        self._lag = gauge("lag_messages", "Messages of a partition that are not yet read.", "topic", "partition")
        self._state = gauge("state_bytes", "State of the operators as the newest commit names it.")
        self._memory = gauge("state_memory_bytes", "State of the operators in memory.")
        self._spilled = gauge("spilled_bytes", "State of the operators on local disk, beyond the memory budget.")
        self._committed = gauge("last_commit_timestamp_seconds", "When the newest commit was put.")
        self._mark = gauge("watermark_timestamp_seconds", "Event time up to which all events are taken to have come.")
        delay = gauge("watermark_delay_seconds", "How far the watermark is behind the clock.")
        delay.labels(pipeline).set_function(self._delay)
        self._epoch = gauge("epoch_number", "The newest committed epoch.")
        self._term = gauge("term_number", "The run's term.")
        self._seconds = Histogram(
            "penstock_epoch_duration_seconds",
            "Seconds an epoch took, by stage: reading and judging, putting files, the last ones and state, all of it.",
            (*own, "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        Info("penstock_build", "Penstock's version.", registry=self.registry).info({"version": version})
        # A counter that is not there yet cannot be told from one that is not exported: show zeros.
        for verdict in _VERDICTS:
            self._events.labels(pipeline, verdict)
        for one in (self._consumed, self._lost, self._epochs, self._files):
            one.labels(pipeline)
        for what in ("plan", "commit"):
            self._conflicts.labels(pipeline, what)
        for where in ("source", "store"):
            self._retries.labels(pipeline, where)

    def take(self, event: dict[str, Any]) -> None:
        """Take in one event of the engine (see `Pipeline.run`, `on_event`)."""
        self._alive = self._clock()
        kind = str(event.get("event"))
        if kind == "started":
            self.ready = True
            self._term.labels(self._pipeline).set(event["term"])
        elif kind == "committed":
            self._take_commit(event)
        elif kind == "lag":
            self._take_lag(event["partitions"])
        elif kind == "conflict":
            self._conflicts.labels(self._pipeline, str(event["what"])).inc()
        elif kind == "retry":
            self._retries.labels(self._pipeline, str(event["where"])).inc(int(event.get("count", 1)))
        elif kind == "gap":
            self._lost.labels(self._pipeline).inc(int(event["to"]) - int(event["from"]))
        elif kind == "warning":
            self._warnings.labels(self._pipeline, str(event.get("code", "other"))).inc()

    def _take_commit(self, event: dict[str, Any]) -> None:
        name, counts = self._pipeline, event["counts"]
        self._consumed.labels(name).inc(counts["consumed"])
        for verdict in _VERDICTS:
            self._events.labels(name, verdict).inc(max(counts[verdict], 0))
        for code, n in counts["rejected_by_code"].items():
            self._rejected.labels(name, code).inc(n)
        self._pending.labels(name).inc(counts["pending"])
        self._epochs.labels(name).inc()
        self._files.labels(name).inc(event["files"])
        self._epoch.labels(name).set(event["epoch"])
        self._committed.labels(name).set(self._clock())
        for stage, seconds in zip(_STAGES, event["seconds"], strict=True):
            self._seconds.labels(name, stage).observe(seconds)
        self._state.labels(name).set(event.get("state_bytes", 0))
        self._memory.labels(name).set(event.get("memory_bytes", 0))
        self._spilled.labels(name).set(event.get("spilled_bytes", 0))
        self._move(event.get("watermark"))

    def _take_lag(self, partitions: list[dict[str, Any]]) -> None:
        name = self._pipeline
        seen = set()
        for partition in partitions:
            labels = (str(partition["topic"]), str(partition["partition"]))
            seen.add(labels)
            self._lag.labels(name, *labels).set(partition["lag"])
        for gone in self._partitions - seen:
            self._lag.remove(name, *gone)
        self._partitions = seen

    def _move(self, watermark: int | None) -> None:
        if watermark is not None:
            self._watermark = watermark / 1e6
            self._mark.labels(self._pipeline).set(self._watermark)

    def _delay(self) -> float:
        return float("nan") if self._watermark is None else max(self._clock() - self._watermark, 0.0)

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return max(self._clock() - self._alive, 0.0)


class Exporter:
    """Serves metrics while its context is open.

    Args:
        metrics: What is served.
        address: `host:port`; port 0 takes a free one.
        stall: Seconds of silence after which `/healthz` answers 503.

    Raises:
        SettingsError: The address is none, or cannot be listened at.
    """

    def __init__(self, metrics: Metrics, address: str, *, stall: float = STALL_SECONDS) -> None:
        self._metrics = metrics
        self._stall = stall
        self._show = make_wsgi_app(metrics.registry)
        host, port = parse_address(address)
        try:
            self._server = make_server(host, port, self._answer, ThreadingWSGIServer, handler_class=_Quiet)
        except OSError as error:
            raise SettingsError(
                f"--metrics {address}: cannot listen there: {error.strerror or error}; name another port, or 0 for a "
                "free one",
                name="metrics",
            ) from None
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="penstock-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.ready = False
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return list(self._show(environ, start))
        if path == "/healthz":
            silent = self._metrics.silence
            good = silent <= self._stall
            found = {"alive": good, "silent_seconds": round(silent, 1)}
        elif path == "/readyz":
            good = self._metrics.ready
            found = {"ready": good}
        else:
            start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"/metrics, /healthz, /readyz\n"]
        start("200 OK" if good else "503 Service Unavailable", [("Content-Type", "application/json")])
        return [json.dumps(found).encode() + b"\n"]


class _Quiet(WSGIRequestHandler):
    timeout = 30

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Scrapes are no news."""


def parse_address(address: str) -> tuple[str, int]:
    """`host:port`, `:port` (this machine alone) or `[::1]:port`.

    Raises:
        SettingsError: It is none.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"--metrics {address}: not an address; write 127.0.0.1:9464", name="metrics")
    return host, int(port)
