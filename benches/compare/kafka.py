"""A topic drained to committed Silver, beside the same events from a file and a consumer that only counts.

    python benches/compare/kafka.py [--events 1000000] [--rounds 5] [--partitions 4] [--brokers HOST:PORT]

The consumer is librdkafka alone (bare_consumer.rs). A real Kafka is started on loopback (tests/services/kafka.py)
unless one is named; broker and contestants share this machine's cores. The events of the file are sent to the topic, by
user, and one event for each partition after them, hours later: so the watermark passes all others, and the rows of
topic and file have to be the same. They are compared before anything is timed. Whole processes are measured, and the
contestants take turns; the table holds medians. It goes to standard output and to benches/out/kafka.md, the numbers to
benches/out/kafka.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import common
import run

from penstock import _core

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = common.HERE.parents[1]
HEADER = ["job", "wall", "events/s", "CPU", "peak memory", "of file + consumer"]
# The last events of a topic: so much later than all others.
LATER = 6 * 3_600_000_000


@contextlib.contextmanager
def broker(named: str | None) -> Iterator[str]:
    """The address of a Kafka. Where none can be had, that is said, and the process ends: others can be measured."""
    if named:
        yield named
        return
    sys.path.insert(0, str(ROOT / "tests"))
    import pytest

    from services.kafka import KafkaBroker

    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(KafkaBroker(quick=False, heap="1g"))
        except pytest.skip.Exception as reason:
            print(f"{Path(sys.argv[0]).name} is left out. {reason}", file=sys.stderr)
            sys.exit(0)
        yield running.bootstrap


def fill(brokers: str, events: int, partitions: int) -> str:
    """Sends the events that run.py writes to a file; the name of the topic that has them."""
    topic = f"bench_{time.time_ns()}"
    target = {"brokers": brokers, "topic": topic, "partitions": partitions, "settings": {}}
    given = (run.asked_for(events), target, {"heartbeat": LATER})
    sent = json.loads(_core.produce("ecommerce", *(json.dumps(part) for part in given)))
    print(f"sent {sent['delivered']:,} events in {sent['seconds']:.1f} s", file=sys.stderr)
    if sent["delivered"] != events + partitions:
        sys.exit(f"{sent['delivered']:,} events were delivered, not {events + partitions:,}: {sent['undelivered']}")
    return topic


def drains(name: str, out: Path, brokers: str, topic: str, **settings: object) -> run.Contestant:
    """`penstock run` over the topic."""
    kafka = {"topics": [topic], "group": "bench", "brokers": brokers}
    return run.penstock_run(name, out, {"source": {"kafka": kafka}} | settings)


def bare_consumer() -> Path:
    """The program that only counts. librdkafka does the work, which every profile compiles alike."""
    command = ["cargo", "build", "--quiet", "--locked", "--profile", "fast", "--features", "kafka,s3"]
    command += ["--example", "bare_consumer", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(f["executable"] for f in found if f.get("target", {}).get("name") == "bare_consumer"))


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--brokers")
    parser.add_argument("--consumer", type=Path, help="the bare consumer, built already")
    options = parser.parse_args()
    where = common.machine()
    consumer = options.consumer or bare_consumer()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, broker(options.brokers) as brokers:
        folder = Path(name)
        source, out, log = folder / "events.jsonl", folder / "out", folder / "log"
        expected = run.generate(source, options.events)
        topic = fill(brokers, options.events, options.partitions)
        silver = {"layers": ["silver"], "durability": "process"}
        files = {"source.files.paths": [str(source)]}
        of_file = run.penstock_run("file, layers [silver], durability process", out, files | silver)
        counting = run.Contestant("topic, bare librdkafka consumer, counting", [str(consumer), brokers, topic], "")
        of_topic = drains("topic, layers [silver], durability process", out, brokers, topic, **silver)
        with_bronze = run.penstock_run("file, defaults", out, files)
        defaults = drains("topic, defaults", out, brokers, topic)
        run.check([of_file, of_topic, with_bronze, defaults], out, log, expected)
        common.measure(counting.command, log)
        counted = json.loads(log.read_text().splitlines()[-1])["messages"]
        if counted != options.events + options.partitions:
            sys.exit(f"{counting.name}: {counted:,} messages. Nothing was timed.")
        all_of_them = [of_file, counting, of_topic, with_bronze, defaults]
        run.take_turns(all_of_them, options.rounds, out, log)

    def wall(one: run.Contestant) -> float:
        return statistics.median(one.wall)

    beside = {of_topic.name: of_file, defaults.name: with_bronze}
    cells = [
        [
            one.name,
            f"{wall(one):.2f} s",
            f"{options.events / wall(one):,.0f}",
            f"{statistics.median(one.cpu):.2f} s",
            f"{statistics.median(one.memory):,.0f} MiB",
            f"{wall(one) / (wall(beside[one.name]) + wall(counting)):.2f}" if one.name in beside else "",
        ]
        for one in all_of_them
    ]
    text = (
        f"{options.events:,} events, {options.partitions} partitions, broker on the same machine; medians of "
        f"{options.rounds}; whole processes.\n{common.described(where)}\n\n{common.table(HEADER, cells)}"
    )
    common.keep("kafka", text, {"machine": where, "jobs": [asdict(one) for one in all_of_them]})


if __name__ == "__main__":
    main()
