"""What all tests share."""

from __future__ import annotations

import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).parent))

# Who starts tests in the background may let them ignore Ctrl-C; what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Real servers, started when the first test asks for one.
pytest_plugins = ["services.elasticsearch", "services.kafka", "services.postgres", "services.s3"]


# What is dear to set up: whoever uses it runs in one process, where several run beside each other.
DEAR = ("airflow", "elasticsearch", "secure_broker", "twins", "built")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests come first: where several run at a time, none of them is what all others have to wait for."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        used = [name for name in DEAR if name in getattr(item, "fixturenames", ())]
        if used:
            item.add_marker(pytest.mark.xdist_group(used[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """See that tests which belong together are told from the others: pytest-xdist may fail to, and say nothing."""
    if getattr(session.config.option, "loadgroup", False):
        lost = [i.nodeid for i in session.items if i.get_closest_marker("xdist_group") and "@" not in i.nodeid]
        if lost:
            raise pytest.UsageError(f"this pytest-xdist does not group tests under this pytest: {lost[:3]}")


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`figure("runs killed", times=3, lost=0)`: for the end of the whole run, added up over tests and processes.

    Numbers are added; of lists the different values are counted; texts are said as they are.
    """
    return lambda what, **values: record_property("figure", (what, values))


def figures(reports: Iterator[Any]) -> list[str]:
    """A line for each thing that was counted."""
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    different: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    texts: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name != "figure":
                continue
            what, values = value
            for of, found in values.items():
                if isinstance(found, str):
                    texts[what].append(f"{of} {found}")
                elif isinstance(found, list):
                    different[what][of].update(found)
                else:
                    numbers[what][of] += found
    lines = []
    for what in sorted({*numbers, *different, *texts}):
        told = [f"{of} {len(found):,}" for of, found in different[what].items()]
        told += [f"{of} {count:,}" for of, count in numbers[what].items()]
        lines.append(f"{what}: {', '.join([*told, *texts[what]])}")
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was counted; and loudly what was not tested because a service could not be had."""
    # The last report of a test has all that it told, whichever process it ran in.
    ends = (r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "teardown")
    lines = figures(ends)
    if lines:
        terminalreporter.section("counted")
        for line in lines:
            terminalreporter.write_line(line)
    reasons = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if "NOT TESTED" in reason:
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} tests: {reason.removeprefix('Skipped: ')}", red=True, bold=True)
