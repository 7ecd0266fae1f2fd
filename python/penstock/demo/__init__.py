"""The demo: a ready-made pipeline from Kafka to what people look at, compared with the truth about the events.

Each has a module of its own, by its name.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from penstock._demo_stream import DemoStream
from penstock.demo.folder import look, make
from penstock.errors import SettingsError
from penstock.generate import generate
from penstock.kafka import is_secret
from penstock.pipeline import Pipeline
from penstock.resources import ready_made_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PIPELINES = ("ecommerce", "payments")
# Below the 1 % at which the dead-letter check alerts, so that the demo's last day passes it.
BAD_RATE = 0.005


@dataclass
class Step:
    """One step, and how it went: `ok`, `skipped` or `failed`."""

    name: str
    status: str = "ok"
    seconds: float = 0.0
    said: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, Any]] = field(default_factory=list)


class Demo:
    """A demo in a folder of its own.

    Attributes:
        pipeline: The ready-made pipeline.
        start: The first day of its events.
        days: For how many days they happen.
        topic: On a broker of our own.
        after: The steps that read the lake alone.

    Args:
        folder: What an earlier demo made there is made anew.
        events: How many events.
        seed: Another seed, other events.
        progress: Show it; None: in a terminal.
        brokers: A real Kafka; None: a broker in this process.
        kafka: librdkafka's own settings for it.
        from_files: No Kafka at all: events go through a file.
    """

    pipeline: str
    start: str
    days: int
    topic: str
    after: tuple[str, ...]

    def __init__(
        self,
        folder: Path,
        *,
        events: int,
        seed: int,
        progress: bool | None,
        brokers: str | None = None,
        kafka: Mapping[str, str] | None = None,
        from_files: bool = False,
    ) -> None:
        self.folder = folder
        self.events = events
        self.seed = seed
        self.progress = progress
        self.disagreements: list[str] = []
        self.truth: dict[str, Any] = {}
        self.stream = None if from_files else DemoStream(brokers, settings=kafka, topic=None if brokers else self.topic)

    def run(self, show: Callable[[Step], object] = lambda _: None) -> dict[str, Any]:
        """Run all steps; `show` is called after each.

        Returns:
            `ok`, `seconds`, `steps`, `ledger`, `truth`, `disagreements`.
        """
        began = time.perf_counter()
        steps: list[Step] = []
        with self.stream or contextlib.nullcontext():
            self._prepare()
            self._take_steps(("produce", "run"), steps, show)
        self._take_steps(self.after, steps, show)
        return {
            "ok": not self.disagreements,
            "seconds": round(time.perf_counter() - began, 3),
            "steps": [
                {"name": s.name, "status": s.status, "seconds": round(s.seconds, 3), "said": s.said, **s.detail}
                for s in steps
            ],
            "ledger": self.ledger.to_dict(),
            "truth": self.truth,
            "disagreements": self.disagreements,
        }

    def _take_steps(self, names: tuple[str, ...], steps: list[Step], show: Callable[[Step], object]) -> None:
        for name in names:
            step, start = Step(name), time.perf_counter()
            getattr(self, f"_{name}")(step)
            step.seconds = time.perf_counter() - start
            steps.append(step)
            show(step)

    def _prepare(self) -> None:
        folder = self.folder
        # All that can be refused is refused before anything is removed.
        made = look(folder, self.pipeline)
        if made and self.stream and not self.stream.is_ours:
            self.stream.knock()
        self._check()
        make(folder, self.pipeline, made)
        file = folder / "pipeline.yaml"
        source = self.stream.source() if self.stream else {"files": {"paths": ["in/*.jsonl"], "bounded": True}}
        for name, value in source.get("kafka", {}).items():
            if is_secret(name):
                variable = f"PENSTOCK_DEMO_{re.sub('[^A-Z]', '_', name.upper())}"
                os.environ[variable] = str(value)
                source["kafka"][name] = f"${{{variable}}}"
        block = yaml.safe_dump({"source": source}, sort_keys=False)
        if self.stream and self.stream.is_ours:
            block = _GONE + block
        # Everything up to the next key at the left edge.
        text = re.sub(r"(?ms)^source:.*?(?=^[a-z])", lambda _: block, file.read_text(encoding="utf-8"))
        file.write_text(self._settle(text), encoding="utf-8")
        self.flow = Pipeline.load(folder / "pipeline.yaml")

    def _check(self) -> None:
        """See whether the demo's places can be had; changes nothing.

        Raises:
            PenstockError: They cannot.
        """

    def _settle(self, pipeline: str) -> str:
        """The text of the pipeline file, as this demo needs it."""
        return pipeline

    def advice(self) -> list[str]:
        """What to type to look around."""
        return [
            f"cd {shlex.quote(str(self.folder))}",
            "penstock inspect pipeline.yaml",
            "penstock contract check contract.yaml",
        ]

    @property
    def last_day(self) -> str:
        """The last day of its events."""
        return (dt.date.fromisoformat(self.start) + dt.timedelta(days=self.days - 1)).isoformat()

    def _compare(self, what: str, found: object, expected: object, step: Step) -> bool:
        if found == expected:
            return True
        step.status = "failed"
        self.disagreements.append(f"{what}: {found} found, {expected} expected")
        return False

    def _produce(self, step: Step) -> None:
        options: dict[str, Any] = {
            "total": self.events, "seed": self.seed, "bad_rate": BAD_RATE, "start": self.start,
            "span": f"{self.days}d",
        }  # fmt: skip
        if self.stream:
            self.stream.fill(self.pipeline, **options)
            step.said = f"{self.events:,} events on their way into {self.stream.place}"
            return
        path = self.folder / "in" / "events.jsonl"
        self._know(generate(self.pipeline, path, progress=self.progress, **options))
        step.said = f"{self._made} in {path}"

    def _know(self, truth: dict[str, Any]) -> None:
        self.truth = truth
        (self.folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")

    @property
    def _made(self) -> str:
        expected = self.truth["expected"]
        return (
            f"{self.truth['total']:,} events of {self.truth['users']:,} users, {expected['rejected']:,} broken on "
            f"purpose, {expected['duplicate']:,} sent twice"
        )

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Callable[[dict[str, Any]], object]]:
        if self.progress is False or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console

        from penstock.view import RunView

        with RunView(self.pipeline, Console(stderr=True)) as view:
            yield view.take

    def _run(self, step: Step) -> None:
        began = time.perf_counter()
        if self.stream:
            with self._watched() as watch:
                ledger = self.stream.drain(self.flow, watch)
            self._know(self.stream.produced)
            self._compare("lag at the end", self.stream.lag, 0, step)
            lag = f"{self._made}; lag {self.stream.most_lag:,} at most, {self.stream.lag} at the end; "
        else:
            ledger, lag = self.flow.run(until_caught_up=True, progress=self.progress), ""
        self.ledger = ledger
        expected = self.truth["expected"]
        for name in ("consumed", "silver", "rejected", "duplicate", "late", "rejected_by_code"):
            self._compare(f"ledger, {name}", getattr(ledger, name), expected[name], step)
        self._compare("ledger, pending", ledger.pending, 0, step)
        self._compare("ledger balances", ledger.balanced, True, step)
        rate = ledger.consumed / (time.perf_counter() - began)
        step.said = f"{lag}{self._landed(step)}, {ledger.dead_letters:,} dead letters, {rate:,.0f} events/s"
        step.tables.append(("ledger", (ledger, {"pending": 0, **expected})))

    def _landed(self, step: Step) -> str:
        """Where the run has brought the events."""
        raise NotImplementedError

    def _quality(self, step: Step) -> None:
        from penstock.quality import run_checks

        report = run_checks(self.flow.spec(), self.last_day)
        step.detail = report.as_dict()
        step.said = (
            f"{len(report.checks) - len(report.failed)} of {len(report.checks)} checks passed for {self.last_day}"
        )
        step.tables.append(("checks", [(c.name, c.passed, c.message) for c in report.checks]))
        for check in report.failed:
            step.status = "failed"
            self.disagreements.append(f"quality, {check.name}: {check.message}")

    def _audit(self, step: Step) -> None:
        found = self.flow.audit()
        failed = [check for check in found.checks if not check.passed]
        step.said = (
            f"{len(found.checks) - len(failed)} of {len(found.checks)} checks passed, counted again from the files"
        )
        step.tables.append(("checks", [(c.name, c.passed, c.detail) for c in found.checks]))
        if not found.balanced:
            step.status = "failed"
            self.disagreements += [f"audit, {check.name}: {check.detail}" for check in failed] or [
                "audit: does not balance"
            ]


def of(pipeline: str, folder: Path, **options: Any) -> Demo:
    """The demo of a ready-made pipeline.

    Args:
        pipeline: Its name.
        folder: What an earlier demo made there is made anew.
        options: As `Demo` takes them, and its own.

    Raises:
        SettingsError: There is no such pipeline, or it has no demo.
    """
    ready_made_folder(pipeline)
    if pipeline == "ecommerce":
        from penstock.demo.ecommerce import Ecommerce

        return Ecommerce(folder, **options)
    if pipeline == "payments":
        from penstock.demo.payments import Payments

        return Payments(folder, **options)
    raise SettingsError(f"pipeline {pipeline!r}: it has no demo; there are: {', '.join(PIPELINES)}")


_GONE = """\
# This broker was part of the demo and ended with it. To run the pipeline again put the address of your Kafka in its
# place, such as localhost:9092, and your topic; or read files: `files: {paths: ["in/*.jsonl"]}` in place of `kafka`.
"""
