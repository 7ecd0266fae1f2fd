"""Penstock in Airflow 3: a hook for connections and operators for what a pipeline does.

```python
from penstock.airflow import LoadOperator, RunOperator

RunOperator(task_id="drain", pipeline="ecommerce") >> LoadOperator(task_id="load", pipeline="ecommerce")
```

A file of DAGs that imports this loads nothing of the engine: that waits until a task runs.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.airflow.assets import asset
    from penstock.airflow.base import PenstockOperator
    from penstock.airflow.defaults import DAY, END, PIPELINE, YESTERDAY, default_args
    from penstock.airflow.hook import PenstockHook, configured
    from penstock.airflow.load import LoadOperator
    from penstock.airflow.maintenance import AuditOperator, BackfillOperator, CompactOperator, RetentionOperator
    from penstock.airflow.notifier import PenstockNotifier
    from penstock.airflow.payments import IndexOperator, RefreshOperator
    from penstock.airflow.quality import QualityOperator
    from penstock.airflow.run import ReplayOperator, RunOperator
    from penstock.airflow.sensor import PenstockSensor
    from penstock.airflow.trigger import PenstockTrigger

_HOME = {
    "DAY": "defaults",
    "END": "defaults",
    "PIPELINE": "defaults",
    "AuditOperator": "maintenance",
    "BackfillOperator": "maintenance",
    "CompactOperator": "maintenance",
    "IndexOperator": "payments",
    "LoadOperator": "load",
    "PenstockHook": "hook",
    "PenstockNotifier": "notifier",
    "PenstockOperator": "base",
    "PenstockSensor": "sensor",
    "PenstockTrigger": "trigger",
    "QualityOperator": "quality",
    "RefreshOperator": "payments",
    "ReplayOperator": "run",
    "RetentionOperator": "maintenance",
    "RunOperator": "run",
    "YESTERDAY": "defaults",
    "asset": "assets",
    "configured": "hook",
    "default_args": "defaults",
}

__all__ = [
    "DAY",
    "END",
    "PIPELINE",
    "YESTERDAY",
    "AuditOperator",
    "BackfillOperator",
    "CompactOperator",
    "IndexOperator",
    "LoadOperator",
    "PenstockHook",
    "PenstockNotifier",
    "PenstockOperator",
    "PenstockSensor",
    "PenstockTrigger",
    "QualityOperator",
    "RefreshOperator",
    "ReplayOperator",
    "RetentionOperator",
    "RunOperator",
    "asset",
    "configured",
    "default_args",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'penstock.airflow' has no attribute {name!r}")
    if _version() < (3, 1):
        raise _missing()
    try:
        value = getattr(importlib.import_module(f"penstock.airflow.{home}"), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "airflow":
            raise
        raise _missing() from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))


@functools.cache
def _version() -> tuple[int, ...]:
    """That of Airflow; nothing where it is 2 or older, or is not there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return tuple(int(part) for part in version("apache-airflow-core").split(".")[:2])
    except PackageNotFoundError:
        return ()


def _missing() -> ImportError:
    """What is missing: Airflow itself, or one that is new enough."""
    from importlib.metadata import PackageNotFoundError, version

    from penstock.errors import MissingExtraError

    try:
        there = f"Airflow {version('apache-airflow-core')} is installed"
    except PackageNotFoundError:
        try:
            there = f"Airflow {version('apache-airflow')} is installed"
        except PackageNotFoundError:
            there = "Airflow is not installed"
    return MissingExtraError(
        f"penstock.airflow needs Airflow 3.1 or newer, with its package of compatibility; {there}. "
        'pip install "penstock[airflow]"',
        extra="airflow",
    )
