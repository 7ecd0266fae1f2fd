"""`penstock produce`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli._common import ExitCode, JsonOption, Output, QuietOption, SetKafkaOption, fail, kafka_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = (
    "penstock produce ecommerce --total-events 1000000 --seed 42 --to in/events.jsonl.gz",
    "penstock produce ecommerce --brokers localhost:9092 --events-per-second 100 --bad-data-rate 0.01",
    "penstock produce payments --brokers localhost:9092 --late-rate 0.01",
    "penstock produce ecommerce --brokers kafka:9093 --set-kafka 'sasl.password=${PASSWORD}'",
)

_FILE = "To a file"
_KAFKA = "To Kafka"
_OPTIONS = {
    name: f"--{name.replace('_', '-')}"
    for name in ("start", "span", "events_per_second", "duplicate_rate", "late_rate", "users", "heartbeat")
} | {"total": "--total-events", "bad_rate": "--bad-data-rate"}


def produce(
    pipeline: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Whose events: a ready-made pipeline (ecommerce, payments).")
    ],
    to: Annotated[
        Path | None,
        typer.Option(help="The file; .gz and .zst compress. `-` is standard output.", rich_help_panel=_FILE),
    ] = None,
    brokers: Annotated[
        str | None,
        typer.Option(envvar="KAFKA_BROKERS", metavar="HOST:PORT,…", help="Where Kafka is.", rich_help_panel=_KAFKA),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            help="The topic, made where there is none; events_raw for ecommerce, transactions for payments.",
            rich_help_panel=_KAFKA,
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="How many it has to have; 4 unless given where it is made.", rich_help_panel=_KAFKA),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="Of a new topic; the broker's default.", rich_help_panel=_KAFKA)
    ] = None,
    set_kafka: SetKafkaOption = None,
    heartbeat: Annotated[
        str | None,
        typer.Option(
            help="At the end one more event into each partition, so much later: the others are then complete (1h).",
            rich_help_panel=_KAFKA,
        ),
    ] = None,
    total_events: Annotated[int, typer.Option(min=1, help="How many, counting flawed ones and duplicates.")] = 10_000,
    events_per_second: Annotated[
        float | None,
        typer.Option(
            help="To Kafka: sent in a second, evenly. To a file: in a second of event time, instead of --span."
        ),
    ] = None,
    bad_data_rate: Annotated[float, typer.Option(min=0, max=1, help="The share of events with a flaw.")] = 0.01,
    duplicate_rate: Annotated[float, typer.Option(min=0, max=1, help="The share delivered a second time.")] = 0.02,
    late_rate: Annotated[float, typer.Option(min=0, max=1, help="The share that comes hours too late.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 0,
    start: Annotated[
        str | None,
        typer.Option(
            help="When the first happens: 2024-12-17 or 2024-12-17T08:00:00Z. "
            "To Kafka with --events-per-second, without --span: now."
        ),
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="Over how much time they spread, e.g. 7d; a day unless given.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="How many users; a twentieth of the events.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Where the truth goes; FILE.truth.json or TOPIC.truth.json unless given.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make up events: realistic users, and flaws on purpose, each counted in a truth file.

    To a file, or to Kafka. The same options give the same events on every machine. Into Kafka each is written once,
    keyed by its user; stopped (Ctrl-C, SIGTERM) it flushes, and the truth is about what was delivered until then.
    """
    out = Output(as_json)
    events = {
        "total": total_events,
        "seed": seed,
        "bad_rate": bad_data_rate,
        "duplicate_rate": duplicate_rate,
        "late_rate": late_rate,
        "users": users,
        "start": start,
        "span": span,
        "events_per_second": events_per_second,
    }
    kafka = {
        "topic": topic,
        "partitions": partitions,
        "replication_factor": replication_factor,
        "kafka": kafka_settings(set_kafka or ()),
        "heartbeat": heartbeat,
    }
    from penstock.errors import SettingsError

    try:
        if to is not None:
            _to_file(out, pipeline, to, truth, events, quiet=quiet, given=[name for name in kafka if kafka[name]])
        else:
            _to_kafka(out, pipeline, truth, {"brokers": brokers, **kafka, **events}, quiet=quiet)
    except SettingsError as error:
        # In Python it is an argument; here it is an option.
        name, colon, reason = str(error).partition(":")
        if colon and name in _OPTIONS:
            raise SettingsError(f"{_OPTIONS[name]}:{reason}", name=_OPTIONS[name]) from None
        raise


def _to_file(
    out: Output,
    profile: str,
    to: Path,
    truth: Path | None,
    events: dict[str, Any],
    *,
    quiet: bool,
    given: Sequence[str],
) -> None:
    from penstock.errors import SettingsError, Stopped
    from penstock.generate import generate

    if given:
        name = "set-kafka" if given[0] == "kafka" else given[0].replace("_", "-")
        raise SettingsError(f"--{name}: is for Kafka; leave it out, or --to")
    to_stdout = str(to) == "-"
    if to_stdout and out.as_json:
        raise SettingsError("--json: standard output is where the events go; leave it out, or name a file with --to")
    try:
        found = generate(profile, None if to_stdout else to, progress=False if quiet or to_stdout else None, **events)
    except BrokenPipeError:
        return  # who read them has enough
    except KeyboardInterrupt:
        fail(Stopped("interrupted" if to_stdout else "interrupted; no file was written", finished=True))
    place = truth or (None if to_stdout else to.with_name(f"{to.name}.truth.json"))
    if place:
        _write(place, found)
    if not to_stdout:
        out.say(f"{found['total']:,} events in ", f"{to}, the truth about them in {place}")
        _say_flaws(out, found)
    out.result({"file": str(to), "truth_file": str(place) if place else None, **found})


def _to_kafka(out: Output, profile: str, truth: Path | None, options: dict[str, Any], *, quiet: bool) -> None:
    from penstock import producer
    from penstock.errors import SettingsError

    if not options["brokers"]:
        raise SettingsError("where to? Name a file with --to, or Kafka with --brokers (or KAFKA_BROKERS)")
    # Schedulers stop a task with SIGTERM: as Ctrl-C, it flushes and says what was delivered.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended: producer.ProducerStopped | producer.ProducerError | None = None
    try:
        found = producer.produce(profile, progress=False if quiet else None, **options)
    except (producer.ProducerStopped, producer.ProducerError) as error:
        ended, found = error, error.produced or {}
    place = truth or Path(f"{found['topic']}.truth.json")
    _write(place, found)
    seconds = found["seconds"]
    rate = f", {found['delivered'] / seconds:,.0f} events/s" if seconds else ""
    made = f"new topic, {len(found['partitions'])} partitions" if found["created"] else "topic was there"
    out.say(
        f"{found['delivered']:,} events delivered to ",
        f"{found['topic']} ({made}) in {seconds:.1f} s{rate}; the truth about them in {place}",
    )
    _say_flaws(out, found)
    for name, count in found["undelivered"].items():
        out.say(f"[red]not delivered[/red]: {count:,} ", name)
    if ended is not None:
        fail(ended, {"truth_file": str(place), **found})
    out.result({"truth_file": str(place), **found})
    if found["undelivered"]:
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _write(place: Path, found: dict[str, Any]) -> None:
    from penstock.errors import SettingsError

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--truth {place}: cannot be written ({error.strerror})") from None


def _say_flaws(out: Output, found: dict[str, Any]) -> None:
    flaws = ", ".join(f"{name} {count:,}" for name, count in found["flaws"].items() if count)
    out.print(f"flaws: {flaws or 'none'}; duplicates {found['expected']['duplicate']:,}")
