"""The engine (Rust). Everything here is private: the public package is `penstock`.

Text that is JSON is marked so. Durations are microseconds, sizes are bytes. Tables come in through the Arrow PyCapsule
interface and go out as objects that have `__arrow_c_stream__`.
"""

import builtins
from collections.abc import Callable, Sequence
from os import PathLike
from typing import final

from penstock._typing import ArrowLike, ArrowSchemaExportable, EpochSink

__all__ = [
    "FEATURES",
    "Contract",
    "EmbeddedKafka",
    "History",
    "LakeObjects",
    "Merge",
    "Table",
    "__version__",
    "aggregate_windows",
    "audit",
    "backfill",
    "broker",
    "compact",
    "contract_diff",
    "deduplicate",
    "failpoints",
    "generate",
    "give_back_large_blocks",
    "inspect",
    "lake_log",
    "lake_shards",
    "log_level",
    "manifest",
    "pass_failpoint",
    "produce",
    "read_lake",
    "replay",
    "reset",
    "retention",
    "run_pipeline",
    "scd2_merge",
    "scd2_point",
    "sessionize",
    "state_table",
    "validate",
    "write_parquet",
]

__version__: str
#: The Cargo features that this build has.
FEATURES: list[str]

@final
class Contract:
    @staticmethod
    def load(
        path: str | PathLike[str],
        *,
        max_bytes: int | None = None,
        max_depth: int | None = None,
        assert_formats: bool = True,
        secret: bytes | None = None,
    ) -> Contract: ...
    @staticmethod
    def from_text(
        text: str,
        origin: str | PathLike[str],
        *,
        max_bytes: int | None = None,
        max_depth: int | None = None,
        assert_formats: bool = True,
        secret: bytes | None = None,
    ) -> Contract: ...
    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def schema(self) -> ArrowSchemaExportable: ...
    @property
    def event_types(self) -> list[str]: ...
    def explain(self) -> str: ...
    def columns(self) -> list[tuple[str, str]]: ...

def contract_diff(old: Contract, new: Contract) -> str: ...
def validate(
    contract: Contract,
    data: str | PathLike[str] | bytes | ArrowLike,
    *,
    progress: Callable[[str], object] | None = None,
) -> tuple[Table, Table, str]: ...
def deduplicate(events: ArrowLike, *, key: list[str], at: str | None, horizon_us: int | None) -> Table: ...
def sessionize(events: ArrowLike, *, entity: str, at: str, gap_us: int, max_duration_us: int | None) -> Table: ...
def aggregate_windows(
    events: ArrowLike,
    *,
    at: str,
    size_us: int,
    slide_us: int | None,
    by: list[str],
    aggregates: list[tuple[str, str]],
) -> Table: ...

@final
class Table:
    """Rows made by the engine; any Arrow library takes them as they are."""

    @property
    def num_rows(self) -> int: ...
    @property
    def column_names(self) -> tuple[str, ...]: ...
    def columns(self) -> list[tuple[str, str]]: ...
    def __len__(self) -> int: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __arrow_c_schema__(self) -> object: ...

@final
class History:
    @staticmethod
    def from_rows(
        rows: ArrowLike,
        *,
        key: list[str],
        at: str,
        tracked: list[str],
        op: str | None = None,
        order: str | list[str] | None = None,
    ) -> History: ...
    @staticmethod
    def from_points(
        points: ArrowLike,
        *,
        key: list[str],
        at: str,
        tracked: list[str],
        op: str | None = None,
        order: str | list[str] | None = None,
    ) -> History: ...
    @staticmethod
    def load(saved: ArrowLike) -> History: ...
    def save(self) -> Table: ...
    def settle(self, before: int) -> History: ...
    @property
    def entities(self) -> int: ...
    @property
    def change_points(self) -> int: ...

@final
class Merge:
    def history(self) -> Table: ...
    def upserts(self) -> Table: ...
    def removed(self) -> Table: ...
    def points(self) -> Table: ...
    def changed_keys(self) -> Table: ...
    def state(self) -> History: ...
    def counts(self) -> str: ...
    @property
    def notes(self) -> list[str]: ...

def scd2_merge(
    current: Merge | History | ArrowLike | None,
    changes: ArrowLike,
    *,
    key: list[str],
    at: str,
    tracked: list[str],
    op: str | None = None,
    order: str | list[str] | None = None,
) -> Merge: ...
def scd2_point(history: History, facts: ArrowLike, *, key: list[str], at: str) -> tuple[Table, Table]: ...
def write_parquet(
    rows: ArrowLike,
    path: str | PathLike[str],
    *,
    partition_by: list[str],
    name: str | None = None,
    replace: bool = False,
    storage: str | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> list[str]: ...
def read_lake(
    lake: str | PathLike[str],
    layer: str,
    *,
    pipeline: str | None = None,
    storage: str | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> str: ...

@final
class LakeObjects:
    def __new__(
        cls, lake: str, *, storage: str | None = None, storage_secrets: dict[str, str] | None = None
    ) -> LakeObjects: ...
    def head(self, path: str) -> tuple[int, int] | None: ...
    def read(self, path: str, start: int, end: int) -> bytes: ...
    def list(self, prefix: str) -> builtins.list[tuple[str, int]]: ...
    def probe(self) -> None: ...
    def stats(self) -> str: ...

def run_pipeline(
    spec_json: str,
    *,
    until_caught_up: bool,
    max_epochs: int | None = None,
    accept_gap: bool = False,
    void: int | None = None,
    drain: bool = False,
    transform: Callable[[Table], ArrowLike] | None = None,
    sinks: Sequence[EpochSink] = ...,
    on_event: Callable[[str], object] | None = None,
    secret: bytes | None = None,
    source_secrets: dict[str, str] | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> str: ...
def audit(spec_json: str, *, storage_secrets: dict[str, str] | None = None) -> str: ...
def broker(
    spec_json: str,
    *,
    audit: bool = False,
    at: int | None = None,
    source_secrets: dict[str, str] | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> str: ...
def inspect(
    spec_json: str, *, epochs: int = 10, samples: int = 0, storage_secrets: dict[str, str] | None = None
) -> str: ...
def state_table(spec_json: str, table: str, *, storage_secrets: dict[str, str] | None = None) -> Table: ...
def lake_log(spec_json: str, since: int, *, shard: int = 0, storage_secrets: dict[str, str] | None = None) -> str: ...
def lake_shards(spec_json: str, *, storage_secrets: dict[str, str] | None = None) -> list[int]: ...
def log_level(level: int) -> None: ...
def failpoints() -> list[str]: ...
def pass_failpoint(name: str) -> None: ...
def give_back_large_blocks() -> None: ...
def replay(
    spec_json: str,
    options_json: str,
    *,
    transform: Callable[[Table], ArrowLike] | None = None,
    secret: bytes | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> str: ...
def backfill(
    spec_json: str,
    options_json: str,
    *,
    transform: Callable[[Table], ArrowLike] | None = None,
    secret: bytes | None = None,
    storage_secrets: dict[str, str] | None = None,
) -> str: ...
def compact(spec_json: str, options_json: str, *, storage_secrets: dict[str, str] | None = None) -> str: ...
def retention(spec_json: str, options_json: str, *, storage_secrets: dict[str, str] | None = None) -> str: ...
def reset(spec_json: str, *, dry_run: bool, storage_secrets: dict[str, str] | None = None) -> str: ...
def manifest(spec_json: str, layers: list[str], *, storage_secrets: dict[str, str] | None = None) -> str: ...
def generate(
    profile: str,
    options_json: str,
    path: str | PathLike[str] | None,
    *,
    on_progress: Callable[[str], object] | None = None,
) -> str: ...
def produce(
    profile: str,
    events_json: str,
    target_json: str,
    options_json: str,
    *,
    on_progress: Callable[[str], object] | None = None,
) -> str: ...

@final
class EmbeddedKafka:
    """A broker in this process, for demos: librdkafka's mock cluster."""

    PARTITION_BYTES: int
    def __init__(self) -> None: ...
    @property
    def bootstrap(self) -> str: ...
    def create_topic(self, name: str, *, partitions: int) -> None: ...
    def stop(self) -> None: ...
