"""The job of run.py beside Spark on two cores of this machine; `make bench-spark` brings PySpark.

    python benches/compare/spark.py --spark PYTHON [--events 1000000] [--rounds 3]

PYTHON is one that has PySpark. The rows are compared before anything is timed; peak memory is that of the largest
process. The table goes to standard output and to benches/out/spark.md, the numbers to benches/out/spark.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import common
import run

HEADER = ["job", "wall", "of spark's", "CPU", "peak memory", "rows"]


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spark", required=True, metavar="PYTHON")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    told = [options.spark, "-c", "import pyspark; print(pyspark.__version__)"]
    version = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    where = common.machine()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        source, out, log = folder / "events.jsonl", folder / "out", folder / "log"
        expected = run.generate(source, options.events)
        job = [options.spark, str(common.HERE / "spark_job.py"), str(source), str(out / "spark")]
        all_of_them = [
            *(one for one in run.contestants(source, out) if one.name.startswith("penstock")),
            run.Contestant(f"spark {version}, local[2]", job, str(out / "spark" / "*.parquet")),
        ]
        run.check(all_of_them, out, log, expected)
        for _ in range(options.rounds):
            for one in all_of_them:
                common.empty(out)
                wall, cpu, memory = common.measure(one.command, log)
                one.wall.append(wall)
                one.cpu.append(cpu)
                one.memory.append(memory)
    spark = statistics.median(all_of_them[-1].wall)
    cells = [
        [
            one.name,
            f"{statistics.median(one.wall):.2f} s",
            "1" if one is all_of_them[-1] else f"1/{spark / statistics.median(one.wall):.1f}",
            f"{statistics.median(one.cpu):.2f} s",
            f"{statistics.median(one.memory):,.0f} MiB",
            f"{one.rows:,}",
        ]
        for one in all_of_them
    ]
    text = (
        f"{options.events:,} events; medians of {options.rounds}; whole processes.\n{common.described(where)}\n\n"
        f"{common.table(HEADER, cells)}"
    )
    common.keep("spark", text, {"machine": where, "spark": version, "jobs": [asdict(one) for one in all_of_them]})


if __name__ == "__main__":
    main()
