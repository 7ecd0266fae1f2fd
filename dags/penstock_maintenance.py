"""A lake looked after, every Sunday at 04:00 UTC.

| task | does |
|---|---|
| `compact` | small files of a partition put together |
| `retention` | files thrown away that are older than the pipeline file keeps them (`retention: {bronze: 30d}`) |
| `audit` | everything counted again |

Each is an entry of the lake's log and can run beside the stream. The parameter `pipeline` names the pipeline, else the
variable `penstock_pipeline`, else it is `ecommerce`; `keep` names other times than the pipeline file's.
Where neither says how long, `retention` is skipped.
"""

import datetime as dt

from airflow.sdk import DAG, Param

from penstock.airflow import PIPELINE, AuditOperator, CompactOperator, PenstockNotifier, RetentionOperator, default_args

with DAG(
    "penstock_maintenance",
    description="Compaction, retention and audit of a lake",
    schedule="0 4 * * 0",
    start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args=default_args(pipeline=PIPELINE),
    params={
        "pipeline": Param(
            None, type=["null", "string"], description="A ready-made pipeline, a pipeline file or its folder"
        ),
        "keep": Param({}, type="object", description='How long layers are kept: {"bronze": "30d"}'),
        "min_age": Param("10m", type="string", description="Nothing younger is put together"),
    },
    on_failure_callback=PenstockNotifier(),
    doc_md=__doc__,
    tags=["penstock"],
) as dag:
    compact = CompactOperator(task_id="compact", min_age="{{ params.min_age }}")
    retention = RetentionOperator(task_id="retention", keep="{{ params.keep | tojson }}", skip_unset=True)
    audit = AuditOperator(task_id="audit", trigger_rule="none_failed")
    compact >> retention >> audit
