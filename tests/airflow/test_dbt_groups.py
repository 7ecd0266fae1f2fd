"""What dbt is told of a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.airflow.dbt import WAREHOUSE, _profile


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
