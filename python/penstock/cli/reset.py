"""`penstock reset`: a pipeline as if it had never run."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, PipelineArgument, SetOption, open_pipeline
from penstock.errors import SettingsError
from penstock.units import format_size

EXAMPLES = (
    "penstock reset ecommerce --dry-run",
    "penstock reset pipeline.yaml",
    "penstock reset ecommerce --yes --json",
)


def reset(
    pipeline: PipelineArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove everything that a pipeline has in its lake, for good: for tests and demos. It asks first.

    A run that is at work ends. The warehouse, the source and the consumer group stay as they are.
    """
    out = Output(as_json)
    flow = open_pipeline(pipeline, settings)
    found = flow.reset(dry_run=True)
    what = f"{found.files:,} data files ({format_size(found.bytes)}) and the log of {flow.name} in {flow.settings.lake}"
    if dry_run:
        out.print(f"would remove {what}")
        out.result(found.to_dict())
        return
    if not yes:
        if as_json:
            raise SettingsError("--yes: nobody can be asked under --json; say yes beforehand", name="--yes")
        typer.confirm(f"Remove {what}, for good?", abort=True, err=True)
    done = flow.reset()
    out.print(f"removed {what}")
    out.result(done.to_dict())
