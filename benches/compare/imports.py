"""How long Python waits: `import penstock`, and `penstock --help`.

    python benches/compare/imports.py [--rounds 20]

Whole processes, from start to exit, beside a Python that does nothing. The table goes to standard output and to
benches/out/imports.md, the numbers to benches/out/imports.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import common

HEADER = ["process", "median", "least", "most"]
COMMANDS = {
    "python, nothing imported": ["-c", "pass"],
    "import penstock": ["-c", "import penstock"],
    "import penstock, and its engine": ["-c", "import penstock; penstock.scd2_merge"],
    "penstock --help": ["-m", "penstock", "--help"],
    "penstock run --help": ["-m", "penstock", "run", "--help"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    where = common.machine()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        # The first round, which is not counted, brings files into memory and compiles what has not been compiled.
        for number in range(options.rounds + 1):
            for name, arguments in COMMANDS.items():
                wall, _, _ = common.measure([sys.executable, *arguments], Path(folder) / "log")
                if number:
                    times[name].append(wall)
    cells = [
        [name, *(f"{value * 1000:,.0f} ms" for value in (statistics.median(found), min(found), max(found)))]
        for name, found in times.items()
    ]
    text = f"Medians of {options.rounds}; whole processes.\n{common.described(where)}\n\n{common.table(HEADER, cells)}"
    common.keep("imports", text, {"machine": where, "seconds": times})


if __name__ == "__main__":
    main()
