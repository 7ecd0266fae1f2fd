"""The operators as functions, for DAGs in TaskFlow's style: what a task reports goes on as an argument.

```python
from airflow.sdk import dag, task
from penstock.airflow import taskflow as penstock

@dag
def shop():
    ledger = penstock.run("ecommerce")
    tell(ledger) >> penstock.load("ecommerce")
```

Each takes what its operator takes, and `task_id`, which is its own name unless given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.airflow.load import LoadOperator
from penstock.airflow.maintenance import AuditOperator, BackfillOperator, CompactOperator, RetentionOperator
from penstock.airflow.payments import IndexOperator, RefreshOperator
from penstock.airflow.quality import QualityOperator
from penstock.airflow.run import ReplayOperator, RunOperator
from penstock.airflow.sensor import PenstockSensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.airflow.base import PenstockOperator

__all__ = [
    "audit",
    "backfill",
    "compact",
    "index",
    "load",
    "quality",
    "refresh",
    "replay",
    "retention",
    "run",
    "wait",
]


def _function(name: str, operator: type[PenstockOperator]) -> Callable[..., Any]:
    def function(pipeline: str, **arguments: Any) -> Any:
        return operator(**{"task_id": name, "pipeline": pipeline, **arguments}).output

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{operator.__name__}` as a task; gives what it reports.\n\n{operator.__doc__}"
    return function


run = _function("run", RunOperator)
replay = _function("replay", ReplayOperator)
load = _function("load", LoadOperator)
quality = _function("quality", QualityOperator)
audit = _function("audit", AuditOperator)
backfill = _function("backfill", BackfillOperator)
compact = _function("compact", CompactOperator)
retention = _function("retention", RetentionOperator)
refresh = _function("refresh", RefreshOperator)
index = _function("index", IndexOperator)
wait = _function("wait", PenstockSensor)
