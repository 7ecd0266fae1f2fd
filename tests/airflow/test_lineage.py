"""What others are told of a run: OpenLineage, assets, and Slack when it fails."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

import attr
import pytest
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.generated import base
from openlineage.client.serde import Serde
from test_operators import LAST_DAY, Shop, Webhook, shop, webhook

import penstock
from penstock.airflow import (
    AuditOperator,
    IndexOperator,
    LoadOperator,
    PenstockNotifier,
    QualityOperator,
    RefreshOperator,
    RunOperator,
)
from penstock.generate import generate

SCHEMA = json.loads((Path(__file__).parent / "openlineage.schema.json").read_text())
__all__ = ["shop", "webhook"]


class Task:
    """Takes what a task gives away."""

    def xcom_push(self, **_: Any) -> None: ...


def event_of(operator: Any, *, failed: bool = False) -> dict[str, Any]:
    """The event that Airflow's listener sends after a task, read back from its JSON."""
    if failed:
        told = operator.get_openlineage_facets_on_failure(None)
    else:
        told = operator.get_openlineage_facets_on_complete(None)
    event = RunEvent(
        eventType=RunState.FAIL if failed else RunState.COMPLETE,
        eventTime=dt.datetime.now(dt.timezone.utc).isoformat(),
        run=Run(str(uuid.uuid4())),
        job=Job("tests", "dag.task"),
        inputs=told.inputs,
        outputs=told.outputs,
    )
    found = json.loads(Serde.to_json(event))
    import jsonschema

    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(found)
    return dict(found)


def test_a_day_as_openlineage_sees_it(airflow: object, shop: Shop) -> None:
    given: dict[str, Any] = {"pipeline": "ecommerce", "overrides": shop.overrides}
    run = RunOperator(task_id="run", drain=True, **given)
    run.execute({})
    event = event_of(run)
    assert [(one["namespace"], one["name"]) for one in event["inputs"]] == [("file", str(shop.folder / "events.jsonl"))]
    bronze, silver = event["outputs"]
    assert (silver["namespace"], silver["name"]) == ("file", f"{shop.folder}/lake/silver/events")
    assert silver["outputFacets"]["outputStatistics"]["rowCount"] == shop.truth["expected"]["silver"]
    assert bronze["outputFacets"]["outputStatistics"]["rowCount"] == shop.truth["total"]
    columns = {one["name"]: one["type"] for one in silver["facets"]["schema"]["fields"]}
    assert columns["event_time"] == "timestamp" and {"entity", "amount", "country"} <= set(columns)

    load = LoadOperator(task_id="load", **given)
    load.execute({})
    event = event_of(load)
    (facts,) = event["outputs"]
    assert facts["name"] == f"{shop.folder}/warehouse.duckdb/main.fact_events"
    assert facts["outputFacets"]["outputStatistics"]["rowCount"] == shop.truth["expected"]["silver"]
    names = [one["name"] for one in facts["facets"]["schema"]["fields"]]
    assert names[:3] == ["idempotency_key", "user_key", "time_key"]
    lineage = facts["facets"]["columnLineage"]["fields"]
    assert [one["field"] for one in lineage["purchase_amount"]["inputFields"]] == ["event_type", "amount"]
    assert [one["field"] for one in lineage["user_id"]["inputFields"]] == ["entity"]
    assert set(lineage) <= set(names) and "user_key" not in lineage

    quality = QualityOperator(task_id="quality", date=LAST_DAY, **given)
    quality.execute({"ti": Task()})
    (checked,) = event_of(quality)["inputs"]
    assertions = checked["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert len(assertions) > 3 and all(one["success"] for one in assertions)
    # A check that fails fails the task, and is told all the same.
    quality = QualityOperator(task_id="quality", date="2024-12-25", **given)
    with pytest.raises(Exception, match="2024-12-25"):
        quality.execute({"ti": Task()})
    (checked,) = event_of(quality, failed=True)["inputs"]
    assert not all(one["success"] for one in checked["inputFacets"]["dataQualityAssertions"]["assertions"])
    audit = AuditOperator(task_id="audit", **given)
    audit.execute({})
    assert event_of(audit)["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    # Of a task that never came so far there is nothing to tell.
    assert event_of(RunOperator(task_id="run", **given), failed=True)["outputs"] == []


def test_payments_as_openlineage_sees_them(airflow: object, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    truth = generate("payments", events, total=2000, seed=3, progress=False)
    overrides = {
        "source.files.paths": [str(events)],
        "lake": str(tmp_path / "lake"),
        "warehouse.duckdb": str(tmp_path / "payments.duckdb"),
        "index.file": str(tmp_path / "hours.ndjson"),
    }
    given: dict[str, Any] = {"pipeline": "payments", "overrides": overrides}

    def told(operator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        operator.execute({"ti": Task()})
        event = event_of(operator)
        return {one["name"]: one for one in event["inputs"]}, {one["name"]: one for one in event["outputs"]}

    table = f"{tmp_path}/payments.duckdb/main."
    _, outputs = told(RunOperator(task_id="run", drain=True, **given))
    raw = outputs[f"{table}transactions"]
    assert raw["outputFacets"]["outputStatistics"]["rowCount"] == truth["expected"]["silver"]
    lineage = raw["facets"]["columnLineage"]["fields"]
    assert [one["field"] for one in lineage["processing_time"]["inputFields"]] == ["processing_time"]
    assert [one["field"] for one in lineage["amount"]["inputFields"]] == ["amount"]

    inputs, outputs = told(LoadOperator(task_id="load", **given))
    assert list(inputs) == [f"{tmp_path}/lake/silver/events"] and list(outputs) == [f"{table}transactions"]

    inputs, outputs = told(RefreshOperator(task_id="refresh", **given))
    assert list(inputs) == [f"{table}transactions"]
    assert list(outputs) == [f"{table}transactions_clean", f"{table}hourly_metrics"]
    assert outputs[f"{table}transactions_clean"]["outputFacets"]["outputStatistics"]["rowCount"] > 1000
    assert "late_ratio" in [one["name"] for one in outputs[f"{table}hourly_metrics"]["facets"]["schema"]["fields"]]

    inputs, outputs = told(IndexOperator(task_id="index", **given))
    assert list(inputs) == [f"{table}hourly_metrics"]
    (documents,) = outputs.values()
    assert documents["name"] == str(tmp_path / "hours.ndjson")
    assert documents["outputFacets"]["outputStatistics"]["rowCount"] == len(truth["hours"])


def test_the_schema_is_that_of_the_official_client() -> None:
    """Names and what is required are those of the client's own classes."""
    from openlineage.client.generated import (
        column_lineage_dataset,
        data_quality_assertions_dataset,
        datasource_dataset,
        output_statistics_output_dataset,
        schema_dataset,
    )

    modules = (
        *(base, column_lineage_dataset, data_quality_assertions_dataset, datasource_dataset),
        *(output_statistics_output_dataset, schema_dataset),
    )
    classes = {name: value for module in modules for name, value in vars(module).items() if attr.has(value)}
    for name, part in SCHEMA["$defs"].items():
        fields = [one for one in attr.fields(classes[name]) if not one.name.startswith("_") or name == "BaseFacet"]
        known = set(part["properties"])
        assert known <= {one.name for one in fields}, name
        assert {one.name for one in fields} - known <= {"facets"} | set(), name
        if name == "BaseFacet":
            continue
        required = {one.name for one in fields if one.default is attr.NOTHING}
        assert required == set(part.get("required", ())) or (
            "allOf" in part
            and required
            <= {
                *part.get("required", ()),
                *("namespace", "name"),
            }
        ), name
    events = {one.name for one in attr.fields(base.RunEvent)}
    assert set(SCHEMA["properties"]) == events


def test_assets_are_told_what_was_done(airflow: Any, shop: Shop) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    ran = airflow.run(
        shop.dag("""
        run = RunOperator(task_id="run", drain=True, outlets=[asset("ecommerce")], **shop)
        run >> LoadOperator(task_id="load", outlets=[asset("ecommerce", "warehouse")], **shop)
    """)
    )
    assert set(ran.states.values()) == {"success"}, ran.log[-4000:]
    with create_session() as session:
        events = session.query(AssetEvent).filter(AssetEvent.source_run_id == ran.run.run_id).all()
        told = {event.uri: event.extra for event in events}
    run, load = told["penstock://ecommerce/silver/events"], told["penstock://ecommerce/warehouse"]
    silver = shop.truth["expected"]["silver"]
    assert (run["rows"], run["ledger"]["silver"], run["place"]) == (silver, silver, shop.overrides["lake"])
    assert (load["rows"], load["pipeline"]) == (silver, "ecommerce")


def test_a_failure_is_told_once(airflow: Any, shop: Shop, connection: Any, webhook: Webhook) -> None:
    connection("tested_slack", conn_type="slackwebhook", host=webhook.address, password="T0/B0/hidden")
    shop.overrides["sessions.gap"] = "soon"
    ran = airflow.run(
        shop.dag("""
        told = PenstockNotifier(slack_conn_id="tested_slack")
        run = RunOperator(task_id="run", on_failure_callback=told, **shop)
        run >> LoadOperator(task_id="load", on_failure_callback=told, **shop)
    """)
    )
    assert (ran.states["run"], ran.states["load"]) == ("failed", "upstream_failed")
    ((path, text),) = webhook.posted
    assert path == "/T0/B0/hidden" and "*tested*: task `run` failed" in text and "sessions.gap" in text
    assert "hidden" not in ran.log


def test_a_notifier_never_fails_what_it_tells_about(airflow: object, connection: Any) -> None:
    PenstockNotifier().notify({})
    PenstockNotifier(slack_conn_id="nowhere").notify({"reason": "task_failure"})
    connection("tested_slack", conn_type="slackwebhook", host="http://127.0.0.1:1", password="x")
    PenstockNotifier(slack_conn_id="tested_slack").notify({"reason": "task_failure"})


def test_where_datasets_are(shop: Shop) -> None:
    from penstock.airflow.lineage import lineage_of

    shop.overrides = {"source.kafka.brokers": "broker:9092", "lake": "s3://events/lakes/shop"}
    told = lineage_of("run", penstock.Pipeline.load("ecommerce", shop.overrides), {"run": {"silver": 3}})
    assert [(one.namespace, one.name) for one in told.inputs] == [("kafka://broker:9092", "events_raw")]
    assert [(one.namespace, one.name) for one in told.outputs] == [
        ("s3://events", "lakes/shop/bronze/events"),
        ("s3://events", "lakes/shop/silver/events"),
    ]
