"""What a run shows to Prometheus: metrics, health, alert rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import penstock
from penstock.generate import generate
from penstock.metrics import Exporter, Metrics, parse_address
from services import need, until

COUNTS = {
    "consumed": 10, "silver": 5, "pending": 2, "rejected": 1, "duplicate": 1, "late": 1,
    "rejected_by_code": {"wrong_type": 1},
}  # fmt: skip


def committed(epoch: int = 0, **changed: Any) -> dict[str, Any]:
    counts = COUNTS | changed
    return {
        "event": "committed", "epoch": epoch, "counts": counts, "files": 3, "watermark": 1_000_000_000,
        "seconds": [0.1, 0.2, 0.3, 0.6],
    }  # fmt: skip


def lag(**lags: int) -> dict[str, Any]:
    partitions = [{"topic": t, "partition": 0, "position": 1, "end": 1 + n, "lag": n} for t, n in lags.items()]
    return {"event": "lag", "partitions": partitions}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    from prometheus_client import generate_latest

    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset({"pipeline": "shop", **labels}.items())))


def test_events_become_metrics() -> None:
    metrics = Metrics("shop", "1", clock=lambda: 1010.0)
    metrics.take(committed())
    metrics.take(committed(1, pending=-2, silver=9))
    assert value(metrics, "penstock_consumed_events_total") == 20
    assert value(metrics, "penstock_events_total", verdict="silver") == 14
    assert value(metrics, "penstock_rejected_events_total", code="wrong_type") == 2
    assert value(metrics, "penstock_pending_events") == 0
    assert value(metrics, "penstock_epochs_total") == 2
    assert value(metrics, "penstock_watermark_delay_seconds") == 10.0
    assert value(metrics, "penstock_epoch_duration_seconds_sum", stage="total") == pytest.approx(1.2)
    metrics.take({"event": "conflict", "what": "plan", "epoch": 2})
    assert value(metrics, "penstock_commit_conflicts_total", what="plan") == 1
    metrics.take({"event": "gap", "topic": "a", "partition": 0, "from": 5, "to": 9})
    assert value(metrics, "penstock_lost_offsets_total") == 4


def test_lag_of_a_partition_that_is_gone_goes_too() -> None:
    metrics = Metrics("shop", "1")
    metrics.take(lag(a=5, b=0))
    assert value(metrics, "penstock_lag_messages", topic="a", partition="0") == 5
    metrics.take(lag(b=3))
    assert value(metrics, "penstock_lag_messages", topic="a", partition="0") is None
    assert value(metrics, "penstock_lag_messages", topic="b", partition="0") == 3


def ask(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_readiness() -> None:
    now = [0.0]
    metrics = Metrics("shop", "1", clock=lambda: now[0])
    with Exporter(metrics, "127.0.0.1:0", stall=60) as exporter:
        assert ask(exporter.address, "/readyz")[0] == 503
        metrics.take({"event": "started", "term": 1, "epoch": 0, "recovering": False})
        assert ask(exporter.address, "/readyz")[0] == 200
        assert ask(exporter.address, "/healthz")[0] == 200
        now[0] = 61.0
        code, found = ask(exporter.address, "/healthz")
        assert (code, json.loads(found)) == (503, {"alive": False, "silent_seconds": 61.0})
        code, text = ask(exporter.address, "/metrics")
        assert code == 200
        assert "# TYPE penstock_epoch_duration_seconds histogram" in text
        assert ask(exporter.address, "/etc/passwd")[0] == 404
    with pytest.raises(urllib.error.URLError):
        ask(exporter.address, "/metrics")


@pytest.mark.parametrize("address", ["9464", "host", "host:99999", "host:x", ""])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(penstock.SettingsError, match=r"127\.0\.0\.1:9464"):
        parse_address(address)


def test_addresses() -> None:
    assert parse_address(":9464") == ("127.0.0.1", 9464)
    assert parse_address("[::1]:1") == ("::1", 1)


def test_a_port_that_is_taken() -> None:
    with (
        Exporter(Metrics("a", "1"), "127.0.0.1:0") as first,
        pytest.raises(penstock.SettingsError, match="cannot listen there"),
    ):
        Exporter(Metrics("b", "1"), first.address)


def rules() -> Path:
    return Path(penstock.__file__).parent / "prometheus" / "penstock.rules.yml"


def test_every_metric_of_the_rules_is_exported() -> None:
    import re

    metrics = Metrics("shop", "1")
    metrics.take(committed())
    metrics.take(lag(a=1))
    names = {name for name, _ in samples(metrics)}
    used = set(re.findall(r"penstock_[a-z_]+", rules().read_text())) - {"penstock_rules"}
    assert used
    assert used <= names


def test_the_alert_rules(tmp_path: Path) -> None:
    need("promtool", why="a check of the alert rules")
    shutil.copy(rules(), tmp_path)
    shutil.copy(Path(__file__).parent / "prometheus" / "penstock.test.yml", tmp_path)
    for command in ("check", "rules", "penstock.rules.yml"), ("test", "rules", "penstock.test.yml"):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_that_is_scraped(tmp_path: Path) -> None:
    generate("ecommerce", tmp_path / "events.jsonl", total=3_000, seed=5)
    command = [
        sys.executable, "-m", "penstock", "run", "ecommerce", "--metrics", "127.0.0.1:0", "--log", "json",
        "--set", f'source.files.paths=["{tmp_path}/events.jsonl"]', "--set", f"lake={tmp_path}/lake",
        "--set", "epoch.max_wait=10ms",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        try:
            address = ""
            for line in run.stderr:
                said = json.loads(line)
                if said["logger"] == "penstock.metrics":
                    address = said["message"].removeprefix("serving http://").removesuffix("/metrics")
                if said["message"].startswith("ecommerce: epoch 0 committed"):
                    assert said["consumed"] > 0
                    break
            # The line is said before the metrics are counted; and there may be more epochs than one.
            counted = 'penstock_consumed_events_total{pipeline="ecommerce"} 3000.0'
            until("all that was read to be counted", lambda: counted in ask(address, "/metrics")[1])
            assert ask(address, "/readyz")[0] == 200
        finally:
            run.terminate()
        assert "Traceback" not in run.stderr.read()
        assert run.wait(120) == 130
