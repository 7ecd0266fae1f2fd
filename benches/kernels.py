"""The medians of what criterion measured last, as one table: benches/out/kernels.md and benches/out/kernels.json.

cargo bench --profile fast && python benches/kernels.py --profile fast
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benches" / "compare"))

import common  # noqa: E402

HEADER = ["kernel", "median", "95 % confidence", "a second"]


def seconds(nanoseconds: float) -> str:
    """A duration, in the unit that fits it."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:,.2f} {unit}"
    return f"{nanoseconds:,.0f} ns"


def rate(throughput: dict[str, int] | None, nanoseconds: float) -> str:
    """Events or bytes a second."""
    if not throughput:
        return ""
    (kind, amount), *_ = throughput.items()
    each = amount / nanoseconds * 1e9
    return f"{each / 1e6:,.0f} MB" if kind.startswith("Bytes") else f"{each / 1e6:,.1f} M events"


def main() -> None:
    """Collect and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True, help="the profile of Cargo that they were built with")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for file in sorted(target.glob("criterion/**/new/estimates.json")):
        about = json.loads((file.parent / "benchmark.json").read_text())
        median = json.loads(file.read_text())["median"]
        within = median["confidence_interval"]
        found.append(
            {
                "kernel": about["full_id"].replace("/", ": ", 1),
                "nanoseconds": median["point_estimate"],
                "within": [within["lower_bound"], within["upper_bound"]],
                "throughput": about["throughput"],
            }
        )
    if not found:
        sys.exit(f"nothing of criterion's is in {target}: run cargo bench first")
    rows = [
        [
            one["kernel"],
            seconds(one["nanoseconds"]),
            " to ".join(seconds(end) for end in one["within"]),
            rate(one["throughput"], one["nanoseconds"]),
        ]
        for one in found
    ]
    where = common.machine() | {"profile": options.profile}
    common.keep(
        "kernels", f"{common.described(where)}\n\n{common.table(HEADER, rows)}", {"machine": where, "kernels": found}
    )


if __name__ == "__main__":
    main()
