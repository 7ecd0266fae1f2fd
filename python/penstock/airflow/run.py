"""Operators that move events: a run until caught up, and a replay of dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.airflow.base import PenstockOperator, given
from penstock.airflow.progress import TaskLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.pipeline import Pipeline


class RunOperator(PenstockOperator):
    """Runs a pipeline until everything that was there when it began is committed (`penstock run --until-caught-up`).

    A retry takes the pipeline over from an attempt that hangs; nothing is lost or doubled. The XCom is the ledger.

    Args:
        drain: Also let go what is held: sessions and windows close.
        shard: `2/4`: one of several parts of Kafka's partitions; may be mapped.
        accept_gap: Go on behind events that are gone from the source for ever.
        max_epochs: End after so many commits.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "shard")
    does = "run"

    def __init__(
        self,
        *,
        drain: bool = False,
        shard: str | None = None,
        accept_gap: bool = False,
        max_epochs: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.drain = drain
        self.shard = shard
        self.accept_gap = accept_gap
        self.max_epochs = max_epochs

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Run it."""
        ledger = flow.run(
            until_caught_up=True,
            drain=self.drain,
            shard=given(self.shard),
            accept_gap=self.accept_gap,
            max_epochs=self.max_epochs,
            progress=False,
            on_event=TaskLog(flow.name).take,
        )
        self.log.info(
            "%s: %s events in this run, %s of them to Silver; %s dead letters, %s held",
            *(flow.name, f"{ledger.run.consumed:,}", f"{ledger.run.silver:,}"),
            *(f"{ledger.run.dead_letters:,}", f"{ledger.pending:,}"),
        )
        return ledger.to_dict()

    def asset_extra(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Rows of this run, the ledger, and where the lake is."""
        assert self._flow is not None
        return {"rows": report["run"]["silver"], "ledger": dict(report), "place": str(self._flow.spec()["lake"])}


class ReplayOperator(PenstockOperator):
    """Judges dead letters once more by today's contract (`penstock replay`).

    Args:
        codes: Dead letters with one of these codes; all but `late` unless given.
        event_types: Those of these event types.
        start: Those that came then or later: a day, or a moment.
        end: Those that came before.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "codes", "event_types", "start", "end")

    def __init__(
        self,
        *,
        codes: Sequence[str] = (),
        event_types: Sequence[str] = (),
        start: str | None = None,
        end: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.codes = codes
        self.event_types = event_types
        self.start = start
        self.end = end

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Judge them."""
        report = flow.replay(
            codes=self.codes, event_types=self.event_types, start=given(self.start), end=given(self.end)
        )
        self.log.info("%s: %s dead letters judged, %s are good now", flow.name, report.letters, report.silver)
        return report.to_dict()
