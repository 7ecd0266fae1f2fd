"""What the DAGs of Penstock have in common."""

from __future__ import annotations

import datetime as dt
from typing import Any

DAY = "{{ params.date or macros.ds_add((dag_run.data_interval_end or dag_run.run_after) | ds, -1) }}"
"""The day that a DAG run is about: the parameter `date`, else the day before the end of its interval."""

YESTERDAY = "{{ params.date or macros.ds_add((dag_run.data_interval_start or dag_run.run_after) | ds, -1) }}"
"""For DAGs that run more often than once a day: the parameter `date`, else the day before the one in which the run's
interval begins."""

END = "{{ dag_run.data_interval_end or dag_run.run_after }}"
"""The end of a DAG run's interval: events up to then are what it is about."""

PIPELINE = "{{ params.pipeline or var.value.get('penstock_pipeline', 'ecommerce') }}"
"""Which pipeline: the parameter `pipeline`, else the variable `penstock_pipeline`, else `ecommerce`."""


def default_args(**others: Any) -> dict[str, Any]:
    """For `default_args` of a DAG: three retries, further and further apart, and an end to each try.

    Args:
        others: What is to be otherwise.
    """
    return {
        "owner": "penstock",
        "retries": 3,
        "retry_delay": dt.timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": dt.timedelta(minutes=10),
        "execution_timeout": dt.timedelta(hours=1),
        **others,
    }
