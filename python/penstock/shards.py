"""Shards: a pipeline in several parts that run by themselves, each over its own part of the partitions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parse_shard(text: str) -> dict[str, int]:
    """Read `2/4`, the second of four, as the engine takes it.

    Raises:
        SettingsError: It is none.
    """
    found = re.fullmatch(r"\s*(\d{1,4})\s*/\s*(\d{1,4})\s*", text)
    number, of = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise SettingsError(f"shard: {text!r} is no shard; write number/of, from 1/4 to 4/4", name="shard")
    return {"number": number, "of": of}


def together(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a command did in each log of a pipeline, as one: the sums, and under `shards` each by itself."""
    if len(reports) == 1 and "shard" not in reports[0]:
        return dict(reports[0])
    whole: dict[str, Any] = {}
    for report in reports:
        whole = _sum(whole, {name: value for name, value in report.items() if name != "shard"})
    # Their numbers are those of logs of their own.
    whole["entries"] = [entry for report in reports for entry in report.get("entries", ())]
    return {**whole, "shards": [dict(report) for report in reports]}


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            name: _sum(one[name], other[name]) if name in one and name in other else one.get(name, other.get(name))
            for name in [*one, *(name for name in other if name not in one)]
        }
    if isinstance(one, list) and isinstance(other, list):
        return [_sum(a, b) for a, b in zip(one, other, strict=False)]
    if isinstance(one, (bool, str)) or one is None or other is None:
        return one or other
    return one + other
