"""`penstock manifest`: the files that count, for readers that do not know the log."""

from __future__ import annotations

import json
import sys
from enum import Enum
from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline
from penstock.cli._pipe import is_utf8

EXAMPLES = (
    "penstock manifest ecommerce --layer silver/events --format sql | duckdb",
    "penstock manifest ecommerce --layer silver/events --format text > files.txt",
    "penstock manifest ecommerce --json | jq -r '.files[].place'",
)


class Format(str, Enum):
    """How files are listed."""

    TEXT = "text"
    SQL = "sql"
    SPARK = "spark"
    JSON = "json"


def manifest(
    pipeline: PipelineArgument,
    layer: Annotated[
        list[str] | None, typer.Option(help="This layer, e.g. silver/events; all unless given; can be repeated.")
    ] = None,
    listing: Annotated[
        Format, typer.Option("--format", help="One path a line, a query for DuckDB, an expression of PySpark, or JSON.")
    ] = Format.TEXT,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the data files that count as of the newest commit: exactly the committed rows, none twice.

    A file that an entry of the log removes later stays in the trash for an hour.
    """
    out = Output(as_json or listing is Format.JSON)
    found = open_pipeline(pipeline, settings).manifest(layer or ())
    shown = {Format.TEXT: found.text, Format.SQL: found.sql, Format.SPARK: found.spark}.get(listing)
    if shown is not None and not as_json:
        sys.stdout.write(shown() + "\n")
    elif as_json:
        out.result(found.to_dict())
    else:
        plain = not is_utf8(sys.stdout)
        sys.stdout.write(json.dumps(found.to_dict(), indent=2, ensure_ascii=plain, default=str) + "\n")
