"""The folder of a demo: what an earlier demo made there is made anew, and nothing else is ever touched."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from penstock.errors import SettingsError
from penstock.resources import copies, copy_out

if TYPE_CHECKING:
    from pathlib import Path

# A folder with this file was made by a demo. It lists the files that were copied there.
MARK = ".penstock-demo"
_MARKED = "Made by `penstock demo`, which may make anew what it made:"
# What the steps make; a folder is theirs as a whole.
_FOLDERS = ("lake", "postgres", "dbt/target", "dbt/logs")
_FILES = (
    *("in/events.jsonl", "truth.json", "dbt/.user.yml", "hourly_metrics.ndjson"),
    *(f"{name}.duckdb{more}" for name in ("warehouse", "payments") for more in ("", ".wal")),
)


def look(folder: Path, pipeline: str) -> list[Path]:
    """See whether a demo may be made in a folder; changes nothing.

    Args:
        folder: It need not be there.
        pipeline: The ready-made pipeline that will be copied there.

    Returns:
        What an earlier demo made there.

    Raises:
        SettingsError: It is none, something in it would be overwritten, or no demo made it.
    """
    elsewhere = "name another folder with --dir"
    try:
        if not folder.exists():
            return []
        if not folder.is_dir():
            raise SettingsError(f"{folder}: is no folder; {elsewhere}")
        if not any(folder.iterdir()):
            return []
        if not (folder / MARK).is_file():
            raise SettingsError(f"{folder}: is not empty, and no demo made it; {elsewhere}")
        if not os.access(folder, os.W_OK):
            raise SettingsError(f"{folder}: cannot be written; {elsewhere}")
        listed = (folder / MARK).read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "no text"
        raise SettingsError(f"{folder}: cannot be read ({said}); {elsewhere}") from None
    if server := _server(folder / "postgres"):
        raise SettingsError(
            f"{folder / 'postgres'}: the PostgreSQL of an earlier demo runs there (process {server}); end it first, or "
            f"{elsewhere}"
        )
    # A line that leads out of the folder is none that a demo wrote.
    own = [folder / line for line in listed if line and not line.startswith("/") and ".." not in line.split("/")]
    made = [path for path in (*own, *(folder / name for name in (*_FOLDERS, *_FILES))) if os.path.lexists(path)]
    foreign = [target for _, target in copies(pipeline, folder) if target.exists() and target not in made]
    if foreign:
        raise SettingsError(f"{foreign[0]}: is there already, and no demo made it; {elsewhere}")
    return made


def make(folder: Path, pipeline: str, made: list[Path]) -> None:
    """Remove what an earlier demo made, and copy the ready-made pipeline there.

    Args:
        folder: Made where it is not there.
        pipeline: The ready-made pipeline.
        made: What `look` found.

    Raises:
        SettingsError: It cannot be written.
    """
    try:
        for path in made:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (folder / "in").mkdir(parents=True, exist_ok=True)
        # First the mark: should the copy end half way, the next demo knows the folder.
        names = sorted(str(target.relative_to(folder)) for _, target in copies(pipeline, folder))
        (folder / MARK).write_text("\n".join([_MARKED, *names, ""]), encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); name another folder with --dir"
        ) from None
    copy_out(pipeline, folder, force=True)
    _prune(folder, made)


def _prune(folder: Path, made: list[Path]) -> None:
    """Remove the folders that what was removed has left empty."""
    for path in sorted({parent for gone in made for parent in gone.parents}, reverse=True):
        if folder in path.parents and path != folder / "in" and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _server(data: Path) -> int | None:
    """The process of the server that runs on these data."""
    try:
        process = int((data / "postmaster.pid").read_text(encoding="utf-8").split("\n")[0])
        os.kill(process, 0)
    except PermissionError:
        return process
    except (OSError, ValueError):
        return None
    return process
