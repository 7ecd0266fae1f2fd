"""Days of a pipeline made anew from Bronze by today's contract, and loaded again.

| parameter | says |
|---|---|
| `pipeline` | which pipeline; the variable `penstock_pipeline` unless given, else `ecommerce` |
| `days` | the days, in any order |
| `start`, `end` | all days from `start` to before `end`, beside those of `days` |

| task | does |
|---|---|
| `days` | the days, each once |
| `backfill` | one for each day: its Silver made anew, swapped in by one entry of the lake's log |
| `load_day` | one for each day: its facts loaded again |
| `audit` | everything counted again |

It can run beside the DAGs that run the pipeline: the stream takes the new entries in and goes on, and loads come one
after the other. Once more, it changes nothing. A day that fails can be cleared alone.
"""

import datetime as dt
from typing import Any

from airflow.sdk import DAG, Param, task

from penstock.airflow import PIPELINE, AuditOperator, BackfillOperator, LoadOperator, PenstockNotifier, default_args

DAYS = {"type": ["null", "array"], "items": {"type": "string", "format": "date"}}
DATE = {"type": ["null", "string"], "format": "date"}

with DAG(
    "penstock_backfill",
    description="Days made anew from Bronze and loaded again",
    schedule=None,
    start_date=dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    max_active_runs=1,
    default_args=default_args(pipeline=PIPELINE),
    params={
        "pipeline": Param(
            None, type=["null", "string"], description="A ready-made pipeline, a pipeline file or its folder"
        ),
        "days": Param(None, **DAYS, description="Days, in any order"),
        "start": Param(None, **DATE, description="The first day"),
        "end": Param(None, **DATE, description="The day after the last"),
    },
    on_failure_callback=PenstockNotifier(),
    doc_md=__doc__,
    tags=["penstock"],
) as dag:

    @task(retries=0)
    def days(params: dict[str, Any]) -> list[str]:
        """The days, each once."""
        found = list(params["days"] or [])
        if params["start"]:
            first = dt.date.fromisoformat(params["start"])
            last = dt.date.fromisoformat(params["end"]) if params["end"] else first + dt.timedelta(days=1)
            found += [(first + dt.timedelta(days=n)).isoformat() for n in range((last - first).days)]
        if not found:
            raise ValueError("no day is named: give days, or start (and end, the day after the last)")
        return list(dict.fromkeys(found))

    each = days()
    backfill = BackfillOperator.partial(task_id="backfill", max_active_tis_per_dag=1).expand(start=each)
    load = LoadOperator.partial(task_id="load_day", max_active_tis_per_dag=1).expand(date=each)
    backfill >> load >> AuditOperator(task_id="audit")
