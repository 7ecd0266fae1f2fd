"""Days of Silver made anew from Bronze: as a batch would have made them, and by one commit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from penstock import Pipeline
from penstock.cli import app
from penstock.errors import SettingsError
from shop import LENIENT, STRICT, Shop, event, some_events

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = "* EXCLUDE (replayed)"


def test_everything_made_anew_is_a_batch_run(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path / "stream")
    shop.put("a", some_events(300))
    before = shop.run().late
    late = [event(17, n * 29, f"late{n}", f"u{n % 7}") for n in range(40)]
    shop.put("b", late)
    assert shop.run().late == before + len(late)
    shop.contract(LENIENT)
    done = shop.pipeline().backfill("2024-12-16", "2024-12-25")
    assert done.accepted > len(late)
    after = shop.assert_sound()

    batch = Shop.make(tmp_path / "batch", epoch_events=100_000)
    batch.contract(LENIENT)
    batch.put("a", some_events(300))
    batch.put("b", late)
    batch.run()
    assert shop.rows(columns=PLAIN) == batch.rows(columns=PLAIN)
    assert shop.rows("silver/sessions") == batch.rows("silver/sessions")
    theirs = batch.assert_sound()
    for heading in ("consumed", "silver", "pending", "rejected", "duplicate", "late", "sessions"):
        assert after[heading] == theirs[heading], heading


def test_one_day_and_nothing_else(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    days = range(16, 21)
    shop.put("a", [event(d, 600, f"g{d}", "u") for d in days] + [event(d, 610, f"b{d}", "u", -1) for d in days])
    shop.run()
    before = shop.rows()
    shop.contract(LENIENT)
    told = shop.pipeline().backfill("2024-12-18", "2024-12-19", dry_run=True)
    assert (told.rows_before, told.rows_after, told.accepted, told.entries) == (1, 2, 1, ())
    assert shop.rows() == before
    done = shop.pipeline().backfill("2024-12-18", "2024-12-19")
    assert (done.rows_before, done.rows_after, done.accepted) == (1, 2, 1)
    after = shop.rows()
    assert set(before) < set(after)
    assert {row[2] for row in set(after) - set(before)} == {"b18"}
    shop.assert_sound()
    shop.contract(STRICT)
    back = shop.pipeline().backfill("2024-12-18", "2024-12-19")
    assert (back.rejected, back.rows_after) == (1, 1)
    assert shop.rows() == before
    shop.assert_sound()


@pytest.mark.parametrize(
    ("start", "end"), [("2024-12-18", "2024-12-18"), ("2024-12-19", "2024-12-18"), ("18.12.", "2024-12-19")]
)
def test_days_that_are_none(start: str, end: str, tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", [event(17, 0, "a", "u")])
    shop.run()
    with pytest.raises(SettingsError):
        shop.pipeline().backfill(start, end)


def test_it_needs_bronze(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", [event(17, 0, "a", "u")])
    shop.run()
    with pytest.raises(SettingsError, match="has no bronze"):
        Pipeline.load(shop.file, ["layers=[silver]"]).backfill("2024-12-17", "2024-12-18")


def test_command_line(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", some_events(150))
    shop.run()
    shop.contract(LENIENT)
    done = CliRunner().invoke(app, ["backfill", shop.file, "--from", "2024-12-17", "--to", "2024-12-18", "--json"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accepted"] > 0 and len(found["entries"]) == 1
    shown = CliRunner().invoke(app, ["backfill", shop.file, "--from", "2024-12-17", "--to", "2024-12-18", "--dry-run"])
    assert shown.exit_code == 0 and "rows of Silver" in shown.stdout, shown.output
