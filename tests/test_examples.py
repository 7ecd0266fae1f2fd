"""The examples, run for real: an hour of GitHub through `penstock run`, a year of retail through the API, the notebook.

The data sets are not part of the repository. Their facts were counted with Python's standard library, not by Penstock.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import penstock

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
GITHUB = DATA / "gharchive" / "2015-01-01-0.json.gz"
RETAIL = DATA / "online_retail" / "online_retail.csv.gz"

needs_github = pytest.mark.skipif(not GITHUB.exists(), reason=f"NOT CHECKED: the GH Archive hour is not at {GITHUB}")
needs_retail = pytest.mark.skipif(not RETAIL.exists(), reason=f"NOT CHECKED: Online Retail is not at {RETAIL}")


def run_github(paths: list[str], lake: Path, *more: str) -> dict[str, Any]:
    """`penstock run` of the example over these files; its ledger."""
    command = [
        sys.executable, "-m", "penstock", "run", str(ROOT / "examples/gharchive/pipeline.yaml"), "--until-caught-up",
        "--json", "--set", f"source.files.paths={json.dumps(paths)}", "--set", f"lake={lake}", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def github_lines() -> list[bytes]:
    """The hour, line by line."""
    with gzip.open(GITHUB) as file:
        return file.readlines()


def sessions_by_hand(lines: list[bytes]) -> dict[str, int]:
    """Sessions of each actor, counted the slow way: a pause of more than 30 minutes opens one."""
    times = defaultdict(list)
    for line in lines:
        event = json.loads(line)
        times[str(event["actor"]["id"])].append(datetime.fromisoformat(event["created_at"].replace("Z", "+00:00")))
    sessions = {}
    for actor, at in times.items():
        at.sort()
        sessions[actor] = 1 + sum(b - a > timedelta(minutes=30) for a, b in pairwise(at))
    return sessions


def silver(lake: Path) -> pl.DataFrame:
    """Silver as a table, without the positions, which follow the cut into files."""
    rows = pl.DataFrame(penstock.read_lake(str(lake), "silver/events"))
    return rows.select(pl.exclude("_topic", "_partition", "_offset", "session_seq")).sort("idempotency_key")


@pytest.fixture(scope="module")
def github_lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The hour as it came, run once."""
    lake = tmp_path_factory.mktemp("github") / "lake"
    return run_github([str(GITHUB)], lake), lake


@needs_github
class TestGithub:
    def test_the_ledger_accounts_for_every_event(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        ledger, _ = github_lake
        assert ledger["consumed"] == 7_702
        assert ledger["silver"] == 7_702
        assert [ledger[k] for k in ("pending", "rejected", "duplicate", "late")] == [0, 0, 0, 0]
        assert ledger["rejected_by_code"] == {}
        assert ledger["balanced"] is True

    def test_sessions_are_those_counted_by_hand(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        _, lake = github_lake
        expected = sessions_by_hand(github_lines())
        assert sum(expected.values()) == 3_759
        assert len(expected) == 3_648
        sessions = pl.DataFrame(penstock.read_lake(str(lake), "silver/sessions"))
        assert sessions.height == 3_759
        assert sessions["events"].sum() == 7_702
        assert dict(Counter(sessions["entity"])) == expected

    def test_nothing_is_left_undescribed(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        _, lake = github_lake
        rows = silver(lake)
        assert rows["_extra"].null_count() == rows.height
        assert Counter(rows["event_type"])["PushEvent"] == 4_280
        assert rows["event_type"].n_unique() == 14
        assert rows["org"].null_count() == 5_360

    def test_a_payload_comes_out_as_it_went_in(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        _, lake = github_lake
        events = {e["id"]: e for e in map(json.loads, github_lines()) if e["type"] == "PushEvent"}
        pushes = silver(lake).filter(pl.col("event_type") == "PushEvent")
        assert pushes.height == len(events)
        for row in pushes.select("id", "actor", "push_payload").iter_rows(named=True):
            assert row["push_payload"] == events[row["id"]]["payload"]
            assert row["actor"] == events[row["id"]]["actor"]

    def test_other_tools_read_the_layers(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        import duckdb

        _, lake = github_lake
        for layer, rows in (("bronze/events", 7_702), ("silver/events", 7_702), ("silver/sessions", 3_759)):
            glob = f"{lake}/{layer}/**/*.parquet"
            assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{glob}', hive_partitioning = true)").fetchall() == [
                (rows,)
            ]
            assert pl.scan_parquet(glob, hive_partitioning=True).select(pl.len()).collect().item() == rows

    def test_audit_counts_the_same(self, github_lake: tuple[dict[str, Any], Path]) -> None:
        ledger, lake = github_lake
        command = [
            sys.executable, "-m", "penstock", "audit", str(ROOT / "examples/gharchive/pipeline.yaml"), "--json",
            "--set", f"source.files.paths={json.dumps([str(GITHUB)])}", "--set", f"lake={lake}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        audit = json.loads(done.stdout.strip().splitlines()[-1])
        for k in ("consumed", "silver", "pending", "rejected", "duplicate", "late", "balanced"):
            assert audit[k] == ledger[k], k

    @pytest.mark.parametrize("deal", ["runs", "cards"])
    def test_files_in_any_order_give_the_same(
        self, deal: str, github_lake: tuple[dict[str, Any], Path], tmp_path: Path
    ) -> None:
        """Cut into 13 files, as runs of lines or dealt out like cards, whose names are shuffled."""
        _, lake = github_lake
        lines = github_lines()
        size = -(-len(lines) // 13)
        piece = (lambda i: lines[i * size : (i + 1) * size]) if deal == "runs" else (lambda i: lines[i::13])
        names = [f"part-{i:02}.json" for i in range(13)]
        random.Random(13).shuffle(names)
        for i, name in enumerate(names):
            (tmp_path / name).write_bytes(b"".join(piece(i)))
        ledger = run_github([str(tmp_path / "part-*.json")], tmp_path / "lake", "--set", "epoch.max_events=500")
        assert ledger["consumed"] == ledger["silver"] == 7_702
        assert ledger["balanced"] is True
        assert silver(tmp_path / "lake").equals(silver(lake))

    def test_every_event_type_takes_the_fast_path(self) -> None:
        command = [
            sys.executable,
            "-m",
            "penstock",
            "contract",
            "check",
            str(ROOT / "examples/gharchive/contract.yaml"),
        ]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "fallback" not in {word.strip('":,') for word in done.stdout.split()}


def load_module(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_retail
class TestRetail:
    @pytest.fixture(scope="class")
    @classmethod
    def script(cls) -> ModuleType:
        return load_module(ROOT / "examples/online_retail/online_retail.py")

    @pytest.fixture(scope="class")
    @classmethod
    def sales(cls, script: ModuleType) -> pl.DataFrame:
        return script.read_sales(RETAIL)

    def test_exact_duplicates(self, script: ModuleType, sales: pl.DataFrame) -> None:
        unique = script.without_duplicates(sales)
        assert sales.height - unique.height == 5_268
        columns = [c for c in sales.columns if c not in ("row", "amount")]
        first = sales.unique(columns, keep="first", maintain_order=True)
        assert unique["row"].sort().equals(first["row"].sort()), "the first of equal rows stays"

    def test_sessions_of_customers(self, script: ModuleType, sales: pl.DataFrame) -> None:
        sessions = script.sessions_of_customers(sales)
        assert sessions.height == 541_909 - 135_080
        assert sessions["customer"].n_unique() == 4_372
        assert sessions["session_id"].n_unique() == 19_969
        assert sessions.filter(pl.col("session_seq") == 1).height == 19_969

    def test_the_sum_is_exact(self, script: ModuleType, sales: pl.DataFrame) -> None:
        days = script.revenue_by_day(sales)
        assert days["revenue"].sum() == Decimal("9747747.934")
        assert days["rows"].sum() == 541_909

    def test_history_equals_one_made_by_hand_for_any_order_of_months(
        self, script: ModuleType, sales: pl.DataFrame
    ) -> None:
        described: dict[str, dict[str, str | None]] = defaultdict(dict)
        with gzip.open(RETAIL, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                described[row["StockCode"]][row["InvoiceDate"]] = row["Description"] or None  # the later position wins
        expected = []
        for article, at in described.items():
            rows: list[list[Any]] = []
            for time in sorted(at):
                if not rows or rows[-1][2] != at[time]:
                    if rows:
                        rows[-1][3] = time
                    rows.append([article, time, at[time], None])
            expected += map(tuple, rows)
        assert len(expected) == 8_708

        months = sorted(sales["sold_at"].dt.strftime("%Y-%m").unique())
        shuffled = random.Random(1).sample(months, len(months))
        for order in (months, shuffled, months[::-1]):
            history = pl.DataFrame(script.history_of_articles(sales, order).history)
            text = "%Y-%m-%d %H:%M:%S"
            found = history.select(
                "article",
                pl.col("effective_start").dt.strftime(text),
                "description",
                pl.col("effective_end").dt.strftime(text),
            )
            assert sorted(found.iter_rows(), key=repr) == sorted(expected, key=repr)
            assert history["is_current"].sum() == 4_070
            assert history["surrogate_key"].n_unique() == history.height

    def test_the_script_prints_what_it_finds(self) -> None:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/online_retail/online_retail.py"), str(RETAIL)],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        for fact in ("541,909", "5,268", "19,969", "9,747,747.934", "8,708"):
            assert fact in done.stdout


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Every cell of the notebook, executed by a kernel of this environment."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples/backfill.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs), "the sessions are plotted"
    assert not any(o.output_type == "error" for o in outputs)
