"""Giving up an epoch, and sweeping: whatever is killed on the way, nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import crash
from penstock import _core

CLOCK = 1_790_000_000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("input") / "in.jsonl"
    _core.generate(
        "ecommerce", json.dumps({"total": 5_000, "seed": 5, "bad_rate": 0.05, "duplicate_rate": 0.05}), str(path)
    )
    return [path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: list[Path]) -> dict[str, Any]:
    pipeline = crash.make(tmp_path_factory.mktemp("undisturbed") / "p", inputs)
    assert pipeline.run().returncode == 0
    return pipeline.ledger()


def outstanding(folder: Path, inputs: list[Path]) -> crash.Pipeline:
    """A pipeline whose epoch 2 was killed just before its commit, and whose contract of then is gone."""
    pipeline = crash.make(folder, inputs)
    assert pipeline.run(failpoint="commit.before@3=kill").returncode == -signal.SIGKILL
    for contract in (pipeline.lake / "_penstock" / crash.PIPELINE / "contracts").iterdir():
        contract.unlink()
    spec = json.loads(pipeline.spec.read_text())
    spec["contract_text"] = spec["contract_text"].replace("name: ecommerce", "name: shop", 1)
    pipeline.spec.write_text(json.dumps(spec))
    return pipeline


def of_epoch(lake: Path, number: int) -> list[str]:
    return [path for path in crash.files(lake) if f"-{number:010}-" in path]


def assert_whole(pipeline: crash.Pipeline, undisturbed: dict[str, Any]) -> None:
    counts = pipeline.ledger()
    for name in ("consumed", "silver", "pending", "rejected", "duplicate", "late", "sessions", "rejected_by_code"):
        assert counts[name] == undisturbed[name], name
    assert counts["uncommitted_files"] == []
    epochs = pipeline.lake / "_penstock" / crash.PIPELINE / "epochs"
    kinds = [json.loads(path.read_text())["kind"] for path in sorted(epochs.glob("*.commit"))]
    assert kinds[2] == "void"
    assert kinds.count("void") == 1
    assert of_epoch(pipeline.lake, 2) == []


@pytest.mark.parametrize("action", ["kill", "error", "panic"])
@pytest.mark.parametrize("place", [p for p in _core.failpoints() if p.startswith("void.")])
def test_killed_while_giving_up(
    place: str, action: str, tmp_path: Path, inputs: list[Path], undisturbed: dict[str, Any]
) -> None:
    pipeline = outstanding(tmp_path / "p", inputs)
    refused = pipeline.run()
    assert refused.returncode == 3
    assert "--void 2" in refused.stderr
    assert of_epoch(pipeline.lake, 2)
    failed = pipeline.run(void=2, failpoint=f"{place}={action}")
    assert f"failpoint {place}" in failed.stderr, failed.stderr
    assert failed.returncode == (-signal.SIGKILL if action == "kill" else 3), failed.stderr
    done = pipeline.run(void=2)
    assert done.returncode == 0, done.stderr
    assert_whole(pipeline, undisturbed)


def test_a_committed_epoch_is_not_given_up(tmp_path: Path, inputs: list[Path]) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    assert pipeline.run(max_epochs=2).returncode == 0
    before = crash.files(pipeline.lake)
    refused = pipeline.run(void=1)
    assert refused.returncode == 3
    assert "epoch 1 is committed" in refused.stderr
    assert "nothing to make void" in refused.stderr
    assert crash.files(pipeline.lake) == before


@pytest.mark.parametrize("action", ["kill", "error", "panic"])
@pytest.mark.parametrize("place", [p for p in _core.failpoints() if p.startswith("sweep.")])
def test_killed_while_sweeping(
    place: str, action: str, tmp_path: Path, inputs: list[Path], undisturbed: dict[str, Any]
) -> None:
    pipeline = crash.make(tmp_path / "p", inputs)
    assert pipeline.run(max_epochs=3).returncode == 0
    state = pipeline.lake / "_penstock" / crash.PIPELINE / "state"
    named = {file["path"].rsplit("/", 1)[1] for file in crash.newest_commit(pipeline.lake)["state"]}
    # What another run of these epochs would have left: old, and named by nobody. And one that is young.
    for epoch, age in ((0, 3600), (1, 3600), (2, 60)):
        stray = state / f"{epoch:010}-{'0' * 32}-dedup.keys.arrow"
        stray.write_bytes(b"stray")
        os.utime(stray, (CLOCK - age, CLOCK - age))
    failed = pipeline.run(failpoint=f"{place}={action}")
    assert f"failpoint {place}" in failed.stderr, failed.stderr
    assert failed.returncode == (-signal.SIGKILL if action == "kill" else 3), failed.stderr
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    left = {path.name for path in state.iterdir()}
    assert {name for name in left if "0" * 32 in name} == {f"{2:010}-{'0' * 32}-dedup.keys.arrow"}
    assert named <= left | {file["path"].rsplit("/", 1)[1] for file in crash.newest_commit(pipeline.lake)["state"]}
    counts = pipeline.ledger()
    assert counts["recount"] == undisturbed["recount"]
