"""Dead letters once more through today's contract; late events into their place; each once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import LakeError, SettingsError
from shop import LENIENT, Shop, event, some_events

if TYPE_CHECKING:
    from pathlib import Path


def test_what_the_contract_accepts_now_goes_to_silver_once(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", some_events(200))
    before = shop.run()
    assert before.rejected_by_code["out_of_range"] > 10
    assert shop.pipeline().replay().silver == 0, "the contract has not learned yet"
    shop.contract(LENIENT)
    told = shop.pipeline().replay(dry_run=True)
    assert told.silver > 10 and not told.entries
    assert shop.pipeline().inspect().counts.silver == before.silver
    done = shop.pipeline().replay()
    assert (done.silver, done.duplicate) == (told.silver, told.duplicate)
    assert done.silver + done.duplicate == before.rejected
    after = shop.assert_sound()
    assert after["silver"] == before.silver + done.silver
    assert after["duplicate"] == before.duplicate + done.duplicate
    assert (after["rejected"], after["settled"], after["rejected_by_code"]) == (0, before.rejected, {})
    assert shop.pipeline().replay().letters == 0, "nothing is replayed twice"
    replayed = shop.rows(columns="session_seq, session_id, session_start, replayed, date")
    replayed = [row for row in replayed if row[3]]
    assert len(replayed) == done.silver
    assert all(seq is None and start.date() == date for seq, _, start, _, date in replayed)
    settled = shop.rows("settled", "became, code")
    assert settled.count(("silver", "out_of_range")) == done.silver
    assert settled.count(("duplicate", "out_of_range")) == done.duplicate


def test_filters(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", [event(17, 0, "a", "u", -1), {**event(17, 1, "b", "u"), "user": 7}, event(17, 2, "c", "u")])
    shop.run()
    shop.contract(LENIENT)
    flow = shop.pipeline()
    assert flow.replay(codes=["wrong_type"]).letters == 1
    assert flow.replay(event_types=["buy"]).letters == 0
    assert flow.replay(end="2024-01-01").letters == 0, "by when they came, not by when they happened"
    assert flow.replay(start="2024-01-01", event_types=["view"], codes=["out_of_range"]).silver == 1
    with pytest.raises(SettingsError, match=r"'later' is none; the codes are .*late"):
        flow.replay(codes=["later"])
    with pytest.raises(SettingsError, match="no day and no moment"):
        flow.replay(start="yesterday")


def test_late_events_find_their_session(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", [event(17, 60, "a", "u"), event(17, 80, "b", "u"), event(19, 0, "z", "u")])
    shop.run()
    shop.put("b", [event(17, 70, "late", "u"), event(17, 600, "alone", "u")])
    assert shop.run().late == 2
    assert shop.pipeline().replay().letters == 0
    done = shop.pipeline().replay(codes=["late"])
    assert (done.silver, done.joined_sessions, done.new_sessions) == (2, 1, 1)
    ids = dict(shop.rows(columns="idempotency_key, session_id"))
    assert ids["late"] == ids["a"] == ids["b"] != ids["alone"]
    assert shop.assert_sound()["late"] == 0


def test_a_message_sent_again_after_its_replay_is_a_duplicate(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    shop.put("a", [event(17, 0, "a", "u", -1), event(17, 30, "b", "u")])
    shop.run()
    shop.contract(LENIENT)
    assert shop.pipeline().replay().silver == 1
    shop.put("b", [event(17, 31, "a", "u", 4)])
    assert shop.run().run.duplicate == 1
    assert len(shop.rows()) == 2
    shop.assert_sound()


def test_command_line(tmp_path: Path) -> None:
    shop = Shop.make(tmp_path)
    nothing = CliRunner().invoke(app, ["replay", shop.file, "--json"])
    assert isinstance(nothing.exception, LakeError)
    shop.put("a", some_events(100))
    shop.run()
    shop.contract(LENIENT)
    shown = CliRunner().invoke(app, ["replay", shop.file, "--dry-run"])
    assert shown.exit_code == 0 and "would go to Silver" in shown.stdout, shown.output
    done = CliRunner().invoke(app, ["replay", shop.file, "--code", "out_of_range", "--json"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["silver"] > 0 and found["entries"] and not found["dry_run"]
    last = shop.pipeline().inspect().epochs[-1]
    assert (last["kind"], last["number"]) == ("replay", found["entries"][-1])
