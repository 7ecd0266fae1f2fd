"""One job, side by side: a million events of JSON lines, validated, deduplicated, sessionised, written as Parquet.

    python benches/compare/run.py [--events 1000000] [--rounds 5] [--input FILE] [--only NAME ...]

Whole processes are measured, from start to exit: wall time, CPU time (user and system), and peak memory. The
contestants take turns, round by round; the table holds medians. Before anything is timed, the rows that each one writes
are compared with those of the first; a contestant whose rows differ is named as such in the table. The table goes to
standard output and to benches/out/compare.md, the numbers to benches/out/compare.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

import common
import polars as pl
from common import HERE, empty, measure

from penstock import _core

CONTRACT = str(files("penstock") / "pipelines" / "ecommerce" / "contract.yaml")

# What is compared, row by row. Session ids are each tool's own; the same start means the same session.
COLUMNS = [
    "idempotency_key", "event_type", "user_id", "event_timestamp", "session_start", "session_seq", "device_type", "os",
    "browser", "country", "ip_address", "page", "referrer", "load_time_ms", "user_agent", "order_id", "product_id",
    "product_category", "quantity", "amount", "currency", "payment_method", "failure_reason", "attempt", "plan_type",
    "signup_channel", "language", "marketing_consent",
]  # fmt: skip


HEADER = ["job", "wall", "against polars", "CPU", "peak memory", "rows"]

# Flaws that all tools have a notion of. Left out are bytes that are no UTF-8 (Polars stops), nesting deeper than a
# limit, and clocks that run ahead (only Penstock has such limits).
FLAWS = [
    "truncated", "not_an_object", "unknown_event_type", "hostile_event_type", "unknown_schema_version", "missing_field",
    "wrong_type", "not_allowed", "out_of_range", "bad_format", "fraction_of_a_cent", "several_problems",
]  # fmt: skip


@dataclass
class Contestant:
    """A way to do the job."""

    name: str
    command: list[str]
    glob: str
    same_rows: bool = True
    sessions: bool = True
    rows: int = 0
    differs: str = ""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def penstock_run(name: str, out: Path, settings: dict[str, object]) -> Contestant:
    """`penstock run` over the pipeline of the benchmark, with these settings, into a lake below `out`."""
    command = [sys.executable, "-m", "penstock", "run", str(HERE / "pipeline.yaml"), "--until-caught-up", "--json"]
    for key, value in ({"contract": CONTRACT, "lake": str(out / "lake")} | settings).items():
        command += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return Contestant(name, command, str(out / "lake" / "silver" / "events" / "**" / "*.parquet"))


def contestants(source: Path, out: Path) -> list[Contestant]:
    """All of them; each writes below `out`, and finds that folder empty."""
    python = sys.executable

    def job(name: str, script: str, *options: str) -> Contestant:
        target = out / "out.parquet"
        same = not options
        return Contestant(
            name, [python, str(HERE / script), str(source), str(target), *options], str(target), same_rows=same
        )

    files = {"source.files.paths": [str(source)]}
    silver = {"layers": ["silver"], "durability": "process"}
    api = [python, str(HERE / "penstock_api.py"), CONTRACT, str(source), str(out)]
    return [
        Contestant("penstock, Python API", api, str(out / "silver" / "**" / "*.parquet")),
        penstock_run("penstock run, layers [silver], durability process", out, files | silver),
        penstock_run("penstock run, defaults", out, files),
        job("polars", "polars_job.py"),
        job("polars, its own typing", "polars_job.py", "--tool-typing"),
        job("duckdb", "duckdb_job.py"),
        job("duckdb, its own typing", "duckdb_job.py", "--tool-typing"),
    ]


def asked_for(events: int) -> dict[str, object]:
    """What the generator is told: the same gives the same events, in a file and in a topic."""
    return {"total": events, "seed": 42, "bad_rate": 0.01, "duplicate_rate": 0.02, "flaws": FLAWS}


def generate(target: Path, events: int) -> int:
    """Writes the input; how many rows the job has to give."""
    options = asked_for(events)
    truth = json.loads(_core.generate("ecommerce", json.dumps(options), target))
    common.settle(target)
    return int(truth["expected_batch"]["silver"])


def rows_of(contestant: Contestant) -> pl.DataFrame:
    """What it wrote, by key."""
    types = {"event_timestamp": pl.Datetime("us", "UTC")}
    if contestant.sessions:
        types |= {"session_start": pl.Datetime("us", "UTC"), "session_seq": pl.Int64}
    rows = pl.scan_parquet(contestant.glob, hive_partitioning=False).select(columns_of(contestant)).cast(types)
    # What ends a topic is no event of the job: see kafka.py.
    return rows.filter(~pl.col("user_id").str.starts_with("heartbeat_")).sort("idempotency_key").collect()


def columns_of(contestant: Contestant) -> list[str]:
    """What is compared of its rows."""
    return [name for name in COLUMNS if contestant.sessions or not name.startswith("session_")]


def check(all_of_them: list[Contestant], out: Path, log: Path, expected: int | None) -> None:
    """Runs each once; compares its rows with those of the first, and their number with what the generator knows."""
    reference: pl.DataFrame | None = None
    for contestant in all_of_them:
        empty(out)
        measure(contestant.command, log)
        rows = rows_of(contestant)
        contestant.rows = rows.height
        if reference is None:
            reference = rows
            if expected not in (None, rows.height):
                sys.exit(
                    f"{contestant.name}: {rows.height:,} rows; the generator knows {expected:,}. Nothing was timed."
                )
        elif not rows.equals(reference.select(rows.columns)):
            ours = reference.join(rows, on=rows.columns, how="anti", nulls_equal=True).height
            theirs = rows.join(reference, on=rows.columns, how="anti", nulls_equal=True).height
            contestant.differs = f"{theirs:,} rows that should not be so, {ours:,} missing"
            if contestant.same_rows:
                sys.exit(f"{contestant.name}: {contestant.differs}. Nothing was timed.")
        print(f"  {contestant.name}: {rows.height:,} rows {contestant.differs or '(the same)'}", file=sys.stderr)


def take_turns(all_of_them: list[Contestant], rounds: int, out: Path, log: Path) -> None:
    """Measures each, round by round."""
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for contestant in all_of_them:
            empty(out)
            wall, cpu, memory = measure(contestant.command, log)
            contestant.wall.append(wall)
            contestant.cpu.append(cpu)
            contestant.memory.append(memory)


def table(all_of_them: list[Contestant]) -> str:
    """The medians as markdown."""
    polars = next((statistics.median(c.wall) for c in all_of_them if c.name == "polars"), None)
    rows = [
        [
            c.name,
            f"{statistics.median(c.wall):.2f} s",
            f"{statistics.median(c.wall) / polars:.2f}" if polars else "",
            f"{statistics.median(c.cpu):.2f} s",
            f"{statistics.median(c.memory):,.0f} MiB",
            f"{c.rows:,}{'*' if c.differs else ''}",
        ]
        for c in all_of_them
    ]
    notes = [f"\\* {c.name}: {c.differs}" for c in all_of_them if c.differs]
    return "\n".join([common.table(HEADER, rows), *([""] if notes else []), *notes])


def main() -> None:
    """Generates, compares, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--input", type=Path, help="events to use instead of generated ones")
    parser.add_argument("--only", nargs="+", default=[""], help="contestants whose name begins so")
    options = parser.parse_args()

    where = common.machine()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        source, out, log = options.input, folder / "out", folder / "log"
        expected: int | None = None
        if source is None:
            source = folder / "events.jsonl"
            print(f"generating {options.events:,} events", file=sys.stderr)
            expected = generate(source, options.events)
        all_of_them = [c for c in contestants(source, out) if any(c.name.startswith(o) for o in options.only)]
        print("comparing rows", file=sys.stderr)
        check(all_of_them, out, log, expected)
        take_turns(all_of_them, options.rounds, out, log)
        with source.open("rb") as file:
            events, size = sum(1 for _ in file), source.stat().st_size
    text = (
        f"{events:,} events, {size / 1e6:,.0f} MB of JSON lines; medians of {options.rounds}; whole processes.\n"
        f"{common.described(where)}\n\n"
        f"{table(all_of_them)}"
    )
    numbers = {"machine": where, "events": events, "bytes": size, "jobs": [asdict(c) for c in all_of_them]}
    common.keep("compare", text, numbers)


if __name__ == "__main__":
    main()
