"""A year of a shop's sales, through the Python API: duplicates, sessions, an exact sum, article histories.

    python examples/online_retail/online_retail.py online_retail.csv.gz

The data is UCI Online Retail (Chen, Sain, Guo 2012), https://archive.ics.uci.edu/dataset/352/online+retail, as CSV.
DuckDB reads the file; every step after it takes Arrow and gives Arrow, so Polars, pandas or pyarrow would do as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

import penstock

if TYPE_CHECKING:
    from decimal import Decimal

COLUMNS = {
    "InvoiceNo": "VARCHAR",
    "StockCode": "VARCHAR",
    "Description": "VARCHAR",
    "Quantity": "INTEGER",
    "InvoiceDate": "TIMESTAMP",
    "UnitPrice": "DECIMAL(12, 3)",  # never a float: three digits are all that the file has
    "CustomerID": "VARCHAR",
    "Country": "VARCHAR",
}


def read_sales(path: Path) -> pl.DataFrame:
    """The file's rows in the order of the file, typed. Its times carry no zone and are taken as UTC."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    rows = con.sql(
        """
        SELECT row_number() OVER () AS row, InvoiceNo AS invoice, StockCode AS article, Description AS description,
               Quantity AS quantity, timezone('UTC', InvoiceDate) AS sold_at, UnitPrice AS unit_price,
               CAST(Quantity * UnitPrice AS DECIMAL(18, 3)) AS amount,
               regexp_replace(CustomerID, '\\.0$', '') AS customer, Country AS country
        FROM read_csv(?, header = true, columns = ?, parallel = false)
        """,
        params=[str(path), COLUMNS],
    )
    return pl.DataFrame(rows)


def without_duplicates(sales: pl.DataFrame) -> pl.DataFrame:
    """The rows less those that equal an earlier one in every column of the file."""
    key = [c for c in sales.columns if c not in ("row", "amount")]
    return pl.DataFrame(penstock.deduplicate(sales, key=key, at="sold_at"))


def sessions_of_customers(sales: pl.DataFrame) -> pl.DataFrame:
    """The rows whose customer is known, each with its session: a pause of more than 30 minutes opens a new one."""
    known = sales.filter(pl.col("customer").is_not_null())
    return pl.DataFrame(penstock.sessionize(known, entity="customer", at="sold_at", gap="30m"))


def revenue_by_day(sales: pl.DataFrame) -> pl.DataFrame:
    """Revenue and distinct articles of each day; the sums of decimals are exact."""
    return pl.DataFrame(
        penstock.aggregate_windows(
            sales,
            at="sold_at",
            size="1d",
            aggregates={"revenue": "sum(amount)", "rows": "count()", "articles": "approx_count_distinct(article)"},
        )
    )


def history_of_articles(sales: pl.DataFrame, months: list[str] | None = None) -> Any:
    """How each article was described, and from when to when (SCD type 2), loaded month by month.

    The months may come in any order: the history that comes out is the same.
    """
    changes = sales.select(
        "article", "description", "sold_at", "row", pl.col("sold_at").dt.strftime("%Y-%m").alias("month")
    )
    result = None
    for month in months or sorted(changes["month"].unique()):
        load = changes.filter(pl.col("month") == month).drop("month")
        result = penstock.scd2_merge(result, load, key="article", at="sold_at", tracked=["description"], order="row")
    return result


def main(path: Path) -> None:
    """Prints what the steps find."""
    sales = read_sales(path)
    unique = without_duplicates(sales)
    sessions = sessions_of_customers(unique)
    days = revenue_by_day(sales)
    history = pl.DataFrame(history_of_articles(sales).history)
    total: Decimal = days["revenue"].sum()

    print(f"rows                 {sales.height:>14,}")
    print(f"exact duplicates     {sales.height - unique.height:>14,}")
    print(f"customers            {sessions['customer'].n_unique():>14,}")
    print(f"sessions             {sessions['session_id'].n_unique():>14,}")
    print(f"quantity x price     {total:>14,}")
    print(f"articles             {history['article'].n_unique():>14,}")
    print(f"descriptions in time {history.height:>14,}\n")
    print("How article 85123A was described:")
    for row in history.filter(pl.col("article") == "85123A").sort("effective_start").iter_rows(named=True):
        end = row["effective_end"]
        until = "now" if end is None else f"{end:%Y-%m-%d %H:%M}"
        print(f"  {row['effective_start']:%Y-%m-%d %H:%M} to {until:<16}  {row['description']}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} online_retail.csv.gz")
    main(Path(sys.argv[1]))
