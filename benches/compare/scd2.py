"""Changes into the history of a dimension: Penstock, a DuckDB `MERGE`, a Polars join.

    python benches/compare/scd2.py [--entities 1000000] [--changes 200000] [--rounds 5]

A tenth of the changes are of new entities, a twentieth change nothing; five attributes are tracked. Each contestant has
the current rows and the changes in memory, in the form that it likes best, and is timed alone, in turns. The rows of
the histories are compared before. The table goes to standard output and to benches/out/scd2.md, the numbers to
benches/out/scd2.json.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import common
import duckdb
import polars as pl

import penstock

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = ["job", "wall", "CPU", "against duckdb", "against polars"]
TRACKED = ["plan", "city", "segment", "score", "visits"]
COLUMNS = ["user_id", *TRACKED, "effective_start", "effective_end", "is_current"]
HOW = {"key": "user_id", "at": "at", "tracked": TRACKED, "order": "offset"}


def rows(ids: pl.Expr, versions: pl.Expr, count: int, at: int) -> pl.DataFrame:
    """One change for each of these entities; the version decides the attributes."""
    row = pl.int_range(count, dtype=pl.Int64)
    frame = pl.select(row=row).select(id=ids, version=versions, at=pl.col("row") + at)
    number, version = pl.col("id"), pl.col("version")
    plan = (number + version) % 3
    return frame.select(
        user_id=pl.format("user_{}", number.cast(pl.String).str.zfill(9)),
        at=pl.col("at").cast(pl.Datetime("us")),
        plan=pl.when(plan == 0).then(pl.lit("free")).when(plan == 1).then(pl.lit("basic")).otherwise(pl.lit("premium")),
        city=pl.format("city {}", (number * 31 + version) % 5_000),
        segment=pl.format("segment {}", number % 12),
        score=((number * 7 + version) % 100).cast(pl.Int32),
        visits=number % 1_000,
        offset=pl.col("at"),
    )


def inputs(entities: int, changes: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first rows, and the changes."""
    row = pl.col("row")
    base = rows(row, row * 0, entities, 0)
    kind = row % 20
    new, same = kind < 2, kind == 2
    ids = pl.when(new).then(entities + row).otherwise(row * 7_919 % entities)
    load = rows(ids, pl.when(new | same).then(0).otherwise(1), changes, 10 * entities)
    assert load["user_id"].n_unique() == changes
    return base, load


class Penstock:
    """`scd2_merge` into an earlier result."""

    def __init__(self, base: pl.DataFrame, load: pl.DataFrame) -> None:
        self.first = penstock.scd2_merge(None, base.to_arrow(), **HOW)
        self.load = load.to_arrow()
        self.merged: Any = None

    def prepare(self) -> None:
        """Nothing changes what was merged into."""
        self.merged = None

    def run(self) -> None:
        """Merge."""
        self.merged = penstock.scd2_merge(self.first, self.load, **HOW)

    def history(self) -> pl.DataFrame:
        """All rows."""
        return pl.DataFrame(self.merged.history)


class PenstockHistory(Penstock):
    """The same, and the whole history is read."""

    def run(self) -> None:
        """Merge, make every row."""
        super().run()
        _ = self.merged.history


DIFFERS = " OR ".join(f"d.{name} IS DISTINCT FROM c.{name}" for name in TRACKED)
# One statement that closes rows and opens others: a change that differs comes twice, once to close and once to open.
MERGE = f"""
MERGE INTO dim AS d USING (
  SELECT c.*, c.user_id AS meets FROM changes c
  UNION ALL
  SELECT c.*, NULL FROM changes c JOIN dim d ON d.user_id = c.user_id AND d.is_current WHERE {DIFFERS}
) AS c ON d.user_id = c.meets AND d.is_current
WHEN MATCHED AND ({DIFFERS}) THEN UPDATE SET effective_end = c."at", is_current = false
WHEN NOT MATCHED THEN INSERT ({", ".join(COLUMNS)})
  VALUES (c.user_id, {", ".join(f"c.{name}" for name in TRACKED)}, c."at", NULL, true)
"""
CURRENT = f"""
CREATE OR REPLACE TABLE dim AS
SELECT user_id, {", ".join(TRACKED)}, "at" AS effective_start, NULL::TIMESTAMP AS effective_end, true AS is_current
FROM base
"""


class DuckDB:
    """`MERGE` into a table in memory."""

    def __init__(self, base: pl.DataFrame, load: pl.DataFrame) -> None:
        self.connection = duckdb.connect()
        for name, frame in (("base", base), ("changes", load)):
            self.connection.register("frame", frame)
            self.connection.execute(f"CREATE TABLE {name} AS FROM frame")
            self.connection.unregister("frame")

    def prepare(self) -> None:
        """The table as it was."""
        self.connection.execute(CURRENT)

    def run(self) -> None:
        """Merge."""
        self.connection.execute(MERGE)

    def history(self) -> pl.DataFrame:
        """All rows."""
        return self.connection.sql("FROM dim").pl()


class Polars:
    """A join of the current rows with the changes; what it gives is a frame of all rows."""

    def __init__(self, base: pl.DataFrame, load: pl.DataFrame) -> None:
        end = pl.lit(None, pl.Datetime("us"))
        dim = base.drop("offset").rename({"at": "effective_start"}).with_columns(effective_end=end, is_current=True)
        self.dim, self.load = dim.select(COLUMNS), load
        self.merged: Any = None

    def prepare(self) -> None:
        """Nothing changes what was merged into."""
        self.merged = None

    def run(self) -> None:
        """Join, compare, close, open."""
        changes = self.load.lazy().drop("offset")
        met = self.dim.lazy().filter("is_current").join(changes, on="user_id", how="right", suffix="_new")
        same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_new")) for name in TRACKED)
        fresh = pl.col("is_current").is_null() | ~same
        new = met.filter(fresh).select("user_id", *(f"{name}_new" for name in TRACKED), "at", "is_current").collect()
        known = new.lazy().filter(pl.col("is_current")).select("user_id", pl.col("at").alias("closed_at"))
        opened = new.lazy().select(
            "user_id",
            *(pl.col(f"{name}_new").alias(name) for name in TRACKED),
            pl.col("at").alias("effective_start"),
            pl.lit(None, pl.Datetime("us")).alias("effective_end"),
            pl.lit(value=True).alias("is_current"),
        )
        kept = self.dim.lazy().join(known, on="user_id", how="left", maintain_order="none")
        closes = pl.col("closed_at").is_not_null() & pl.col("is_current")
        kept = kept.with_columns(
            effective_end=pl.when(closes).then("closed_at").otherwise("effective_end"),
            is_current=pl.col("is_current") & ~closes,
        ).drop("closed_at")
        self.merged = pl.concat([kept, opened]).collect()

    def history(self) -> pl.DataFrame:
        """All rows."""
        return pl.DataFrame(self.merged)


def rows_of(contestant: Any) -> pl.DataFrame:
    """Its history in an order of which there is one."""
    frame: pl.DataFrame = contestant.history().select(COLUMNS)
    times = pl.col("effective_start", "effective_end").cast(pl.Datetime("us"))
    return frame.with_columns(times, pl.col(pl.String).cast(pl.String)).sort("user_id", "effective_start")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall time, and of CPU on all cores."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = common.machine()
    base, load = inputs(options.entities, options.changes)
    contestants = {
        "penstock, scd2_merge": Penstock(base, load),
        "penstock, and the whole history read": PenstockHistory(base, load),
        "duckdb, MERGE": DuckDB(base, load),
        "polars, join": Polars(base, load),
    }
    expected: pl.DataFrame | None = None
    for name, contestant in contestants.items():
        contestant.prepare()
        contestant.run()
        found = rows_of(contestant)
        expected = found if expected is None else expected
        if not found.equals(expected):
            sys.exit(
                f"{name}: {found.height:,} rows that are not the {expected.height:,} of the first. Nothing was timed."
            )
        contestant.prepare()
    assert expected is not None
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, contestant in contestants.items():
            contestant.prepare()
            times[name].append(timed(contestant.run))
    walls = {name: statistics.median(wall for wall, _ in found) for name, found in times.items()}
    cells = [
        [
            name,
            f"{wall * 1000:,.0f} ms",
            f"{statistics.median(cpu for _, cpu in times[name]) * 1000:,.0f} ms",
            f"{wall / walls['duckdb, MERGE']:.2f}",
            f"{wall / walls['polars, join']:.2f}",
        ]
        for name, wall in walls.items()
    ]
    text = (
        f"{options.changes:,} changes (10 % of new entities, 5 % that change nothing) into {options.entities:,} "
        f"current rows, five tracked attributes; {expected.height:,} rows of history, compared; "
        f"medians of {options.rounds}.\n"
        f"{common.described(where)}\n\n"
        f"{common.table(HEADER, cells)}"
    )
    common.keep("scd2", text, {"machine": where, "rows": expected.height, "seconds": times})


if __name__ == "__main__":
    main()
