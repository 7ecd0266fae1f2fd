"""How fast a topic is drained: `penstock run` to committed Silver, beside a bare librdkafka consumer that only counts.

    python benches/compare/kafka.py [--events 1000000] [--partitions 4] [--rounds 3] [--brokers HOST:PORT]

A real Kafka is started on loopback (see tests/services/kafka.py) unless one is named. The contestants take turns on
one topic; printed are medians and their ratio. Everything runs on one machine: broker and consumer share its cores.
The table goes to standard output and to benches/out/kafka.md, the numbers to benches/out/kafka.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.producer import produce

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = HERE.parent / "out"
CONTRACT = str(files("penstock") / "pipelines" / "ecommerce" / "contract.yaml")


@contextlib.contextmanager
def broker(named: str | None) -> Iterator[str]:
    """The address of a Kafka."""
    if named:
        yield named
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from services.kafka import KafkaBroker

    with KafkaBroker(quick=False, heap="1g") as running:
        yield running.bootstrap


def build(profile: str) -> Path:
    """The bare consumer."""
    command = ["cargo", "build", "--quiet", "--locked", "--profile", profile, "--features", "kafka"]
    command += ["--example", "bare_consumer", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(f["executable"] for f in found if f.get("target", {}).get("name") == "bare_consumer"))


def bare(program: Path, brokers: str, topic: str) -> dict[str, Any]:
    """Drain the topic with nothing but librdkafka."""
    done = subprocess.run([str(program), brokers, topic], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def drain(brokers: str, topic: str, folder: Path, **settings: object) -> dict[str, Any]:
    """Drain it to a lake; the seconds are those of the run, from its start to the last commit."""
    kafka = {"topics": [topic], "group": "bench", "brokers": brokers}
    own = {"contract": CONTRACT, "source": {"kafka": kafka}, "lake": str(folder / "lake"), **settings}
    command = [sys.executable, "-m", "penstock", "run", str(HERE / "pipeline.yaml"), "--until-caught-up", "--json"]
    command += ["--quiet"]
    for name, value in own.items():
        command += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    wall = time.perf_counter() - began
    ledger = json.loads(done.stdout)
    assert ledger["balanced"], ledger
    shutil.rmtree(folder / "lake")
    return {"messages": ledger["consumed"], "seconds": ledger["run"]["seconds"], "wall": wall}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brokers")
    parser.add_argument("--profile", default="fast", help="how the bare consumer is built")
    options = parser.parse_args()
    program = build(options.profile)
    topic = f"bench_{int(time.time())}"
    with broker(options.brokers) as brokers, tempfile.TemporaryDirectory() as work:
        sent = produce(
            "ecommerce", brokers=brokers, topic=topic, partitions=options.partitions, total=options.events, seed=42,
            span="30d", progress=False,
        )  # fmt: skip
        contestants = {
            "bare librdkafka consumer, counting": lambda: bare(program, brokers, topic),
            "penstock run, layers [silver], durability process": lambda: drain(
                brokers, topic, Path(work), layers=["silver"], durability="process"
            ),
            "penstock run, defaults": lambda: drain(brokers, topic, Path(work)),
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in contestants.items():
                found = run()
                assert found["messages"] == sent["delivered"], (name, found, sent["delivered"])
                rounds[name].append(found)
    rates = {name: options.events / statistics.median(r["seconds"] for r in runs) for name, runs in rounds.items()}
    first = next(iter(rates.values()))
    lines = [
        f"{options.events:,} events, {options.partitions} partitions, {sent['bytes'] / options.events:.0f} bytes each",
        f"{options.rounds} rounds, {os.cpu_count()} cores ({platform.machine()}), broker on the same machine",
        "",
        f"produced: {sent['delivered'] / sent['seconds']:,.0f} events/s",
        "",
        "| drain | seconds | events/s | beside the bare consumer |",
        "|---|---:|---:|---:|",
    ]
    for name, runs in rounds.items():
        seconds = statistics.median(r["seconds"] for r in runs)
        lines.append(f"| {name} | {seconds:.2f} | {rates[name]:,.0f} | {rates[name] / first:.2f} |")
    table = "\n".join(lines)
    OUT.mkdir(exist_ok=True)
    (OUT / "kafka.md").write_text(table + "\n")
    (OUT / "kafka.json").write_text(
        json.dumps({"rounds": rounds, "rates": rates, "produced": sent["seconds"]}, indent=2)
    )
    print(table)


if __name__ == "__main__":
    main()
