"""Made-up events into Kafka, with the truth about what the broker acknowledged."""

from __future__ import annotations

import datetime as dt
import json
import os
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock._arguments import duration
from penstock._yaml import fill
from penstock.errors import SettingsError, SourceError
from penstock.generate import event_options
from penstock.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The topic of each profile, unless told.
TOPICS = {"ecommerce": "events_raw", "payments": "transactions"}


class ProducerStopped(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM, in the command): what was on its way was flushed.

    Attributes:
        produced: What `produce` would have returned, about what was delivered until then.
    """

    def __init__(self, message: str, produced: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.produced = produced or {}


class ProducerError(SourceError):
    """The broker went away for good, or refused, after it had taken some.

    Attributes:
        produced: What `produce` would have returned, about what was delivered until then.
    """

    produced: dict[str, Any] | None = None


def produce(
    profile: str,
    *,
    brokers: str | None = None,
    topic: str | None = None,
    partitions: int | None = None,
    replication_factor: int | None = None,
    kafka: Mapping[str, object] | None = None,
    total: int = 10_000,
    seed: int = 0,
    bad_rate: float = 0.01,
    duplicate_rate: float = 0.02,
    late_rate: float = 0.0,
    users: int | None = None,
    start: str | dt.datetime | None = None,
    span: str | dt.timedelta | None = None,
    events_per_second: float | None = None,
    heartbeat: str | dt.timedelta | None = None,
    progress: bool | None = None,
    on_progress: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Send made-up events to a topic of Kafka, each written once, in order by user.

    Events are keyed by user with the partitioner of Java's clients. The producer is idempotent and waits for all
    replicas; what the broker does not take is tried again, with growing pauses, for two minutes.

    Args:
        profile: Whose events: a ready-made pipeline's name.
        brokers: `host:port`, with commas between several; the environment's KAFKA_BROKERS unless given.
        topic: Where they go; made where there is none. `events_raw` for ecommerce, `transactions` for payments, unless
            given.
        partitions: How many the topic has to have: 4 unless given where it is made, any where it is there.
        replication_factor: Of a new topic; the broker's own default unless given.
        kafka: librdkafka's own settings by their names (`{"sasl.username": "me", "sasl.password": "${PASSWORD}"}`);
            `${NAME}` is filled in from the environment.
        total: How many, counting flawed ones and duplicates.
        seed: Another seed, other events.
        bad_rate: The share of events with a flaw.
        duplicate_rate: The share of events sent a second time.
        late_rate: The share of events that come hours after they happened.
        users: How many users; a twentieth of `total` unless given.
        start: When the first happens (UTC); now where `events_per_second` is given, and neither this nor `span`.
        span: Over how much time they spread; a day unless given, or what `events_per_second` makes of it.
        events_per_second: How many are sent in a second, evenly; as many as the broker takes unless given.
        heartbeat: After the last, send one more event to each partition, that much later: who reads then takes all
            others as complete, and holds nothing back but these.
        progress: Show it; None: in a terminal or a notebook.
        on_progress: Called several times a second with `events` (sent), `delivered`, `partitions` (of the topic), and
            `begun` (partitions that have some). The answer `"wait"` holds the producer up, and it is called again
            soon; False stops it.

    Returns:
        The truth about what was delivered, as `penstock.generate.generate` gives it, and beside it `topic`, `created`,
        `partitions` (events by partition), `delivered`, `undelivered` (events by error), `stopped`, `seconds`.

    Raises:
        SettingsError: An option makes no sense, or the topic has fewer partitions.
        SourceError: No broker answers, lets us in, or has the topic and lets us write.
        ProducerError: The broker went away after it had taken some; `produced` says what.
        ProducerStopped: Ctrl-C; `produced` says what was delivered.
    """
    address = brokers or os.environ.get("KAFKA_BROKERS")
    if not address:
        raise SettingsError("brokers: where is Kafka? Give brokers='host:9092', or set KAFKA_BROKERS")
    from penstock.kafka import check_brokers

    try:
        check_brokers(address)
    except ValueError as error:
        raise SettingsError(f"brokers: {error}", name="brokers") from None
    live = events_per_second is not None and start is None and span is None
    events = event_options(
        profile,
        total=total,
        seed=seed,
        bad_rate=bad_rate,
        duplicate_rate=duplicate_rate,
        late_rate=late_rate,
        users=users,
        start=dt.datetime.now(dt.timezone.utc) if live else start,
        span=span,
        events_per_second=events_per_second if span is None else None,
    )
    target = {
        "brokers": address,
        "topic": topic or TOPICS.get(profile, profile),
        "partitions": partitions,
        "replication_factor": replication_factor,
        "settings": {name: _setting(name, value) for name, value in (kafka or {}).items()},
    }
    options = {"events_per_second": events_per_second, "heartbeat": duration(heartbeat, "heartbeat")}
    with Progress(f"produce {profile}", progress) as shown:
        take = shown.callback

        def tell(line: str) -> object:
            if take:
                take(line)
            return on_progress(json.loads(line)) if on_progress else None

        given = (json.dumps(part) for part in (events, target, options))
        found = dict(json.loads(_core.produce(profile, *given, on_progress=tell if take or on_progress else None)))
    lost = sum(found["undelivered"].values())
    said = f"{found['delivered']:,} events were delivered" + (f", {lost:,} were not" if lost else "")
    if found["failure"]:
        raise ProducerError(f"{found['topic']}: {found['failure']}; {said}", produced=found)
    if found["stopped"]:
        raise ProducerStopped(f"stopped; {said}", found)
    return found


def _setting(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return fill(str(value))
    except KeyError as missing:
        raise SettingsError(f"{name}: the environment variable {missing.args[0]} is not set") from None
