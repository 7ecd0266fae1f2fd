"""What dbt is told of a connection."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from penstock.airflow.dbt import WAREHOUSE, _profile, dbt_run, dbt_test


def test_certificates_and_limits_of_a_connection_reach_dbt(airflow: object, connection: Any) -> None:
    named = {"sslmode": "verify-full", "sslrootcert": "/ca.pem", "sslcert": "/c.pem", "sslkey": "/k.pem"}
    extra = named | {"connect_timeout": "5", "keepalives_idle": 7}
    known = {"conn_type": "postgres", "host": "h", "login": "u", "schema": "d", "extra": extra}
    connection("tested_tables", **known, password="hidden")
    connection("tested_no_password", **known)
    for name, password in (("tested_tables", "hidden"), ("tested_no_password", "")):
        mapping = _profile(Path(), name, "marts").profile_mapping
        assert mapping is not None
        found = mapping.profile
        assert named.items() <= found.items()
        assert (found["schema"], found["dbname"], found["connect_timeout"], found["keepalives_idle"]) == (
            *("marts", "d", 5, 7),
        )
        assert list(mapping.env_vars.values()) == [password]
        assert "hidden" not in str(found)


@pytest.mark.parametrize(("told", "found"), [({"warehouse": "/w.duckdb"}, "/w.duckdb"), (None, "clear it, so that")])
def test_a_load_that_was_skipped_is_named(told: Any, found: str) -> None:
    import jinja2

    class Task:
        def xcom_pull(self, task_ids: str) -> Any:
            assert task_ids == "load"
            return told

    assert found in jinja2.Template(WAREHOUSE).render(ti=Task())


def tasks_of(conn_id: str, role: str | None) -> list[Any]:
    """The tasks that run and test the models."""
    from airflow.sdk import DAG

    with DAG("marts") as dag:
        dbt_run("ecommerce", postgres_conn_id=conn_id, role=role)
        dbt_test("ecommerce", postgres_conn_id=conn_id, role=role)
    return list(dag.task_dict.values())


def test_each_task_tells_dbt_which_pipeline(airflow: object, connection: Any) -> None:
    connection("tested_vars", conn_type="postgres", host="h", login="u", schema="d", password="p")
    tasks = tasks_of("tested_vars", None)
    assert len(tasks) > 7
    assert [task.vars for task in tasks] == [{"pipeline": "ecommerce"}] * len(tasks)


def test_a_pipeline_of_another_name_says_where_its_models_are(airflow: object, connection: Any) -> None:
    """Its name alone selects none; that is said when the DAG is read, and not by a group without tasks."""
    from airflow.sdk import DAG

    from penstock.errors import SettingsError

    with DAG("named") as dag:
        for group in (dbt_run, dbt_test):
            with pytest.raises(SettingsError, match=r"models/\*/shop; models= names the folder: ecommerce"):
                group("shop")
        dbt_run("shop", models="ecommerce", warehouse="/w.duckdb")
        dbt_test("shop", models="ecommerce", warehouse="/w.duckdb")
    own = {task.task_id: task for task in tasks_of_ecommerce()}
    tasks = {name: task for name, task in dag.task_dict.items() if name in own}
    assert set(tasks) == set(own) and "dbt_run.daily_active_users_run" in tasks
    for task in tasks.values():
        assert (task.vars, task.env) == ({"pipeline": "shop"}, {"PENSTOCK_WAREHOUSE": "/w.duckdb"})
        assert task.install_deps is False
    assert tasks["dbt_test.by_themselves"].select == "path:tests/ecommerce,test_type:singular"


def tasks_of_ecommerce() -> list[Any]:
    """The tasks in DuckDB, made without a word of deprecation from Cosmos."""
    from airflow.sdk import DAG

    with warnings.catch_warnings(record=True) as said, DAG("marts") as dag:
        warnings.simplefilter("always")
        dbt_run("ecommerce")
        dbt_test("ecommerce")
    assert not [str(one.message) for one in said if "Cosmos" in str(one.message)]
    return list(dag.task_dict.values())


@pytest.mark.parametrize(
    ("role", "named", "found"), [(None, None, ""), (None, "by_env", "by_env"), ("given", "by_env", "given")]
)
def test_the_models_belong_to_a_role(
    airflow: object, connection: Any, monkeypatch: pytest.MonkeyPatch, role: str | None, named: str | None, found: str
) -> None:
    """What dbt takes for the role, where Cosmos has written the profile; it reads the environment itself."""
    import jinja2
    import yaml

    connection("tested_role", conn_type="postgres", host="h", login="u", schema="d", password="p")
    for task in tasks_of("tested_role", role):
        mapping = task.profile_config.profile_mapping
        text = mapping.get_profile_file_contents("penstock", target_name="postgres")
        written = yaml.safe_load(text)["penstock"]["outputs"]["postgres"]["role"]
        env_var = {"PENSTOCK_PG_ROLE": named} if named else {}
        assert jinja2.Template(written).render(env_var=env_var.get) == found


def test_each_task_keeps_what_dbt_has_read(airflow: object, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cosmos import settings

    connection("tested_kept", conn_type="postgres", host="h", login="u", schema="d", password="p")
    kept = {task.task_id.split(".")[0]: task.cache_dir for task in tasks_of("tested_kept", None)}
    assert {name: place.parent for name, place in kept.items()} == dict.fromkeys(
        ("dbt_run", "dbt_test"), settings.cache_dir
    )
    monkeypatch.setattr(settings, "enable_cache_partial_parse", False)
    tests = [task for task in tasks_of("tested_kept", None) if task.task_id.startswith("dbt_test.")]
    assert tests and not any(task.cache_dir for task in tests)
