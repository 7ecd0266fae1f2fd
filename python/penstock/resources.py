"""What the wheel carries besides code: ready-made pipelines, the dbt project, DAGs, alert rules."""

from __future__ import annotations

import shutil
from pathlib import Path

from penstock.errors import SettingsError
from penstock.nearest import did_you_mean

_PACKAGE = Path(__file__).parent
_LEAVE = shutil.ignore_patterns("__pycache__", "*.pyc", "target", "logs", ".user.yml", "dbt_packages")


def ready_made() -> list[str]:
    """The names of the ready-made pipelines."""
    return sorted(path.parent.name for path in (_PACKAGE / "pipelines").glob("*/pipeline.yaml"))


def ready_made_folder(name: str) -> Path:
    """The folder of a ready-made pipeline.

    Raises:
        SettingsError: There is none of this name.
    """
    if name not in ready_made():
        raise SettingsError(f"pipeline {name!r}: there is no ready-made pipeline of this name; {_among(name)}")
    return _PACKAGE / "pipelines" / name


def _among(name: str) -> str:
    return did_you_mean(name, ready_made())


def dbt_project() -> Path:
    """The folder of the dbt project."""
    return _PACKAGE / "_project" / "dbt"


def dags() -> Path:
    """The folder of the DAGs."""
    return _PACKAGE / "_project" / "dags"


def copies(name: str, to: Path) -> list[tuple[Path, Path]]:
    """What `copy_out` copies: each file, and where it goes."""
    plan = [(ready_made_folder(name), to)]
    if any((dbt_project() / "models").glob(f"*/{name}/*.sql")):
        plan.append((dbt_project(), to / "dbt"))
    plan.append((_PACKAGE / "prometheus", to / "prometheus"))
    files = [(path, target / path.relative_to(source)) for source, target in plan for path in _files(source)]
    own = [path for path in sorted(dags().glob("*.py")) if _of(path.stem) in (None, name)]
    return files + [(path, to / "dags" / path.name) for path in own]


def copy_out(name: str, to: Path, *, force: bool = False) -> list[Path]:
    """Copy a ready-made pipeline, its DAGs, the alert rules, and the dbt project where that has models of it.

    Args:
        name: The ready-made pipeline.
        to: The folder; made where it does not exist.
        force: Overwrite files that are there.

    Returns:
        The files written.

    Raises:
        SettingsError: A file is there already, or the folder cannot be written.
    """
    files = copies(name, to)
    if not force:
        there = [str(target) for _, target in files if target.exists()]
        if there:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise SettingsError(f"{there[0]}{more}: is there already; name another folder, or overwrite with --force")
    try:
        for source, target in files:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise SettingsError(f"{error.filename or to}: cannot be written ({error.strerror})") from error
    return [target for _, target in files]


def _of(dag: str) -> str | None:
    """The pipeline that a DAG is for; none where it is for any."""
    return {"ecommerce_daily": "ecommerce", "process_kafka_to_postgres": "payments"}.get(dag)


def _files(folder: Path) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name in _LEAVE(str(folder), [path.name]):
            continue
        if path.is_dir():
            found += _files(path)
        else:
            found.append(path)
    return found
