"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

# Real servers, started when the first test asks for one.
pytest_plugins = ["services.elasticsearch", "services.kafka", "services.postgres", "services.s3"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say loudly what was not tested because a service could not be had."""
    reasons = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "NOT TESTED" in reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests: {reason.removeprefix('Skipped: ')}", red=True, bold=True)
