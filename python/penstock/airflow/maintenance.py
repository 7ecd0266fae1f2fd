"""Operators that look after a lake: audit, backfill, compaction, retention."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from penstock.airflow.base import PenstockOperator, given, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.pipeline import Pipeline


class AuditOperator(PenstockOperator):
    """Counts everything again, and fails where something does not agree (`penstock audit`).

    Args:
        broker: Count what Kafka still has, too.
        kwargs: As for `PenstockOperator`.
    """

    def __init__(self, *, broker: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.broker = broker

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:
        """Count it."""
        audit = flow.audit(broker=self.broker)
        for check in audit.checks:
            say = self.log.info if check.passed else self.log.error
            say("%s: %s%s", check.name, "" if check.passed else "FAILED: ", check.detail)
        self._seen = plain(audit.to_dict())
        if audit.balanced:
            return audit.to_dict()
        context["ti"].xcom_push(key="return_value", value=plain(audit.to_dict()))
        failed = "; ".join(f"{check.name}: {check.detail}" for check in audit.checks if not check.passed)
        raise AirflowFailException(f"{flow.name}: {failed or 'the ledger does not balance'}")


class BackfillOperator(PenstockOperator):
    """Makes days of Silver anew from Bronze by today's contract (`penstock backfill`).

    Args:
        start: The first day; may be mapped.
        end: The day after the last; the day after `start` unless given.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "start", "end")

    def __init__(self, *, start: str, end: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start
        self.end = end

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Make them."""
        from penstock.entries import day

        end = given(self.end)
        if end is None:
            day(self.start, "start")
            end = (dt.date.fromisoformat(self.start[:10]) + dt.timedelta(days=1)).isoformat()
        report = flow.backfill(self.start, end)
        self.log.info("%s: %s rows of Silver before, %s after", flow.name, report.rows_before, report.rows_after)
        return report.to_dict()


class CompactOperator(PenstockOperator):
    """Puts the small files of each partition together (`penstock compact`).

    Args:
        layers: Such as `bronze/events`; all unless given.
        min_age: Nothing younger is touched.
        target: The size of a file afterwards, about.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "layers", "min_age", "target")

    def __init__(
        self, *, layers: Sequence[str] = (), min_age: str = "10m", target: str = "128MiB", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.layers = layers
        self.min_age = min_age
        self.target = target

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Put them together."""
        report = flow.compact(layers=self.layers, min_age=self.min_age, target=self.target)
        self.log.info("%s: %s files became %s", flow.name, report.files_before, report.files_after)
        return report.to_dict()


class RetentionOperator(PenstockOperator):
    """Throws away files of layers that are older than they are to be kept (`penstock retention`).

    Args:
        keep: How long: `{"bronze": "30d"}`, or that as JSON; what the pipeline file says unless given.
        skip_unset: Skip the task where nothing says how long, instead of failing it.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "keep")

    def __init__(self, *, keep: Mapping[str, str] | str | None = None, skip_unset: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keep = keep
        self.skip_unset = skip_unset

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Throw them away."""
        keep = json.loads(self.keep or "null") if isinstance(self.keep, str) else self.keep
        if self.skip_unset and not keep and not flow.settings.retention.kept():
            raise AirflowSkipException(f"{flow.name}: nothing says how long a layer is kept")
        report = flow.retention(keep or None)
        gone = {layer: found["files"] for layer, found in report.expired.items()}
        self.log.info("%s: files that went: %s", flow.name, gone or "none")
        return report.to_dict()
