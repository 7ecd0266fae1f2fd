"""Puts what was measured into the pages that show it, so that neither is copied by hand.

    python benches/pages.py          # `make bench` does it at its end

Between `<!-- benches/out/NAME.md -->` and `<!-- end -->` stands the content of that file. Where it was not made on this
machine, the page keeps what it shows.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/performance.md", "benches/README.md"]
PLACE = re.compile(r"(<!-- (benches/out/\w+\.md) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with what was measured last."""

    def content(place: re.Match[str]) -> str:
        begin, name, before, end = place.groups()
        made = ROOT / name
        return f"{begin}\n{made.read_text().strip()}\n\n{end}" if made.exists() else f"{begin}{before}{end}"

    return PLACE.sub(content, page)


def main() -> None:
    """Fill the pages, say which."""
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{name} shows what was measured")


if __name__ == "__main__":
    main()
