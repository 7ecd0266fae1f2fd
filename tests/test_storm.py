"""Whatever dies while events come in: at the end each is in the lake, once."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from services.kafka import KafkaBroker
from services.s3 import s3_server
from storm import DECK, Storm, again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = os.environ.get("PENSTOCK_STORM_SEED")
SECONDS = os.environ.get("PENSTOCK_STORM_SECONDS")
# Two minutes where a change is judged; half of it on a desk.
USUAL = 120 if os.environ.get("CI") else 60
RATE = float(os.environ.get("PENSTOCK_STORM_RATE", "500"))


def storm(folder: Path, figure: Callable[..., None], test: str, *, seed: int, seconds: float) -> None:
    """One storm: fails when an event is lost or doubled, or when a kind of failure never came."""
    print(f"\nstorm: seed {seed}, {seconds:g} s, {RATE:g} events/s", flush=True)
    with KafkaBroker() as broker, s3_server(folder / "s3") as store:
        total = int(RATE * (seconds + 600) * 2)
        with Storm(folder, broker, store, seed=seed, rate=RATE, total=total) as raging:
            try:
                raging.rage(seconds)
                counted = raging.settle()
                never = [kind for kind in DECK if not raging.happened[kind]]
                assert not never, f"never happened: {never}"
            except Exception as error:
                raise AssertionError(
                    f"storm of seed {seed}, after {dict(raging.happened)} and {dict(raging.beside)}: {error}\n"
                    f"run it again: {again(seed, seconds, test)}\nthe last run said: {raging.run.said[-3000:]}"
                ) from error
            figure(f"storm of seed {seed}, {seconds:g} s", **{**raging.happened, **raging.beside, **counted})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_storm(tmp_path: Path, figure: Callable[..., None], request: pytest.FixtureRequest) -> None:
    storm(tmp_path, figure, request.node.nodeid, seed=int(SEED or 1), seconds=float(SECONDS or USUAL))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak_storm(tmp_path: Path, figure: Callable[..., None], request: pytest.FixtureRequest) -> None:
    """The same for hours, another one each time."""
    seed = int(SEED or random.SystemRandom().randrange(1 << 32))
    storm(tmp_path, figure, request.node.nodeid, seed=seed, seconds=float(SECONDS or 3_600))
