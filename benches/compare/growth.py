"""How cost grows with work: 1, 2, 4, … million events that come at one rate, so that live state stays the same.

    python benches/compare/growth.py [--most 8] [--rounds 3] [--defaults]

`penstock run` reads a file of so many million events, a million a day, until it is caught up; whole processes are
measured, as in run.py. There is one file at a time (390 MB a million), in the folder for temporary files. Time should
grow as the events do, and the peak of memory stay as it is from two million on: two columns hold each against the run
over two million. The table goes to standard output and to benches/out/growth.md, the numbers to growth.json beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import common
import run

from penstock import _core

HEADER = ["events", "wall", "CPU", "seconds a million", "against 2 M", "peak memory", "against 2 M"]
MILLION = 1_000_000
RATE = MILLION / 86_400


def generate(target: Path, events: int) -> None:
    """Writes so many events at the one rate."""
    flawed = {"bad_rate": 0.01, "duplicate_rate": 0.02}
    options = {"total": events, "seed": 42, "users": 50_000, "events_per_second": RATE, **flawed}
    _core.generate("ecommerce", json.dumps(options), target)
    common.settle(target)


def cells(rows: list[dict[str, float]]) -> list[list[str]]:
    """The medians; ratios to the run over two million, where there is one."""
    base = next((row for row in rows if row["millions"] == 2), rows[0])
    of_base = base["wall"] / base["millions"]
    return [
        [
            f"{row['millions']:.0f} M",
            f"{row['wall']:.2f} s",
            f"{row['cpu']:.2f} s",
            f"{row['wall'] / row['millions']:.2f}",
            f"{row['wall'] / row['millions'] / of_base:.2f}",
            f"{row['memory']:,.0f} MiB",
            f"{row['memory'] / base['memory']:.2f}",
        ]
        for row in rows
    ]


def main() -> None:
    """Generates, measures, prints, size by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8, help="millions of events at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--defaults", action="store_true", help="with Bronze, synced to disk, not Silver alone")
    options = parser.parse_args()

    settings: dict[str, object] = {} if options.defaults else {"layers": ["silver"], "durability": "process"}
    where, rows = common.machine(), []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        source, out, log = folder / "events.jsonl", folder / "out", folder / "log"
        millions = 1
        while millions <= options.most:
            print(f"{millions} million", file=sys.stderr)
            generate(source, millions * MILLION)
            job = run.penstock_run("", out, {"source.files.paths": [str(source)]} | settings)
            run.take_turns([job], options.rounds, out, log)
            found = {"wall": job.wall, "cpu": job.cpu, "memory": job.memory}
            rows.append({"millions": millions} | {what: statistics.median(all_) for what, all_ in found.items()})
            millions *= 2
    text = (
        f"penstock run, {'defaults' if options.defaults else 'layers [silver], durability process'}; medians of "
        f"{options.rounds}; a million events a day, 50,000 users.\n{common.described(where)}\n\n"
        f"{common.table(HEADER, cells(rows))}"
    )
    common.keep("growth", text, {"machine": where, "rows": rows})


if __name__ == "__main__":
    main()
