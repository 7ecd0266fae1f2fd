"""The ledger: the count of what became of every event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock._html import escape
from penstock.units import time_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

HEADINGS = ("silver", "pending", "rejected", "duplicate", "late")
"""What an event can have become; they sum to `consumed`."""


@dataclass(frozen=True)
class Counts:
    """Events by what became of them: `consumed = silver + pending + rejected + duplicate + late`.

    Attributes:
        consumed: Events read from the source.
        silver: Rows of Silver.
        pending: Events held until the watermark passes them.
        rejected: Events that the contract does not accept.
        duplicate: Events whose key was seen before.
        late: Events older than the watermark of the last commit.
        rejected_by_code: Rejected events by their first problem.
        bronze: Rows of Bronze.
        dead_letters: Rows of dead letters.
        sessions: Closed sessions.
        lost: Events that were gone from the source before they were read, their loss accepted; no part of `consumed`.
        epochs: Commits.
    """

    consumed: int = 0
    silver: int = 0
    pending: int = 0
    rejected: int = 0
    duplicate: int = 0
    late: int = 0
    rejected_by_code: dict[str, int] = field(default_factory=dict)
    bronze: int = 0
    dead_letters: int = 0
    sessions: int = 0
    lost: int = 0
    epochs: int = 0

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Counts:
        """From the engine's JSON."""
        return cls(**_known(found))


def _known(found: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: int(found[name]) for name in Counts.__dataclass_fields__ if isinstance(found.get(name), int)}
    return {**known, "rejected_by_code": dict(found.get("rejected_by_code", {}))}


@dataclass(frozen=True)
class Ledger(Counts):
    """The sums since the pipeline began, and this run's own.

    Attributes:
        balanced: Whether every event is accounted for.
        run: The counts of this run alone.
        seconds: How long the run took.
        watermark: The event time up to which all events are taken to have come.
        expired: What retention took, layer by layer.
        unread: Last lines without an end that were left unread, with file and bytes.
        raw: Everything that the engine said.
    """

    balanced: bool = False
    run: Counts = field(default_factory=Counts)
    seconds: float = 0.0
    watermark: dt.datetime | None = None
    expired: dict[str, int] = field(default_factory=dict)
    unread: tuple[dict[str, Any], ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Ledger:
        """From the engine's JSON."""
        run = found.get("run") or {}
        return cls(
            **_known(found),
            balanced=bool(found["balanced"]),
            run=Counts.of(run),
            seconds=float(run.get("seconds", 0.0)),
            watermark=time_of(found.get("watermark")),
            expired=dict(found.get("expired", {})),
            unread=tuple(found.get("unread", ())),
            raw=dict(found),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: at least the headings, `balanced`, `rejected_by_code` and `run`."""
        return {"expired": self.expired, **self.raw}

    def rows(self) -> list[tuple[str, int, int]]:
        """Heading, sum since the pipeline began, and this run's own: for showing."""
        rows = [("consumed", self.consumed, self.run.consumed)]
        for heading in HEADINGS:
            rows.append((heading, getattr(self, heading), getattr(self.run, heading)))
            if heading == "rejected":
                rows += [
                    (f"  {code}", count, self.run.rejected_by_code.get(code, 0))
                    for code, count in self.rejected_by_code.items()
                ]
        if self.lost:
            rows.append(("lost before they were read", self.lost, self.run.lost))
        return rows

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td style='text-align:left;padding-left:{1 + 1.5 * heading.startswith(' ')}em'>"
            f"{escape(heading.strip())}</td><td>{total:,}</td><td>{run:,}</td></tr>"
            for heading, total, run in self.rows()
        )
        verdict = "balanced" if self.balanced else "<b style='color:#b00'>does not balance</b>"
        return (
            "<table><thead><tr><th style='text-align:left'>ledger</th><th>since the beginning</th><th>this run</th>"
            f"</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{verdict}; {self.sessions:,} sessions, {self.epochs:,} epochs"
            + (f", watermark {self.watermark:%Y-%m-%d %H:%M:%S} UTC" if self.watermark else "")
            + "</p>"
        )
