"""Assets: what DAGs can wait for, and what is told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEME = "penstock"


def asset(pipeline: str, what: str = "silver/events") -> Asset:
    """A layer of a pipeline's lake, or its warehouse, as an asset: `penstock://ecommerce/silver/events`.

    Named in `outlets`, it is told what the task has done: rows, ledger, place (its event's `extra`). Named as the
    `schedule` of a DAG, that begins when it has changed. The name says nothing about where it lies.

    Args:
        pipeline: The pipeline's name.
        what: A layer (`silver/events`), `warehouse`, or a table.
    """
    return Asset(f"{SCHEME}://{pipeline}/{what}")


def tell(outlets: Iterable[Any], context: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Give the assets among the outlets their extra."""
    for outlet in outlets:
        if str(getattr(outlet, "uri", "")).startswith(f"{SCHEME}://"):
            context["outlet_events"][outlet].extra.update(extra)
