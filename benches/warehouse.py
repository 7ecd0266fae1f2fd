"""How fast a day's facts come into the warehouse: PostgreSQL and DuckDB side by side, from one lake.

    .venv/bin/python benches/warehouse.py --facts 1000000
    .venv/bin/python benches/warehouse.py --postgres postgresql://loader@db.example/shop   # another server

Without `--postgres` it starts a server of its own, as the tests do, but with `fsync` on. At the end both have to hold
the same facts, users and revenue.
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
sys.path.insert(0, str(ROOT / "tests"))

from penstock import Pipeline, _core  # noqa: E402
from penstock.warehouse import connect, load  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def timed(flow: Pipeline, to: str, date: str | None, pid: int | None) -> dict[str, Any]:
    """Load, and say how long it took."""
    before, busy = time.perf_counter(), cpu(pid)
    report = load(flow.spec(), to, date=date)
    seconds = time.perf_counter() - before
    return {
        "rows": report.rows_read,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu(pid) - busy, 1),
        "rows_s": round(report.rows_read / seconds),
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--postgres", metavar="URL", help="a database of your own; its schema public has to be empty")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    found: dict[str, Any] = {"facts": told.facts, "load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as place, server(told.postgres) as (url, pid):
        folder = Path(place)
        flow = lake(folder, told.facts)
        totals = {}
        for kind, to in (("duckdb", f"duckdb:{folder / 'warehouse.duckdb'}"), ("postgres", url)):
            # Making the tables and their 96,432 hours is no part of a load.
            from penstock.warehouse.upgrading import migrate

            migrate(flow.spec(), to)
            by = pid if kind == "postgres" else None
            found[kind] = {
                "first load": timed(flow, to, None, by),
                "the day again": timed(flow, to, "2024-12-17", by),
            }
            with contextlib.closing(connect(to, read_only=True)) as warehouse:
                totals[kind] = warehouse.rows(COMPARED)
    assert totals["duckdb"] == totals["postgres"], totals
    found["load_average_at_end"] = os.getloadavg()[0]
    if told.json:
        print(json.dumps(found))
        return
    busy = f"load average {found['load_average']:.1f} at the start"
    print(f"{told.facts:,} events of one day; {found['cores']} cores, {busy}")
    print(f"{'':24}{'rows':>12}{'seconds':>10}{'of CPU':>10}{'rows/s':>10}")
    for kind in ("duckdb", "postgres"):
        for what, row in found[kind].items():
            times = f"{row['seconds']:>10}{row['cpu_seconds']:>10}"
            print(f"{kind + ', ' + what:24}{row['rows']:>12,}{times}{row['rows_s']:>10,}")


if __name__ == "__main__":
    main()
