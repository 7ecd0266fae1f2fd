"""How fast a day's facts come into the warehouse: PostgreSQL and DuckDB side by side, from one lake.

    .venv/bin/python benches/warehouse.py --facts 1000000
    .venv/bin/python benches/warehouse.py --postgres postgresql://loader@db.example/shop   # another server
    .venv/bin/python benches/warehouse.py --only duckdb

Without `--postgres` it starts a server of its own, as the tests do, but with `fsync` on. At the end both have to hold
the same facts, users and revenue. Of DuckDB it also tells how long its own statements took, and those of them that
write rows (INSERT, UPDATE, DELETE, MERGE, COMMIT). The table goes to standard output and to benches/out/warehouse.md,
the numbers to benches/out/warehouse.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benches" / "compare")]

import common  # noqa: E402

from penstock import Pipeline, _core  # noqa: E402
from penstock.warehouse import connect, load  # noqa: E402
from penstock.warehouse.duckdb_backend import DuckDBBackend  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = ["load", "rows", "wall", "CPU", "rows/s", "DuckDB's statements", "of them writing"]
DAY = 86_400_000_000
START = 1_734_393_600_000_000  # 2024-12-17
LIKE_A_SERVER = {"fsync": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}
READY_MADE = ROOT / "python/penstock/pipelines/ecommerce"
COMPARED = "SELECT count(*), count(DISTINCT user_id), count(DISTINCT user_key), sum(purchase_amount) FROM fact_events"


def lake(folder: Path, facts: int) -> Pipeline:
    """A lake with so many events of one day, each with its own key."""
    events = folder / "events.jsonl"
    options = {"total": facts, "seed": 42, "start": START, "span": DAY, "bad_rate": 0.0, "duplicate_rate": 0.0}
    _core.generate("ecommerce", json.dumps(options), str(events))
    file = folder / "pipeline.yaml"
    file.write_text(
        f"name: ecommerce\ncontract: {READY_MADE / 'contract.yaml'}\nsource: {{files: {{paths: [events.jsonl]}}}}\n"
        "lake: lake\nlayers: [silver]\ndeduplicate: {horizon: 24h}\nsessions: {gap: 30m}\n"
        "warehouse: {duckdb: warehouse.duckdb}\n"
    )
    flow = Pipeline.load(file)
    flow.run(progress=False)
    return flow


@contextlib.contextmanager
def server(url: str | None) -> Iterator[tuple[str, int | None]]:
    """Where PostgreSQL is: that of the user, or one of our own."""
    if url:
        yield url, None
        return
    from services.postgres import postgres_server

    with postgres_server(**LIKE_A_SERVER) as own:
        yield own.url(own.database()), own.process.pid if own.process else None


def cpu(pid: int | None) -> float:
    """Seconds of CPU that this process has taken, and a server with all its processes, those that have ended too."""
    own = time.process_time()
    if pid is None or not Path("/proc").is_dir():
        return own
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    told = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in (str(pid), *children)]
    return own + sum(int(ticks) for stat in told for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")


class Statements:
    """How long DuckDB's statements take: all of them, and those that write."""

    WRITE = ("INSERT", "UPDATE", "DELETE", "MERGE", "WITH")

    def __init__(self) -> None:
        self.all = self.writing = 0.0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look on for as long as this holds."""
        run, commit = DuckDBBackend._run, DuckDBBackend.commit  # noqa: SLF001

        def timed(backend: DuckDBBackend, sql: str) -> Any:
            began = time.perf_counter()
            try:
                return run(backend, sql)
            finally:
                self.add(time.perf_counter() - began, writes=sql.lstrip().upper().startswith(self.WRITE))

        def committed(backend: DuckDBBackend) -> None:
            began = time.perf_counter()
            commit(backend)
            self.add(time.perf_counter() - began, writes=True)

        DuckDBBackend._run, DuckDBBackend.commit = timed, committed  # type: ignore[method-assign] # noqa: SLF001
        try:
            yield
        finally:
            DuckDBBackend._run, DuckDBBackend.commit = run, commit  # type: ignore[method-assign] # noqa: SLF001

    def add(self, seconds: float, *, writes: bool) -> None:
        """Count a statement."""
        self.all += seconds
        self.writing += seconds if writes else 0.0


def timed(flow: Pipeline, to: str, date: str | None, pid: int | None) -> dict[str, Any]:
    """Load, and say how long it took."""
    before, busy = time.perf_counter(), cpu(pid)
    statements = Statements()
    with statements.watched():
        report = load(flow.spec(), to, date=date)
    seconds = time.perf_counter() - before
    return {
        "rows": report.rows_read,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu(pid) - busy, 2),
        "rows_s": round(report.rows_read / seconds),
        "statements": round(statements.all, 2),
        "writing": round(statements.writing, 2),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--postgres", metavar="URL", help="a database of your own; its schema public has to be empty")
    parser.add_argument("--only", choices=["duckdb", "postgres"])
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    where = common.machine()
    found: dict[str, Any] = {"facts": told.facts, "machine": where}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        targets: dict[str, tuple[str, int | None]] = {"duckdb": (f"duckdb:{folder / 'warehouse.duckdb'}", None)}
        if told.only != "duckdb":
            targets["postgres"] = stack.enter_context(server(told.postgres))
        flow = lake(folder, told.facts)
        totals = {}
        for kind, (to, pid) in targets.items():
            if told.only not in (None, kind):
                continue
            # Making the tables and their 96,432 hours is no part of a load.
            from penstock.warehouse.upgrading import migrate

            migrate(flow.spec(), to)
            found[kind] = {
                "first load": timed(flow, to, None, pid),
                "the day again": timed(flow, to, "2024-12-17", pid),
            }
            with contextlib.closing(connect(to, read_only=True)) as warehouse:
                totals[kind] = warehouse.rows(COMPARED)
    assert len({str(total) for total in totals.values()}) == 1, totals
    found["load_average_at_end"] = os.getloadavg()[0]
    if told.json:
        print(json.dumps(found))
        return
    rows = [
        [
            f"{kind}, {what}",
            f"{row['rows']:,}",
            f"{row['seconds']:.2f} s",
            f"{row['cpu_seconds']:.2f} s",
            f"{row['rows_s']:,}",
            *((f"{row['statements']:.2f} s", f"{row['writing']:.2f} s") if kind == "duckdb" else ("", "")),
        ]
        for kind in totals
        for what, row in found[kind].items()
    ]
    text = f"{told.facts:,} events of one day.\n{common.described(where)}\n\n{common.table(HEADER, rows)}"
    common.keep("warehouse", text, found)


if __name__ == "__main__":
    main()
