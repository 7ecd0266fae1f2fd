"""Which tables a pipeline's rows go into: the star schema, or the rows as they are. The seam is the folder of SQL."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend
    from penstock.warehouse.lakelog import LakeFile
    from penstock.warehouse.star import Counts


@dataclass(frozen=True)
class Rows:
    """What one transaction brings into the tables.

    Attributes:
        spec: The pipeline file, read.
        files: Silver files whose rows are new.
        removed: Paths of the Silver files that are gone.
        day: The day that is loaded again: only its rows count, and they replace what is there of it.
        number: The load's, higher than that of any before.
        bronze: Bronze files that no commit names yet.
        handed: The engine has handed `files` and `bronze` over, and keeps them until this is done: they are there.
    """

    spec: Mapping[str, Any]
    files: list[LakeFile]
    removed: list[str]
    day: dt.date | None
    number: int
    bronze: tuple[LakeFile, ...] = ()
    handed: bool = False

    def within(self, column: str) -> str | None:
        """The condition that a time is of the day, where it is one day."""
        if self.day is None:
            return None
        end = self.day + dt.timedelta(days=1)
        return f"{column} >= TIMESTAMP '{self.day}' AND {column} < TIMESTAMP '{end}'"


class Model(Protocol):
    """Tables, and how Silver rows come into them."""

    ddl: tuple[str, ...]
    """The SQL files that make the tables, in their order; one kind of warehouse may have one more (`N_KIND.sql`)."""

    queries: tuple[str, ...]
    """Further SQL files that a load needs."""

    temporary: tuple[str, ...]
    """Temporary tables that a load leaves behind."""

    with_lake_file: tuple[str, ...]
    """The tables that hold Silver's rows, with the file of each: together each row once."""

    def load(self, warehouse: Backend, sql: Mapping[str, str], rows: Rows) -> Counts:
        """Bring the tables up to date with these rows, inside a transaction.

        Raises:
            DataError: Silver has not the columns that the tables need.
            LakeError: A file is missing.
        """
        ...

    def astray(self) -> str:
        """A query for the number of rows that point nowhere."""
        ...


def tables_of(pipeline: str) -> Traversable:
    """The folder with the SQL files of a ready-made pipeline's tables."""
    folder = files("penstock") / "pipelines" / pipeline / "warehouse"
    if not folder.is_dir():
        raise SettingsError(
            f"pipeline {pipeline}: it has no warehouse tables. Put their SQL into a folder `warehouse` beside the "
            "pipeline file (`penstock init ecommerce` shows how that of a star schema looks, `penstock init payments` "
            "that of raw rows)"
        )
    return folder


def model_of(folder: Path | Traversable) -> Model:
    """The model that a folder of SQL files is for."""
    from penstock.warehouse.flat import Flat
    from penstock.warehouse.star import StarSchema

    return Flat() if folder.joinpath(Flat.queries[0]).is_file() else StarSchema()


def model_for(spec: Mapping[str, Any], tables: Path | Traversable | None, warehouse: Backend) -> Model:
    """The model of a pipeline: by its folder of SQL, that of the ready-made pipeline of its name, or what is there.

    Args:
        spec: The pipeline file, read: `name`.
        tables: The folder, where the pipeline brings one.
        warehouse: Where its tables are.
    """
    from penstock.warehouse.flat import Flat
    from penstock.warehouse.star import StarSchema

    folder = tables if tables is not None else files("penstock") / "pipelines" / str(spec["name"]) / "warehouse"
    if folder.is_dir():
        return model_of(folder)
    star = StarSchema()
    there = warehouse.columns(star.with_lake_file[0]) or not warehouse.columns(Flat.with_lake_file[0])
    return star if there else Flat()


def read_sql(folder: Path | Traversable, name: str) -> str:
    """The text of an SQL file.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return folder.joinpath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"{folder}/{name}: cannot be read ({error.strerror or error}); the warehouse needs it"
        ) from error
