"""The warehouse: Silver rows of the lake become a star schema, exactly once, in any order of loads."""

from penstock.warehouse.auditing import WarehouseAudit, audit, was_loaded
from penstock.warehouse.backend import Backend
from penstock.warehouse.loader import LoadReport, load
from penstock.warehouse.target import connect, parse_target, warehouse_of

__all__ = [
    "Backend",
    "LoadReport",
    "WarehouseAudit",
    "audit",
    "connect",
    "load",
    "parse_target",
    "warehouse_of",
    "was_loaded",
]
