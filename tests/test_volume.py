"""Millions of messages through Kafka to committed Silver: none lost, none doubled, and memory that stays flat."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock import read_lake
from penstock.producer import produce
from penstock.resources import copy_out
from services.kafka import KafkaBroker

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = 0.2


def resident(pid: int) -> int:
    """What a process holds in memory now, in KiB; without pages of files, which the system may take back."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def watched(command: list[str], folder: Path) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """Run a command that ends with a line of JSON; gives that, and its memory over time (seconds, KiB)."""
    samples = []
    with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
        running = subprocess.Popen(command, cwd=folder, stdout=said, stderr=errors, text=True)
        began = time.perf_counter()
        try:
            while running.poll() is None:
                samples.append((time.perf_counter() - began, resident(running.pid)))
                time.sleep(EVERY)
        finally:
            running.kill()
    assert running.returncode == 0, (folder / "errors").read_text()[-3000:]
    return dict(json.loads((folder / "said").read_text().splitlines()[-1])), samples


def drain(broker: KafkaBroker, folder: Path, figure: Callable[..., None], *, total: int, partitions: int) -> None:
    topic = f"volume_{total}"
    # A month of events and a day's horizon: what deduplication has to remember is full early, and stays so.
    sent = produce(
        "ecommerce",
        brokers=broker.bootstrap,
        topic=topic,
        partitions=partitions,
        total=total,
        seed=12,
        span="30d",
        users=50_000,
        progress=False,
    )
    assert sent["delivered"] == total == sum(broker.end_offsets(topic).values())
    copy_out("ecommerce", folder)
    kafka = {"topics": [topic], "group": "volume", "brokers": broker.bootstrap}
    command = [sys.executable, "-m", "penstock", "run", "pipeline.yaml", "--until-caught-up", "--drain", "--json"]
    command += ["--quiet", "--set", f"source={json.dumps({'kafka': kafka})}"]
    command += ["--set", f"epoch.max_events={total // 50}"]
    told, samples = watched(command, folder)

    expected = sent["expected"]
    for name in ("consumed", "silver", "rejected", "duplicate", "late", "pending", "rejected_by_code"):
        assert told[name] == expected[name], name
    assert told["balanced"] and told["run"]["epochs"] >= 40
    keys = read_lake(folder / "lake", "silver/events").to_pyarrow().column("idempotency_key")
    assert len(keys) == len(keys.unique()) == expected["silver"]

    seconds = told["run"]["seconds"]
    report = {
        "events": total,
        "bytes": sent["bytes"],
        "epochs": told["run"]["epochs"],
        "produced_per_second": round(total / sent["seconds"]),
        "drained_per_second": round(total / seconds),
        "memory_mib": [(round(at, 1), held // 1024) for at, held in samples],
    }
    fifths = [samples[len(samples) * i // 5 : len(samples) * (i + 1) // 5] for i in range(5)]
    medians = [statistics.median(held for _, held in fifth) / 1024 for fifth in fifths]
    figure(
        f"volume of {total:,} messages ({sent['bytes'] / 1e6:,.0f} MB)",
        **{
            "produced": f"{report['produced_per_second']:,}/s",
            "drained to Silver": f"{report['drained_per_second']:,}/s in {told['run']['epochs']} epochs",
            "MiB by fifths of the time": " ".join(f"{m:.0f}" for m in medians),
            "at most": f"{max(held for _, held in samples) / 1024:,.0f} MiB",
        },
        lost=0,
        duplicated=0,
    )
    place = os.environ.get("PENSTOCK_VOLUME_REPORT")
    if place:
        Path(place).write_text(json.dumps(report, indent=1) + "\n")
    # Flat: what the last fifth needs is what the third did, give or take what allocators do. (The first two are the
    # start of the process, and its buffers and the client's queues filling up.)
    assert medians[4] < medians[2] * 1.25 + 32, medians


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the memory of a child")
def test_six_hundred_thousand_messages(tmp_path: Path, figure: Callable[..., None]) -> None:
    with KafkaBroker() as broker:
        drain(broker, tmp_path, figure, total=600_000, partitions=4)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_five_million_messages(tmp_path: Path, figure: Callable[..., None]) -> None:
    with KafkaBroker(quick=False, heap="1g") as broker:
        drain(broker, tmp_path, figure, total=5_000_000, partitions=4)
