"""The pipeline file: read, checked, and brought to what the engine takes.

Settings follow one order: the pipeline file, `${ENV}` and `${ENV:-default}` in it, `--set a.b=c`; then connections that
were handed over. Durations are written `30m`, sizes `256MiB`. A mistake is named with file, line, key and the nearest
right one; a value that came from the environment is never shown.

`PipelineFile.spec()` gives the engine's own form: JSON with durations in microseconds and sizes in bytes.

| key | value |
|---|---|
| `name` | text |
| `contract_text`, `contract_path` | the contract as it stands in its file, and that file (its schemas lie beside it) |
| `source.files` | `paths`, `bounded`, `base_dir` (where relative paths begin) |
| `source.kafka` | `topics`, `group`, `brokers`, `start`, `missing_topics`, `give_up_us`, `settings` |
| `keyed_by` | `entity` or null |
| `shard` | `number` and `of` (set by a run), or none |
| `lake` | an absolute folder, or a URL |
| `storage` | what is set of `endpoint`, `region`, `path_style`, `allow_http`, `ca_file`, `timeout_us`, … |
| `layers` | a list of `bronze`, `silver` |
| `watermark` | `lateness_us`, `idle_timeout_us`, `max_future_skew_us` |
| `deduplicate` | `horizon_us` |
| `sessions` | `gap_us`, `max_duration_us` or null; null without sessions |
| `windows` | a list of `name`, `size_us`, `slide_us`, `by`, `from`, `mode`, `to`, `aggregates` (pairs) |
| `epoch` | `max_events`, `max_bytes`, `max_wait_us`, `tick_us` |
| `transform` | `function`, `columns` (pairs of name and type), `code` (set by a run), or null |
| `durability` | `disk` or `process` |
| `memory_bytes` | a number |
| `max_event_bytes`, `max_event_depth`, `assert_formats` | limits of the contract |
| `warehouse` | `{"duckdb": absolute path}`, `{"postgres": …}` or null; `"fill": "epoch"` where runs fill it |
| `index` | `{"elasticsearch": …, "keep": …}`, `{"file": absolute path, …}` or null; read by `penstock index` alone |

Secrets are not part of it: `PipelineFile.secret` and `PipelineFile.source_secrets` go to the engine beside it, and so
do the keys of `storage`; the URL of a warehouse in PostgreSQL goes to loads.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from penstock import _yaml
from penstock.errors import ContractError, SettingsError
from penstock.mistakes import explain
from penstock.nearest import did_you_mean
from penstock.postgres import Postgres
from penstock.resources import ready_made, ready_made_folder
from penstock.settings_models import Settings
from penstock.storage import Spec, Storage
from penstock.transform import Transform, column_kind

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from penstock.connections import Connections
    from penstock.index_settings import IndexSettings
    from penstock.kafka import KafkaSource


_NOT_FOR_ALL = ("source", "warehouse", "index")
_NAMES_A_WAREHOUSE = r"\s*warehouse\s*(=|\.\s*(duckdb|postgres)\b)"


@dataclass(frozen=True)
class PipelineFile:
    """A pipeline file, read and checked.

    Attributes:
        settings: What stands in it.
        path: The file.
        base: Where relative paths of data begin: the file's folder, or the working directory for a ready-made pipeline.
        ready_made: Whether it is one that the package carries.
        connections: What counts where the file does not say: Airflow connections, where there are any.
        unset: What is said to who needs `source`, `warehouse` or `index`, where a variable in it is not set.
    """

    settings: Settings
    path: Path
    base: Path
    ready_made: bool
    connections: Connections | None = None
    unset: Mapping[str, SettingsError] = dataclasses.field(default_factory=dict)

    def need(self, part: str) -> None:
        """See that every variable in `source` or `warehouse` is set: who does not need the part does without.

        Raises:
            SettingsError: One is not.
        """
        if part in self.unset:
            raise self.unset[part]

    @property
    def storage(self) -> Storage:
        """How the lake's bucket is reached: the file's settings, above those of a connection."""
        own, given = self.settings.storage, self.connections
        return own.over(given.storage) if given else own

    @property
    def kafka(self) -> KafkaSource | None:
        """The topics that are read: the file's settings, above those of a connection."""
        kafka = self.settings.source.kafka
        return kafka.over(self.connections.kafka if self.connections else None) if kafka else None

    @property
    def postgres(self) -> Postgres | None:
        """The warehouse in PostgreSQL: the file's, else that of a connection, which counts before a DuckDB file."""
        if "warehouse" in self.unset:
            return None
        own, given = self.settings.warehouse, self.connections.warehouse if self.connections else None
        found = own.postgres if own else None
        return found or (Postgres.of({"url": given.url}) if given else None)

    @property
    def index(self) -> IndexSettings:
        """Where documents go: the file's settings, or those of a connection."""
        given = None if "index" in self.unset else self.connections
        return self.settings.index.over(given.elasticsearch if given else None)

    @property
    def folder(self) -> Path:
        """The file's folder: contract, schemas and warehouse tables stand in it."""
        return self.path.parent

    @property
    def secret(self) -> bytes | None:
        """The key for hashed properties, if there is one."""
        pii = self.settings.pii
        return pii.secret.get_secret_value().encode() if pii else None

    @property
    def source_secrets(self) -> dict[str, str]:
        """The source's settings that are secret, by name."""
        return self.kafka.secrets if self.kafka else {}

    @property
    def tables(self) -> Path | None:
        """The folder with the SQL files of the warehouse, if this pipeline brings one."""
        folder = self.folder / "warehouse"
        return folder if folder.is_dir() else None

    def contract(self) -> tuple[str, Path]:
        """The contract's text and its file.

        Raises:
            ContractError: The file cannot be read.
        """
        if isinstance(self.settings.contract, dict):
            return json.dumps(self.settings.contract), self.path
        path = self.folder / self.settings.contract
        try:
            return path.read_text(encoding="utf-8"), path
        except UnicodeDecodeError:
            raise ContractError(f"{path}: is not UTF-8", file=str(path)) from None
        except OSError as error:
            raise ContractError(
                f"{path}: the contract cannot be read ({error.strerror}); {self.path} names it", file=str(path)
            ) from None

    def check_source(self) -> None:
        """See that a run knows where to read: other commands do without.

        Raises:
            SettingsError: Nothing says where Kafka is, or a variable is not set.
        """
        self.need("source")
        if self.kafka is not None and not self.kafka.brokers.strip():
            raise SettingsError(
                f"{self.path}: source.kafka.brokers: where is Kafka? Set KAFKA_BROKERS=host:9092 in the environment, "
                "or give --brokers host:9092 (--set source.kafka.brokers=host:9092), or a connection of Airflow. To "
                "read files in its place: --set 'source.files.paths=in/*.jsonl'",
                name="source.kafka.brokers",
                file=str(self.path),
            )

    def transform(self) -> Transform | None:
        """The function of the setting `transform`, loaded; none without one.

        Raises:
            SettingsError: There is no such module or function, or it cannot be imported.
        """
        own = self.settings.transform
        return Transform(own.function, self.folder.absolute()) if own else None

    def spec(self) -> Spec:
        """The engine's form: see the head of this module. The keys of `storage` travel beside it.

        Raises:
            SettingsError: It asks for what this version does not have.
            ContractError: The contract's file cannot be read.
        """
        self._refuse_what_is_not_there()
        text, path = self.contract()
        own = self.settings
        storage = self.storage
        settings = {
            "name": own.name,
            "contract_text": text,
            "contract_path": str(path.absolute()),
            "source": self._source(),
            "keyed_by": own.source.keyed_by,
            "lake": self._place(own.lake),
            "storage": storage.spec(),
            "layers": list(own.layers),
            "watermark": {
                "lateness_us": own.watermark.lateness,
                "idle_timeout_us": own.watermark.idle_timeout,
                "max_future_skew_us": own.watermark.max_future_skew,
            },
            "deduplicate": {"horizon_us": own.deduplicate.horizon},
            "sessions": own.sessions.spec() if own.sessions else None,
            "windows": [window.spec() for window in own.windows],
            "epoch": {
                "max_events": own.epoch.max_events,
                "max_bytes": own.epoch.max_bytes,
                "max_wait_us": own.epoch.max_wait,
                "tick_us": own.epoch.tick,
            },
            "durability": own.durability,
            "memory_bytes": own.memory,
            "transform": {
                "function": own.transform.function,
                "columns": [[name, column_kind(kind)] for name, kind in own.transform.columns.items()],
            }
            if own.transform
            else None,
            "max_event_bytes": own.limits.max_bytes,
            "max_event_depth": own.limits.max_depth,
            "assert_formats": own.limits.assert_formats,
            "warehouse": self._warehouse(),
            "index": self.index.spec(self.base),
        }
        postgres = self.postgres
        url = postgres.url.get_secret_value() if postgres else None
        return Spec(settings, storage.secrets, url, self.index.secrets, self.unset)

    def _warehouse(self) -> dict[str, Any] | None:
        own, postgres = self.settings.warehouse, self.postgres
        fill = {"fill": own.fill} if own and own.fill != "load" else {}
        if postgres is not None:
            return {"postgres": postgres.spec(), **fill}
        return {"duckdb": self._place(own.duckdb), **fill} if own and own.duckdb else None

    def _source(self) -> dict[str, Any]:
        if self.kafka is not None:
            return {"kafka": self.kafka.spec()}
        files = self.settings.source.files
        assert files is not None
        return {"files": files.spec(self.base)}

    def _place(self, place: str) -> str:
        return place if "://" in place else str((self.base / place).absolute())

    def _refuse_what_is_not_there(self) -> None:
        own = self.settings
        for i, window in enumerate(own.windows):
            if window.mode != "append" or window.to:
                name = f"windows.{i}.{'to' if window.to else 'mode'}"
                raise SettingsError(
                    f"{self.path}: {name}: this version writes windows to the lake alone, each once (mode: append)",
                    name=name,
                )
        if own.warehouse and own.warehouse.fill == "epoch" and "silver" not in own.layers:
            raise SettingsError(
                f"{self.path}: warehouse.fill: epochs are read from Silver, which `layers` leaves out",
                name="warehouse.fill",
            )


def load_file(
    pipeline: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    base: str | os.PathLike[str] | None = None,
    connections: Connections | None = None,
) -> PipelineFile:
    """Read a pipeline file, or a ready-made pipeline by its name.

    Args:
        pipeline: The name (`ecommerce`), a file, or a folder with a `pipeline.yaml`.
        overrides: Settings of the form `a.b=c`, in order.
        base: Where relative paths of data begin, if not as `PipelineFile.base` says.
        connections: What counts where the file does not say.

    Raises:
        SettingsError: There is no such pipeline, or a setting is wrong.
    """
    path, packaged = _find(pipeline)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8", file=str(path)) from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})", file=str(path)) from None
    document = _yaml.parse(text, path, later=_not_for_all)
    if not isinstance(document.value, dict):
        raise SettingsError(
            f"{path}: a pipeline file is a mapping with name, contract, source and lake", file=str(path)
        )
    for assignment in overrides:
        _yaml.override(document, assignment)
    _take_the_place(document.value, overrides)
    unset = {part: said for part in _NOT_FOR_ALL if (said := document.lacks(part)) is not None}
    warehouse = document.value.get("warehouse")
    if "warehouse" in unset and isinstance(warehouse, dict) and warehouse.get("fill") == "epoch":
        unset["fill"] = unset["warehouse"]  # then a run needs it, too
    # Half of it is no setting; of a source what is left may do, and a run asks for the rest.
    whole = {name: value for name, value in document.value.items() if name not in unset or name == "source"}
    try:
        settings = Settings.model_validate(whole)
    except ValidationError as error:
        if "source" in unset and all(found["loc"][:1] == ("source",) for found in error.errors()):
            raise unset["source"] from None
        raise explain(error, document, Settings) from None
    where = Path(base) if base is not None else Path.cwd() if packaged else path.parent
    if connections and any(re.match(_NAMES_A_WAREHOUSE, assignment) for assignment in overrides):
        # A warehouse that is named for this one time is the one that is meant.
        connections = dataclasses.replace(connections, warehouse=None)
    return PipelineFile(settings, path, where, packaged, connections, unset)


def _not_for_all(loc: _yaml.Loc) -> bool:
    """Whether only some commands need what stands there. What the source is, all of them take from the file."""
    return loc[0] in _NOT_FOR_ALL and loc[:2] != ("source", "files") and loc[:3] != ("source", "kafka", "topics")


def _take_the_place(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """A source or warehouse that is named by an override takes the place of the file's own: there is one."""
    places = {
        "source": ("files", "kafka"),
        "warehouse": ("duckdb", "postgres"),
        "index": ("elasticsearch", "file"),
    }
    for name, kinds in places.items():
        own = values.get(name)
        if not isinstance(own, dict):
            continue
        pattern = rf"\s*{name}\s*\.\s*({'|'.join(kinds)})\s*[.=]"
        named = {found[1] for given in overrides if (found := re.match(pattern, given))}
        if len(named) == 1:
            for kind in set(kinds) - named:
                own.pop(kind, None)


def _find(pipeline: str | os.PathLike[str]) -> tuple[Path, bool]:
    text = str(pipeline)
    if text in ready_made():
        return ready_made_folder(text) / "pipeline.yaml", True
    path = Path(text)
    if path.is_dir() and (path / "pipeline.yaml").is_file():
        return path / "pipeline.yaml", False
    if path.is_file():
        return path, False
    looks_like_a_path = path.suffix in (".yaml", ".yml") or "/" in text or "\\" in text
    if looks_like_a_path:
        there = "is a folder without a pipeline.yaml" if path.is_dir() else "there is no such file"
        raise SettingsError(f"pipeline {text}: {there}", file=text)
    hint = did_you_mean(text, ready_made())
    raise SettingsError(f"pipeline {text!r}: there is neither a file nor a ready-made pipeline of this name; {hint}")
