"""Event streams into tables, without a cluster: every event accounted for.

```python
import penstock

contract = penstock.Contract.load("contract.yaml")
v = contract.validate("events.jsonl")                       # v.valid, v.dead_letters
events = penstock.deduplicate(v.valid, key="idempotency_key", at="event_time")
events = penstock.sessionize(events, entity="entity", at="event_time", gap="30m")
penstock.write_parquet(events, "silver/")

penstock.Pipeline.load("pipeline.yaml").run(until_caught_up=True)       # the same, exactly once, with a ledger
```

Anything that speaks Arrow goes in (pyarrow, Polars, DuckDB, pandas), and every table that comes out is Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.audit import Audit
    from penstock.contract import Contract, ContractDiff, Validation, validate
    from penstock.dedup import deduplicate
    from penstock.errors import (
        CheckpointError,
        ContractError,
        DataError,
        ElasticsearchError,
        ForkedError,
        InternalError,
        LakeError,
        LedgerError,
        MissingExtraError,
        PenstockError,
        SettingsError,
        SourceError,
        SpillError,
        SupersededError,
        WarehouseError,
        WrongLakeError,
        WrongWarehouseError,
    )
    from penstock.lake import LakeTable, read_lake, write_parquet
    from penstock.ledger import Ledger
    from penstock.pipeline import Pipeline
    from penstock.scd2 import Merge, scd2_merge
    from penstock.sessions import sessionize
    from penstock.table import Table
    from penstock.windows import aggregate_windows

__version__ = "0.1.0"

# What is public, and the module that it lives in: imported when first used, so that `import penstock` takes no time.
_HOME = {
    "Audit": "audit",
    "CheckpointError": "errors",
    "Contract": "contract",
    "ContractDiff": "contract",
    "ContractError": "errors",
    "DataError": "errors",
    "ElasticsearchError": "errors",
    "ForkedError": "errors",
    "InternalError": "errors",
    "LakeError": "errors",
    "LakeTable": "lake",
    "Ledger": "ledger",
    "LedgerError": "errors",
    "Merge": "scd2",
    "MissingExtraError": "errors",
    "PenstockError": "errors",
    "Pipeline": "pipeline",
    "SettingsError": "errors",
    "SourceError": "errors",
    "SpillError": "errors",
    "SupersededError": "errors",
    "Table": "table",
    "Validation": "contract",
    "WarehouseError": "errors",
    "WrongLakeError": "errors",
    "WrongWarehouseError": "errors",
    "aggregate_windows": "windows",
    "deduplicate": "dedup",
    "read_lake": "lake",
    "scd2_merge": "scd2",
    "sessionize": "sessions",
    "validate": "contract",
    "write_parquet": "lake",
}

__all__ = [
    "Audit",
    "CheckpointError",
    "Contract",
    "ContractDiff",
    "ContractError",
    "DataError",
    "ElasticsearchError",
    "ForkedError",
    "InternalError",
    "LakeError",
    "LakeTable",
    "Ledger",
    "LedgerError",
    "Merge",
    "MissingExtraError",
    "PenstockError",
    "Pipeline",
    "SettingsError",
    "SourceError",
    "SpillError",
    "SupersededError",
    "Table",
    "Validation",
    "WarehouseError",
    "WrongLakeError",
    "WrongWarehouseError",
    "__version__",
    "aggregate_windows",
    "deduplicate",
    "read_lake",
    "scd2_merge",
    "sessionize",
    "validate",
    "write_parquet",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"penstock.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
