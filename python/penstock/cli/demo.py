"""`penstock demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli._common import (
    JsonOption,
    Output,
    QuietOption,
    SetKafkaOption,
    checks_table,
    kafka_settings,
    ledger_table,
    simple_table,
)

if TYPE_CHECKING:
    from penstock.demo import Step

EXAMPLES = (
    "penstock demo",
    "penstock demo ecommerce --events 1000000 --dir /tmp/demo",
    "penstock demo ecommerce --brokers localhost:9092",
    "penstock demo payments --postgres embedded",
    "penstock demo payments --postgres postgresql://me@localhost/test --elasticsearch http://localhost:9200",
    "penstock demo --json | tail -n 1",
)


def demo(
    pipeline: Annotated[str, typer.Argument(metavar="[PIPELINE]", help="The ready-made pipeline.")] = "ecommerce",
    events: Annotated[int, typer.Option(min=1_000, help="How many events.")] = 100_000,
    folder: Annotated[Path, typer.Option("--dir", help="Where; a demo that is there already is made anew.")] = Path(
        "penstock-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other events.")] = 42,
    brokers: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,…", help="A real Kafka; default: a broker inside this process."),
    ] = None,
    set_kafka: SetKafkaOption = None,
    from_files: Annotated[bool, typer.Option("--from-files", help="No Kafka: events go through a file.")] = False,
    postgres: Annotated[
        str | None,
        typer.Option(
            help="payments: a database, or one that pip brings (extra embedded); default: DuckDB. Its tables go into a "
            "schema of their own, penstock_demo.",
            metavar="URL|embedded",
        ),
    ] = None,
    elasticsearch: Annotated[
        str | None, typer.Option(help="payments: where the documents go; default: a file.", metavar="URL")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a ready-made pipeline from Kafka to what people look at, and account for every single event.

    Events with flaws on purpose → Kafka → contract → Bronze, Silver, dead letters. Then ecommerce: star schema → dbt
    marts; payments: raw and clean transactions → hourly metrics → documents. Then quality checks → audit. What comes
    out is compared with what the generator knows; exit code 1 when anything disagrees. Without dbt (extra dbt) its step
    is left out and said so; the exit code is that of the rest.
    """
    from penstock.demo import of
    from penstock.errors import SettingsError

    out = Output(as_json)
    if from_files and (brokers or set_kafka):
        raise SettingsError("--from-files: reads no Kafka; leave it out, or --brokers and --set-kafka")
    if set_kafka and not brokers:
        raise SettingsError("--set-kafka: is for a real Kafka; name one with --brokers")
    places = {"postgres": postgres, "elasticsearch": elasticsearch}
    named = {name: place for name, place in places.items() if place is not None}
    if named and pipeline != "payments":
        raise SettingsError(f"--{next(iter(named))}: is for the demo of payments alone")
    run = of(
        pipeline,
        folder,
        events=events,
        seed=seed,
        progress=False if quiet or as_json else None,
        brokers=brokers,
        kafka=kafka_settings(set_kafka or ()),
        from_files=from_files,
        **named,
    )

    def show(step: Step) -> None:
        mark = {"ok": "[green]✓[/green]", "skipped": "[yellow]-[/yellow]", "failed": "[red]✗[/red]"}[step.status]
        out.say(f"{mark} [bold]{step.name:<9}[/bold] {step.seconds:6.1f} s  ", step.said)
        for kind, what in step.tables:
            out.print(_table(kind, what))

    found = run.run(show)
    if found["ok"]:
        out.say(
            f"\n[green]Every one of {found['ledger']['consumed']:,} events is accounted for[/green], in "
            f"{found['seconds']:.1f} s. Look around:",
            "".join(f"\n  {line}" for line in run.advice()),
        )
    else:
        out.print("\n[red]Something disagrees:[/red]")
        for line in found["disagreements"]:
            out.say("  ", line)
    out.result(found)
    if not found["ok"]:
        raise typer.Exit(1)


def _table(kind: str, what: Any) -> Any:
    if kind == "ledger":
        return ledger_table(what[0], what[1])
    if kind == "checks":
        return checks_table(what, "")
    title, columns, rows = what
    return simple_table(title, columns, rows)
