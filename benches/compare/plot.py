"""Time and memory against the number of events: Penstock, Polars, DuckDB.

    python benches/compare/plot.py [--millions 0.5 1 2 4] [--rounds 1] [--draw]

The job and the contestants are those of run.py, which compares their rows. The numbers go to benches/out/plot.json,
where those of other sizes stay; the picture goes to docs/images/growth.svg, and `pages.py` puts it into its page. With
`--draw` nothing is measured. Polars needs a GiB of memory for each million.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import run

PICTURE = common.HERE.parents[1] / "docs" / "images" / "growth.svg"
NUMBERS = common.OUT / "plot.json"
SHOWN = {
    "penstock run, defaults": "Penstock, defaults: Bronze and Silver, synced to disk",
    "penstock run, layers [silver], durability process": "Penstock, Silver",
    "polars": "Polars",
    "duckdb": "DuckDB",
}
COLOURS = ["#1b5e20", "#43a047", "#e65100", "#1565c0"]


def measure(millions: float, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of wall time and peak memory of each contestant."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        source, out, log = folder / "events.jsonl", folder / "out", folder / "log"
        run.generate(source, round(millions * 1e6))
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SHOWN}
        for _ in range(rounds):
            for contestant in run.contestants(source, out):
                if contestant.name in SHOWN:
                    common.empty(out)
                    found[contestant.name].append(common.measure(contestant.command, log))
                    print(f"{millions} M, {contestant.name}: {found[contestant.name][-1]}", file=sys.stderr)
    return {
        name: {
            "wall": statistics.median(wall for wall, _, _ in times),
            "memory": statistics.median(memory for _, _, memory in times),
        }
        for name, times in found.items()
    }


def draw(numbers: dict[str, Any]) -> None:
    """Two plots side by side."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "penstock", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    )
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    sizes = sorted(numbers["sizes"], key=float)
    for axis, what, scale, title in (
        (axes[0], "wall", 1.0, "wall time, s"),
        (axes[1], "memory", 1 / 1024, "peak memory, GiB"),
    ):
        for (name, label), colour in zip(SHOWN.items(), COLOURS, strict=True):
            heights = [numbers["sizes"][size][name][what] * scale for size in sizes]
            axis.plot([float(size) for size in sizes], heights, marker="o", label=label, color=colour)
        axis.set(title=title, xlabel="million events", xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    text = (
        "![Wall time and peak memory against the number of events](images/growth.svg)\n\n"
        f"`make bench-plot`. {common.described(numbers['machine'])}"
    )
    common.keep("plot", text, numbers)


def main() -> None:
    """Measure, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    options = parser.parse_args()
    numbers: dict[str, Any] = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"sizes": {}}
    if not options.draw:
        numbers["machine"] = common.machine()
        for millions in options.millions:
            numbers["sizes"][str(millions)] = measure(millions, options.rounds)
            common.OUT.mkdir(exist_ok=True)
            NUMBERS.write_text(json.dumps(numbers, indent=2) + "\n")
    draw(numbers)


if __name__ == "__main__":
    main()
