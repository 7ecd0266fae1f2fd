"""Transactions, every hour: from Kafka into PostgreSQL, and the hourly metrics into Elasticsearch.

| task | does |
|---|---|
| `drain_transactions` | what Kafka has into the lake and the table `transactions`, each row once |
| `run_transformations` | `transactions_clean`: one row for each transaction, with its latency |
| `refresh_views` | the view `hourly_metrics`; its counts have to add up |
| `index_hourly_metrics_to_elasticsearch` | one document for each hour, under the hour as its id |
| `data_quality` | the checks of the day before; in the first run after midnight UTC, skipped in the others |

Every task can be cleared and run again: what is done is not done twice.

`[penstock] payments_schedule` of Airflow's configuration says how often. The parameter `full` makes all rows anew,
`date` names another day for the checks, or the same once more.
Connections come from there, too: `kafka_conn_id`, `postgres_conn_id`, `elasticsearch_conn_id`, `slack_conn_id`. Without
PostgreSQL the tables are in the pipeline file's DuckDB; without Elasticsearch it has to say where the documents go
(`index: {file: FILE}`).
"""

import datetime as dt

from airflow.sdk import DAG, Param

from penstock.airflow import (
    YESTERDAY,
    IndexOperator,
    PenstockNotifier,
    QualityOperator,
    RefreshOperator,
    RunOperator,
    asset,
    configured,
    default_args,
)

with DAG(
    "process_kafka_to_postgres",
    description="Transactions: Kafka, PostgreSQL, hourly metrics, Elasticsearch",
    schedule=configured("payments_schedule") or "@hourly",
    start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args=default_args(pipeline="payments"),
    params={
        "date": Param(None, type=["null", "string"], format="date", description="Another day to check"),
        "full": Param(False, type="boolean", description="Make all rows anew; they are the same"),
    },
    on_failure_callback=PenstockNotifier(),
    doc_md=__doc__,
    tags=["penstock"],
) as dag:
    drain = RunOperator(task_id="drain_transactions", outlets=[asset("payments", "transactions")])
    clean = RefreshOperator(task_id="run_transformations", only="transactions_clean", full="{{ params.full }}")
    views = RefreshOperator(task_id="refresh_views", only="views", outlets=[asset("payments", "hourly_metrics")])
    index = IndexOperator(task_id="index_hourly_metrics_to_elasticsearch")
    quality = QualityOperator(task_id="data_quality", date=YESTERDAY, once="{{ not params.date }}")
    drain >> clean >> views >> index >> quality
