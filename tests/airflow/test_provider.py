"""What Airflow is told about the provider, and that telling it costs nothing."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import penstock.airflow
from penstock.airflow.provider import get_provider_info

if TYPE_CHECKING:
    from conftest import Airflow

HEAVY = {"penstock._core", "penstock.pipeline", "penstock.connections", "pydantic_settings", "duckdb", "pyarrow", "dbt"}
NO_AIRFLOW = "import sys; sys.modules['airflow'] = None; "


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_description_is_as_airflow_wants_it() -> None:
    import airflow as its
    import jsonschema

    schema = json.loads((Path(its.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_every_operator_stands_in_a_module_that_is_named() -> None:
    found = get_provider_info()
    parts = ("operators", "hooks", "sensors", "triggers")
    modules = {module for part in parts for one in found[part] for module in one["python-modules"]}
    homes = {
        getattr(penstock.airflow, name).__module__ for name in penstock.airflow.__all__ if re.match("[A-Z][a-z]", name)
    }
    assert homes - {"penstock.airflow.base", "penstock.airflow.notifier"} == modules


def test_every_connection_has_an_option() -> None:
    from penstock.airflow import PenstockHook

    options = get_provider_info()["config"]["penstock"]["options"]
    assert set(options) - {"payments_schedule"} == set(vars(PenstockHook())) & set(options)
    assert {name for name in vars(PenstockHook()) if name.endswith("_conn_id")} == set(options) - {
        "project",
        "payments_schedule",
    }


def test_airflow_finds_it(airflow: Airflow) -> None:
    (entry,) = [e for e in importlib.metadata.entry_points(group="apache_airflow_provider") if "penstock" in e.value]
    assert entry.load() is get_provider_info
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    manager.initialize_providers_list()
    assert "penstock" in manager.providers


def test_a_dag_file_loads_no_engine() -> None:
    """A file of DAGs is read again and again: what it imports of ours is next to nothing."""
    code = "import sys; from penstock.airflow import *; RunOperator(task_id='r', pipeline='p'); print(*sys.modules)"
    modules = set(python(code).split())
    assert "penstock.airflow.run" in modules and not modules & HEAVY
    modules = set(
        python("import sys, penstock.airflow.provider as p; p.get_provider_info(); print(*sys.modules)").split()
    )
    assert not modules & (HEAVY | {"airflow", "penstock.airflow.hook", "penstock.errors"})


def test_without_airflow_it_is_said_what_to_install() -> None:
    said = python(
        NO_AIRFLOW + "import penstock, penstock.airflow\n"
        "try: penstock.airflow.RunOperator\n"
        "except penstock.MissingExtraError as error: print(error.extra, error)"
    )
    assert said.startswith("airflow penstock.airflow needs Airflow 3.1 or newer") and "penstock[airflow]" in said


AIRFLOW_2 = """
import importlib.metadata as metadata

def version(name, known=metadata.version):
    if name == "apache-airflow-core":
        raise metadata.PackageNotFoundError(name)
    return "2.11.0" if name == "apache-airflow" else known(name)

metadata.version = version
import penstock, penstock.airflow
try: penstock.airflow.RunOperator
except ImportError as error: print(error)
"""


def test_airflow_2_is_told_what_is_needed() -> None:
    said = python(AIRFLOW_2)
    assert said == (
        "penstock.airflow needs Airflow 3.1 or newer, with its package of compatibility; Airflow 2.11.0 is installed. "
        'pip install "penstock[airflow]"\n'
    )
    wanted = importlib.metadata.requires("penstock") or []
    assert any(one.startswith("apache-airflow>=3.1") and "extra == 'airflow'" in one for one in wanted), wanted


def test_everything_public_is_there() -> None:
    assert sorted(penstock.airflow.__all__) == sorted(penstock.airflow._HOME)
    for name in penstock.airflow.__all__:
        assert getattr(penstock.airflow, name).__doc__ and name in dir(penstock.airflow)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        penstock.airflow.Nothing  # noqa: B018


def test_templates_are_fields_of_the_operator() -> None:
    given: dict[str, dict[str, Any]] = {"QualityOperator": {"date": "d"}, "BackfillOperator": {"start": "d"}}
    for name in penstock.airflow.__all__:
        if name.endswith("Operator"):
            operator = getattr(penstock.airflow, name)(task_id="t", pipeline="p", **given.get(name, {}))
            assert all(hasattr(operator, field) for field in operator.template_fields)


def test_the_task_log_tells_every_ten_seconds_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    from penstock.airflow.progress import TaskLog

    caplog.set_level("INFO", "penstock.airflow")
    now = 100.0
    log = TaskLog("shop", lambda: now)
    log.take({"event": "progress", "events": 1000})
    log.take({"event": "lag", "partitions": [{"lag": 3}, {"lag": 4}]})
    assert not caplog.messages
    now = 110.0
    counts = dict.fromkeys(("silver", "pending", "rejected", "duplicate", "late"), 0) | {"consumed": 5000}
    done = {"epoch": 0, "counts": counts, "seconds": [1, 1, 1, 3], "files": 2, "watermark": 1_734_393_600_000_000}
    log.take({"event": "committed", **done})
    assert caplog.messages[-1] == "shop: 5,000 events, 500 events/s, lag 7, watermark 2024-12-17 00:00:00 UTC"
    now = 112.0
    log.take({"event": "progress", "events": 1})
    said = len(caplog.messages)
    now = 120.0
    log.take({"event": "progress", "events": 20_000})
    assert len(caplog.messages) == said + 1 and "25,000 events, 2,000 events/s" in caplog.messages[-1]
