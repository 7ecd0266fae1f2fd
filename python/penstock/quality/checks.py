"""The checks of one day. They only read, and say what they saw whether they pass or not."""
# ruff: noqa: S608 - what is put into the statements are names and dates of our own, never text from an event

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from penstock._arguments import duration
from penstock.errors import SettingsError, WarehouseError
from penstock.nearest import did_you_mean
from penstock.warehouse.files import count_rows
from penstock.warehouse.flat import Flat
from penstock.warehouse.lakelog import absolute, live_files
from penstock.warehouse.loader import parse_day
from penstock.warehouse.model import model_for
from penstock.warehouse.target import WAIT, Target, connect, warehouse_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable
    from pathlib import Path

    from penstock.warehouse.backend import Backend

UTC = dt.timezone.utc
DEAD_LETTERS = "dead_letters"
_SHARE = "a share (0.05 is 5 %)"


@dataclass(frozen=True)
class Thresholds:
    """From where on a check fails.

    Attributes:
        max_age: The newest event is as old or older.
        volume_deviation: The day's events are further away from the average before: 0.2 is 20 %.
        volume_days: Of how many days the average is.
        null_share: More rows than this share lack a critical column.
        dead_letter_share: More of all events are dead letters.
        late_share: More of the transactions are late.
    """

    max_age: dt.timedelta = dt.timedelta(hours=24)
    volume_deviation: float = 0.20
    volume_days: int = 7
    null_share: float = 0.0
    dead_letter_share: float = 0.01
    late_share: float = 0.05

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Thresholds:
        """The usual ones, but for those that are told: `{"late_share": 0.1, "max_age": "6h"}`. Numbers may be text.

        Raises:
            SettingsError: A name is none of them, or a value is none for it.
        """
        names = [field.name for field in fields(cls)]
        found: dict[str, Any] = {}
        for name, value in told.items():
            setting = f"thresholds.{name}"
            if name not in names:
                raise SettingsError(f"{setting}: there is no such threshold; {did_you_mean(name, names)}", name=setting)
            if name == "max_age":
                found[name] = dt.timedelta(microseconds=duration(value, setting))
                continue
            kind, least, words = (int, 1, "a whole number, 1 or more") if name == "volume_days" else (float, 0, _SHARE)
            try:
                found[name] = kind(str(value))
            except ValueError:
                found[name] = math.nan
            if not least <= found[name] < math.inf:
                raise SettingsError(f"{setting}: {value!r} is not {words}", name=setting)
        return cls(**found)


@dataclass(frozen=True)
class CheckResult:
    """What one check saw.

    Attributes:
        name: `freshness`, `volume`, `nulls` or `dead_letters`; of payments also `late`, `raw`, `clean` and `hours`.
        value: What was measured; None when there was nothing to measure.
        threshold: What it was held against.
        unit: Of both.
        passed: Whether the data is good enough.
        message: The same in a sentence.
    """

    name: str
    value: float | None
    threshold: float
    unit: str
    passed: bool
    message: str


@dataclass(frozen=True)
class QualityReport:
    """All checks of a day."""

    pipeline: str
    date: dt.date
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pipeline": self.pipeline,
            "date": self.date.isoformat(),
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def run_checks(
    spec: Mapping[str, Any],
    date: str | dt.date,
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    now: dt.datetime | None = None,
    thresholds: Thresholds | None = None,
    tables: Path | Traversable | None = None,
) -> QualityReport:
    """Check a day's facts and dead letters; of payments its clean transactions, and what is made of them.

    Args:
        spec: The pipeline file, read: `name`, `lake`, `warehouse`.
        date: The day (UTC), by the time of the events.
        warehouse: Another warehouse than that of `spec`.
        now: The time against which freshness is measured; the clock's unless given. A day that is over is measured at
            its end, so that its result stays the same.
        thresholds: Others than the usual ones.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.

    Raises:
        SettingsError: `date` is no date.
        WarehouseError: The warehouse cannot be opened.
        LakeError: The lake is not there.
    """
    day = parse_day(date)
    limits = thresholds or Thresholds()
    files = absolute(spec, live_files(spec, DEAD_LETTERS))
    backend = connect(warehouse_of(spec, warehouse), read_only=True, wait=WAIT)
    try:
        now = now or dt.datetime.now(UTC)
        if isinstance(model_for(spec, tables, backend), Flat):
            from penstock.quality.payments import check_payments

            return QualityReport(
                str(spec["name"]), day, check_payments(backend, spec, day, now, limits, files, tables=tables)
            )
        if not backend.columns("fact_events"):
            raise WarehouseError(
                f"warehouse {backend.place}: it has no table fact_events. Run `penstock load {spec['name']}` first"
            )
        facts = Rows(backend, day)
        results = (
            facts.freshness(now, limits),
            facts.volume(limits),
            facts.nulls(limits),
            facts.dead_letters(files, limits),
        )
    finally:
        backend.close()
    return QualityReport(str(spec["name"]), day, results)


CRITICAL = ("idempotency_key", "user_key", "user_id", "event_type", "event_timestamp", "session_id")
"""Columns of fact_events that must never be null; a purchase must also have its amount and currency."""


CRITICAL_OF = {
    **{column: f"{column} IS NULL" for column in CRITICAL},
    **{column: f"event_type = 'purchase' AND {column} IS NULL" for column in ("purchase_amount", "currency")},
}


class Rows:
    """The rows of a day.

    Args:
        warehouse: Where they are.
        day: The day.
        table: Their table.
        time: Its column with the time of the event.
        critical: Columns that every query relies on, each with the condition that it lacks.
    """

    def __init__(
        self,
        warehouse: Backend,
        day: dt.date,
        table: str = "fact_events",
        time: str = "event_timestamp",
        critical: Mapping[str, str] = CRITICAL_OF,
    ) -> None:
        self.warehouse = warehouse
        self.day = day
        self.table = table
        self.time = time
        self.critical = critical
        self.end = day + dt.timedelta(days=1)
        self.on_the_day = f"{time} >= TIMESTAMP '{day}' AND {time} < TIMESTAMP '{self.end}'"

    def count(self) -> int:
        """How many there are."""
        ((count,),) = self.warehouse.rows(f"SELECT count(*) FROM {self.table} WHERE {self.on_the_day}")
        return int(count)

    def freshness(self, now: dt.datetime, limits: Thresholds) -> CheckResult:
        """How old the newest event is, now or at the end of the day."""
        midnight = dt.datetime.combine(self.end, dt.time(), UTC)
        seen_at = min(now, midnight)
        most = limits.max_age.total_seconds() / 3600
        naive = seen_at.astimezone(UTC).replace(tzinfo=None)
        ((newest,),) = self.warehouse.rows(
            f"SELECT max({self.time}) FROM {self.table} WHERE {self.time} <= TIMESTAMP '{naive}'"
        )
        when = f"{naive:%Y-%m-%d %H:%M} UTC"
        if newest is None:
            return CheckResult("freshness", None, most, "hours", False, f"there is no event up to {when}")
        age = (naive - newest).total_seconds() / 3600
        return CheckResult(
            "freshness",
            round(age, 3),
            most,
            "hours",
            age < most,
            f"the newest event was {age:.1f} hours old at {when} (less than {most:g} hours expected)",
        )

    def volume(self, limits: Thresholds) -> CheckResult:
        """The day's events against the average of the days before."""
        ((first,),) = self.warehouse.rows(f"SELECT min({self.time}) FROM {self.table}")
        start = self.day - dt.timedelta(days=limits.volume_days)
        if first is not None:
            # The very first day counts only when it is whole, or nearly.
            began = first.date() if first.hour == 0 else first.date() + dt.timedelta(days=1)
            start = max(start, began)
        days = (self.day - start).days if first is not None else 0
        count = self.count()
        if days < 1:
            message = f"{count} events; there is no whole day before to compare with"
            return CheckResult("volume", None, limits.volume_deviation, "share", True, message)
        ((before,),) = self.warehouse.rows(
            f"SELECT count(*) FROM {self.table} WHERE {self.time} >= TIMESTAMP '{start}' "
            f"AND {self.time} < TIMESTAMP '{self.day}'"
        )
        average = before / days
        usual = f"average of {average:.1f} over {days} day{'s' if days > 1 else ''} before"
        if average == 0:
            return CheckResult(
                "volume", None, limits.volume_deviation, "share", count == 0, f"{count} events after an {usual}"
            )
        deviation = count / average - 1
        return CheckResult(
            "volume",
            round(deviation, 6),
            limits.volume_deviation,
            "share",
            abs(deviation) <= limits.volume_deviation,
            f"{count} events, {deviation:+.1%} from the {usual} (within ±{limits.volume_deviation:.0%} expected)",
        )

    def nulls(self, limits: Thresholds) -> CheckResult:
        """Nulls in the columns that every query relies on."""
        conditions = self.critical
        counted = ", ".join(f"count(CASE WHEN {condition} THEN 1 END)" for condition in conditions.values())
        ((total, *nulls),) = self.warehouse.rows(
            f"SELECT count(*), {counted} FROM {self.table} WHERE {self.on_the_day}"
        )
        found = {column: count for column, count in zip(conditions, nulls, strict=True) if count}
        worst = max(found.values(), default=0) / total if total else 0.0
        where = ", ".join(f"{column} ({count})" for column, count in found.items())
        return CheckResult(
            "nulls",
            round(worst, 6),
            limits.null_share,
            "share",
            worst <= limits.null_share,
            f"nulls among {total} events in {where}" if found else f"no nulls in critical columns among {total} events",
        )

    def dead_letters(self, files: list[tuple[str, int]], limits: Thresholds) -> CheckResult:
        """The day's dead letters against all of its events.

        A dead letter whose event time could not be read counts on the day of the broker's time, or else of its arrival.
        """
        dead = count_rows(
            f"SELECT 1 FROM (SELECT coalesce(event_time, timestamp, ingested_at) AT TIME ZONE 'UTC' AS {self.time} "
            f"FROM dead_letters) AS timed WHERE {self.on_the_day}",
            files,
            "dead_letters",
        )
        total = self.count() + dead
        share = dead / total if total else 0.0
        return CheckResult(
            "dead_letters",
            round(share, 6),
            limits.dead_letter_share,
            "share",
            share <= limits.dead_letter_share,
            f"{dead} of {total} events are dead letters, {share:.2%} (at most {limits.dead_letter_share:.0%} expected)",
        )
