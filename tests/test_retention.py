"""Retention: old files go, what is not settled stays, and the ledger says how much has expired."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from penstock import Pipeline
from penstock.cli import app
from penstock.errors import SettingsError
from shop import LENIENT, Shop, event

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Silver of December 2024; Bronze and dead letters of today."""
    shop = Shop.make(tmp_path)
    shop.put("a", [event(d, 0, f"k{d}", "u") for d in (16, 17, 18)] + [event(17, 1, "bad", "u", -1)])
    shop.run()
    return shop


def test_old_silver_goes_and_is_counted(shop: Shop) -> None:
    told = shop.pipeline().retention({"silver": "100d"}, dry_run=True)
    assert told.expired["silver/events"]["rows"] == 3 and not told.entries
    done = shop.pipeline().retention({"silver": "100d"})
    assert done.expired == told.expired
    assert shop.rows() == []
    ledger = shop.assert_sound()
    assert (ledger["silver"], ledger["expired"]) == (3, {"silver/events": 3, "silver/sessions": 3})
    assert shop.run().expired == {"silver/events": 3, "silver/sessions": 3}
    assert not shop.pipeline().retention({"silver": "100d"}).entries
    with pytest.raises(SettingsError, match="has expired"):
        shop.pipeline().backfill("2024-12-17", "2024-12-18")


def test_what_is_young_stays(shop: Shop) -> None:
    assert not shop.pipeline().retention({"bronze": "2d", "dead_letters": "2d", "gold": "2d"}).entries
    assert len(shop.rows("bronze/events")) == 4


def test_it_says_what_it_needs(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="nothing says how long"):
        shop.pipeline().retention()
    with pytest.raises(SettingsError, match=r"retention\.copper"):
        shop.pipeline().retention({"copper": "1d"})
    flow = Pipeline.load(shop.file, ["retention.silver=100d"])
    assert flow.retention(dry_run=True).expired["silver/events"]["files"] > 0


def test_command_line(shop: Shop) -> None:
    shop.contract(LENIENT)
    done = CliRunner().invoke(app, ["retention", shop.file, "--silver", "100d", "--json"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["expired"]["silver/events"]["rows"] == 3
    shown = CliRunner().invoke(app, ["retention", shop.file, "--set", "retention.gold=1d"])
    assert shown.exit_code == 0 and "nothing is old enough" in shown.stdout, shown.output
