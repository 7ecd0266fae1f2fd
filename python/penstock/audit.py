"""The audit: the ledger counted again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from penstock._html import escape
from penstock.ledger import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Check:
    """One thing that an audit looked at."""

    name: str
    passed: bool
    detail: str


def warehouse_check(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit of a warehouse found, as one of the checks in the engine's JSON."""
    counts = f"{found['silver']} rows, {found['facts']} facts, {found['duplicates']} kept aside"
    wrong = f"{found['missing']} missing, {found['surplus']} surplus, {found['astray']} astray"
    return {"name": "Silver = the warehouse", "passed": found["balanced"], "detail": f"{counts}; {wrong}"}


@dataclass(frozen=True)
class Audit:
    """The ledger counted again from the files, the log and the state.

    Attributes:
        ledger: As the newest commit has it.
        recount: As the files have it.
        balanced: Whether the ledger balances and every check passed.
        checks: What was looked at.
        uncommitted_files: Files that no commit names: left by a run that was killed. Readers of the log never see them.
    """

    ledger: Counts
    recount: Counts
    balanced: bool
    checks: tuple[Check, ...]
    uncommitted_files: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Audit:
        """From the engine's JSON."""
        return cls(
            ledger=Counts.of(found),
            recount=Counts.of(found["recount"]),
            balanced=bool(found["balanced"]),
            checks=tuple(Check(c["name"], bool(c["passed"]), c["detail"]) for c in found["checks"]),
            uncommitted_files=tuple(found.get("uncommitted_files", ())),
            raw=dict(found),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.raw) or asdict(self)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{'✓' if check.passed else '✗'}</td><td style='text-align:left'>{escape(check.name)}</td>"
            f"<td style='text-align:left'>{escape(check.detail)}</td></tr>"
            for check in self.checks
        )
        verdict = "Everything agrees." if self.balanced else "<b style='color:#b00'>Something does not agree.</b>"
        return f"<p>{verdict}</p><table><tbody>{body}</tbody></table>"
