"""The command line: every command, `--json`, exit codes, and no traceback for a user's mistake."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import penstock
from penstock.cli import _common
from penstock.doctor import EXTRAS
from services import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
COMMANDS = ("demo", "init", "produce", "run", "load", "index", "quality", "audit", "inspect", "doctor", "contract")
FILES = ("--set", "source.files.paths=in/*.jsonl.gz")
ENVIRONMENT = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PENSTOCK_SLACK_WEBHOOK": ""}


def cli(*arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as users do."""
    return subprocess.run(
        [sys.executable, "-m", "penstock", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PENSTOCK_DEBUG"} | ENVIRONMENT | env,
        timeout=240,
        check=False,
    )


def ok(*arguments: object, cwd: Path | None = None) -> str:
    done = cli(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def found(*arguments: object, cwd: Path | None = None) -> dict[str, Any]:
    """The line of JSON with which a command ends; nothing else is on standard output."""
    lines = ok(*arguments, "--json", cwd=cwd).splitlines()
    assert len(lines) == 1
    return dict(json.loads(lines[0]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ready-made pipeline, copied out, fed and run, as the quickstart has it."""
    folder = tmp_path_factory.mktemp("cli") / "shop"
    ok("init", "ecommerce", folder)
    options = ("--total-events", 8_000, "--seed", 3, "--bad-data-rate", 0.02, "--start", "2024-12-15", "--span", "3d")
    ok("produce", "ecommerce", *options, "--to", folder / "in/events.jsonl.gz")
    return folder


@pytest.fixture(scope="module")
def ledger(shop: Path) -> dict[str, Any]:
    return found("run", "pipeline.yaml", "--until-caught-up", *FILES, cwd=shop)


def test_help() -> None:
    page = ok("--help")
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", page, re.MULTILINE), command
    for code, meaning in _common.EXIT_CODES.items():
        assert f"{code.value}  {meaning}" in page
    for command in (*COMMANDS[:-1], "contract check", "contract diff"):
        page = ok(*command.split(), "--help")
        assert "Examples" in page
        assert f"penstock {command}" in page
        assert "--json" in page
    assert ok("--version").strip() == f"penstock {penstock.__version__}"


def test_the_exit_codes_are_documented() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    table = dict(re.findall(r"^\| (\d+) \| ([^|]*) \|", page, flags=re.MULTILINE))
    assert table == {str(code.value): meaning for code, meaning in _common.EXIT_CODES.items()}


def test_completion(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert f"complete_{shell}" in ok("--show-completion", shell)
    assert "'bash'" in cli("--show-completion", "basil").stderr
    # Without a name: that of a process above this one; where there is none, as in a service, what SHELL says.
    (tmp_path / "sitecustomize.py").write_text(
        "import shellingham\n"
        "def none(*_):\n"
        "    raise shellingham.ShellDetectionFailure\n"
        "shellingham.detect_shell = none\n"
    )
    done = cli("--show-completion", PYTHONPATH=str(tmp_path), SHELL="/usr/bin/zsh")
    assert (done.returncode, "complete_zsh" in done.stdout) == (0, True), done.stderr
    done = cli("--show-completion", PYTHONPATH=str(tmp_path), SHELL="")
    assert done.returncode == 2 and "penstock --show-completion bash" in " ".join(done.stderr.split()), done.stderr


@pytest.mark.parametrize("module", ["penstock.cli", "typer", "penstock.cli.audit", "penstock.pipeline"])
def test_ctrl_c_while_it_is_imported(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            print('so far')\n"
        "            sys.stdout.flush()\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    done = cli("audit", "ecommerce", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (130, "so far\n"), done.stderr
    assert "Traceback" not in done.stderr and "KeyboardInterrupt" not in done.stderr


def test_init_copies_all_that_is_needed(shop: Path, tmp_path: Path) -> None:
    for name in (
        "pipeline.yaml",
        "contract.yaml",
        "schemas",
        "warehouse",
        "dbt/dbt_project.yml",
        "dags/ecommerce_daily.py",
    ):
        assert (shop / name).exists(), name
    assert not list(shop.glob("**/target"))
    again = cli("init", "ecommerce", shop)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    told = found("init", "ecommerce", shop, "--force")
    assert str(shop / "pipeline.yaml") in told["files"]
    assert "penstock init ecommerce myshop" in cli("init", "myshop", cwd=tmp_path).stderr
    assert "did you mean 'ecommerce'" in cli("init", "ecomerce", tmp_path).stderr


def test_produce_tells_the_truth(shop: Path, tmp_path: Path) -> None:
    truth = json.loads((shop / "in/events.jsonl.gz.truth.json").read_text())
    assert truth["total"] == 8_000
    file = tmp_path / "e.jsonl"
    told = found("produce", "ecommerce", "--total-events", 500, "--to", file, "--truth", tmp_path / "told/t.json")
    assert told["expected"] == json.loads((tmp_path / "told/t.json").read_text())["expected"]
    assert sum(1 for _ in file.open("rb")) == told["total"] == 500
    command = [sys.executable, "-m", "penstock", "produce", "ecommerce", "--total-events", "500", "--to", "-"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == file.read_bytes()
    for wrong in (
        ("--bad-data-rate", "2"),
        ("--start", "soon"),
        ("--span", "1"),
        ("--span", "1d", "--events-per-second", "3"),
    ):
        done = cli("produce", "ecommerce", "--to", file, *wrong)
        assert done.returncode == 2, wrong
        assert "Traceback" not in done.stderr


def test_run_ends_with_the_ledger(shop: Path, ledger: dict[str, Any]) -> None:
    truth = json.loads((shop / "in/events.jsonl.gz.truth.json").read_text())["expected"]
    for name in ("consumed", "silver", "rejected", "duplicate", "late", "rejected_by_code"):
        assert ledger[name] == truth[name], name
    assert (ledger["balanced"], ledger["pending"]) == (True, 0)
    assert ledger["run"]["consumed"] == ledger["consumed"]
    page = ok("run", "pipeline.yaml", "--until-caught-up", *FILES, cwd=shop)
    assert "balanced" in page
    assert f"{truth['silver']:,}" in page


def test_audit(shop: Path, ledger: dict[str, Any], tmp_path: Path) -> None:
    told = found("audit", shop)
    assert {name: told[name] for name in ("consumed", "silver", "rejected", "balanced")} == {
        "consumed": ledger["consumed"],
        "silver": ledger["silver"],
        "rejected": ledger["rejected"],
        "balanced": True,
    }
    assert "everything agrees" in ok("audit", shop)
    copy = tmp_path / "shop"
    subprocess.run(["cp", "-r", str(shop), str(copy)], check=True)
    victim = next((copy / "lake/silver/events").glob("*/*.parquet"))
    victim.unlink()
    done = cli("audit", copy)
    assert done.returncode in (1, 3), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_inspect(shop: Path, ledger: dict[str, Any]) -> None:
    told = found("inspect", shop)
    assert told["layers"]["silver/events"]["rows"] == ledger["silver"]
    assert "silver/events" in ok("inspect", shop)


def test_what_a_command_does_not_use_need_not_be_set(shop: Path, ledger: dict[str, Any], tmp_path: Path) -> None:
    text = (shop / "pipeline.yaml").read_text().replace("${KAFKA_BROKERS:-}", "${TESTED_BROKERS}")
    text = text.replace("{duckdb: warehouse.duckdb}", '{postgres: "${TESTED_URL}"}')
    text += 'index: {elasticsearch: "${TESTED_INDEX}"}\n'
    pipeline = tmp_path / "own.yaml"
    pipeline.write_text(text.replace("contract: ", f"contract: {shop}/").replace("lake: ./lake", f"lake: {shop}/lake"))
    told = found("inspect", pipeline)
    assert told["consumed"] == ledger["consumed"] and told["lag"] is None
    assert "source.kafka.brokers: the environment variable TESTED_BROKERS is not set" in told["broker_said"]
    found("manifest", pipeline)
    found("compact", pipeline, "--dry-run")
    for command, variable in (
        ("run --until-caught-up", "TESTED_BROKERS"),
        ("audit --broker", "TESTED_BROKERS"),
        ("audit", "TESTED_URL"),
        ("load", "TESTED_URL"),
        ("quality", "TESTED_URL"),
        ("run --until-caught-up --set warehouse.fill=epoch --set source.kafka.brokers=x:1", "TESTED_URL"),
        ("doctor --json", "TESTED_URL"),
    ):
        name, *options = command.split()
        done = cli(name, pipeline, *options)
        assert done.returncode == (1 if name == "doctor" else 2), (command, done.stderr)
        assert f"the environment variable {variable} is not set" in done.stderr + done.stdout, command
    assert "TESTED_BROKERS" in cli("doctor", pipeline, "--json").stdout


def test_load_and_quality(shop: Path, ledger: dict[str, Any]) -> None:
    assert found("load", shop)["inserted"] == ledger["silver"]
    for day in ("2024-12-17", "2024-12-25"):
        done = cli("quality", shop, "--date", day, "--json")
        report = json.loads(done.stdout)
        assert done.returncode == (0 if report["passed"] else 1)
    assert not report["passed"], "there is no event on that day"
    # Without a date it says which day it took.
    done = cli("quality", shop)
    assert done.returncode == 1
    assert "which is yesterday (UTC): --date names another day" in " ".join(done.stdout.split())


def test_a_password_on_the_command_line_is_warned_of(tmp_path: Path) -> None:
    for arguments in (
        ("load", "payments", "--to", "postgresql://u:SEKRET@127.0.0.1:1/x"),
        ("index", "payments", "--to", "http://u:SEKRET@127.0.0.1:1"),
    ):
        done = cli(*arguments, cwd=tmp_path)
        said = " ".join(done.stderr.split())
        assert said.startswith("Warning: --to holds a password, which other users"), said
        assert "SEKRET" not in said
    webhook = "https://hooks.example/SEKRET"
    given = cli("quality", "none.yaml", "--slack-webhook", webhook, cwd=tmp_path).stderr
    assert "Warning: --slack-webhook is a secret" in given and "SEKRET" not in given
    assert "Warning" not in cli("quality", "none.yaml", cwd=tmp_path, PENSTOCK_SLACK_WEBHOOK=webhook).stderr


def test_what_comes_from_the_environment_is_not_shown(shop: Path) -> None:
    done = cli("audit", shop, "--set", "sessions.gap=${SECRET}", SECRET="hunter2secret")
    assert done.returncode == 2 and "hunter2secret" not in done.stderr + done.stdout
    assert "sessions.gap" in done.stderr


def test_doctor(shop: Path, tmp_path: Path) -> None:
    told = found("doctor", shop, *FILES)
    names = {check["name"] for check in told["checks"]}
    assert told["ok"]
    source = next(check for check in told["checks"] if check["name"] == "source")
    assert source["ok"] and source["said"].startswith("1 files match")
    assert {
        "Python",
        "engine",
        "duckdb",
        "airflow",
        "dbt",
        "lake",
        "warehouse",
        "contract",
        "space for the lake",
    } <= names
    assert all(check["remedy"] for check in told["checks"] if not check["ok"])
    (tmp_path / "pipeline.yaml").write_text((shop / "pipeline.yaml").read_text().replace("sessions:", "sesions:"))
    done = cli("doctor", tmp_path)
    assert done.returncode == 1
    assert "did you mean 'sessions'" in " ".join(done.stdout.split())


def test_doctor_knows_the_extras_that_there_are() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([a-z]+) = \[", block, re.MULTILINE)) - {"all"}
    assert extras == set(EXTRAS)
    [every] = re.findall(r'^all = \["penstock\[(.*)\]"\]', block, re.MULTILINE)
    assert set(every.split(",")) == extras
    # What an extra brings is used by somebody: the package, dbt, or a test that shows it at work.
    code = "".join(path.read_text() for place in ("python", "tests") for path in (ROOT / place).rglob("*.py"))
    packages = {"dbt": "dbt", "airflow": "airflow", "postgres": "adbc_driver_postgresql", "spark": "pyspark"}
    for extra in extras:
        name = packages.get(extra, f"{extra}_postgres")
        assert re.search(rf"(import|from|importorskip\(\"|import_module\(\") ?{name}\b", code), extra


def test_contract_check_and_diff(shop: Path, tmp_path: Path) -> None:
    told = found("contract", "check", "ecommerce")
    assert told["valid"]
    assert told["event_types"]["purchase"]["versions"]["v1"]["path"] == "fast"
    assert "purchase" in ok("contract", "check", shop / "contract.yaml")
    assert found("contract", "diff", "ecommerce", shop / "contract.yaml")["full"]
    changed = tmp_path / "new"
    subprocess.run(["cp", "-r", str(shop / "schemas"), str(changed)], check=True)
    schema = json.loads((changed / "purchase.v1.json").read_text())
    schema["required"].append("voucher")
    (changed / "purchase.v1.json").write_text(json.dumps(schema))
    (tmp_path / "new.yaml").write_text((shop / "contract.yaml").read_text().replace("schemas/", "new/"))
    assert found("contract", "diff", "ecommerce", tmp_path / "new.yaml")["changes"]
    done = cli("contract", "diff", "ecommerce", tmp_path / "new.yaml", "--require", "full")
    assert done.returncode == 1
    assert "/voucher" in done.stdout
    (changed / "purchase.v1.json").write_text('{\n  "type": "objekt"\n}')
    done = cli("contract", "check", tmp_path / "new.yaml")
    assert done.returncode == 2
    assert re.search(r"purchase\.v1\.json:2: .*objekt", done.stderr), done.stderr


def test_a_role_that_no_schema_declares(shop: Path, tmp_path: Path) -> None:
    assert "does not declare" not in ok("contract", "check", "ecommerce")
    subprocess.run(["cp", "-r", str(shop / "schemas"), str(tmp_path / "schemas")], check=True)
    text = (shop / "contract.yaml").read_text()
    assert "/user_id" in text
    (tmp_path / "contract.yaml").write_text(text.replace("/user_id", "/user_idd"))
    page = " ".join(ok("contract", "check", tmp_path / "contract.yaml").split())
    assert "entity is read from /user_idd, which the schema does not declare (did you mean /user_id?)" in page
    told = found("contract", "check", tmp_path / "contract.yaml")
    missing = {"role": "entity", "pointer": "/user_idd", "nearest": "/user_id"}
    assert told["event_types"]["purchase"]["versions"]["v1"]["undeclared_roles"] == [missing]


MISTAKES: list[tuple[list[str], int, str]] = [
    (["runn"], 2, "Did you mean 'run'?"),
    (["run", "ecomerce"], 2, "did you mean 'ecommerce'?"),
    (["run", "none.yaml"], 2, "there is no such file"),
    (["run", "{shop}", "--until-caughtup"], 2, "--until-caught-up"),
    (["run", "{shop}", "--set", "sessions.gpa=1m"], 2, "did you mean 'sessions.gap'?"),
    (["run", "{shop}", "--set", "sesions.gap=1m"], 2, "--set sesions.gap: sesions: there is no such setting; did you"),
    (["produce", "ecommerce", "--to", "x.jsonl", "--start", "soon"], 2, "--start: 'soon' is no time"),
    (["produce", "ecommerce", "--to", "x.jsonl", "--events-per-second", "0"], 2, "--events-per-second: 0 is no rate"),
    (["run", "{shop}", "--set", "sessions"], 2, "write it as name=value"),
    (
        ["run", "{shop}", "--until-caught-up", "--set", "contract=none.yaml"],
        2,
        "none.yaml: the contract cannot be read",
    ),
    (["run", "{shop}", "--until-caught-up", *FILES, "--set", "lake=pipeline.yaml"], 3, "pipeline.yaml"),
    (["audit", "{shop}", "--set", "lake=nowhere"], 3, "there is no such folder"),
    (["inspect", "{shop}", "--set", "lake=nowhere"], 3, "there is no such folder"),
    (["load", "{shop}", "--date", "yesterday"], 2, "YYYY-MM-DD"),
    (["quality", "{shop}", "--slack-webhook", "T0SECRET"], 2, "this is not an http(s) address"),
    (["contract", "check", "none.yaml"], 2, "there is no such file"),
    (["produce", "shop", "--to", "x.jsonl"], 2, "nobody knows how to make such events"),
    (["produce", "ecommerce", "--to", "/proc/none/x.jsonl"], 3, "/proc/none/x.jsonl"),
    (["demo", "--dir", "{shop}"], 2, "no demo made it"),
    (["compact", "{shop}", "--layer", "sliver"], 2, "'sliver' is no layer"),
    (["load", "{shop}", "--to", "duckdb:{shop}/pipeline.yaml"], 2, "this file is not a DuckDB database"),
    (["load", "{shop}", "--to", "postgresql://u@127.0.0.1:1/x"], 3, "Connection refused"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_said_without_a_traceback(
    shop: Path, ledger: dict[str, Any], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = cli(*(part.format(shop=shop) for part in arguments), cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "T0SECRET" not in done.stderr


def test_an_error_as_json(shop: Path) -> None:
    done = cli("audit", shop, "--set", "lake=nowhere", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["error"]["type"]) == (3, 3, "LakeError")
    assert "nowhere" in told["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["load"], "Missing argument"),
        (["lod", "x"], "Did you mean 'load'?"),
        (["audit", "x", "--to", "y"], "No such option"),
        (["produce", "ecommerce", "--to", "x.jsonl", "--bad-data-rate", "7"], "'--bad-data-rate'"),
        (["load", "ecommerce", "--date"], "'--date': a value is missing; --json is another option"),
        (["contract", "diff", "ecommerce"], "Missing argument"),
        (["contract", "diff", "ecommerce", "ecommerce", "--require", "sideways"], "sideways"),
        (["inspect", "ecommerce", "--state", "dedup/keys"], "give both"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_usage_as_json(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = cli(*arguments, "--json", cwd=tmp_path)
    [line] = done.stdout.splitlines()
    told = json.loads(line)
    assert (done.returncode, told["exit_code"], told["error"]["type"]) == (2, 2, "UsageError"), done.stderr
    assert said in told["error"]["message"]
    assert "Usage:" in done.stderr


def test_behind_two_dashes_json_is_no_option(tmp_path: Path) -> None:
    done = cli("audit", "x", "--", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr


def test_debug_shows_the_traceback(shop: Path) -> None:
    done = cli("audit", shop, "--set", "lake=nowhere", PENSTOCK_DEBUG="1")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


@contextlib.contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_goes_on_later(shop: Path, tmp_path: Path, name: str) -> None:
    """Without --until-caught-up a run goes on for ever, so that only the signal can end it."""
    # A lake of its own has a warehouse of its own: the audit would miss the rows in the other one.
    own = [*FILES, "--set", f"lake={tmp_path / 'lake'}", "--set", f"warehouse.duckdb={tmp_path / 'warehouse.duckdb'}"]
    command = [sys.executable, "-m", "penstock", "run", str(shop), *own, "--set", "epoch.max_wait=100ms"]
    # Whatever happens, the run does not outlive the test.
    with stopped(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)) as run:
        commits = (tmp_path / "lake/_penstock").rglob
        until("a commit", lambda: run.poll() is not None or any(commits("*.commit")), seconds=120)
        run.send_signal(getattr(signal, name))
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    told = found("run", shop, "--until-caught-up", *own)
    assert (told["balanced"], told["pending"]) == (True, 0)
    assert found("audit", shop, *own)["balanced"]


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    """All of it, over the broker in its process, dbt too; and again over itself, from a file."""
    folder = tmp_path / "demo"
    for options in ((), ("--from-files",)):
        done = cli("demo", "--events", 20_000, "--dir", folder, *options, "--json")
        told = json.loads(done.stdout)
        # DuckDB counts its objects when the process ends.
        assert "leaked" not in done.stderr
        assert told["ok"], told["disagreements"]
        steps = {step["name"]: step["status"] for step in told["steps"]}
        assert steps == dict.fromkeys(("produce", "run", "load", "dbt", "quality", "audit"), "ok")
        assert told["ledger"]["consumed"] == told["truth"]["total"] == 20_000
        run = next(step["said"] for step in told["steps"] if step["name"] == "run")
        assert ("0 at the end" in run) == (not options)
        source = yaml.safe_load((folder / "pipeline.yaml").read_text())["source"]
        assert list(source) == ["files" if options else "kafka"]
        # Its own broker is gone: the file says what to put there.
        assert ("ended with it" in (folder / "pipeline.yaml").read_text()) == (not options)
        assert found("audit", folder)["balanced"]
    for wrong in (("--from-files", "--brokers", "x:1"), ("--set-kafka", "acks=1")):
        assert cli("demo", "--dir", tmp_path / "other", *wrong).returncode == 2
    assert not (tmp_path / "other").exists()


def test_the_demo_without_dbt_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/sitecustomize.py").write_text("import sys\nsys.modules['dbt'] = None\n")
    done = cli("demo", "--events", 20_000, "--dir", tmp_path / "demo", PYTHONPATH=str(tmp_path / "without"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'pip install "penstock[dbt]"' in " ".join(done.stdout.split())
    assert "is accounted for" in done.stdout


def test_the_demo_notices_what_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock import demo

    def lies(*arguments: Any, **options: Any) -> dict[str, Any]:
        truth = penstock_generate(*arguments, **options)
        truth["expected"]["duplicate"] += 1
        return truth

    penstock_generate = demo.generate
    monkeypatch.setattr(demo, "generate", lies)
    monkeypatch.setattr("penstock.demo.ecommerce._importable", lambda _: False)
    told = demo.of("ecommerce", tmp_path / "demo", events=5_000, seed=1, progress=False, from_files=True).run()
    assert not told["ok"]
    assert any(line.startswith("ledger, duplicate") for line in told["disagreements"])
