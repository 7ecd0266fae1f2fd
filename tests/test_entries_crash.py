"""Replay, backfill, compaction and retention killed at any step: rows and ledger are the old ones or the new ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import _core
from shop import LENIENT, Shop, event, some_events

RUNNER = Path(__file__).with_name("engine_entry.py")
DAY = 86_400_000_000
PLACES = [place for place in _core.failpoints() if place.startswith("entry.")]
KINDS: dict[str, dict[str, Any]] = {
    "compact": {"min_age_us": 0},
    "replay": {},
    "backfill": {"from_us": 1_734_393_600_000_000, "to_us": 1_734_393_600_000_000 + 2 * DAY},
    "retention": {"keep_us": {"silver": 100 * DAY}},
}
LAYERS = ("bronze/events", "silver/events", "silver/sessions", "dead_letters", "settled")


def seen(shop: Shop) -> dict[str, list[Any]]:
    """What a reader of the log sees; of settled positions when they were settled is left out."""
    columns = {"settled": 'topic, partition, "offset", code, became', "dead_letters": "* EXCLUDE (epoch)"}
    return {layer: shop.rows(layer, columns.get(layer, "*")) for layer in LAYERS}


def entry(shop: Shop, kind: str, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    """Make an entry in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k != "PENSTOCK_FAILPOINT"}
    # What a killed one leaves goes with the test.
    env["PENSTOCK_SPILL_DIR"] = str(shop.folder / "spill")
    if failpoint:
        env["PENSTOCK_FAILPOINT"] = failpoint
    spec = shop.folder / "spec.json"
    spec.write_text(json.dumps(shop.pipeline().spec()))
    command = [sys.executable, str(RUNNER), str(spec), kind, json.dumps(KINDS[kind])]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake to begin with."""
    shop = Shop.make(tmp_path_factory.mktemp("made") / "shop")
    shop.put("a", some_events(250))
    shop.run()
    shop.contract(LENIENT)
    return shop.folder


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Any]]]:
    """What each kind of entry leads to when nothing happens."""
    found = {}
    for kind in KINDS:
        shop = Shop(Path(shutil.copytree(made, tmp_path_factory.mktemp(kind) / "shop")))
        done = entry(shop, kind)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entries"], "it did something"
        shop.assert_sound()
        found[kind] = seen(shop)
    return found


@pytest.mark.parametrize("action", ["kill", "error", "panic"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_failpoint(
    kind: str,
    place: str,
    action: str,
    made: Path,
    undisturbed: dict[str, dict[str, list[Any]]],
    tmp_path: Path,
) -> None:
    shop = Shop(Path(shutil.copytree(made, tmp_path / "shop")))
    before = seen(shop)
    failed = entry(shop, kind, f"{place}={action}")
    if kind == "retention" and place.startswith("entry.files"):
        assert failed.returncode == 0, "it writes no files"
        return
    assert f"failpoint {place}" in failed.stderr, "it did not fire"
    assert failed.returncode == (-signal.SIGKILL if action == "kill" else 3), failed.stderr
    after = undisturbed[kind]
    assert seen(shop) in (before, after), "a reader sees the old rows or the new ones"
    if place in ("entry.commit.after", "entry.trash.before", "entry.trash.after"):
        assert seen(shop) == after
    shop.assert_sound()
    # Whoever comes next finishes it: here the stream, which goes on.
    shop.put("b", [event(30, 1, "next", "w")])
    assert shop.run().balanced
    shop.assert_sound()
    done = entry(shop, kind)
    assert done.returncode == 0, done.stderr
    shop.assert_sound()
    keys = {row[2] for row in shop.rows() if row[2] != "next"}
    assert keys == {row[2] for row in after["silver/events"]}
    assert len(shop.rows()) == len(after["silver/events"]) + (kind != "retention" or bool(shop.rows()))
