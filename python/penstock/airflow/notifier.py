"""The notifier that tells Slack what failed."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseNotifier


class PenstockNotifier(BaseNotifier):
    """Tells Slack which run failed, and why; for `on_failure_callback` of a DAG or of a task.

    It tries a few times, and never fails what it tells about. Without a connection it does nothing; nor where a
    `QualityOperator` of the run has sent its alert, which says more.

    Args:
        slack_conn_id: A connection of type `slackwebhook`; that of `[penstock] slack_conn_id` unless given.
    """

    def __init__(self, slack_conn_id: str | None = None) -> None:
        super().__init__()
        self.slack_conn_id = slack_conn_id

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Nothing is a template."""

    def notify(self, context: Any) -> None:
        """Send it."""
        from penstock.airflow.hook import PenstockHook
        from penstock.quality import Slack

        if told := self._who_told(context):
            self.log.info("%s has told Slack what failed", told)
            return
        try:
            webhook = PenstockHook(slack_conn_id=self.slack_conn_id).slack()
            if webhook is None:
                return
            sent = Slack(webhook.get_secret_value()).post(text_of(context))
        except Exception as error:  # noqa: BLE001  whatever it is: there is something else to tell
            self.log.warning("the alert could not be sent: %s", type(error).__name__)
            return
        if not sent.sent:
            self.log.warning("the alert could not be sent after %s attempts: %s", sent.attempts, sent.reason)

    def _who_told(self, context: Any) -> str | None:
        """The task of the run that has sent an alert of its own."""
        dag, ti = context.get("dag"), context.get("ti")
        # By the name of their class: of a DAG that comes from Airflow's database nothing else is known.
        tasks = [task for task in getattr(dag, "tasks", ()) if getattr(task, "task_type", "") == "QualityOperator"]
        names = [task.task_id for task in tasks]
        try:
            for name in names if ti is not None else ():
                found = ti.xcom_pull(task_ids=name, map_indexes=-1)
                if isinstance(found, dict) and (found.get("alert") or {}).get("sent"):
                    return str(name)
        except Exception as error:  # noqa: BLE001  rather told twice than never
            self.log.warning("whether an alert was sent cannot be seen: %s", type(error).__name__)
        return None


def text_of(context: Any) -> str:
    """What Slack shows."""
    run, ti = context.get("dag_run"), context.get("ti")
    dag_id = getattr(run, "dag_id", None) or getattr(context.get("dag"), "dag_id", "a DAG")
    run_id = getattr(run, "run_id", None) or context.get("run_id", "")
    what = f"task `{ti.task_id}` failed" if ti is not None else "the run failed"
    lines = [f":rotating_light: *{dag_id}*: {what} ({run_id})"]
    reason = context.get("exception") or context.get("reason")
    if reason:
        lines.append(f"• {str(reason)[:1000]}")
    if url := getattr(ti, "log_url", None):
        lines.append(f"<{url}|log>")
    return "\n".join(lines)
