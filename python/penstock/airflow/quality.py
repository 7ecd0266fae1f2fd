"""The operator that checks a day's data."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowNotFoundException, AirflowSkipException

from penstock.airflow.base import PenstockOperator, place, plain
from penstock.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.airflow.hook import PenstockHook
    from penstock.pipeline import Pipeline
    from penstock.quality import QualityReport, Thresholds

CHECKED = "checked "
"""With the day, the key under which XCom has the run that has checked it."""


class QualityOperator(PenstockOperator):
    """Checks a day: fresh, of the usual volume, complete, and few dead letters (`penstock quality`).

    A check that fails fails the task, at once and for good: a retry sees the same data. What was seen is the XCom in
    any case. Where a connection for Slack is named, an alert goes there; that it cannot be sent changes nothing. Of a
    run whose alert was sent a `PenstockNotifier` says nothing more.

    Args:
        date: The day.
        warehouse: Another warehouse than that of the pipeline file: `duckdb:FILE`.
        slack_conn_id: A connection of type `slackwebhook`; that of `[penstock] slack_conn_id` unless given.
        thresholds: From where on a check fails, where not as usual: `{"late_share": 0.1, "max_age": "6h"}`, or that as
            JSON; the names are those of `penstock.quality.Thresholds`.
        once: Skip the task where an earlier run of the DAG has checked the day, whatever it found: for a DAG that runs
            more often than once a day. May be a template that gives `True`. The same run, cleared, checks again.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (
        *PenstockOperator.template_fields,
        *("date", "warehouse", "slack_conn_id", "thresholds", "once"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **PenstockOperator.template_fields_renderers,
        "thresholds": "json",
    }

    def __init__(
        self,
        *,
        date: str,
        warehouse: str | None = None,
        slack_conn_id: str | None = None,
        thresholds: Mapping[str, Any] | str | None = None,
        once: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.date = date
        self.warehouse = warehouse
        self.slack_conn_id = slack_conn_id
        self.thresholds = thresholds
        self.once = once

    @property
    def hook(self) -> PenstockHook:
        """The hook with this task's connections."""
        hook = super().hook
        hook.slack_conn_id = self.slack_conn_id
        return hook

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:
        """Check it."""
        from penstock.quality import run_checks

        limits = _limits(self.thresholds)
        once = str(self.once).strip().lower() == "true"
        if once:
            self._skip_unless_first(flow, context)
        report = run_checks(flow.spec(), self.date, place(self.warehouse), thresholds=limits, tables=flow.file.tables)
        if once:
            context["ti"].xcom_push(key=f"{CHECKED}{report.date}", value=context["run_id"])
        for check in report.checks:
            say = self.log.info if check.passed else self.log.error
            say("%s: %s%s", check.name, "" if check.passed else "FAILED: ", check.message)
        found = report.as_dict()
        self._seen = plain(found)
        if report.passed:
            return found
        context["ti"].xcom_push(key="return_value", value=plain(found))
        if alert := self._alert(report):
            context["ti"].xcom_push(key="return_value", value=plain(found | {"alert": alert}))
        failed = "; ".join(f"{check.name}: {check.message}" for check in report.failed)
        raise AirflowFailException(f"{flow.name}, {report.date}: {failed}")

    def _skip_unless_first(self, flow: Pipeline, context: Any) -> None:
        """Only the first run of the DAG that comes this far checks the day."""
        from penstock.warehouse.loader import parse_day

        day = parse_day(self.date)
        # A key for each day: which of several runs is the newest is then no question.
        key = f"{CHECKED}{day}"
        earlier = context["ti"].xcom_pull(task_ids=self.task_id, key=key, include_prior_dates=True)
        if earlier and earlier != context["run_id"]:
            then = f"{day + dt.timedelta(days=1)} will be by the first run after it has ended (00:00 UTC)"
            raise AirflowSkipException(f"{flow.name}: {day} was checked by the run {earlier}; {then}")

    def _alert(self, report: QualityReport) -> dict[str, Any] | None:
        from penstock.quality import Slack

        try:
            webhook = self.hook.slack()
            if webhook is None:
                return None
            sent = Slack(webhook.get_secret_value()).send(report)
        except (AirflowNotFoundException, SettingsError) as error:
            self.log.warning("the alert could not be sent: %s", error)
            return {"sent": False, "attempts": 0, "reason": str(error)}
        if not sent.sent:
            self.log.warning("the alert could not be sent after %s attempts: %s", sent.attempts, sent.reason)
        return {"sent": sent.sent, "attempts": sent.attempts, "reason": sent.reason}


def _limits(told: Mapping[str, Any] | str | None) -> Thresholds | None:
    """What a task was told of thresholds; a template gives text."""
    from penstock.quality import Thresholds

    if isinstance(told, str):
        try:
            told = json.loads(told.strip() or "null")
        except ValueError:
            raise SettingsError("thresholds: this is no JSON", name="thresholds") from None
    if told is not None and not isinstance(told, dict):
        raise SettingsError('thresholds: write names and values: {"late_share": 0.1}', name="thresholds")
    return Thresholds.of(told) if told else None
