"""Operators of the payments pipeline: tables made of raw rows, and documents in Elasticsearch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from penstock.airflow.base import PenstockOperator, given, place, plain
from penstock.errors import ElasticsearchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.airflow.hook import PenstockHook
    from penstock.pipeline import Pipeline

_LISTED = 100
"""So many documents that failed are listed in XCom."""


class RefreshOperator(PenstockOperator):
    """Makes `transactions_clean` and the views of the hourly metrics out of raw transactions (`penstock refresh`).

    Only what has changed is made anew, and only what differs is written. It can be repeated.

    Args:
        only: `transactions_clean` or `views`; both unless given.
        full: Make all rows anew; they are the same. May be a template that gives `True`.
        warehouse: Another warehouse than that of the pipeline file: `duckdb:FILE`.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "only", "full", "warehouse")
    does = "refresh"

    def __init__(
        self, *, only: str | None = None, full: bool | str = False, warehouse: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.only = only
        self.full = full
        self.warehouse = warehouse

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Make them."""
        full = str(self.full).strip().lower() == "true"
        report = flow.refresh(place(self.warehouse), full=full, only=given(self.only))
        if clean := report.transactions_clean:
            counts = f"{clean.inserted:,} inserted, {clean.updated:,} updated, {clean.deleted:,} deleted"
            self.log.info("%s: transactions_clean: %s, %s rows in all", flow.name, counts, f"{clean.rows:,}")
        if views := report.views:
            late = f"{views.late_transactions:,} of {views.total_transactions:,} transactions late"
            self.log.info("%s: hourly_metrics: %s hours, %s", flow.name, f"{views.hours:,}", late)
        return report.as_dict()

    def asset_extra(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Rows, and where the warehouse is."""
        rows = (report["views"] or {}).get("hours", (report["transactions_clean"] or {}).get("rows"))
        return {"rows": rows, "place": report["warehouse"], **report}


class IndexOperator(PenstockOperator):
    """Brings the documents in Elasticsearch up to date with the view (`penstock index`).

    Documents that the server refuses fail the task, at once, by name; all others are in. Where it was only too busy for
    some of them, the task is tried again.

    Args:
        to: Another place than the connection's or the pipeline file's: an address, or `file:FILE`.
        since: Only hours from this one on; those before are left as they are.
        keep: How long a month is kept (`400d`), where the server has lifecycle management.
        warehouse: Another warehouse than that of the pipeline file: `duckdb:FILE`.
        elasticsearch_conn_id: A connection of type `elasticsearch`; that of `[penstock] elasticsearch_conn_id` unless
            given.
        kwargs: As for `PenstockOperator`.
    """

    does = "index"
    needs = (*PenstockOperator.needs, "elasticsearch")
    template_fields: Sequence[str] = (
        *PenstockOperator.template_fields,
        *("to", "since", "keep", "warehouse", "elasticsearch_conn_id"),
    )

    def __init__(
        self,
        *,
        to: str | None = None,
        since: str | None = None,
        keep: str | None = None,
        warehouse: str | None = None,
        elasticsearch_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.since = since
        self.keep = keep
        self.warehouse = warehouse
        self.elasticsearch_conn_id = elasticsearch_conn_id

    @property
    def hook(self) -> PenstockHook:
        """The hook with this task's connections."""
        hook = super().hook
        hook.elasticsearch_conn_id = self.elasticsearch_conn_id
        return hook

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:
        """Bring them up to date."""
        report = flow.index(
            place(self.to), warehouse=place(self.warehouse), since=given(self.since), keep=given(self.keep)
        )
        for note in report.notes:
            self.log.info("%s: %s", flow.name, note)
        counts = f"{report.indexed:,} written, {report.unchanged:,} unchanged, {report.deleted:,} removed"
        self.log.info("%s: %s documents, %s, in %s", flow.name, f"{report.documents:,}", counts, report.to)
        if report.ok:
            return report.as_dict()
        context["ti"].xcom_push(key="return_value", value=plain(report.as_dict(_LISTED)))
        refused = [failure for failure in report.failed if not failure.may_pass]
        listed = "; ".join(str(failure) for failure in (refused or report.failed)[:10])
        if refused:
            raise AirflowFailException(f"{flow.name}: {len(refused)} documents were refused: {listed}")
        raise ElasticsearchError(f"{flow.name}: the server was too busy for {len(report.failed)} documents: {listed}")
