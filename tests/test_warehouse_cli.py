"""`penstock load` and `penstock quality` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from penstock import Pipeline
from penstock.cli.load import load
from penstock.cli.quality import quality
from penstock.errors import SettingsError, WarehouseError
from penstock.warehouse import parse_target

app = typer.Typer()
app.command()(load)
app.command()(quality)

READY_MADE = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce"
GOOD, EMPTY = "2024-12-18", "2024-12-23"


def penstock(*arguments: str) -> Result:
    """Run a command; an error of ours is raised, for the program's own end to tell."""
    result = CliRunner().invoke(app, arguments, env={"PENSTOCK_SLACK_WEBHOOK": "", "COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline that has run, and is loaded."""
    folder = tmp_path_factory.mktemp("pipeline")
    from penstock import _core

    options = {"total": 3_000, "seed": 5, "span": 3 * 86_400_000_000, "bad_rate": 0.004}
    _core.generate("ecommerce", json.dumps(options), str(folder / "events.jsonl"))
    file = folder / "pipeline.yaml"
    file.write_text(
        "name: ecommerce\n"
        f"contract: {READY_MADE / 'contract.yaml'}\n"
        "source: {files: {paths: [events.jsonl]}}\n"
        "lake: lake\n"
        "deduplicate: {horizon: 24h}\n"
        "sessions: {gap: 30m}\n"
        "warehouse: {duckdb: warehouse.duckdb}\n"
    )
    Pipeline.load(file).run(progress=False)
    assert penstock("load", str(file)).exit_code == 0
    return str(file)


def test_load_tells_what_it_did(pipeline: str, tmp_path: Path) -> None:
    target = f"duckdb:{tmp_path / 'other.duckdb'}"
    first = json.loads(penstock("load", pipeline, "--to", target, "--json").stdout)
    assert first["inserted"] == first["rows_read"] > 2_900
    again = json.loads(penstock("load", pipeline, "--to", target, "--date", GOOD, "--json").stdout)
    assert (again["inserted"], again["updated"], again["deleted"], again["date"]) == (0, 0, 0, GOOD)
    assert "facts inserted" in penstock("load", pipeline).stdout


def test_load_refuses_what_is_wrong(pipeline: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="YYYY-MM-DD"):
        penstock("load", pipeline, "--date", "yesterday")
    with pytest.raises(WarehouseError, match="this is a folder"):
        penstock("load", pipeline, "--to", f"duckdb:{tmp_path}")


@pytest.mark.parametrize(
    "to",
    [
        "host=127.0.0.1 port=55991 user=admin password=s3cret dbname=shop",
        "host=127.0.0.1 password=s3cret dbname=shop.db",
        "admin:s3cret@127.0.0.1:5432/shop",
        "postgres",
    ],
)
def test_what_is_no_file_becomes_none(to: str, pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match="neither the URL of a database nor a file that ends in") as error:
        penstock("load", pipeline, "--to", to)
    assert "s3cret" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_is_named_by_its_ending_or_its_kind() -> None:
    for named, file in (("a/b.DuckDB", "a/b.DuckDB"), ("x.db", "x.db"), ("duckdb:host=x", "host=x")):
        assert parse_target(named).place == file


def test_quality_ends_with_0_on_a_good_day(pipeline: str, tmp_path: Path) -> None:
    report = tmp_path / "quality.json"
    result = penstock("quality", pipeline, "--date", GOOD, "--output-json", str(report))
    assert result.exit_code == 0, result.output
    written = json.loads(report.read_text())
    assert (written["passed"], written["date"], len(written["checks"])) == (True, GOOD, 4)


def test_quality_ends_with_1_when_a_check_fails(pipeline: str) -> None:
    result = penstock("quality", pipeline, "--date", EMPTY, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [check["name"] for check in told["checks"] if not check["passed"]] == ["freshness", "volume"]
    assert "alert" not in told


def test_an_alert_that_cannot_be_sent_does_not_hide_the_failure(pipeline: str, tmp_path: Path) -> None:
    report = tmp_path / "quality.json"
    address = "http://slack.invalid/services/T0SECRET"
    result = penstock("quality", pipeline, "--date", EMPTY, "--slack-webhook", address, "--output-json", str(report))
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "the alert could not be sent after 3 attempts" in result.output
    assert json.loads(report.read_text())["alert"]["sent"] is False
    assert "T0SECRET" not in result.output + report.read_text()


def test_an_address_that_is_none_is_said_before_the_checks(pipeline: str) -> None:
    with pytest.raises(SettingsError) as caught:
        penstock("quality", pipeline, "--date", EMPTY, "--slack-webhook", "T0SECRET")
    assert "T0SECRET" not in str(caught.value)


def test_a_report_that_cannot_be_written_is_said(pipeline: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--output-json"):
        penstock("quality", pipeline, "--date", GOOD, "--output-json", str(tmp_path / "none" / "quality.json"))
