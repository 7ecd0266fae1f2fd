"""The nearest right name for a mistyped one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, if any is like it at all."""
    by_folded = {other.casefold(): other for other in names}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A sentence: the nearest name, or all there are."""
    known = list(names)
    near = nearest(name, known)
    if near:
        return f"did you mean {near!r}?"
    return f"there are: {', '.join(known)}" if known else "there are none"
