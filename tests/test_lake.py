"""What readers see in a lake: DuckDB, Polars and pyarrow read every layer and agree with the ledger."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

import crash
import penstock
from penstock import _core

EVENTS = 5_000
LAYERS = ["bronze/events", "silver/events", "silver/sessions", "dead_letters", "gold/per_minute"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> crash.Pipeline:
    """A lake of a few epochs, with hostile event types among the events."""
    folder = tmp_path_factory.mktemp("lake")
    path = folder / "in.jsonl"
    _core.generate("ecommerce", json.dumps({"total": EVENTS, "seed": 3, "bad_rate": 0.05}), str(path))
    with path.open("a") as out:
        hostile = ["../../etc/passwd", "", "a" * 5_000, "x/y=z", "date=1999-01-01", "\u0000\n", "%2e%2e", "CON"]
        for event_type in hostile:
            out.write(json.dumps({"event_type": event_type}) + "\n")
    pipeline = crash.make(folder / "p", [path])
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    return pipeline


def rows_in_log(lake: Path, layer: str) -> int:
    return sum(f["rows"] for f in json.loads(_core.read_lake(str(lake), layer)))


@pytest.mark.parametrize("layer", LAYERS)
def test_every_reader_agrees(layer: str, pipeline: crash.Pipeline) -> None:
    expected = rows_in_log(pipeline.lake, layer)
    assert expected > 0
    glob = f"{pipeline.lake}/{layer}/**/*.parquet"
    found = duckdb.execute(
        f"SELECT count(*), count(date) FROM read_parquet('{glob}', hive_partitioning = true)"
    ).fetchall()
    assert found == [(expected, expected)]
    assert pl.scan_parquet(glob, hive_partitioning=True).select(pl.len()).collect().item() == expected
    assert ds.dataset(pipeline.lake / layer, partitioning="hive").count_rows() == expected


def test_layers_agree_with_the_ledger(pipeline: crash.Pipeline) -> None:
    ledger = pipeline.ledger()
    assert ledger["consumed"] == rows_in_log(pipeline.lake, "bronze/events")
    assert ledger["silver"] == rows_in_log(pipeline.lake, "silver/events")
    assert ledger["rejected"] + ledger["late"] == rows_in_log(pipeline.lake, "dead_letters")
    assert ledger["sessions"] == rows_in_log(pipeline.lake, "silver/sessions")
    assert ledger["consumed"] == sum(ledger[k] for k in ("silver", "pending", "rejected", "duplicate", "late"))


def test_sessions_follow_from_silver(pipeline: crash.Pipeline) -> None:
    lake = pipeline.lake
    silver = f"read_parquet('{lake}/silver/events/**/*.parquet', hive_partitioning = true)"
    sessions = f"read_parquet('{lake}/silver/sessions/**/*.parquet', hive_partitioning = true)"
    different = duckdb.execute(
        f"""
        WITH steps AS (
            SELECT *, event_time - lag(event_time) OVER w AS step,
                   row_number() OVER w AS nth
            FROM {silver} WINDOW w AS (PARTITION BY entity ORDER BY event_time, _topic, _partition, _offset)
        ), numbered AS (
            SELECT *, sum(CASE WHEN step IS NULL OR step > INTERVAL 5 MINUTE THEN 1 ELSE 0 END)
                OVER (PARTITION BY entity ORDER BY nth) AS n FROM steps
        ), slow AS (
            SELECT entity, min(event_time) AS session_start, max(event_time) AS session_end, count(*) AS events,
                   min(session_id) AS session_id, count(DISTINCT session_id) AS ids, max(session_seq) AS seq
            FROM numbered GROUP BY entity, n
        )
        SELECT count(*) FROM slow FULL JOIN {sessions} AS fast USING (session_id)
        WHERE slow.session_start IS DISTINCT FROM fast.session_start
           OR slow.session_end IS DISTINCT FROM fast.session_end
           OR slow.events IS DISTINCT FROM fast.events OR slow.ids <> 1 OR slow.seq <> slow.events
        """
    ).fetchall()
    assert different == [(0,)]


def test_windows_follow_from_silver(pipeline: crash.Pipeline) -> None:
    lake = pipeline.lake
    different = duckdb.execute(
        f"""
        WITH slow AS (
            SELECT time_bucket(INTERVAL 1 MINUTE, event_time) AS window_start, event_type, count(*) AS events
            FROM read_parquet('{lake}/silver/events/**/*.parquet') GROUP BY ALL
        )
        SELECT count(*) FROM slow FULL JOIN read_parquet('{lake}/gold/per_minute/**/*.parquet') AS fast
        USING (window_start, event_type) WHERE slow.events IS DISTINCT FROM fast.events
        """
    ).fetchall()
    assert different == [(0,)]


def test_no_event_chooses_a_path(pipeline: crash.Pipeline) -> None:
    names = {p.name for p in (pipeline.lake / "bronze/events").glob("*/*")}
    assert names == {f"event_type={t}" for t in ("user_signup", "page_view", "purchase", "payment_failed", "_other")}
    outside = [p for p in pipeline.folder.rglob("*") if p.is_file() and pipeline.lake not in p.parents]
    assert outside == [pipeline.spec]


def run_again(pipeline: crash.Pipeline, **changes: Any) -> subprocess.CompletedProcess[str]:
    spec = json.loads(pipeline.spec.read_text()) | changes
    pipeline.spec.write_text(json.dumps(spec))
    return pipeline.run()


def test_run_twice_changes_nothing(pipeline: crash.Pipeline) -> None:
    before = crash.files(pipeline.lake)
    again = pipeline.run()
    assert json.loads(again.stdout)["run"]["consumed"] == 0
    assert crash.files(pipeline.lake) == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX rights")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"event_type": "page_view"}\n')
    pipeline = crash.make(tmp_path / "p", [source])
    pipeline.lake.write_text("a file")
    failed = pipeline.run()
    assert failed.returncode == 3
    assert "LakeError" in failed.stderr
    assert str(pipeline.lake) in failed.stderr
    pipeline.lake.unlink()
    if os.geteuid() == 0:
        return  # root may write everywhere
    pipeline.lake.mkdir()
    pipeline.lake.chmod(stat.S_IRUSR | stat.S_IXUSR)
    failed = pipeline.run()
    assert failed.returncode == 3
    assert "LakeError" in failed.stderr


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system of 1 MiB fills up in the middle; with more room the run goes on and nothing is lost."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)]).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        source = tmp_path / "in.jsonl"
        _core.generate("ecommerce", json.dumps({"total": 20_000, "seed": 5}), str(source))
        pipeline = crash.make(tmp_path / "p", [source])
        full = run_again(pipeline, lake=str(small / "lake"))
        assert full.returncode == 3
        assert "LakeError" in full.stderr and "full" in full.stderr.lower(), full.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        done = pipeline.run()
        assert done.returncode == 0, done.stderr
        ledger = json.loads(_core.audit(pipeline.spec.read_text()))
        assert ledger["balanced"]
        assert ledger["consumed"] == source.read_bytes().count(b"\n")
    finally:
        subprocess.run(["umount", str(small)], check=False)


def test_errors_name_the_lake(pipeline: crash.Pipeline) -> None:
    """The whole path of what they are about, not only its place inside."""
    copy = Path(shutil.copytree(pipeline.lake, pipeline.folder / "damaged"))
    spec = json.dumps(json.loads(pipeline.spec.read_text()) | {"lake": str(copy)})
    commit = max((copy / "_penstock" / crash.PIPELINE / "epochs").glob("*.commit"))
    commit.write_bytes(commit.read_bytes()[:50])
    with pytest.raises(penstock.CheckpointError, match=f"^checkpoint {commit}: "):
        _core.audit(spec)
    shutil.rmtree(copy / "_penstock")
    with pytest.raises(penstock.LakeError, match=f"^lake {copy}(/_penstock/{crash.PIPELINE}/?)?: "):
        _core.audit(spec)
    with pytest.raises(penstock.LakeError, match=f"^lake {copy}(/_penstock/{crash.PIPELINE}/?)?: "):
        _core.reset(spec, dry_run=True)


@pytest.mark.parametrize("harm", ["cut", "zeros"])
def test_a_damaged_file_is_explained(harm: str, pipeline: crash.Pipeline, tmp_path: Path) -> None:
    lake = Path(shutil.copytree(pipeline.lake, tmp_path / "lake"))
    victim = max((lake / "silver/events").rglob("*.parquet"))
    data = victim.read_bytes()
    victim.write_bytes(
        data[:-100] if harm == "cut" else data[:100] + bytes(len(data) // 2) + data[100 + len(data) // 2 :]
    )
    rows = penstock.read_lake(lake, "silver/events")
    for read in (rows.to_pyarrow, rows.to_polars, rows.to_pandas):
        with pytest.raises(
            penstock.LakeError, match=f"^lake {victim}: a Parquet file cannot be read: it is damaged"
        ) as said:
            read()
        assert "bring it back from a backup" in str(said.value)


def test_a_file_that_was_removed_is_no_damage(pipeline: crash.Pipeline, tmp_path: Path) -> None:
    """What was read of the log before a compaction and used long after it."""
    lake = Path(shutil.copytree(pipeline.lake, tmp_path / "lake"))
    rows = penstock.read_lake(lake, "silver/events")
    victim = Path(max(rows.files))
    victim.unlink()
    for read in (rows.to_pyarrow, rows.to_polars, rows._repr_html_):
        with pytest.raises(penstock.LakeError, match=f"^lake {victim}: was removed since .* read_lake again"):
            read()


def test_what_is_wrong_with_the_connection_is_no_damage(pipeline: crash.Pipeline) -> None:
    rows = penstock.read_lake(pipeline.lake, "silver/events")
    closed = duckdb.connect()
    closed.close()
    with pytest.raises(duckdb.ConnectionException):
        rows.to_duckdb(closed)
    locked = duckdb.connect()
    locked.execute("SET enable_external_access = false")
    with pytest.raises(duckdb.PermissionException):
        rows.to_duckdb(locked)
