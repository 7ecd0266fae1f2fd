"""From Airflow's connections to a pipeline."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, conf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import SecretStr

    from penstock.connections import Connections
    from penstock.pipeline import Pipeline

SECTION = "penstock"

KINDS = ("kafka", "aws", "postgres", "slack", "elasticsearch")
"""Kinds of connections."""


def configured(option: str) -> str | None:
    """An option of the section `penstock` of Airflow's configuration; none where it is empty."""
    return conf.get(SECTION, option, fallback="") or None


class PenstockHook(BaseHook):
    """Pipelines, with what Airflow's connections say about where Kafka, lake and warehouse are.

    What the pipeline file says counts before a connection; only a DuckDB file in it gives way to a connection of
    PostgreSQL. A connection that is not named here is that of the configuration (`[penstock] kafka_conn_id`, …); where
    that names none either, there is none.

    Args:
        kafka_conn_id: A connection of type `kafka`.
        aws_conn_id: One of type `aws`, for a lake in a bucket.
        postgres_conn_id: One of type `postgres`, for the warehouse.
        slack_conn_id: One of type `slackwebhook`, for alerts.
        elasticsearch_conn_id: One of type `elasticsearch`.
        project: The folder where relative paths begin; that of `[penstock] project` unless given.
        kinds: Which of them are looked up; the others are as if nobody had named them.
    """

    hook_name = "Penstock"

    def __init__(
        self,
        *,
        kafka_conn_id: str | None = None,
        aws_conn_id: str | None = None,
        postgres_conn_id: str | None = None,
        slack_conn_id: str | None = None,
        elasticsearch_conn_id: str | None = None,
        project: str | None = None,
        kinds: Sequence[str] = KINDS,
    ) -> None:
        super().__init__()
        self.kafka_conn_id = kafka_conn_id
        self.aws_conn_id = aws_conn_id
        self.postgres_conn_id = postgres_conn_id
        self.slack_conn_id = slack_conn_id
        self.elasticsearch_conn_id = elasticsearch_conn_id
        self.project = project
        self.kinds = tuple(kinds)

    def connections(self) -> Connections:
        """What the connections say; those that nobody names say nothing.

        Raises:
            SettingsError: There is no connection of that name, one is of another type, or holds what cannot be used.
        """
        from penstock.connections import Connections

        found = {}
        for kind, name in self._named().items():
            with self._defined(kind, name):
                found[kind] = self.get_connection(name)
        return Connections.from_airflow(**found)

    def slack(self) -> SecretStr | None:
        """The webhook that alerts go to; none without a connection. No other connection is looked up."""
        name = self.slack_conn_id or configured("slack_conn_id")
        if name is None:
            return None
        from penstock.connections import slack_webhook

        with self._defined("slack", name):
            connection = self.get_connection(name)
        return slack_webhook(connection)

    async def aconnections(self) -> Connections:
        """The same in the triggerer, which must not be kept waiting."""
        from penstock.connections import Connections

        found = {}
        for kind, name in self._named().items():
            with self._defined(kind, name):
                if hasattr(self, "aget_connection"):
                    found[kind] = await self.aget_connection(name)
                else:
                    from asgiref.sync import sync_to_async

                    found[kind] = await sync_to_async(self.get_connection)(name)
        return Connections.from_airflow(**found)

    @contextlib.contextmanager
    def _defined(self, kind: str, name: str) -> Iterator[None]:
        """A connection that nobody has made is a wrong setting, and who has named it is said."""
        try:
            yield
        except AirflowNotFoundException as error:
            from penstock.errors import SettingsError

            option = f"{kind}_conn_id"
            where = option if getattr(self, option) else f"[{SECTION}] {option}"
            raise SettingsError(
                f"{where}: there is no connection {name!r}; make it, or name another one", name=option
            ) from error

    def _named(self) -> dict[str, str]:
        ids = {kind: f"{kind}_conn_id" for kind in self.kinds}
        named = {kind: getattr(self, option) or configured(option) for kind, option in ids.items()}
        return {kind: name for kind, name in named.items() if name}

    def pipeline(
        self,
        pipeline: str,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        connections: Connections | None = None,
    ) -> Pipeline:
        """A pipeline, by the name of a ready-made one or by its file.

        Of a ready-made pipeline that `penstock init` has copied into the project, the copy counts.

        Args:
            pipeline: The name (`ecommerce`), a file, or a folder with a `pipeline.yaml`.
            overrides: Settings in place of the file's: `{"sessions.gap": "45m"}`.
            connections: What the connections say, where it is known already.

        Raises:
            SettingsError: There is no such pipeline, or a setting is wrong.
        """
        from penstock.pipeline import Pipeline
        from penstock.resources import ready_made

        self._see_the_project(pipeline)
        project = self.project or configured("project")
        base = None
        if project and pipeline not in ready_made():
            pipeline = os.fspath(Path(project) / pipeline)
        elif project:
            copy = _copied(pipeline, Path(project))
            pipeline, base = (os.fspath(copy), None) if copy else (pipeline, project)
        return Pipeline.load(pipeline, overrides or (), base=base, connections=connections or self.connections())

    def _see_the_project(self, pipeline: str) -> None:
        """See that the project is there, and the pipeline in it, unless that is named by a whole path.

        Raises:
            SettingsError: It is not.
        """
        from penstock.errors import SettingsError
        from penstock.nearest import did_you_mean
        from penstock.resources import ready_made

        project = self.project or configured("project")
        if not project or Path(pipeline).is_absolute():
            return
        if not Path(project).is_dir():
            where = "project" if self.project else f"[{SECTION}] project (AIRFLOW__{SECTION.upper()}__PROJECT)"
            raise SettingsError(f"{where}: there is no folder {project} on this worker", name="project")
        a_name = Path(pipeline).name == pipeline and not Path(pipeline).suffix
        if a_name and pipeline not in ready_made() and not Path(project, pipeline).exists():
            raise SettingsError(
                f"pipeline {pipeline!r}: neither is it ready-made, nor is there anything of this name in the project "
                f"({Path(project) / pipeline}); {did_you_mean(pipeline, ready_made())}"
            )


def _copied(name: str, project: Path) -> Path | None:
    """The copy of a ready-made pipeline in a project."""
    for file in (project / name / "pipeline.yaml", project / "pipeline.yaml"):
        if file.is_file() and _name_of(file) == name:
            return file
    return None


def _name_of(file: Path) -> str | None:
    """Which pipeline a file is; whether all of it is right is seen when it is loaded."""
    import yaml

    from penstock._yaml import fill
    from penstock.errors import SettingsError

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
        name = told.get("name") if isinstance(told, dict) else None
        return None if name is None else fill(str(name))
    except KeyError as missing:
        raise SettingsError(f"{file}: name: the environment variable {missing.args[0]} is not set") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"{file}: cannot be read, and may be the pipeline that is meant: {reason}") from None
