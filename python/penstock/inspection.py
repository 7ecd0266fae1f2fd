"""A pipeline from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock._html import escape
from penstock.units import format_size

if TYPE_CHECKING:
    import datetime as dt

    from penstock.ledger import Counts


@dataclass(frozen=True)
class Inspection:
    """A pipeline from outside, as its newest commit has it."""

    counts: Counts
    balanced: bool
    watermark: dt.datetime | None
    planned: int | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def layers(self) -> dict[str, dict[str, int]]:
        """Files, rows and bytes of each layer."""
        return dict(self.raw["layers"])

    @property
    def partitions(self) -> list[dict[str, Any]]:
        """The source's partitions.

        Of each `topic`, `partition`, `position` (how far it was read), `highest` and `watermark` (of its event time, in
        microseconds since the Unix epoch), `holds_back` (False where it is idle or finished); where the broker was
        asked `low`, `end` and `lag`, in offsets.
        """
        found = {(p["topic"], p["partition"]): dict(p) for p in self.raw["partitions"]}
        for more in (*self.raw["watermarks"], *self.raw.get("broker", ())):
            found.setdefault((more["topic"], more["partition"]), {"position": None}).update(more)
        return [found[place] for place in sorted(found)]

    @property
    def lag(self) -> int | None:
        """Messages not yet read, over all partitions; None where the broker was not asked, or did not answer."""
        return sum(p["lag"] for p in self.raw["broker"]) if "broker" in self.raw else None

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Some dead letters of each code: `code`, `pointer`, `message`, `value` (its beginning), and the position."""
        return list(self.raw["samples"])

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The shards one by one, where the pipeline runs in any; all else is their sum."""
        return list(self.raw.get("shards", ()))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The newest entries of the log, newest last."""
        return list(self.raw["epochs"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.raw, "partitions": self.partitions, "lag": self.lag}

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{size['files']:,}</td>"
            f"<td>{size['rows']:,}</td><td>{format_size(size['bytes'])}</td></tr>"
            for name, size in self.layers.items()
        )
        head = f"{self.counts.consumed:,} events in {len(self.partitions):,} partitions"
        mark = f", watermark {self.watermark:%Y-%m-%d %H:%M:%S} UTC" if self.watermark else ""
        return (
            f"<p>{head}{mark}</p><table><thead><tr><th style='text-align:left'>layer</th><th>files</th><th>rows</th>"
            f"<th>size</th></tr></thead><tbody>{body}</tbody></table>"
        )
