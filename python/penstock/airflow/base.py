"""What all operators share: a pipeline over Airflow's connections, errors in Airflow's terms, and a clean end."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, BaseOperator

from penstock.airflow.hook import PenstockHook
from penstock.errors import (
    ContractError,
    DataError,
    LedgerError,
    MissingExtraError,
    SettingsError,
    Stopped,
    SupersededError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from penstock.pipeline import Pipeline

# Trying again changes nothing about them.
_HOPELESS = (ContractError, DataError, LedgerError, MissingExtraError, SettingsError)


class TaskKilled(KeyboardInterrupt):
    """Airflow ends the task: by hand, or because it is to run elsewhere."""


class PenstockOperator(BaseOperator):
    """An operator over a pipeline; those that do something are derived from it and write `work`.

    A task that is ended (SIGTERM) ends as a run that is asked to stop: the epoch in hand is finished or given up, and
    the next try goes on from there. A task that is killed leaves nothing behind that a retry has to know.

    Errors that a retry cannot help (a wrong setting, a broken contract) fail the task at once.

    Args:
        pipeline: The name of a ready-made pipeline, a pipeline file, or its folder.
        overrides: Settings in place of the file's: `{"sessions.gap": "45m"}`. Airflow shows them to everybody: secrets
            belong into connections.
        kafka_conn_id: As for `PenstockHook`, like the next two.
        aws_conn_id: For a lake in a bucket.
        postgres_conn_id: For the warehouse.
        kwargs: What Airflow's own operators take.
    """

    template_fields: Sequence[str] = ("pipeline", "overrides", "kafka_conn_id", "aws_conn_id", "postgres_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"overrides": "json"}
    ui_color = "#0d9488"
    ui_fgcolor = "#ffffff"
    does: ClassVar[str] = "check"
    """For OpenLineage: `run` writes the lake, `load` and `refresh` tables, `index` documents, `check` only looks."""

    needs: ClassVar[tuple[str, ...]] = ("kafka", "aws", "postgres")
    """The kinds of connections that are looked up. One that it does not need may be missing, and stays unread."""

    def __init__(
        self,
        *,
        pipeline: str,
        overrides: Mapping[str, Any] | Sequence[str] | None = None,
        kafka_conn_id: str | None = None,
        aws_conn_id: str | None = None,
        postgres_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.overrides = overrides
        self.kafka_conn_id = kafka_conn_id
        self.aws_conn_id = aws_conn_id
        self.postgres_conn_id = postgres_conn_id
        self._working = self._killed = False
        self._flow: Pipeline | None = None
        self._seen: Mapping[str, Any] | None = None

    @property
    def hook(self) -> PenstockHook:
        """The hook with this task's connections."""
        return PenstockHook(
            kafka_conn_id=self.kafka_conn_id,
            aws_conn_id=self.aws_conn_id,
            postgres_conn_id=self.postgres_conn_id,
            kinds=self.needs,
        )

    def execute(self, context: Any) -> dict[str, Any]:
        """Do it; what comes of it is the task's XCom."""
        with self._told():
            self._flow = self.hook.pipeline(self.pipeline, self.overrides)
            report = plain(self.work(self._flow, context))
        self._seen = report
        if self.outlets:
            from penstock.airflow.assets import tell

            tell(self.outlets, context, {"pipeline": self._flow.name, **self.asset_extra(report)})
        return report

    def asset_extra(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """What the assets among the outlets are told of a report."""
        return dict(report)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002
        """What OpenLineage is told."""
        from penstock.airflow.lineage import lineage_of

        return lineage_of(self.does, self._flow, self._seen)

    get_openlineage_facets_on_failure = get_openlineage_facets_on_complete

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:
        """What the operator does.

        Args:
            flow: The pipeline.
            context: Airflow's.

        Returns:
            What there is to tell, for JSON.
        """
        raise NotImplementedError

    def on_kill(self) -> None:
        """Ask the engine to stop.

        Airflow calls this inside its handler of SIGTERM, and kills the task some seconds later: so it has to raise.
        After a time-out it is called as well, when nothing is being done any more.
        """
        if self._working:
            self._killed = True
            raise TaskKilled("Airflow ends the task")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors in Airflow's terms, and the engine's own log lines in the task's log."""
        import logging

        self._working = True
        try:
            from penstock import _core

            _core.log_level(logging.getLogger("penstock").getEffectiveLevel())
            yield
        except _HOPELESS as error:
            raise AirflowFailException(str(error)) from error
        except SupersededError as error:
            raise AirflowFailException(
                f"a newer attempt owns the pipeline, and this one ends; nothing is lost: {error}"
            ) from error
        except Stopped as error:
            # The engine ends a run in good order, whatever asked for it. Airflow's timer is off again: so it was that.
            if self.execution_timeout and not self._killed and not signal.getitimer(signal.ITIMER_REAL)[0]:
                raise AirflowTaskTimeout(f"the task has worked for {self.execution_timeout}; {error}") from error
            raise
        finally:
            self._working = False


def plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report as JSON has it, for XCom."""
    return dict(json.loads(json.dumps(report, default=str)))


def place(value: str | None) -> str | None:
    """A templated argument that names a warehouse or a server. Airflow shows it to everybody.

    Raises:
        SettingsError: A password stands in it.
    """
    from penstock.postgres import has_password

    told = given(value)
    if told is not None and (has_password(told) or re.match(r"https?://[^/]*:[^/]*@", told)):
        raise SettingsError(
            "a password stands in an argument of the task, which Airflow shows to everybody; put it into a connection "
            "(postgres_conn_id, elasticsearch_conn_id)"
        )
    return told


def given(value: str | None) -> str | None:
    """A templated argument; none where the template came to nothing."""
    return None if value is None or value.strip() in ("", "None") else value.strip()
