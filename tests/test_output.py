"""What commands write, wherever standard output leads: a pipe that is closed, a full disk, a file, a link."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services import until
from test_cli import ENVIRONMENT, cli, ledger, ok, shop, stopped  # noqa: F401  fixtures


def test_into_a_pipe_that_is_closed() -> None:
    """As `| head -1` does: what nobody reads is no fault."""
    for arguments in (["doctor"], ["doctor", "--json"], ["contract", "check", "ecommerce"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "penstock", *arguments]
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=240, env=os.environ | ENVIRONMENT
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_standard_output_that_takes_nothing() -> None:
    """Closed, it is missed by nobody; full, it is an error, but none that hides another."""
    for arguments, closed, full in ((["--version"], 0, 3), (["contract", "check", "no-such-contract"], 2, 2)):
        command = " ".join([sys.executable, "-m", "penstock", *arguments])
        for into, code in ((">&-", closed), ("> /dev/full", full)):
            done = subprocess.run(
                ["sh", "-c", f"{command} {into}"],
                stderr=subprocess.PIPE,
                text=True,
                timeout=240,
                env=os.environ | ENVIRONMENT,
            )
            assert done.returncode == code, (arguments, into, done.stderr)
            assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m penstock --json contract check no-such-contract > /dev/full"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        env=os.environ | ENVIRONMENT,
    )
    assert "Traceback" not in done.stderr, done.stderr


def into(where: str, *arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does: `into("> /dev/full", "doctor")`."""
    command = shlex.join([sys.executable, "-m", "penstock", *map(str, arguments)])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {where}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | ENVIRONMENT | env,
        check=False,
    )


@pytest.mark.parametrize(
    "command", ["inspect", "inspect --json", "manifest", "manifest --format json", "migrate --sql"]
)
def test_every_way_of_writing_stands_an_odd_standard_output(
    shop: Path, ledger: dict[str, Any], tmp_path: Path, command: str
) -> None:
    name, *options = command.split()
    closed = into(">&-", name, shop, *options, cwd=tmp_path)
    assert (closed.returncode, closed.stderr) == (0, "")
    full = into("> /dev/full", name, shop, *options, cwd=tmp_path)
    assert (full.returncode, full.stderr) == (3, "Error: standard output: No space left on device\n")
    gone = into("| true", name, shop, *options, cwd=tmp_path)
    assert (gone.returncode, gone.stderr) == (0, "")
    plain = into("", name, shop, *options, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout.isascii() and plain.stdout
    if "json" in command:
        json.loads(plain.stdout)


def test_a_failure_with_an_odd_standard_output(shop: Path, ledger: dict[str, Any], tmp_path: Path) -> None:
    done = into(">&-", "inspect", "none.yaml", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "Error: pipeline none.yaml: there is no such file\n")
    assert cli("inspect", "none.yaml", "--json", cwd=tmp_path).returncode == 2
    passed = into("", "audit", shop, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert passed.returncode == 0 and " + " in passed.stdout, passed.stderr


def test_events_into_an_odd_standard_output(tmp_path: Path) -> None:
    options = ("produce", "ecommerce", "--total-events", "50000", "--to", "-")
    gone = into("| head -n 1", *options, cwd=tmp_path)
    assert (gone.returncode, gone.stderr, len(gone.stdout.splitlines())) == (0, "", 1)
    full = into("> /dev/full", *options, cwd=tmp_path)
    assert (full.returncode, full.stdout) == (3, "") and "standard output: cannot write events there" in full.stderr
    # A file gets them all, and the name of standard output stays what it is.
    assert into("> events.jsonl", *options, cwd=tmp_path).returncode == 0
    assert sum(1 for _ in (tmp_path / "events.jsonl").open("rb")) == 50_000
    assert into(">&-", *options, cwd=tmp_path).returncode == 0
    assert Path("/dev/stdout").is_symlink() and not Path("/dev/stdout.part").exists()


def test_events_that_were_interrupted_leave_no_file_and_promise_nothing(tmp_path: Path) -> None:
    arguments = ["produce", "ecommerce", "--total-events", "500000000", "--to", str(tmp_path / "e.jsonl")]
    command = [sys.executable, "-m", "penstock", *arguments]
    with stopped(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as made:
        until("the first events", lambda: made.poll() is not None or any(tmp_path.iterdir()), seconds=60)
        made.send_signal(signal.SIGINT)
        _, said = made.communicate(timeout=60)
    assert (made.returncode, said) == (130, "Error: interrupted; no file was written\n")
    assert not list(tmp_path.iterdir())


def test_events_go_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("old\n")
    (tmp_path / "link").symlink_to("events.jsonl")
    ok("produce", "ecommerce", "--total-events", 500, "--to", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert sum(1 for _ in (tmp_path / "events.jsonl").open("rb")) == 500
