"""How cost grows with work: 1, 2, 4, … million events that come at one rate, so that live state stays the same.

    python benches/compare/growth.py [--most 8] [--rounds 1] [--defaults]

`penstock run` reads a file of so many million events, a million a day, until it is caught up; whole processes are
measured, as in run.py. Each file (390 MB a million) lies in a temporary folder of this clone and goes when it was read.
Time should grow as the events do, and the peak of memory stay as it is from two million on: the last columns hold each
against the run over two million. The table goes to standard output and to benches/out/growth.md, the numbers to
benches/out/growth.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from run import CONTRACT, HERE, OUT, empty, machine, measure

from penstock import _core

MILLION = 1_000_000
RATE = MILLION / 86_400


def generate(target: Path, events: int) -> None:
    """Writes so many events at the one rate."""
    flawed = {"bad_rate": 0.01, "duplicate_rate": 0.02}
    options = {"total": events, "seed": 42, "users": 50_000, "events_per_second": RATE, **flawed}
    _core.generate("ecommerce", json.dumps(options), target)


def command(source: Path, lake: Path, *, defaults: bool) -> list[str]:
    """The run over a file."""
    settings = {"contract": CONTRACT, "source.files.paths": json.dumps([str(source)]), "lake": str(lake)}
    if not defaults:
        settings |= {"layers": '["silver"]', "durability": "process"}
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    run = [sys.executable, "-m", "penstock", "run", str(HERE / "pipeline.yaml"), "--until-caught-up", "--json"]
    return [*run, *options]


def table(rows: list[dict[str, float]]) -> str:
    """The medians as markdown; ratios to the run over two million, where there is one."""
    base = next((row for row in rows if row["millions"] == 2), rows[0])
    lines = [
        "| events | wall | CPU | seconds a million | against 2 M | peak memory | against 2 M |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        each, of_base = row["wall"] / row["millions"], base["wall"] / base["millions"]
        lines.append(
            f"| {row['millions']:.0f} M | {row['wall']:.2f} s | {row['cpu']:.2f} s | {each:.2f} "
            f"| {each / of_base:.2f} | {row['memory']:,.0f} MiB | {row['memory'] / base['memory']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Generates, measures, prints, size by size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8, help="millions of events at most")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--defaults", action="store_true", help="with Bronze, synced to disk, not Silver alone")
    options = parser.parse_args()

    OUT.mkdir(parents=True, exist_ok=True)
    where, rows = machine(), []
    with tempfile.TemporaryDirectory(prefix="growth-", dir=OUT) as name:
        folder = Path(name)
        millions = 1
        while millions <= options.most:
            source = folder / "events.jsonl"
            print(f"{millions} million", file=sys.stderr)
            generate(source, millions * MILLION)
            measured = []
            for _ in range(options.rounds):
                empty(folder / "out")
                job = command(source, folder / "out" / "lake", defaults=options.defaults)
                measured.append(measure(job, folder / "log"))
            wall, cpu, memory = (statistics.median(values) for values in zip(*measured, strict=True))
            rows.append({"millions": millions, "wall": wall, "cpu": cpu, "memory": memory})
            millions *= 2
    text = (
        f"penstock run, {'defaults' if options.defaults else 'layers [silver], durability process'}; medians of "
        f"{options.rounds}; a million events a day, 50,000 users.\n"
        f"{where['cpu']}, {where['cores']} cores, {where['memory']}, load {where['load']} before; Python "
        f"{where['python']}, penstock {where['penstock']}.\n\n{table(rows)}\n"
    )
    (OUT / "growth.md").write_text(text)
    (OUT / "growth.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
