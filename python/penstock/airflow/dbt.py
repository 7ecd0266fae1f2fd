"""The models of the dbt project as tasks, one each, by Cosmos.

A file of DAGs reads the project's `manifest.json` alone: neither dbt nor a connection is needed until a task runs.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import TaskGroup
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos import settings as cosmos_settings
from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, TestBehavior
from cosmos.operators.local import DbtTestLocalOperator

from penstock.airflow.hook import configured
from penstock.errors import SettingsError
from penstock.resources import dbt_project

if TYPE_CHECKING:
    from collections.abc import Iterable

MANIFEST = "manifest.json"

ROLE = "{{ env_var('PENSTOCK_PG_ROLE', '') }}"
"""As in the project's own profile: dbt asks for it where the task runs."""

_UNKNOWN = "/the task `load` of this run has told no warehouse: clear it, so that it runs again/warehouse.duckdb"

WAREHOUSE = f"{{{{ (ti.xcom_pull(task_ids='load') or {{}}).get('warehouse', '{_UNKNOWN}') }}}}"
"""The warehouse that the task `load` of the same DAG run has loaded; where it was skipped, a place that says so."""


def project_folder(folder: str | Path | None = None) -> Path:
    """The dbt project: the one given, that of `[penstock] project`, or the one that the package carries."""
    if folder is not None:
        return Path(folder)
    configured_project = configured("project")
    own = Path(configured_project, "dbt") if configured_project else None
    return own if own and (own / MANIFEST).is_file() else dbt_project()


def dbt_run(
    pipeline: str,
    *,
    warehouse: str = WAREHOUSE,
    postgres_conn_id: str | None = None,
    schema: str = "public",
    role: str | None = None,
    folder: str | Path | None = None,
    models: str | None = None,
    group_id: str = "dbt_run",
) -> DbtTaskGroup:
    """A group with a task for each model of a pipeline, in the order that the models need.

    A DuckDB file takes one writer at a time: there the models come one after the other.

    Args:
        pipeline: Whose models. They are told it as the variable `pipeline`.
        warehouse: The DuckDB file; that of the task `load` unless given.
        postgres_conn_id: A connection of type `postgres`, for models in PostgreSQL in the place of
            DuckDB; that of `[penstock] postgres_conn_id` unless given.
        schema: Where the models go there.
        role: Whom the models belong to there, e.g. `penstock_modeller`; whom `PENSTOCK_PG_ROLE` names unless
            given, as in dbt by itself.
        folder: Another dbt project than the package's.
        models: The folder of the models below `models/staging` and `models/marts`; the pipeline's name unless given.
        group_id: The group's name.

    Raises:
        SettingsError: There are no models in that folder.
    """
    project = project_folder(folder)
    postgres_conn_id = postgres_conn_id or configured("postgres_conn_id")
    models = models or pipeline
    _models(project, models)
    group = DbtTaskGroup(
        group_id=group_id,
        project_config=ProjectConfig(
            dbt_project_path=project,
            manifest_path=project / MANIFEST,
            install_dbt_deps=False,
            dbt_vars={"pipeline": pipeline},
            env_vars=_environment(warehouse, postgres_conn_id),
        ),
        profile_config=_profile(project, postgres_conn_id, schema, role),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            test_behavior=TestBehavior.NONE,
            emit_datasets=False,
            select=[f"path:models/{layer}/{models}" for layer in ("staging", "marts")],
        ),
        execution_config=ExecutionConfig(execution_mode=ExecutionMode.LOCAL, invocation_mode=InvocationMode.DBT_RUNNER),
        operator_args=_arguments(postgres_conn_id),
    )
    if postgres_conn_id is None:
        _one_by_one(group.topological_sort())
    return group


def dbt_test(
    pipeline: str,
    *,
    warehouse: str = WAREHOUSE,
    postgres_conn_id: str | None = None,
    schema: str = "public",
    role: str | None = None,
    folder: str | Path | None = None,
    models: str | None = None,
    group_id: str = "dbt_test",
) -> TaskGroup:
    """A group with the tests of each model of a pipeline, and with those that stand by themselves.

    Args:
        pipeline: Whose tests.
        warehouse: As for `dbt_run`, like what follows.
        postgres_conn_id: A connection of type `postgres`.
        schema: Where the models are there.
        role: As whom they are read there.
        folder: Another dbt project than the package's.
        models: The folder of the models below `models/staging` and `models/marts`; the pipeline's name unless given.
        group_id: The group's name.

    Raises:
        SettingsError: There are no models in that folder.
    """
    project = project_folder(folder)
    postgres_conn_id = postgres_conn_id or configured("postgres_conn_id")
    models = models or pipeline
    selected = {name: f"{name},test_type:generic" for name in _models(project, models)}
    selected["by_themselves"] = f"path:tests/{models},test_type:singular"
    with TaskGroup(group_id) as group:
        tasks = [
            DbtTestLocalOperator(
                task_id=name,
                project_dir=str(project),
                profile_config=_profile(project, postgres_conn_id, schema, role),
                select=select,
                vars={"pipeline": pipeline},
                env=_environment(warehouse, postgres_conn_id),
                install_deps=False,
                invocation_mode=InvocationMode.DBT_RUNNER,
                # What dbt has read of the project is kept for the next task; Cosmos itself does so for models only.
                cache_dir=_kept(group),
                # Once, for a connection that was lost; a test that fails does so again.
                retries=1,
                **_arguments(postgres_conn_id),
            )
            for name, select in selected.items()
        ]
        if postgres_conn_id is None:
            _one_by_one(tasks)
    return group


def _kept(group: TaskGroup) -> Path | None:
    """Where Cosmos keeps what dbt has read of the project, as it does for models; none where that is switched off."""
    if not (cosmos_settings.enable_cache and cosmos_settings.enable_cache_partial_parse):
        return None
    return Path(cosmos_settings.cache_dir, f"{group.dag.dag_id}__{group.group_id}")


def _one_by_one(tasks: Iterable[Any]) -> None:
    for before, after in itertools.pairwise(tasks):
        before >> after


def _profile(project: Path, postgres_conn_id: str | None, schema: str, role: str | None = None) -> ProfileConfig:
    if postgres_conn_id is None:
        return ProfileConfig(
            profile_name="penstock", target_name="duckdb", profiles_yml_filepath=project / "profiles.yml"
        )
    from cosmos.profiles import PostgresUserPasswordProfileMapping

    class Mapping(PostgresUserPasswordProfileMapping):
        """With the certificates, too, that a connection names; the password may be in a file or in the environment."""

        required_fields: ClassVar[list[str]] = ["host", "user", "dbname"]
        airflow_param_mapping: ClassVar[dict[str, Any]] = {
            **PostgresUserPasswordProfileMapping.airflow_param_mapping,
            **{name: f"extra.{name}" for name in ("sslrootcert", "sslcert", "sslkey", "connect_timeout")},
        }

        def get_dbt_value(self, name: str) -> Any:
            value = super().get_dbt_value(name)
            if name in ("connect_timeout", "keepalives_idle") and value is not None:
                return int(value)  # an extra that came in a URI is text
            return value or "" if name == "password" else value

    mapping = Mapping(conn_id=postgres_conn_id, profile_args={"schema": schema, "role": role or ROLE})
    return ProfileConfig(profile_name="penstock", target_name="postgres", profile_mapping=mapping)


def _arguments(postgres_conn_id: str | None) -> dict[str, Any]:
    common: dict[str, Any] = {"append_env": True}
    return common if postgres_conn_id is not None else {**common, "callback": let_go}


def _environment(warehouse: str, postgres_conn_id: str | None) -> dict[str, str] | None:
    """What dbt's own profile reads."""
    return {"PENSTOCK_WAREHOUSE": warehouse} if postgres_conn_id is None else None


def _models(project: Path, folder: str) -> list[str]:
    """The names of the models in the folders of this name, below those of the layers."""
    manifest = json.loads((project / MANIFEST).read_text(encoding="utf-8"))
    by_folder: dict[str, list[str]] = {}
    for node in manifest["nodes"].values():
        # The project, the layer, the folder, the model.
        by_folder.setdefault(node["fqn"][2], []).append(node["name"])
    if folder not in by_folder:
        there = ", ".join(sorted(by_folder))
        raise SettingsError(f"dbt: {project} has no models in models/*/{folder}; models= names the folder: {there}")
    return by_folder[folder]


def let_go(_: str, **__: Any) -> None:
    """Close the DuckDB file, which dbt keeps open in its process: `airflow dags test` has all tasks in one."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    DuckDBConnectionManager.close_all_connections()
