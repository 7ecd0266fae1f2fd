"""`penstock produce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli._common import JsonOption, Output, QuietOption

EXAMPLES = (
    "penstock produce ecommerce --total-events 1000000 --seed 42 --to in/events.jsonl.gz",
    "penstock produce ecommerce --total-events 10000 --bad-data-rate 0.05 --to events.jsonl --truth truth.json",
)


def produce(
    pipeline: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Whose events: a ready-made pipeline (ecommerce).")
    ],
    to: Annotated[Path, typer.Option(help="The file; .gz and .zst compress. `-` is standard output.")],
    total_events: Annotated[int, typer.Option(min=1, help="How many, counting flawed ones and duplicates.")] = 10_000,
    events_per_second: Annotated[
        float | None, typer.Option(help="How many happen in a second of event time, instead of --span.")
    ] = None,
    bad_data_rate: Annotated[float, typer.Option(min=0, max=1, help="The share of events with a flaw.")] = 0.01,
    duplicate_rate: Annotated[float, typer.Option(min=0, max=1, help="The share delivered a second time.")] = 0.02,
    late_rate: Annotated[float, typer.Option(min=0, max=1, help="The share that comes hours too late.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 0,
    start: Annotated[
        str | None, typer.Option(help="When the first happens: 2024-12-17 or 2024-12-17T08:00:00Z.")
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="Over how much time they spread, e.g. 7d; a day unless given.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="How many users; a twentieth of the events.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Where the truth goes; FILE.truth.json unless given.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make up events: realistic users, and flaws on purpose, each counted in a truth file.

    The same options give the same bytes on every machine.
    """
    import json

    from penstock.errors import SettingsError
    from penstock.generate import generate

    out = Output(as_json)
    to_stdout = str(to) == "-"
    if to_stdout and as_json:
        raise SettingsError("--json: standard output is where the events go; leave it out, or name a file with --to")
    found = generate(
        pipeline,
        None if to_stdout else to,
        total=total_events,
        seed=seed,
        bad_rate=bad_data_rate,
        duplicate_rate=duplicate_rate,
        late_rate=late_rate,
        users=users,
        start=start,
        span=span,
        events_per_second=events_per_second,
        progress=False if quiet or to_stdout else None,
    )
    place = truth or (None if to_stdout else to.with_name(f"{to.name}.truth.json"))
    if place:
        try:
            place.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--truth {place}: cannot be written ({error.strerror})") from None
    if not to_stdout:
        flaws = ", ".join(f"{name} {count:,}" for name, count in found["flaws"].items() if count)
        out.say(f"{found['total']:,} events in ", f"{to}, the truth about them in {place}")
        out.print(f"flaws: {flaws or 'none'}; duplicates {found['expected']['duplicate']:,}")
    out.result({"file": str(to), "truth_file": str(place) if place else None, **found})
