"""Whatever is killed, and when: every event ends up in one place, once, and the ledger says which."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

import crash
from penstock import _core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVENTS = 12_000
KILLS = int(os.environ.get("PENSTOCK_KILLS", "50"))
# What every epoch passes; others have tests of their own.
EPOCH = ("term", "read", "plan", "files", "state", "commit")
PLACES = [place for place in _core.failpoints() if place.split(".")[0] in EPOCH]
SEED = int(os.environ.get("PENSTOCK_KILL_SEED", "7"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Events with flaws, in two files."""
    folder = tmp_path_factory.mktemp("input")
    whole = folder / "whole.jsonl"
    options = {"total": EVENTS, "seed": 11, "bad_rate": 0.05, "duplicate_rate": 0.05}
    _core.generate("ecommerce", json.dumps(options), str(whole))
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.unlink()
    first, second = folder / "a.jsonl", folder / "b.jsonl"
    first.write_bytes(b"".join(lines[::2]))
    second.write_bytes(b"".join(lines[1::2]))
    return [first, second]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: list[Path]) -> crash.Pipeline:
    """A run that nothing happened to."""
    pipeline = crash.make(tmp_path_factory.mktemp("undisturbed") / "p", inputs)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    counts = pipeline.ledger()
    assert counts["consumed"] == crash.newest_commit(pipeline.lake)["ledger"]["consumed"]
    assert counts["rejected"] > 0
    assert counts["duplicate"] > 0
    assert counts["sessions"] > 0
    assert counts["pending"] == 0
    assert counts["epochs"] > 8
    return pipeline


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline) -> None:
    again = crash.make(tmp_path / "p", inputs, durability="disk")
    assert again.run().returncode == 0
    crash.assert_same(undisturbed, again)


@pytest.mark.parametrize("action", ["kill", "error", "panic"])
@pytest.mark.parametrize("place", PLACES)
def test_failpoint(place: str, action: str, tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    nth = 1 if place.startswith("term.") else 3
    failed = pipeline.run(failpoint=f"{place}@{nth}={action}")
    assert f"failpoint {place}" in failed.stderr, "it did not fire"
    assert failed.returncode == (-signal.SIGKILL if action == "kill" else 3), failed.stderr
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    crash.assert_same(undisturbed, pipeline)


@pytest.mark.parametrize(
    ("failpoint", "said"),
    [
        (
            "plan.aftr=kill",
            r"there is no place 'plan\.aftr'; did you mean 'plan\.after'\? There are: plan\.before, plan",
        ),
        ("plan.after=kil", r"nothing is 'kil'; plan\.after can be error, panic, kill or stop"),
        ("plan.after@x=kill", r"'x' is no passage of plan\.after"),
    ],
)
def test_a_failpoint_that_is_none(failpoint: str, said: str, tmp_path: Path, inputs: list[Path]) -> None:
    failed = crash.make(tmp_path / "p", inputs).run(failpoint=failpoint)
    assert failed.returncode == 3
    assert re.search(rf"^SettingsError: PENSTOCK_FAILPOINT: {said}", failed.stderr, re.MULTILINE), failed.stderr


def test_a_process_that_is_let_go_on_at_once(tmp_path: Path, inputs: list[Path]) -> None:
    """It goes on also when it was let go on before anybody but its parent saw that it stood."""
    for n in range(10):
        places = ("term.before", "plan.after", "commit.after")
        process = crash.make(tmp_path / f"p{n}", inputs).start(failpoint=",".join(f"{place}=stop" for place in places))
        try:
            for _ in places:
                crash.halted(process)
                process.send_signal(signal.SIGCONT)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 0, err


@pytest.mark.timeout(900)
def test_killed_at_random_moments(
    tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, figure: Callable[..., None]
) -> None:
    chance = random.Random(SEED)
    kills = finished = 0
    began = time.monotonic()
    assert crash.make(tmp_path / "whole", inputs).run().returncode == 0
    longest = time.monotonic() - began
    while kills < KILLS:
        pipeline = crash.make(tmp_path / f"p{finished}", inputs)
        while True:
            # However fast it is, it gets no further than this place: there is something left to be killed.
            process = pipeline.start(failpoint=f"{chance.choice(PLACES)}@{chance.randint(1, 4)}=stop")
            crash.some_moment(process, chance.uniform(0, longest))
            process.kill()
            _, err = process.communicate()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            kills += 1
        finished += 1
        crash.assert_same(undisturbed, pipeline)
    figure("runs killed at random (kill -9)", kills=kills, finished=finished, lost=0, duplicated=0)


@pytest.mark.parametrize("place", ["plan.after", "files.between", "files.after", "commit.before"])
def test_the_newest_of_two_writers_wins(
    place: str, tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline
) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    older = pipeline.start(failpoint=f"{place}@2=stop")
    try:
        crash.halted(older)
        newer = pipeline.run(max_epochs=4)
        assert newer.returncode == 0, newer.stderr
        newest = crash.newest_commit(pipeline.lake)
        assert newest["number"] == 4, "the epoch in hand and three more"
    finally:
        older.send_signal(signal.SIGCONT)
    _, err = older.communicate(timeout=120)
    assert older.returncode == 3, err
    assert "SupersededError" in err
    assert f"term {newest['term']}" in err, "the error names the newer run"
    assert crash.newest_commit(pipeline.lake) == newest, "the older one changed nothing"
    assert pipeline.run().returncode == 0
    crash.assert_same(undisturbed, pipeline)


def damage(path: Path) -> None:
    """Cuts a file in two and keeps the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("what", "harm"),
    [
        ("a newer version", lambda p: p.write_text(p.read_text().replace('"format":1', '"format":99', 1))),
        ("damaged", damage),
        ("missing", lambda p: p.unlink()),
    ],
)
def test_a_lake_that_cannot_be_trusted(
    what: str, harm: Callable[[Path], None], tmp_path: Path, inputs: list[Path]
) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    assert pipeline.run(max_epochs=3).returncode == 0
    epochs = pipeline.lake / "_penstock" / crash.PIPELINE / "epochs"
    victim = epochs / ("0000000001.commit" if what == "missing" else "0000000002.commit")
    harm(victim)
    before = crash.files(pipeline.lake)
    failed = pipeline.run()
    assert failed.returncode == 3
    assert "CheckpointError" in failed.stderr and victim.name in failed.stderr, failed.stderr
    assert crash.files(pipeline.lake) == before, "nothing was written"
