"""The checks of a day in a DAG that runs more often: once, with limits of one's own, and told once."""
# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import datetime as dt
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from test_operators import LAST_DAY, Shop, Webhook, shop, webhook  # noqa: F401  fixtures

import penstock
from penstock.airflow.quality import _limits
from penstock.quality import Thresholds
from penstock.warehouse import load

if TYPE_CHECKING:
    from conftest import Airflow

HOURLY = """\
import datetime as dt
from airflow.sdk import DAG, task
from penstock.airflow import *

with DAG(
    "tested", schedule="@hourly", start_date=dt.datetime(2024, 1, 1), catchup=False,
    params={"date": None, "day": None, "limits": None}, on_failure_callback=PenstockNotifier("tested_slack"),
) as dag:
"""


def hourly(shop: Shop, body: str) -> str:
    """A DAG that tells Slack when it fails; `shop` stands for the arguments of an operator."""
    known = {"pipeline": "ecommerce", "overrides": shop.overrides}
    return HOURLY + textwrap.indent(f"shop = {known!r}\n" + textwrap.dedent(body), "    ")


@pytest.fixture
def slack(connection: Any, webhook: Webhook) -> Webhook:
    """A Slack that takes what it is told."""
    connection("tested_slack", conn_type="slackwebhook", host=webhook.address, password="T0/B0/hidden")
    return webhook


class Processor:
    """What the process has that runs the callbacks of DAGs in a deployment, and `dag.test` has not: XCom."""

    def send(self, msg: Any) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.sdk.execution_time.comms import XComResult
        from airflow.utils.session import create_session

        assert type(msg).__name__ == "GetXCom"
        query = XComModel.get_many(run_id=msg.run_id, key=msg.key, task_ids=msg.task_id, dag_ids=msg.dag_id)
        with create_session() as session:
            found = session.scalars(query).first()
            return XComResult(key=msg.key, value=None if found is None else found.value)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks find XCom."""
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Processor(), raising=False)


def filled(shop: Shop) -> Shop:
    """The shop with its events in the warehouse."""
    flow = shop.flow
    flow.run(drain=True, progress=False)
    load(flow.spec(), tables=flow.file.tables)
    return shop


@pytest.mark.usefixtures("processor")
def test_a_day_is_checked_once_and_told_once(airflow: Airflow, shop: Shop, slack: Webhook) -> None:
    """However many runs there are: the first one that comes so far checks, and a bad day is one red run."""
    source = hourly(
        filled(shop),
        """
        QualityOperator(
            task_id="data_quality", date="{{ params.day }}", once="{{ not params.date }}", slack_conn_id="tested_slack",
            thresholds="{{ params.limits or '' }}", **shop,
        )
        """,
    )
    bad = "2024-12-25"
    found = []
    for conf in ({"day": bad}, {"day": bad}, {"day": bad}, {"day": LAST_DAY}, {"day": LAST_DAY}):
        ran = airflow.run(source, conf, retries=0)
        found.append((ran.states["data_quality"], str(ran.run.state)))
        if ran.states["data_quality"] == "skipped":
            after = dt.date.fromisoformat(conf["day"]) + dt.timedelta(days=1)
            assert f"{conf['day']} was checked by the run" in ran.log, ran.log[-4000:]
            assert f"{after} will be by the first run after it has ended (00:00 UTC)" in ran.log
    failed, skipped, good = ("failed", "failed"), ("skipped", "success"), ("success", "success")
    assert found == [failed, skipped, skipped, good, skipped]
    ((_, text),) = slack.posted
    assert "checks failed for 2024-12-25" in text
    # Asked for by name it is checked again; limits of one's own decide what is bad.
    ran = airflow.run(source, {"day": LAST_DAY, "date": LAST_DAY}, retries=0)
    assert ran.states["data_quality"] == "success"
    strict = {"day": LAST_DAY, "date": LAST_DAY, "limits": '{"dead_letter_share": "0.0001"}'}
    ran = airflow.run(source, strict, retries=0)
    assert [check["name"] for check in ran.xcom("data_quality")["checks"] if not check["passed"]] == ["dead_letters"]
    assert "data_quality has told Slack what failed" in ran.log
    assert len(slack.posted) == 2


@pytest.mark.usefixtures("processor")
def test_what_no_check_has_told_the_notifier_tells(
    airflow: Airflow,
    shop: Shop,
    slack: Webhook,
    connection: Any,
) -> None:
    """A task before the checks; checks whose own alert does not go out."""
    filled(shop)
    connection("tested_away", conn_type="slackwebhook", host="chat .example:port", password="T0/B0/hidden")
    for body in (
        """
        @task
        def before():
            raise ValueError("broken")

        before() >> QualityOperator(task_id="data_quality", date="2024-12-25", slack_conn_id="tested_slack", **shop)
        """,
        'QualityOperator(task_id="data_quality", date="2024-12-25", slack_conn_id="tested_away", **shop)',
        'QualityOperator(task_id="data_quality", date="2024-12-25", **shop)',
    ):
        slack.posted.clear()
        assert str(airflow.run(hourly(shop, body), retries=0).run.state) == "failed"
        ((_, text),) = slack.posted
        assert "*tested*" in text and "failed" in text and "checks failed for" not in text


def test_where_nobody_knows_it_is_told_twice(airflow: Airflow, shop: Shop, slack: Webhook) -> None:
    """`airflow dags test` runs callbacks without XCom."""
    body = 'QualityOperator(task_id="data_quality", date="2024-12-25", slack_conn_id="tested_slack", **shop)'
    ran = airflow.run(hourly(filled(shop), body), retries=0)
    assert "whether an alert was sent cannot be seen" in ran.log
    assert len(slack.posted) == 2


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, None),
        ("", None),
        ({}, None),
        ({"late_share": 0.1}, Thresholds(late_share=0.1)),
        ('{"max_age": "6h", "volume_days": 3}', Thresholds(max_age=dt.timedelta(hours=6), volume_days=3)),
        ({"volume_deviation": "0.5", "volume_days": "14"}, Thresholds(volume_deviation=0.5, volume_days=14)),
        ({"max_age": dt.timedelta(1), "null_share": 0}, Thresholds()),
    ],
)
def test_thresholds_are_told_by_their_names(told: Any, found: Thresholds | None) -> None:
    assert _limits(told) == found


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"late_shares": 0.1}, r"thresholds\.late_shares: there is no such threshold; did you mean 'late_share'\?"),
        ({"late_share": "much"}, r"thresholds\.late_share: 'much' is not a share"),
        ({"late_share": -1}, r"thresholds\.late_share: -1 is not a share"),
        ({"null_share": "inf"}, r"thresholds\.null_share: 'inf' is not a share"),
        ({"volume_days": 0}, r"thresholds\.volume_days: 0 is not a whole number"),
        ({"volume_days": 1.5}, r"thresholds\.volume_days: 1.5 is not a whole number"),
        ({"max_age": 6}, r"thresholds\.max_age: 6 has no unit"),
        ("late_share=0.1", "this is no JSON"),
        ("[1]", "write names and values"),
    ],
)
def test_thresholds_that_are_none_are_named(told: Any, words: str) -> None:
    with pytest.raises(penstock.SettingsError, match=words):
        _limits(told)
