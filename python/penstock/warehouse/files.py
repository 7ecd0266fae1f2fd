"""Parquet files of the lake, counted without a warehouse: who may only read it makes no tables there."""

from __future__ import annotations

import contextlib

from penstock.warehouse.duckdb_backend import DuckDBBackend


def count_rows(query: str, files: list[tuple[str, int]], view: str) -> int:
    """How many rows a query gives over files.

    Args:
        query: A DuckDB query over `view`.
        files: Paths of the files, each with a number.
        view: The name by which the query calls the rows of the files.

    Raises:
        LakeError: A file cannot be read.
    """
    if not files:
        return 0
    with contextlib.closing(DuckDBBackend(":memory:")) as reader:
        reader.stage("counted", query, files, view)
        ((found,),) = reader.rows("SELECT count(*) FROM counted")
    return int(found)
