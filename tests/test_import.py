"""What is imported when: heavy packages come when they are needed, and not before."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from penstock.cli import _COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = """
name: shop
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  sale:
    v1: {type: object, required: [id, at, user], properties: {type: {type: string}, id: {type: string},
         at: {type: string, format: date-time}, user: {type: string}}}
"""
PIPELINE = """
name: shop
contract: contract.yaml
source: {files: {paths: ["in.jsonl"]}}
lake: ./lake
"""
EVENT = {"type": "sale", "id": "1", "at": "2026-11-20T10:00:00Z", "user": "ada"}
HEAVY = {"pydantic", "typer", "rich", "yaml", "duckdb", "pyarrow", "polars", "pandas", "numpy", "IPython", "dbt"}


def imported(code: str, *arguments: object) -> set[str]:
    """The modules that a program has imported when it ends."""
    told = "; import sys; print('\\n' + '\\n'.join(sys.modules))"
    command = [sys.executable, "-c", code + told, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def imported_by(*arguments: object) -> set[str]:
    """The modules that the command line has imported when it ends."""
    code = "import contextlib\nfrom penstock.cli import main\nwith contextlib.suppress(SystemExit): main()\npass"
    return imported(code, *arguments)


def commands(modules: set[str]) -> set[str]:
    """The commands among them."""
    return {name for name in _COMMANDS if f"penstock.cli.{name}" in modules}


def test_importing_the_package_imports_nothing_else() -> None:
    """Whoever imports it in a DAG file or a notebook waits for nothing."""
    light = imported("import penstock")
    assert "penstock" in light
    assert not light & (HEAVY | {"penstock._core", "asyncio", "importlib.metadata"})
    full = imported("import penstock; penstock.Pipeline, penstock.Contract, penstock.scd2_merge")
    assert "pydantic" in full
    assert not full & (HEAVY - {"pydantic", "yaml"})


def test_judging_and_writing_do_without_settings(tmp_path: Path) -> None:
    """The functions for notebooks need neither the library of settings nor YAML; a lake on disk neither."""
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    code = (
        "import json, sys, penstock as p; folder = sys.argv[1]; contract = p.Contract.load(folder + '/contract.yaml'); "
        "valid = contract.validate(sys.argv[2].encode()).valid; rows = p.deduplicate(valid, key='id'); "
        "written = p.write_parquet(p.sessionize(rows, entity='user', at='at', gap='30m'), folder + '/out'); "
        "assert len(written) == 1"
    )
    modules = imported(code, tmp_path, json.dumps(EVENT))
    assert {"penstock._core", "penstock.lake"} <= modules
    assert not modules & (HEAVY | {"penstock.storage", "importlib.metadata"})


def test_the_help_imports_no_engine() -> None:
    modules = imported_by("--help")
    assert commands(modules) == set(_COMMANDS)
    assert not modules & (HEAVY - {"typer", "rich", "pydantic"})
    assert not modules & {"penstock._core", "penstock.pipeline", "penstock.settings"}


def test_a_run_imports_what_it_uses(tmp_path: Path) -> None:
    """No other command, and under `--json` nothing that only people look at."""
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "in.jsonl").write_text(json.dumps(EVENT) + "\n")
    modules = imported_by("run", tmp_path / "pipeline.yaml", "--until-caught-up", "--json")
    assert (tmp_path / "lake/_penstock").is_dir()
    assert commands(modules) == {"run"}
    assert not modules & (HEAVY - {"pydantic", "typer", "yaml"})
    for_people = {"rich.table", "html", "penstock.inspection", "penstock.view"}
    for_others = {"penstock.audit", "penstock.connections", "penstock.metrics", "prometheus_client", "asyncio"}
    assert not modules & (for_people | for_others)
