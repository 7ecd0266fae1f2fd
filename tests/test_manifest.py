"""The manifest gives other readers exactly the committed rows; a reset leaves nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import LakeError, SettingsError, WrongLakeError
from shop import Shop, some_events

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A lake of some small files, in a folder whose name has a quote."""
    shop = Shop.make(tmp_path / "the shop's", epoch_events=50)
    shop.put("a", some_events(200))
    shop.run()
    return shop


def test_duckdb_reads_what_counts(shop: Shop) -> None:
    expected = shop.rows()
    shop.pipeline().compact(min_age="0")
    stray = shop.lake / "silver/events/date=2024-12-17/shop-0000-9999999999-0000.parquet"
    stray.write_bytes(next((shop.lake / "_penstock/trash").rglob("*.parquet")).read_bytes())
    found = shop.pipeline().manifest(["silver/events"])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert connection.sql(f"SELECT * FROM ({found.sql()}) ORDER BY ALL").fetchall() == expected
    assert sum(file["rows"] for file in found.files) == len(expected)
    assert str(stray) not in found.paths
    assert found.text().splitlines() == found.paths
    assert found.spark().count(".parquet'") + found.spark().count('.parquet"') == len(found.paths)


def test_command_line(shop: Shop) -> None:
    text = CliRunner().invoke(app, ["manifest", shop.file, "--layer", "bronze/events"])
    assert text.stdout.splitlines() == shop.pipeline().manifest(["bronze/events"]).paths
    found = json.loads(CliRunner().invoke(app, ["manifest", shop.file, "--json"]).stdout.splitlines()[-1])
    layers = {file["layer"] for file in found["files"]}
    assert layers == {"bronze/events", "silver/events", "silver/sessions", "dead_letters"}
    sql = CliRunner().invoke(app, ["manifest", shop.file, "--layer", "silver/events", "--format", "sql"])
    with duckdb.connect() as connection:
        assert connection.sql(sql.stdout).fetchall()


def test_a_reset_asks_first(shop: Shop) -> None:
    no = CliRunner().invoke(app, ["reset", shop.file], input="n\n")
    assert no.exit_code == 1 and shop.rows()
    unasked = CliRunner().invoke(app, ["reset", shop.file, "--json"])
    assert isinstance(unasked.exception, SettingsError) and shop.rows()
    told = CliRunner().invoke(app, ["reset", shop.file, "--dry-run"])
    assert "would remove" in told.stdout and shop.rows()
    assert CliRunner().invoke(app, ["reset", shop.file, "--yes"]).exit_code == 0
    # Its term stays: a run that is still at work finds that there is a newer one.
    assert {path.parent.name for path in shop.lake.rglob("*") if path.is_file()} == {"terms"}
    with pytest.raises(LakeError):
        shop.pipeline().manifest()
    assert shop.run().balanced


def test_a_layer_that_is_none(shop: Shop) -> None:
    for asked in (shop.pipeline().manifest, shop.pipeline().compact):
        with pytest.raises(WrongLakeError, match="'silver/event' is no layer; did you mean 'silver/events'"):
            asked(layers=["silver/event"])
