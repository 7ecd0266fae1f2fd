"""The DAG of the payments: Kafka, PostgreSQL and Elasticsearch, all real, by connections."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.generate import generate
from penstock.resources import copy_out

if TYPE_CHECKING:
    from conftest import Airflow
    from services.elasticsearch import ElasticsearchServer
    from services.kafka import KafkaBroker
    from services.postgres import Database

DAG = Path(__file__).parents[2] / "dags" / "process_kafka_to_postgres.py"
TASKS = {
    *("drain_transactions", "run_transformations", "refresh_views"),
    *("index_hourly_metrics_to_elasticsearch", "data_quality"),
}


@pytest.mark.slow
def test_process_kafka_to_postgres(
    airflow: Airflow,
    tmp_path: Path,
    connection: Any,
    kafka_broker: KafkaBroker,
    database: Database,
    elasticsearch: ElasticsearchServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Transactions of eight days: raw rows, clean rows, hours and documents are those of the truth; twice."""
    copy_out("payments", tmp_path)
    made = tmp_path / "events.jsonl"
    yesterday = dt.datetime.now(dt.timezone.utc).date() - dt.timedelta(days=1)
    options = {"total": 4000, "seed": 3, "span": "8d", "start": (yesterday - dt.timedelta(days=7)).isoformat()}
    truth = generate("payments", made, bad_rate=0.002, progress=False, **options)
    topic = kafka_broker.create_topic(f"hourly-{tmp_path.name}", partitions=2)
    lines = made.read_bytes().split(b"\n")[:-1]
    for partition in (0, 1):
        kafka_broker.produce(topic, lines[partition::2], partition=partition)
    file = tmp_path / "pipeline.yaml"
    source = f"source:\n  kafka: {{topics: [{topic}], group: {topic}}}\n"
    # The last transactions of yesterday are processed in the first hours of today, which may not be over yet.
    text = file.read_text().replace("max_future_skew: 5m", "max_future_skew: 6h")
    assert "6h" in text
    file.write_text(re.sub(r"(?ms)^source:.*?(?=^[a-z])", source, text))
    connection("the_kafka", conn_type="kafka", extra={"bootstrap.servers": kafka_broker.bootstrap})
    server = {"host": "127.0.0.1", "port": database.server.port, "schema": database.name}
    connection("the_tables", conn_type="postgres", login="postgres", password="hidden", **server)
    connection("the_documents", conn_type="elasticsearch", host="127.0.0.1", port=elasticsearch.port)
    for kind, name in (("kafka", "kafka"), ("postgres", "tables"), ("elasticsearch", "documents")):
        monkeypatch.setenv(f"AIRFLOW__PENSTOCK__{kind.upper()}_CONN_ID", f"the_{name}")
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PAYMENTS_SCHEDULE", "*/15 * * * *")
    seen: list[Any] = []
    silver = truth["expected"]["silver"]
    for conf in (None, None, {"full": True, "date": yesterday.isoformat()}):
        ran = airflow.run(DAG.read_text(), conf, name="process_kafka_to_postgres", retries=0)
        # The day before is checked once, by the first run; and when it is asked for.
        once = {"data_quality": "skipped"} if len(seen) == 1 else {}
        assert ran.states == dict.fromkeys(TASKS, "success") | once, ran.log[-6000:]
        assert str(ran.run.state) == "success"
        if not once:
            assert ran.xcom("data_quality")["date"] == yesterday.isoformat()
        assert ran.xcom("drain_transactions")["silver"] == silver
        if conf:
            assert ran.xcom("run_transformations")["transactions_clean"]["full"]
        assert database.rows("SELECT count(*), count(DISTINCT transaction_id) FROM transactions") == [(silver, silver)]
        hours = database.rows(
            'SELECT to_char(event_hour, \'YYYY-MM-DD"T"HH24:00:00"Z"\'), total_transactions, total_amount, '
            "late_transactions FROM hourly_metrics ORDER BY 1"
        )
        assert {hour: counts for hour, *counts in hours} == {
            hour: [one["total_transactions"], Decimal(one["total_amount"]), one["late_transactions"]]
            for hour, one in truth["hours"].items()
        }
        found = elasticsearch.documents("hourly_metrics")
        documents = {name: (one["total_transactions"], one["late_transactions"]) for name, one in found.items()}
        assert documents == {
            hour: (one["total_transactions"], one["late_transactions"]) for hour, one in truth["hours"].items()
        }
        seen.append((hours, found, database.rows("SELECT * FROM transactions_clean ORDER BY transaction_id")))
        assert "hidden" not in ran.log
    assert seen[0] == seen[1] == seen[2]
    assert ran.xcom("index_hourly_metrics_to_elasticsearch")["indexed"] == 0
    assert airflow.load(DAG.read_text()).schedule == "*/15 * * * *"
