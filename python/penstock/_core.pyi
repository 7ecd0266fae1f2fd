"""The engine (Rust). Everything here is private: the public package is `penstock`.

Text that is JSON is marked so. Durations are microseconds, sizes are bytes. Tables come in through the Arrow PyCapsule
interface and go out as objects that have `__arrow_c_stream__`.
"""

from collections.abc import Callable
from os import PathLike

from penstock._typing import ArrowArrayExportable, ArrowLike, ArrowSchemaExportable, ArrowStreamExportable

__version__: str
#: The Cargo features that this build has.
FEATURES: list[str]

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

def contract_diff(old: Contract, new: Contract) -> str: ...
def validate(
    contract: Contract,
    data: str | PathLike[str] | bytes | ArrowLike,
    *,
    progress: Callable[[str], object] | None = None,
) -> tuple[ArrowStreamExportable, ArrowStreamExportable, str]: ...
def deduplicate(stream: ArrowLike, *, key: list[str], at: str | None, horizon_us: int | None) -> ArrowStreamExportable: ...
def sessionize(
    stream: ArrowLike, *, entity: str, at: str, gap_us: int, max_duration_us: int | None
) -> ArrowStreamExportable: ...
def aggregate_windows(
    stream: ArrowLike,
    *,
    at: str,
    size_us: int,
    slide_us: int | None,
    by: list[str],
    aggregates: list[tuple[str, str]],
) -> ArrowStreamExportable: ...

class Merge:
    def history(self) -> ArrowStreamExportable: ...
    def upserts(self) -> ArrowStreamExportable: ...
    def removed(self) -> ArrowStreamExportable: ...

def scd2_merge(
    current: Merge | ArrowLike | None,
    changes: ArrowLike,
    *,
    key: list[str],
    at: str,
    tracked: list[str],
    op: str | None,
    order: str | None,
) -> Merge: ...
def write_parquet(stream: ArrowLike, path: str | PathLike[str], *, partition_by: list[str]) -> list[str]: ...
def read_lake(
    lake: str | PathLike[str], layer: str, *, pipeline: str | None = None, columns: list[str] | None = None
) -> str: ...
def run_pipeline(
    spec_json: str,
    *,
    until_caught_up: bool,
    max_epochs: int | None = None,
    on_event: Callable[[str], object] | None = None,
    secret: bytes | None = None,
) -> str: ...
def lake_log(spec_json: str, since: int) -> str: ...
def audit(spec_json: str, *, secret: bytes | None = None) -> str: ...
def inspect(spec_json: str) -> str: ...
def generate(
    profile: str,
    options_json: str,
    path: str | PathLike[str] | None,
    *,
    on_progress: Callable[[str], object] | None = None,
) -> str: ...
