"""The quality checks against a real warehouse, and the alert against servers that misbehave."""

from __future__ import annotations

import datetime as dt
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from penstock.errors import PenstockError, SettingsError
from penstock.quality import CheckResult, QualityReport, Slack, run_checks
from penstock.warehouse import load
from warehouse_support import Lake, at, event, install

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2024-12-17"
NOW = at("2024-12-18T02:00:00")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """An empty lake."""
    made = Lake(tmp_path / "lake")
    made.root.mkdir()
    install(made, monkeypatch)
    return made


def days(counts: dict[str, int]) -> list[dict[str, Any]]:
    """So many events on each day of December 2024, evenly over the day."""
    return [
        event(f"{date}-{number}", "ada", at(f"2024-12-{date}T00:00:00") + dt.timedelta(days=1) * number / count)
        for date, count in counts.items()
        for number in range(count)
    ]


def checks(lake: Lake, date: str = DAY, now: dt.datetime = NOW) -> dict[str, CheckResult]:
    """Load, and run the checks."""
    load(lake.spec())
    return {check.name: check for check in run_checks(lake.spec(), date, now=now).checks}


def test_a_good_day_passes(lake: Lake) -> None:
    lake.commit(days({f"{date:02}": 100 for date in range(10, 18)}))
    report = checks(lake)
    assert [(name, check.passed) for name, check in report.items()] == [
        ("freshness", True), ("volume", True), ("nulls", True), ("dead_letters", True),
    ]  # fmt: skip
    assert report["volume"].value == 0


def test_freshness_is_measured_at_the_end_of_a_day_that_is_over(lake: Lake) -> None:
    lake.commit([event("k1", "ada", "2024-12-17T10:00:00")])
    assert checks(lake)["freshness"].value == 14
    assert checks(lake, now=at("2026-01-01T00:00:00"))["freshness"].value == 14
    assert checks(lake, now=at("2024-12-17T12:00:00"))["freshness"].value == 2


@pytest.mark.parametrize(("newest", "passed"), [("2024-12-17T00:00:00", False), ("2024-12-17T00:00:01", True)])
def test_freshness_is_less_than_24_hours(lake: Lake, newest: str, passed: bool) -> None:
    lake.commit([event("k1", "ada", newest)])
    assert checks(lake)["freshness"].passed is passed


def test_an_event_of_the_future_does_not_make_a_day_fresh(lake: Lake) -> None:
    lake.commit([event("k1", "ada", "2024-12-10T00:00:00"), event("k2", "ada", "2024-12-20T00:00:00")])
    assert not checks(lake)["freshness"].passed


def test_an_empty_warehouse_is_not_fresh(lake: Lake) -> None:
    report = checks(lake)
    assert (report["freshness"].passed, report["freshness"].value) == (False, None)


@pytest.mark.parametrize(("count", "passed"), [(80, True), (79, False), (120, True), (121, False), (0, False)])
def test_volume_is_within_a_fifth_of_the_week_before(lake: Lake, count: int, passed: bool) -> None:
    lake.commit(days({f"{date:02}": 100 for date in range(5, 17)} | {"17": count}))
    check = checks(lake)["volume"]
    assert (check.passed, check.value) == (passed, pytest.approx(count / 100 - 1))


def test_volume_takes_days_without_events_as_such(lake: Lake) -> None:
    lake.commit(days({"05": 10, "12": 140, "17": 20}))
    assert checks(lake)["volume"].value == 0


def test_volume_has_nothing_to_compare_with_on_the_first_days(lake: Lake) -> None:
    lake.commit([event("k1", "ada", "2024-12-16T20:00:00"), event("k2", "ada", "2024-12-17T00:00:00")])
    check = checks(lake)["volume"]
    assert (check.passed, check.value) == (True, None)
    # The 17th is the first whole day; the 18th is compared with it alone.
    assert checks(lake, "2024-12-18", at("2024-12-19T00:00:00"))["volume"].value == -1


def test_a_null_in_a_critical_column_fails(lake: Lake) -> None:
    rows = days({"17": 10})
    lake.commit([*rows, event("p1", "ada", "2024-12-17T10:00:00", "purchase", amount=None)])
    rows[0]["session_id"] = None
    check = checks(lake)["nulls"]
    assert not check.passed
    assert "purchase_amount (1)" in check.message
    assert check.value == pytest.approx(1 / 11, abs=1e-6)


def letter(time: str | None, arrived: str = "2024-12-17T12:00:00") -> dict[str, Any]:
    """A dead letter."""
    return {"event_time": at(time) if time else None, "ingested_at": at(arrived), "code": "wrong_type", "value": b"{"}


@pytest.mark.parametrize(("dead", "passed"), [(0, True), (1, True), (2, False)])
def test_more_than_one_dead_letter_in_a_hundred_fails(lake: Lake, dead: int, passed: bool) -> None:
    elsewhere = [letter("2024-12-16T10:00:00"), letter(None, "2024-12-18T00:00:00")]
    lake.commit(days({"17": 99}), dead=[letter("2024-12-17T10:00:00"), letter(None)][:dead] + elsewhere)
    check = checks(lake)["dead_letters"]
    assert (check.passed, check.value) == (passed, pytest.approx(dead / (99 + dead), abs=1e-6))


def test_checks_leave_the_warehouse_as_it_is(lake: Lake) -> None:
    lake.commit(days({"17": 3}), dead=[letter(None)])
    load(lake.spec())
    file = lake.root.parent / "warehouse.duckdb"
    before = file.read_bytes()
    run_checks(lake.spec(), DAY, now=NOW)
    assert file.read_bytes() == before


def test_a_warehouse_never_loaded_is_said_so(lake: Lake) -> None:
    with pytest.raises(PenstockError, match="penstock load"):
        run_checks(lake.spec(), DAY)
    duckdb.connect(str(lake.root.parent / "warehouse.duckdb")).close()
    with pytest.raises(PenstockError, match="penstock load ecommerce"):
        run_checks(lake.spec(), DAY)


# The alert.

SECRET = "T0SECRET/B0SECRET/xyzsecret"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers of the tests are on this machine."""
    monkeypatch.setenv("no_proxy", "*")


def failed_report() -> QualityReport:
    """A report with one check that failed."""
    return QualityReport(
        "ecommerce",
        dt.date(2024, 12, 17),
        (
            CheckResult("volume", -0.5, 0.2, "share", False, "50 events, -50% from the average"),
            CheckResult("nulls", 0.0, 0.0, "share", True, "no nulls"),
        ),
    )


Answer = Callable[[BaseHTTPRequestHandler, int], None]


@pytest.fixture
def server() -> Iterator[Callable[[Answer], tuple[str, list[bytes]]]]:
    """Starts HTTP servers that answer as the test says; gives the address and the bodies received."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> tuple[str, list[bytes]]:
        bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                answer(self, len(bodies))

            def log_message(self, *args: object) -> None:
                """Stay silent."""

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        running.append(made)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{made.server_address[1]}/services/{SECRET}", bodies

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


def reply(status: int) -> Answer:
    """Answers with a status and a page that quotes the secret address, as some servers do."""

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(f"<h1>{handler.path}</h1>".encode())

    return answer


def slack(address: str, **more: Any) -> Slack:
    """A webhook without long pauses."""
    return Slack(address, **({"timeout": 60.0, "pause": 0.0} | more))


Servers = Callable[[Answer], tuple[str, list[bytes]]]


def test_an_alert_tells_what_failed(server: Servers) -> None:
    address, bodies = server(reply(200))
    alert = slack(address).send(failed_report())
    assert (alert.sent, alert.attempts, alert.reason) == (True, 1, None)
    text = json.loads(bodies[0])["text"]
    assert "1 of 2 checks failed for 2024-12-17" in text
    assert "*volume*: 50 events" in text
    assert "nulls" not in text


def test_a_server_that_recovers_gets_the_alert(server: Servers) -> None:
    address, bodies = server(lambda handler, number: reply(503 if number < 3 else 200)(handler, number))
    assert slack(address).send(failed_report()).sent
    assert len(bodies) == 3


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (429, 3), (404, 1), (302, 1)])
def test_a_server_that_refuses(server: Servers, status: int, attempts: int) -> None:
    address, bodies = server(reply(status))
    alert = slack(address).send(failed_report())
    assert (alert.sent, alert.attempts, len(bodies)) == (False, attempts, attempts)
    assert alert.reason == f"the server answered {status}"


def test_a_server_that_talks_garbage() -> None:
    class Garbage(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"\x00\xffSSH-2.0 " + SECRET.encode() + b"\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Garbage) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        alert = slack(f"http://127.0.0.1:{made.server_address[1]}/{SECRET}").send(failed_report())
        made.shutdown()
    assert (alert.sent, alert.attempts) == (False, 3)
    assert SECRET not in str(alert)


@pytest.mark.parametrize("drip", [False, True])
def test_a_server_that_never_finishes_its_answer(server: Servers, drip: bool) -> None:
    """Not one that says nothing, and not one that says a byte now and then, which no time-out of a socket notices."""
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        while not ended.wait(0.05):
            if drip:
                try:
                    handler.wfile.write(b"H")
                    handler.wfile.flush()
                except OSError:
                    return

    address, _ = server(answer)
    alert = slack(address, timeout=0.4, attempts=2).send(failed_report())
    ended.set()
    assert (alert.sent, alert.attempts, alert.reason) == (False, 2, "no answer within 0.4 seconds")


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        alert = slack(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}").send(failed_report())
    assert (alert.sent, alert.attempts) == (False, 3)
    assert alert.reason is not None
    assert "no connection" in alert.reason


def test_a_name_that_does_not_exist() -> None:
    alert = slack(f"http://slack.invalid/{SECRET}", attempts=1).send(failed_report())
    assert not alert.sent
    assert SECRET not in str(alert)


def test_the_address_is_shown_nowhere() -> None:
    assert SECRET not in repr(Slack(f"https://hooks.slack.com/services/{SECRET}"))
    for wrong in (
        f"hooks.slack.com/{SECRET}",
        f"ftp://x/{SECRET}",
        f"http:///{SECRET}",
        f"http://x:abc/{SECRET}",
        f"https://x/{SECRET}\n",
    ):
        with pytest.raises(SettingsError) as caught:
            Slack(wrong)
        assert SECRET not in str(caught.value)
