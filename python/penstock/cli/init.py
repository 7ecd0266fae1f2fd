"""`penstock init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output

EXAMPLES = ("penstock init ecommerce shop && cd shop", "penstock init ecommerce")


def init(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="The ready-made pipeline (ecommerce, payments).")],
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to; ./PIPELINE unless given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a ready-made pipeline out of the package, to change it.

    Contract, schemas, pipeline file, warehouse tables, alert rules for Prometheus, DAGs; of ecommerce the dbt project.
    """
    from penstock.errors import SettingsError
    from penstock.nearest import nearest
    from penstock.resources import copy_out, ready_made

    out = Output(as_json)
    if pipeline not in ready_made() and folder is None and nearest(pipeline, ready_made()) is None:
        raise SettingsError(
            f"pipeline {pipeline!r}: it is not ready-made (there are: {', '.join(ready_made())}). "
            f"To name the folder, write: penstock init {ready_made()[0]} {pipeline}"
        )
    target = folder or Path(pipeline)
    written = copy_out(pipeline, target, force=force)
    (target / "in").mkdir(exist_ok=True)
    out.say(f"{len(written)} files in ", f"{target}. Next:")
    from penstock.pipeline import Pipeline

    # A run that fills the warehouse itself leaves a load nothing to do.
    warehouse = Pipeline.load(pipeline).settings.warehouse
    then = "refresh" if warehouse and warehouse.fill == "epoch" else "load"
    out.say(
        "",
        f"  cd {shlex.quote(str(target))}\n"
        f"  penstock produce {pipeline} --total-events 100000 --to in/events.jsonl\n"
        "  penstock run pipeline.yaml --until-caught-up --set 'source.files.paths=in/*.jsonl'\n"
        f"  penstock {then} pipeline.yaml",
    )
    out.say("[dim]From Kafka: set KAFKA_BROKERS, leave --to and --set out.[/dim]")
    out.result({"pipeline": pipeline, "folder": str(target), "files": [str(path) for path in written]})
