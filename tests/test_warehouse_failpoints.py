"""Every place around a load's transaction, as an error and as kill -9: what is left, and what the next load does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from penstock import _core
from penstock.warehouse import audit, load
from services import until
from services.postgres import Database
from test_warehouse import Loaded
from warehouse_support import event, install
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = [place for place in _core.failpoints() if place.startswith("load.")]
TABLES = ("dim_user", "dim_user_changes", "fact_events", "fact_duplicates")

LOADS = """
import json, sys
from pathlib import Path
from penstock import _core
from penstock.warehouse import load

spec, entries = json.loads(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
_core.lake_log = lambda _, since, **__: json.dumps([entry for entry in entries if entry["number"] > since])
_core.lake_shards = lambda *_, **__: []
_core.read_lake = lambda *_, **__: "[]"  # only --date asks for it
load(spec)
"""


@pytest.fixture(scope="module", params=KINDS)
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A lake that is loaded; each case adds a change to it."""
    folder = tmp_path_factory.mktemp(request.param)
    made = Loaded(folder / "lake")
    made.root.mkdir()
    database = None
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        database = Database(server, server.database())
    made.warehouses = Warehouses(folder, database)
    with pytest.MonkeyPatch.context() as patch:
        install(made, patch)
        made.commit([event("s", "ada", "2024-12-16T10:00:00", "user_signup")])
        load(made.spec(), made.warehouses.target())
        yield made
        # Nothing of all that was done to it is left: it is as a warehouse that nobody disturbed.
        load(made.spec(), made.warehouses.target("calm"))
        disturbed, calm = made.warehouses.everything(tables=TABLES), made.warehouses.everything("calm", TABLES)
        assert disturbed == calm


def loads(lake: Loaded) -> int:
    """How many loads are recorded."""
    ((count,),) = lake.warehouses.rows("SELECT count(*) FROM penstock_loads")
    return int(count)


def locked(lake: Loaded) -> bool:
    """Whether somebody holds a lock of ours."""
    if lake.warehouses.database is None:
        return False
    ours = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    return bool(lake.warehouses.rows(f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND {ours}"))


@pytest.mark.parametrize("action", ["error", "kill"])
@pytest.mark.parametrize("place", PLACES)
def test_a_load_that_fails_is_there_whole_or_not_at_all(lake: Loaded, place: str, action: str) -> None:
    n = len(lake.entries)
    lake.commit(
        [
            event(f"s{n}", "ada", f"2024-12-{17 + n % 7}T09:{n:02}:00", "user_signup", plan_type=f"plan {n}"),
            event(f"p{n}", "bob", f"2024-12-{17 + n % 7}T10:00:00", "purchase"),
        ]
    )
    (lake.root.parent / "log.json").write_text(json.dumps(lake.entries))
    before = loads(lake)
    spec = json.dumps(lake.spec(warehouse=lake.warehouses.target()))
    failed = subprocess.run(
        [sys.executable, "-c", LOADS, spec, str(lake.root.parent / "log.json")],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PENSTOCK_FAILPOINT": f"{place}={action}"},
    )
    assert f"failpoint {place}" in failed.stderr
    assert failed.returncode == (1 if action == "error" else -signal.SIGKILL), failed.stderr
    until("the lock is given back", lambda: not locked(lake))
    done = place == "load.committed"
    assert loads(lake) == before + done
    assert load(lake.spec(), lake.warehouses.target()).counts.inserted == (0 if done else 2)
    assert loads(lake) == before + 1
    assert audit(lake.spec(), lake.warehouses.target()).balanced


def test_there_are_places_around_the_whole_transaction() -> None:
    assert PLACES == ["load.begin", "load.staged", "load.applied", "load.recorded", "load.committed"]
