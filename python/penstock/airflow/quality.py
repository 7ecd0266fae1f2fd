"""The operator that checks a day's data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from penstock.airflow.base import PenstockOperator, given, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.airflow.hook import PenstockHook
    from penstock.pipeline import Pipeline
    from penstock.quality import QualityReport


class QualityOperator(PenstockOperator):
    """Checks a day: fresh, of the usual volume, complete, and few dead letters (`penstock quality`).

    A check that fails fails the task, at once and for good: a retry sees the same data. What was seen is the XCom in
    any case. Where a connection for Slack is named, an alert goes there; that it cannot be sent changes nothing.

    Args:
        date: The day.
        warehouse: Another warehouse than that of the pipeline file: `duckdb:FILE`.
        slack_conn_id: A connection of type `slackwebhook`; that of `[penstock] slack_conn_id` unless given.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "date", "warehouse", "slack_conn_id")

    def __init__(
        self, *, date: str, warehouse: str | None = None, slack_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.date = date
        self.warehouse = warehouse
        self.slack_conn_id = slack_conn_id

    @property
    def hook(self) -> PenstockHook:
        """The hook with this task's connections."""
        hook = super().hook
        hook.slack_conn_id = self.slack_conn_id
        return hook

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:
        """Check it."""
        from penstock.quality import run_checks

        report = run_checks(flow.spec(), self.date, given(self.warehouse), tables=flow.file.tables)
        for check in report.checks:
            say = self.log.info if check.passed else self.log.error
            say("%s: %s%s", check.name, "" if check.passed else "FAILED: ", check.message)
        found = report.as_dict()
        self._seen = plain(found)
        if report.passed:
            return found
        alert = self._alert(flow, report)
        context["ti"].xcom_push(key="return_value", value=plain(found | ({"alert": alert} if alert else {})))
        failed = "; ".join(f"{check.name}: {check.message}" for check in report.failed)
        raise AirflowFailException(f"{flow.name}, {report.date}: {failed}")

    def _alert(self, flow: Pipeline, report: QualityReport) -> dict[str, Any] | None:
        from penstock.quality import Slack

        webhook = flow.file.connections.slack
        if webhook is None:
            return None
        sent = Slack(webhook.get_secret_value()).send(report)
        if not sent.sent:
            self.log.warning("the alert could not be sent after %s attempts: %s", sent.attempts, sent.reason)
        return {"sent": sent.sent, "attempts": sent.attempts, "reason": sent.reason}
