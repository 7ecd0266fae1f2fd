"""Compaction: other files, the same rows, and a reader that had begun goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from penstock import read_lake
from penstock.cli import app
from penstock.errors import SettingsError
from shop import Shop, some_events

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ("bronze/events", "silver/events", "silver/sessions", "dead_letters")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A lake of many small files."""
    shop = Shop.make(tmp_path, epoch_events=20)
    shop.put("a", some_events(300))
    shop.run()
    return shop


def test_rows_stay_as_they_are(shop: Shop) -> None:
    before = {layer: shop.rows(layer) for layer in LAYERS}
    files = {layer: len(read_lake(shop.lake, layer).files) for layer in LAYERS}
    begun = read_lake(shop.lake)
    assert shop.pipeline().compact().files_before == 0, "what is younger than ten minutes is left alone"
    told = shop.pipeline().compact(min_age="0", dry_run=True)
    assert told.files_before > 0 and not told.entries
    done = shop.pipeline().compact(min_age="0")
    assert done.files_before == told.files_before and done.files_after < done.files_before
    assert {layer: shop.rows(layer) for layer in LAYERS} == before
    assert len(read_lake(shop.lake, "bronze/events").files) < files["bronze/events"]
    shop.assert_sound()
    # A reader that has the list from before finds the files in the trash.
    assert begun.to_pyarrow().num_rows == len(before["silver/events"])
    assert any("/_penstock/trash/" in path for path in begun.files)
    assert not shop.pipeline().compact(min_age="0").entries, "there is nothing left to do"
    shop.put("b", some_events(40))
    assert shop.run().balanced
    shop.assert_sound()


def test_some_layers(shop: Shop) -> None:
    done = shop.pipeline().compact(min_age="0", layers=["dead_letters"])
    assert set(done.layers) == {"dead_letters"}


def test_command_line(shop: Shop) -> None:
    done = CliRunner().invoke(app, ["compact", shop.file, "--min-age", "0", "--json"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["entries"] and found["files_after"] < found["files_before"]
    shown = CliRunner().invoke(app, ["compact", shop.file, "--min-age", "0"])
    assert shown.exit_code == 0 and "nothing to put together" in shown.stdout


def test_sizes_and_durations_that_are_none(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", some_events(20))
    shop.run()
    with pytest.raises(SettingsError, match="target"):
        shop.pipeline().compact(target="12parsec")
    with pytest.raises(SettingsError, match="min_age"):
        shop.pipeline().compact(min_age="-1d")
    with pytest.raises(SettingsError, match="bronze"):
        shop.pipeline().retention({"bronze": "-1d"})
