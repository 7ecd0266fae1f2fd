"""`penstock run`.

Annotations are no text here: typer would compile and evaluate that of each option, twice.
"""

import json
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli._common import (
    JsonOption,
    Output,
    PipelineArgument,
    QuietOption,
    SetOption,
    fail,
    leaves_nothing,
    ledger_table,
    open_pipeline,
)
from penstock.cli._watch import LogOption, MetricsOption, watching
from penstock.errors import Stopped

if TYPE_CHECKING:
    from penstock.ledger import Ledger

EXAMPLES = (
    "penstock run pipeline.yaml --until-caught-up",
    "penstock run ecommerce --brokers localhost:9092",
    "penstock run ecommerce --until-caught-up --json | tail -n 1 | jq .balanced",
    "penstock run pipeline.yaml --until-caught-up --void 41",
    "penstock run pipeline.yaml --shard 2/4 --set source.keyed_by=entity",
    "penstock run pipeline.yaml --set sessions.gap=45m --set 'source.files.paths=in/*.jsonl.gz'",
)


def run(
    pipeline: PipelineArgument,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when all that is there is committed; else run for ever.")
    ] = False,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="End after so many commits.")] = None,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap",
            help="Go on behind events that are gone for ever (Kafka's retention), and count them as lost.",
        ),
    ] = False,
    void: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="First give up epoch N, which was planned and cannot be run any more: its files are removed, and its "
            "ranges are read again in the next.",
        ),
    ] = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="As --until-caught-up, and then let go all that is held: sessions and windows close, and what is "
            "older comes late.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="N/OF",
            help="Read this part of Kafka's partitions alone, with a log of its own: 2/4 is the second of four. The "
            "other parts run by themselves.",
        ),
    ] = None,
    brokers: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,…", help="Where Kafka is; short for --set source.kafka.brokers=…"),
    ] = None,
    metrics: MetricsOption = None,
    log: LogOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a pipeline: from its source to its lake, exactly once.

    A run that was killed is started again as it was: it goes on from the last commit, and nothing is lost or doubled. A
    newer run of the same pipeline takes over from an older one, which then ends with exit code 4. Asked to stop
    (Ctrl-C, SIGTERM), a run finishes the epoch in hand and ends with 130; if that takes too long it gives it up, and
    ends with 6.
    """
    out = Output(as_json)
    named = [f"source.kafka.brokers={json.dumps(brokers)}"] if brokers is not None else []
    flow = open_pipeline(pipeline, [*(settings or ()), *named])
    # Schedulers stop a task with SIGTERM: it is taken as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with watching(flow.name, log=log, metrics=metrics, quiet=quiet) as watch:
            ledger = flow.run(
                until_caught_up=until_caught_up or drain,
                max_epochs=max_epochs,
                accept_gap=accept_gap,
                void=void,
                drain=drain,
                shard=shard,
                progress=False,
                on_event=watch,
            )
    except Stopped as stopped:
        if stopped.ledger is not None and not as_json:
            out.print(ledger_table(stopped.ledger))
        fail(stopped)
    if not as_json:
        _show(ledger, out)
    out.result(ledger.to_dict())
    # A transform is others' code, which may keep a file of its own.
    if flow.settings.transform is None:
        leaves_nothing()
    if not ledger.balanced:
        raise typer.Exit(1)


def _show(ledger: "Ledger", out: Output) -> None:
    """The ledger for people."""
    out.print(ledger_table(ledger))
    for line in ledger.unread:
        where = f"{line['topic']} from byte {line['from']}, {line['bytes']} bytes"
        out.say("[yellow]left unread, a last line without an end:[/yellow] ", where)
    rate = f", {ledger.run.consumed / ledger.seconds:,.0f} events/s" if ledger.seconds > 0 else ""
    out.print(
        f"{'[green]balanced[/green]' if ledger.balanced else '[red]does not balance[/red]'}; "
        f"{ledger.run.epochs:,} {'epoch' if ledger.run.epochs == 1 else 'epochs'} in {ledger.seconds:.1f} s{rate}"
    )
