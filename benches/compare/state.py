"""What an epoch costs as state grows: the same events through `penstock run`, with little live state and with much.

    python benches/compare/state.py [--keys 10000000] [--open 1000000] [--fewer 100000] [--epoch 100000] [--epochs 20]

The events of the two runs of a pair are the same; a longer `deduplicate.horizon` (or `sessions.gap`) keeps more of
them alive. Each event is the only one of its key, of a user who has no session open. The first epochs fill the state;
of the last ones, each of `--epoch` events, the table has medians: wall time and CPU, memory, and the state that each
wrote, beside all state that counts. Layers: Silver alone; durability: process. The table goes to standard output and
to benches/out/state.md, the numbers to benches/out/state.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import polars as pl

from penstock import Pipeline

# 2024-12-17; 200 events a second.
START, STEP = 1_734_393_600_000_000, 5_000
PIECE = 1_000_000
HEADER = ["live state", "an epoch", "ratio", "CPU", "ratio", "in memory", "checkpoint", "written by an epoch"]
CONTRACT = """
name: visits
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  visit:
    v1: {type: object, required: [type, id, at, user], properties: {type: {type: string}, id: {type: string},
         at: {type: string, format: date-time}, user: {type: string}}}
"""
PIPELINE = """
name: state
contract: contract.yaml
source: {files: {paths: ["visits.jsonl"], bounded: true}}
lake: ./lake
layers: [silver]
durability: process
watermark: {lateness: 10s}
deduplicate: {horizon: 10s}
"""


def write(target: Path, events: int) -> None:
    """Visits in the order of their times; keys and users as if drawn by lot."""
    mask = pl.lit(0xFFFF_FFFF, pl.UInt64)
    for first in range(0, events, PIECE):
        number = pl.int_range(first, min(first + PIECE, events), dtype=pl.Int64)
        # An odd factor: every number gives another key.
        key = number.cast(pl.UInt64) * 0x9E37_79B9 & mask
        frame = pl.select(number=number, key=key, at=(number * STEP + START).cast(pl.Datetime("us")))
        at = pl.col("at").dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ")
        parts = ['{"type":"visit","id":"', "key", '","user":"user_', "number", '","at":"', at, '"}']
        line = pl.concat_str(pl.lit(part) if n % 2 == 0 else part for n, part in enumerate(parts))
        lines = frame.select(line)
        with target.open("ab") as file:
            lines.write_csv(file, include_header=False, quote_style="never")


def run(folder: Path, overrides: dict[str, Any], fill: int, epoch: int, epochs: int) -> dict[str, Any]:
    """Fill the state, then measure epoch after epoch."""
    shutil.rmtree(folder / "lake", ignore_errors=True)
    found: list[dict[str, Any]] = []
    clock = [0.0]

    def told(event: dict[str, Any]) -> None:
        if event["event"] == "committed":
            now = time.process_time()
            assert event["counts"]["duplicate"] == event["counts"]["rejected"] == 0, event
            found.append({**event, "cpu": now - clock[0]})
            clock[0] = now

    def go(size: int, count: int) -> None:
        flow = Pipeline.load(folder / "pipeline.yaml", {**overrides, "epoch.max_events": size})
        clock[0] = time.process_time()
        flow.run(until_caught_up=False, max_epochs=count, progress=False, on_event=told)

    go(PIECE, fill // PIECE)
    filled = len(found)
    # The first one loads the state, and is not looked at.
    go(epoch, epochs + 1)
    last = found[filled + 1 :]
    assert len(last) == epochs, (len(found), filled)
    consumed = {one["counts"]["consumed"] for one in last}
    assert max(consumed) <= epoch, consumed
    return {
        "epochs": last,
        "wall": statistics.median(one["seconds"][3] for one in last),
        "cpu": statistics.median(one["cpu"] for one in last),
        "events": statistics.median(one["counts"]["consumed"] for one in last),
        "written": statistics.mean(one["state_written_bytes"] for one in last),
        "bytes": last[-1]["state_bytes"],
        "memory": last[-1]["memory_bytes"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--open", type=int, default=1_000_000)
    parser.add_argument("--fewer", type=int, default=100_000)
    parser.add_argument("--epoch", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    where = common.machine()
    kinds = {
        "keys": (options.keys, lambda live: {"deduplicate.horizon": f"{live * STEP}us", "memory": "4GiB"}),
        "open sessions": (options.open, lambda live: {"sessions.gap": f"{live * STEP}us", "memory": "4GiB"}),
    }
    results: dict[str, dict[str, Any]] = {}
    cells: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        (folder / "contract.yaml").write_text(CONTRACT)
        (folder / "pipeline.yaml").write_text(PIPELINE)
        for kind, (most, settings) in kinds.items():
            fill = -(-most * 11 // 10 // PIECE) * PIECE
            (folder / "visits.jsonl").unlink(missing_ok=True)
            write(folder / "visits.jsonl", fill + (options.epochs + 2) * options.epoch)
            few: dict[str, Any] = {}
            for live in (options.fewer, most):
                label = f"{live:,} {kind}"
                print(label, file=sys.stderr)
                found = results[label] = run(folder, settings(live), fill, options.epoch, options.epochs)
                few = few or found
                cells.append(
                    [
                        label,
                        f"{found['wall'] * 1000:,.0f} ms",
                        f"{found['wall'] / few['wall']:.2f}",
                        f"{found['cpu'] * 1000:,.0f} ms",
                        f"{found['cpu'] / few['cpu']:.2f}",
                        f"{found['memory'] / 2**20:,.0f} MiB",
                        f"{found['bytes'] / 2**20:,.1f} MiB",
                        f"{found['written'] / 2**20:,.2f} MiB",
                    ]
                )
    text = (
        f"Epochs of {options.epoch:,} events through `penstock run`; of {options.epochs} the medians, and the mean of "
        f"what was written.\n{common.described(where)}\n\n{common.table(HEADER, cells)}"
    )
    common.keep("state", text, {"machine": where, "runs": results})


if __name__ == "__main__":
    main()
