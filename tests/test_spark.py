"""Spark reads the lake, by its folders and by the manifest, and agrees with the ledger and with DuckDB."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import pytest

import crash
import penstock
import s3_support
from penstock import _core
from penstock.entries import Manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

LAYERS = ("bronze/events", "silver/events", "silver/sessions", "dead_letters")


def test_spark_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql", reason='no Spark: pip install "penstock[spark]"')
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    inputs = s3_support.inputs(tmp_path, 20_000)
    pipeline = crash.make(tmp_path / "p", inputs)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    ledger = pipeline.ledger()
    spark = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    try:
        expected = {
            "bronze/events": ledger["bronze"],
            "silver/events": ledger["silver"],
            "silver/sessions": ledger["sessions"],
            "dead_letters": ledger["dead_letters"],
        }
        for layer in LAYERS:
            folder = spark.read.option("mergeSchema", "true").parquet(str(pipeline.lake / layer))
            manifest = Manifest.of(json.loads(_core.manifest(pipeline.spec.read_text(), [layer])))
            listed = eval(manifest.spark(), {"spark": spark})
            assert folder.count() == listed.count() == expected[layer], layer
        # The values, too: text, times, decimals and numbers of Silver as DuckDB reads them.
        rows = penstock.read_lake(pipeline.lake, "silver/events")
        names = [n for n in rows.to_duckdb().columns if n not in ("date", "event_type")]
        silver = spark.read.option("mergeSchema", "true").parquet(str(pipeline.lake / "silver/events"))
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for name in names:
                column = f'"{name}"'
                there = silver.selectExpr(
                    f"count(`{name}`)", f"count(DISTINCT `{name}`)", f"CAST(min(`{name}`) AS STRING)"
                ).collect()[0]
                here = (
                    rows.to_duckdb(connection)
                    .aggregate(f"count({column}), count(DISTINCT {column}), min({column})")
                    .fetchall()[0]
                )
                assert tuple(there)[:2] == here[:2], name
                if isinstance(here[2], str):
                    assert there[2] == here[2], name
    finally:
        spark.stop()
