"""The guide's way from an empty folder to a day that is run, followed word for word."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import need
from services.kafka import KafkaBroker

if TYPE_CHECKING:
    from services.postgres import Database

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide" / "airflow.md"


def walk(installer: str) -> str:
    """What the guide tells to type, up to its second part; of the tabs, one."""
    text = GUIDE.read_text().split("## The DAGs")[0]
    other = {"uv": "pip", "pip": "uv"}[installer]
    text = re.sub(rf'=== "{other}"\n\n(?: {{4}}.*\n|\n)*', "", text)
    blocks = [re.sub(r"(?m)^ {4}", "", body) for body in re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", text)]
    assert len(blocks) == 5, blocks
    return "".join(blocks)


def test_the_tabs_differ_in_the_installer_alone() -> None:
    assert walk("uv").count("\n") == walk("pip").count("\n")
    assert "uv pip install" in walk("uv") and "\npip install" in walk("pip") and "uv" not in walk("pip")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The wheel of this source, out of what was built already."""
    need("cargo", why="the wheel")
    maturin = Path(sys.executable).with_name("maturin")
    env = os.environ | {"PYO3_PYTHON": str(ROOT / ".venv" / "bin" / "python")}
    how = ["--profile", "fast", "--locked", "--auditwheel", "skip", "--interpreter", sys.executable]
    command = [maturin, "build", *how, "--out", tmp_path / "dist"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return next((tmp_path / "dist").glob("*.whl"))


@pytest.mark.parametrize("installer", ["uv", pytest.param("pip", marks=pytest.mark.soak)])
@pytest.mark.slow
@pytest.mark.timeout(900, method="thread")  # it compiles a wheel, and installs an Airflow
def test_the_walk(installer: str, wheel: Path, database: Database, tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    exported = [uv, "export", "--quiet", "--frozen", "--no-hashes", "--no-emit-project", "--all-groups"]
    known = subprocess.run(exported, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(f"{known}\npenstock @ {wheel.as_uri()}\n")
    with KafkaBroker() as broker:
        text = walk(installer).replace("localhost:9092", broker.bootstrap)
        server = f"127.0.0.1:{database.server.port}/{database.name}"
        text = text.replace("penstock:secret@localhost:5432/shop", f"postgres:secret@{server}")
        (tmp_path / "walk.sh").write_text(f"set -eu\n{text}")
        # Nor is what uv is told for our own environment: nobody who walks compiles all of Airflow beforehand.
        others = ("AIRFLOW", "KAFKA", "PENSTOCK", "PG", "PYTHON", "UV_COMPILE", "UV_PROJECT", "VIRTUAL_ENV")
        env = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        # Of programs there are the system's, uv, and the Python that these tests run on.
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, program in (("uv", uv), ("python3", sys._base_executable), ("python", sys._base_executable)):
            (programs / name).symlink_to(program)
        env |= {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "UV_CONSTRAINT": str(constraints),
            "PIP_CONSTRAINT": str(constraints),
            "PIP_REQUIRE_VIRTUALENV": "1",
        }
        ran = subprocess.run(
            ["bash", "walk.sh"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=600
        )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    said = ran.stdout + ran.stderr
    assert "state:success" in said or "state=success" in said, said[-4000:]
    ((facts,),) = database.rows("SELECT count(*) FROM fact_events")
    ((counted,),) = database.rows("SELECT sum(total_events) FROM daily_active_users")
    assert facts == counted > 3000
