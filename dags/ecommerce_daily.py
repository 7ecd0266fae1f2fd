"""The events of a shop, every day at 02:00 UTC: from Kafka to marts that are checked.

| task | does |
|---|---|
| `wait_for_events` | until events up to the end of the day's run (02:00) have come; without a worker's slot |
| `drain` | what Kafka has into the lake, until caught up |
| `load` | what is new in the lake into the star schema |
| `dbt_run`, `dbt_test` | the marts, and their tests |
| `data_quality` | the checks of the day before; one that fails fails the run, and tells Slack |
| `audit` | everything counted again |

Every task can be cleared and run again: what is done is not done twice. The parameter `date` names another day for the
checks, and loads that day again.

Connections come from `[penstock]` of Airflow's configuration: `kafka_conn_id`, `aws_conn_id`, `slack_conn_id`, and
`postgres_conn_id` for a warehouse and marts in PostgreSQL; `project` is the folder where the lake is.
"""

import datetime as dt

from airflow.sdk import DAG, Param
from airflow.timetables.interval import CronDataIntervalTimetable

from penstock.airflow import (
    DAY,
    END,
    AuditOperator,
    LoadOperator,
    PenstockNotifier,
    PenstockSensor,
    QualityOperator,
    RunOperator,
    asset,
    default_args,
)
from penstock.airflow.dbt import dbt_run, dbt_test

with DAG(
    "ecommerce_daily",
    description="Events of a shop: Kafka, lake, star schema, marts, checks",
    schedule=CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
    start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args=default_args(pipeline="ecommerce"),
    params={"date": Param(None, type=["null", "string"], format="date", description="A day to load and check again")},
    on_failure_callback=PenstockNotifier(),
    doc_md=__doc__,
    tags=["penstock"],
) as dag:
    wait = PenstockSensor(task_id="wait_for_events", until=END, execution_timeout=dt.timedelta(hours=6))
    silver, tables = asset("ecommerce", "silver/events"), asset("ecommerce", "warehouse")
    drain = RunOperator(task_id="drain", execution_timeout=dt.timedelta(hours=2), outlets=[silver])
    load = LoadOperator(task_id="load", date="{{ params.date or '' }}", max_active_tis_per_dag=1, outlets=[tables])
    quality = QualityOperator(task_id="data_quality", date=DAY)
    audit = AuditOperator(task_id="audit")
    wait >> drain >> load >> dbt_run("ecommerce") >> dbt_test("ecommerce") >> quality >> audit
