"""The operator that loads the warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.airflow.base import PenstockOperator, given

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.pipeline import Pipeline


class LoadOperator(PenstockOperator):
    """Loads what is new in the lake into the warehouse, or one day again (`penstock load`).

    It can be repeated, and days can come in any order: the tables end up the same.

    Args:
        date: Load all events of this day again; what is new in the lake unless given.
        to: Another warehouse than that of the pipeline file: `duckdb:FILE`. Passwords belong into a connection.
        kwargs: As for `PenstockOperator`.
    """

    template_fields: Sequence[str] = (*PenstockOperator.template_fields, "date", "to")
    does = "load"

    def __init__(self, *, date: str | None = None, to: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.date = date
        self.to = to

    def work(self, flow: Pipeline, context: Any) -> dict[str, Any]:  # noqa: ARG002
        """Load it."""
        from penstock.warehouse import load

        def told(done: int, todo: int) -> None:
            self.log.info("%s: %s of %s rows loaded", flow.name, f"{done:,}", f"{todo:,}")

        # A task beside this one may have the DuckDB file open.
        report = load(
            *(flow.spec(), given(self.to)), date=given(self.date), tables=flow.file.tables, progress=told, wait=600
        )
        counts = report.counts
        self.log.info(
            "%s: %s facts inserted, %s updated, %s deleted, in %s",
            *(flow.name, f"{counts.inserted:,}", f"{counts.updated:,}", f"{counts.deleted:,}", report.warehouse),
        )
        return report.as_dict()

    def asset_extra(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Rows, and where the warehouse is."""
        return {"rows": report["inserted"], "place": report["warehouse"], **report}
