"""The lake behind `data/warehouse_v1.sql`, with the same rows, names and places, and what came to it since."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from warehouse_support import event

if TYPE_CHECKING:
    from warehouse_support import Lake


def first(lake: Lake) -> None:
    """What the dump has loaded, in two loads."""
    lake.commit(
        [
            event("s1", "ada", "2024-12-16T10:00:00", "user_signup", _offset=0),
            event("p1", "ada", "2024-12-17T10:00:00", "purchase", amount=Decimal("19.99"), _offset=1),
            event("p2", "bob", "2024-12-17T11:00:00", "purchase", session_id=None, session_start=None, _offset=2),
            event("f1", "eve", "2024-12-18T00:00:00", "payment_failed", os="BeOS", _offset=3),
        ]
    )
    lake.commit(
        [
            event("s2", "ada", "2024-12-17T23:59:59.999999", "user_signup", plan_type="premium", _offset=4),
            event("p1", "ada", "2024-12-19T10:00:00", "purchase", amount=Decimal("19.99"), _offset=5),
            event("v1", "o'hara", "2024-12-19T10:00:00", page="/a;b--c", _offset=6),
        ]
    )


def then(lake: Lake) -> None:
    """What has come to it since: a late change, a day that is all gone, a new one."""
    gone = [path for path in lake.rows if "2024-12-18" in path]
    lake.commit(
        [
            event("s0", "ada", "2024-12-15T10:00:00", "user_signup", plan_type="basic", _offset=7),
            event("p3", "bob", "2024-12-20T11:00:00", "purchase", _offset=8),
        ],
        removed=gone,
    )
