"""`penstock index`: where documents go, what of it is shown, and how the command ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fake_elasticsearch import fake_elasticsearch
from index_support import HOURS, documents, payments, warehouse
from penstock import Pipeline
from penstock.connections import Connections
from penstock.errors import SettingsError, WarehouseError
from penstock.index import documents_of
from test_cli import cli, found

if TYPE_CHECKING:
    from services.postgres import Database

SECRET = "s3cr3t-that-nobody-sees"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_into_a_file(tmp_path: Path) -> None:
    flow = payments(tmp_path, file="out/hours.ndjson")
    report = flow.index()
    file = tmp_path / "out" / "hours.ndjson"
    assert (report.to, report.documents, report.indexed, report.ok) == (f"file:{file}", 3, 3, True)
    assert lines(file) == list(documents(HOURS).values())
    before = file.read_bytes()
    again = flow.index()
    assert (again.indexed, again.unchanged, again.deleted) == (0, 3, 0) and file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["hours.ndjson"]
    assert flow.index(f"file:{tmp_path / 'late.ndjson'}", since="2024-12-17T13").indexed == 1
    assert [row["event_hour"] for row in lines(tmp_path / "late.ndjson")] == ["2024-12-17T13:00:00Z"]


def test_since_leaves_the_hours_before_in_a_file(tmp_path: Path) -> None:
    flow, file = payments(tmp_path, file="hours.ndjson"), tmp_path / "hours.ndjson"
    flow.index()
    november, noon, _ = HOURS
    warehouse(tmp_path / "payments.duckdb", {november: (1, "1.00", 0), "2024-12-17T14:00:00": (2, "2.00", 1)})
    report = flow.index(since="2024-12-17T13")
    assert (report.documents, report.indexed, report.unchanged, report.deleted) == (1, 1, 0, 1)
    kept = documents({hour: HOURS[hour] for hour in (november, noon)})
    assert lines(file) == [*kept.values(), *documents({"2024-12-17T14:00:00": (2, "2.00", 1)}).values()]


def test_an_empty_view_removes_nothing_of_a_file(tmp_path: Path) -> None:
    flow, file = payments(tmp_path, file="hours.ndjson"), tmp_path / "hours.ndjson"
    flow.index()
    before = file.read_bytes()
    warehouse(tmp_path / "payments.duckdb", {})
    with pytest.raises(WarehouseError, match=r"hourly_metrics is empty .* 3 documents .* Is it the right warehouse"):
        flow.index()
    assert file.read_bytes() == before
    file.unlink()
    assert flow.index().documents == 0 and lines(file) == []


@pytest.mark.parametrize("text", ["# Notes\n", '{"hour": 1}\n', "7\n"])
def test_a_file_of_other_things_is_not_written_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text(text)
    with pytest.raises(SettingsError, match=r"notes\.md: has something in it that is no document .* another file"):
        payments(tmp_path).index(f"file:{tmp_path / 'notes.md'}")
    assert (tmp_path / "notes.md").read_text() == text


def test_the_same_documents_from_postgresql(database: Database, tmp_path: Path) -> None:
    flow = payments(tmp_path)
    flow.index(f"file:{tmp_path / 'duckdb.ndjson'}")
    database.run("CREATE TABLE of_hours (event_hour timestamp, n bigint, amount numeric(38, 2), late bigint)")
    for hour, (n, amount, late) in HOURS.items():
        database.run(f"INSERT INTO of_hours VALUES ('{hour}', {n}, {amount}, {late})")
    database.run(
        "CREATE VIEW hourly_metrics AS SELECT event_hour, n AS total_transactions, amount AS total_amount, "
        "late AS late_transactions, late::float8 / n AS late_ratio FROM of_hours"
    )
    flow.index(f"file:{tmp_path / 'postgres.ndjson'}", warehouse=database.url)
    assert (tmp_path / "postgres.ndjson").read_bytes() == (tmp_path / "duckdb.ndjson").read_bytes()


def test_the_command(tmp_path: Path) -> None:
    warehouse(tmp_path / "payments.duckdb", HOURS)
    told = found("index", "payments", "--to", "file:hours.ndjson", cwd=tmp_path)
    assert (told["documents"], told["indexed"], told["failed"], told["ok"]) == (3, 3, [], True)
    assert len(lines(tmp_path / "hours.ndjson")) == 3
    with fake_elasticsearch() as fake:
        done = cli("index", "payments", "--to", fake.url, "--since", "2024-12-17T00", cwd=tmp_path)
        assert done.returncode == 0 and "no lifecycle management" in done.stderr
        assert "hours in the view" in done.stdout and "refused" not in done.stdout
        assert set(fake.documents) == {"hourly_metrics-2024.12"}
        fake.documents.clear()
        fake.item = {"2024-12-17T13:00:00Z": (400, {"reason": "no number"})}.get
        done = cli("index", "payments", "--to", fake.url, "--json", cwd=tmp_path)
        assert done.returncode == 1 and "2024-12-17T13:00:00Z: 400, no number" in done.stderr
        told = json.loads(done.stdout)
        assert told["failed"] == [{"id": "2024-12-17T13:00:00Z", "status": 400, "reason": "no number"}]
        assert (told["indexed"], told["ok"]) == (2, False)
        fake.fail = lambda *_: (401, {"error": {"reason": f"ada, {SECRET}"}})
        done = cli("index", "payments", "--to", fake.url.replace("//", f"//ada:{SECRET}@"), "--json", cwd=tmp_path)
    assert done.returncode == 3 and "does not know this user, password or API key" in done.stderr
    assert json.loads(done.stdout)["error"]["type"] == "ElasticsearchError"
    assert SECRET not in done.stderr + done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "nothing says where the documents go"),
        (("--to", f"ftp://ada:{SECRET}@host"), 2, "neither an address nor a file"),
        (("--to", f"http://ada:{SECRET}@:x"), 2, "this is no address"),
        (("--to", "file:h.ndjson", "--since", "noon"), 2, "since: 'noon' is no day and no moment"),
        (("--to", "file:h.ndjson", "--keep", "long"), 2, "keep: 'long' is no duration"),
        (("--to", "file:h.ndjson", "--warehouse", "duckdb:none.duckdb"), 3, "there is no such file"),
        (("--to", "file:/proc/none/h.ndjson"), 2, "cannot be written"),
        (("--to", "file:."), 2, "cannot be read (Is a directory)"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    warehouse(tmp_path / "payments.duckdb", HOURS)
    done = cli("index", "payments", *arguments, cwd=tmp_path)
    assert (done.returncode, SECRET in done.stderr) == (code, False)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_there_yet(tmp_path: Path) -> None:
    import duckdb

    duckdb.connect(str(tmp_path / "payments.duckdb")).close()
    flow = Pipeline.load("payments", base=tmp_path)
    with pytest.raises(WarehouseError, match=r"it has no hourly_metrics.*penstock refresh"):
        flow.index("file:x")
    with pytest.raises(SettingsError, match="ecommerce: nothing of it is indexed"):
        Pipeline.load("ecommerce", base=tmp_path).index("file:x")


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "a"}', '{"id": "a", "mappings": {"properties": {"a": {}}}}'])
def test_a_damaged_definition_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "elasticsearch").mkdir()
    (tmp_path / "elasticsearch" / "v.json").write_text(text)
    with pytest.raises(SettingsError, match=r"v\.json: it needs id and mappings"):
        documents_of({"name": "x", "contract_path": str(tmp_path / "contract.yaml")})


def test_secrets_are_in_nothing_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", SECRET)
    text = f"""
name: payments
contract: contract.yaml
source: {{files: {{paths: ["in/*.jsonl"]}}}}
lake: ./lake
index: {{elasticsearch: "https://ada:{SECRET}@search.example:9243/es", api_key: "${{KEY}}", keep: 90d}}
"""
    (tmp_path / "pipeline.yaml").write_text(text)
    (tmp_path / "contract.yaml").write_text("name: x\n")
    flow = Pipeline.load(tmp_path / "pipeline.yaml")
    spec = flow.spec()
    assert spec["index"] == {
        "elasticsearch": "https://search.example:9243/es", "user": None, "ca_file": None, "keep": "90d"
    }  # fmt: skip
    assert spec.index_secrets["api_key"] == SECRET
    for shown in (repr(flow), repr(flow.settings), str(flow.file), json.dumps(spec), repr(spec)):
        assert SECRET not in shown
    for wrong in (f"index.elasticsearch=gopher://ada:{SECRET}@x", "index.keep=ever", "index.file=f"):
        overrides = [wrong] if "file" not in wrong else [wrong, "index.elasticsearch=http://a"]
        with pytest.raises(SettingsError) as caught:
            Pipeline.load(tmp_path / "pipeline.yaml", overrides)
        assert SECRET not in str(caught.value)


def test_a_connection_of_airflow_says_where(tmp_path: Path) -> None:
    warehouse(tmp_path / "payments.duckdb", HOURS)
    with fake_elasticsearch() as fake:
        port = int(fake.url.rpartition(":")[2])
        connection = {
            "conn_type": "elasticsearch",
            "host": "127.0.0.1",
            "port": port,
            "login": "ada",
            "password": SECRET,
        }
        given = Connections.from_airflow(elasticsearch=connection)
        flow = Pipeline.load("payments", base=tmp_path, connections=given)
        assert flow.index().indexed == 3
        assert fake.headers["Authorization"].startswith("Basic ")
        # What the file says counts before it; and nobody's password goes elsewhere.
        flow = Pipeline.load("payments", {"index.file": "h.ndjson"}, base=tmp_path, connections=given)
        assert flow.index().to == f"file:{tmp_path / 'h.ndjson'}"
        with fake_elasticsearch() as other:
            flow = Pipeline.load("payments", base=tmp_path, connections=given)
            assert flow.index(other.url).indexed == 3
            assert "Authorization" not in other.headers
