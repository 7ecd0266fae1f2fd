"""A lake on S3, whatever is killed, cut, lost or repeated: the bucket ends up as the folder of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

import crash
import penstock
import s3_support
from penstock import _core
from penstock.storage import Storage
from services.fault_proxy import fault_proxy
from services.s3 import S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVENTS = 6_000
SEEDS = range(int(os.environ.get("PENSTOCK_PROXY_SEEDS", "4")))
KILLS = int(os.environ.get("PENSTOCK_SERVER_KILLS", "6"))
# What every epoch passes, once.
EVERY_EPOCH = ("read.before", "plan.after", "files.before", "files.between", "state.before", "state.between",
               "files.after", "commit.before", "commit.after")  # fmt: skip
PLACES = [p for p in _core.failpoints() if p.partition(".")[0] in ("term", "plan", "files", "state", "commit")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return s3_support.inputs(tmp_path_factory.mktemp("input"), EVENTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: list[Path]) -> crash.Pipeline:
    """A run on a disk that nothing happened to."""
    pipeline = crash.make(tmp_path_factory.mktemp("undisturbed") / "p", inputs)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    counts = pipeline.ledger()
    assert counts["epochs"] > 4 and counts["rejected"] > 0 and counts["duplicate"] > 0 and counts["pending"] == 0
    return pipeline


@pytest.fixture(scope="module", params=[None, "seaweedfs"], ids=["versitygw", "seaweedfs"])
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("server"), request.param) as server:
        yield server


def test_a_bucket_holds_what_a_folder_would(
    tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, any_server: S3Server
) -> None:
    pipeline = s3_support.make(tmp_path / "p", inputs, any_server)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    s3_support.assert_same(undisturbed, pipeline)
    again = pipeline.run()
    assert json.loads(again.stdout)["run"]["consumed"] == 0
    s3_support.assert_same(undisturbed, pipeline)


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_a_failpoint(
    place: str, tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, s3: S3Server
) -> None:
    pipeline = s3_support.make(tmp_path / "p", inputs, s3)
    failed = pipeline.run(failpoint=f"{place}@{1 if place.startswith('term.') else 3}=kill")
    assert f"failpoint {place}" in failed.stderr, "it did not fire"
    assert failed.returncode == -signal.SIGKILL, failed.stderr
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    s3_support.assert_same(undisturbed, pipeline)


@pytest.mark.parametrize("place", ["plan.after", "files.between", "files.after", "commit.before"])
def test_the_newest_of_two_writers_wins(
    place: str, tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, s3: S3Server
) -> None:
    pipeline = s3_support.make(tmp_path / "p", inputs, s3)
    older = pipeline.start(failpoint=f"{place}@2=stop")
    try:
        crash.halted(older)
        newer = pipeline.run(max_epochs=2)
        assert newer.returncode == 0, newer.stderr
        newest = crash.newest_commit(pipeline.fetched().lake)
        assert newest["number"] == 2, "the epoch in hand and one more"
    finally:
        older.send_signal(signal.SIGCONT)
    _, err = older.communicate(timeout=120)
    assert older.returncode == 3, err
    assert "SupersededError" in err and f"term {newest['term']}" in err, "the error names the newer run"
    assert crash.newest_commit(pipeline.fetched().lake) == newest, "the older one changed nothing"
    assert pipeline.run().returncode == 0
    s3_support.assert_same(undisturbed, pipeline)


def test_many_writers_at_once(tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, s3: S3Server) -> None:
    """Six runs begin together: each is replaced or ends well, and the bucket is as if one had run."""
    pipeline = s3_support.make(tmp_path / "p", inputs, s3)
    runs = [pipeline.start() for _ in range(6)]
    ended = [(run, *run.communicate(timeout=240)) for run in runs]
    for run, _, err in ended:
        assert run.returncode == 0 or (run.returncode == 3 and "SupersededError" in err), err
    assert any(run.returncode == 0 for run, _, _ in ended), "the newest goes on to the end"
    s3_support.assert_same(undisturbed, pipeline)


@pytest.mark.parametrize("seed", SEEDS)
def test_through_a_network_that_fails(
    seed: int,
    tmp_path: Path,
    inputs: list[Path],
    undisturbed: crash.Pipeline,
    s3: S3Server,
    figure: Callable[..., None],
) -> None:
    with fault_proxy(s3.endpoint, seed=seed, rate=0.2) as proxy:
        pipeline = s3_support.make(tmp_path / "p", inputs, s3, endpoint=proxy.endpoint)
        done = pipeline.run()
        assert done.returncode == 0, done.stderr
        s3_support.assert_same(undisturbed, pipeline)
        figure("replies of S3 that were disturbed", requests=proxy.seen.total(), **proxy.happened)
        assert len(proxy.happened) >= 6, "hardly anything happened"


def test_the_reply_to_each_claim_is_lost(
    tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, s3: S3Server
) -> None:
    """Identity, term, plans, commits, contract: every first reply is lost or comes of a second sending."""
    claims = ("/terms/", "/epochs/", "/contracts/", "/pipeline.json")

    def plan(request: object, before: int) -> str | None:
        path, method = request.path, request.method  # type: ignore[attr-defined]
        if method != "PUT" or before or not any(part in path for part in claims):
            return None
        return ("cut_after", "repeat", "fault")[len(path) % 2 + ("commit" in path)]

    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        pipeline = s3_support.make(tmp_path / "p", inputs, s3, endpoint=proxy.endpoint)
        done = pipeline.run()
        assert done.returncode == 0, done.stderr
        s3_support.assert_same(undisturbed, pipeline)
        epochs = json.loads(done.stdout)["run"]["epochs"]
        assert proxy.happened.total() == 2 * epochs + 3
        assert crash.newest_commit(pipeline.fetched().lake)["term"] == 1, "no term was taken for another's"


def test_the_server_is_killed_and_started(tmp_path: Path, inputs: list[Path], figure: Callable[..., None]) -> None:
    """The run waits for the server, and loses nothing that it had acknowledged."""
    chance = random.Random(3)
    whole = crash.make(tmp_path / "whole", inputs, epoch_events=300)
    assert whole.run().returncode == 0
    kills = runs = 0
    with s3_server(tmp_path / "s3") as server:
        while kills < KILLS:
            pipeline = s3_support.make(tmp_path / f"p{runs}", inputs, server, epoch_events=300)
            places = chance.sample(EVERY_EPOCH, min(len(EVERY_EPOCH), KILLS - kills))
            run = pipeline.start(failpoint=",".join(f"{place}@{chance.randint(1, 15)}=stop" for place in places))
            for _ in places:
                crash.halted(run)
                server.kill()
                run.send_signal(signal.SIGCONT)
                crash.some_moment(run, chance.uniform(0.0, 0.5))
                server.start()
                kills += 1
            _, err = run.communicate(timeout=240)
            assert run.returncode == 0, err
            runs += 1
            s3_support.assert_same(whole, pipeline)
    figure("S3 server killed under a run", kills=kills, runs=runs)


def test_readers_hear_why_nothing_comes(tmp_path: Path, inputs: list[Path]) -> None:
    """A server that is away is no damaged file."""
    with s3_server(tmp_path / "s3") as server:
        pipeline = s3_support.make(tmp_path / "p", inputs, server)
        assert pipeline.run().returncode == 0
        storage = Storage.of({**server.settings, "timeout": "1s"})
        rows = penstock.read_lake(pipeline.url, "silver/events", storage=storage)
        server.kill()
        for read in (rows.to_pyarrow, rows.to_polars):
            with pytest.raises(penstock.LakeError, match="cannot be reached") as said:
                read()
            assert "damaged" not in str(said.value)


def test_both_are_killed(
    tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline, figure: Callable[..., None]
) -> None:
    chance = random.Random(5)
    kills = finished = 0
    with s3_server(tmp_path / "s3") as server:
        began = time.monotonic()
        assert s3_support.make(tmp_path / "whole", inputs, server).run().returncode == 0
        longest = time.monotonic() - began
        while kills < KILLS:
            pipeline = s3_support.make(tmp_path / f"p{finished}", inputs, server)
            while True:
                # However fast it is, it gets no further than this place: there is something left to be killed.
                run = pipeline.start(failpoint=f"{chance.choice(PLACES)}@{chance.randint(1, 4)}=stop")
                crash.some_moment(run, chance.uniform(0, longest))
                first, second = chance.sample([run.kill, server.kill], 2)
                first()
                second()
                server.start()
                _, err = run.communicate(timeout=240)
                if run.returncode == 0:
                    break
                assert run.returncode == -signal.SIGKILL, err
                kills += 1
            finished += 1
            s3_support.assert_same(undisturbed, pipeline)
    figure("run and S3 server killed together", kills=kills, finished=finished)


def test_a_server_that_stays_away(tmp_path: Path, inputs: list[Path], undisturbed: crash.Pipeline) -> None:
    """The run gives up after its time and says so; the next one goes on from the last commit."""
    with s3_server(tmp_path / "s3") as server:
        pipeline = s3_support.make(tmp_path / "p", inputs, server, timeout=5, epoch_events=300)
        run = pipeline.start(failpoint="commit.after@3=stop")
        crash.halted(run)
        server.kill()
        run.send_signal(signal.SIGCONT)
        _, err = run.communicate(timeout=120)
        assert run.returncode == 3, err
        assert "LakeError" in err and server.endpoint in err and "cannot be reached" in err, err
        server.start()
        # With the time that a request has as a rule: the server may be slow.
        spec = json.loads(pipeline.spec.read_text())
        del spec["storage"]["timeout_us"]
        pipeline.spec.write_text(json.dumps(spec))
        done = pipeline.run()
        assert done.returncode == 0, done.stderr
        whole = crash.make(tmp_path / "whole", inputs, epoch_events=300)
        assert whole.run().returncode == 0
        s3_support.assert_same(whole, pipeline)
