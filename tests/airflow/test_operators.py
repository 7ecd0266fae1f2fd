"""Operators in DAGs that Airflow runs: what they do, what they tell, and how they end."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

import penstock
from penstock.generate import generate
from penstock.resources import copy_out
from penstock.warehouse import connect, load

if TYPE_CHECKING:
    from conftest import Airflow

HEAD = """\
import datetime as dt
from airflow.sdk import DAG
from penstock.airflow import *

args = {"retries": 2, "retry_delay": dt.timedelta(0)}
with DAG("tested", schedule=None, start_date=dt.datetime(2024, 1, 1), default_args=args) as dag:
"""
LAST_DAY = "2024-12-17"
DONE = {"success"}


class Shop:
    """The ready-made pipeline over events in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = {"total": 4000, "seed": 7, "bad_rate": 0.005, "start": "2024-12-10", "span": "8d"}
        self.truth = generate("ecommerce", folder / "events.jsonl", progress=False, **options)
        self.overrides: dict[str, Any] = {
            "source.files.paths": [str(folder / "events.jsonl")],
            "lake": str(folder / "lake"),
            "warehouse.duckdb": str(folder / "warehouse.duckdb"),
        }

    @property
    def flow(self) -> penstock.Pipeline:
        return penstock.Pipeline.load("ecommerce", self.overrides)

    def dag(self, body: str) -> str:
        """A DAG file, in which `shop` stands for the arguments of an operator."""
        shop = {"pipeline": "ecommerce", "overrides": self.overrides}
        return HEAD + textwrap.indent(f"shop = {shop!r}\n" + textwrap.dedent(body), "    ")

    def facts(self) -> list[tuple[Any, ...]]:
        warehouse = connect(self.overrides["warehouse.duckdb"], read_only=True)
        try:
            return warehouse.rows("SELECT idempotency_key, user_id, event_timestamp FROM fact_events ORDER BY ALL")
        finally:
            warehouse.close()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def as_expected(ledger: dict[str, Any], truth: dict[str, Any]) -> bool:
    names = ("consumed", "silver", "rejected", "duplicate", "late", "rejected_by_code")
    return {name: ledger[name] for name in names} == {name: truth["expected"][name] for name in names}


def test_a_day_from_file_to_warehouse(airflow: Airflow, shop: Shop) -> None:
    source = shop.dag(f"""
        run = RunOperator(task_id="run", drain=True, **shop)
        load = LoadOperator(task_id="load", **shop)
        again = LoadOperator(task_id="again", date=DAY, **shop)
        quality = QualityOperator(task_id="quality", date="{{{{ params.date }}}}", **shop)
        audit = AuditOperator(task_id="audit", **shop)
        dag.params["date"] = "{LAST_DAY}"
        run >> load >> again >> quality >> audit
    """)
    ran = airflow.run(source)
    assert set(ran.states.values()) == DONE, ran.states
    ledger = ran.xcom("run")
    assert as_expected(ledger, shop.truth) and ledger["balanced"] and ledger["pending"] == 0
    assert ran.xcom("load")["inserted"] == shop.truth["expected"]["silver"] == len(shop.facts())
    assert ran.xcom("again")["date"] == LAST_DAY and ran.xcom("again")["inserted"] == 0
    assert ran.xcom("quality")["passed"] and ran.xcom("quality")["date"] == LAST_DAY
    assert ran.xcom("audit")["balanced"]
    # The same once more: nothing is there to do, and nothing changes.
    before = shop.facts()
    ran = airflow.run(source)
    assert set(ran.states.values()) == DONE, ran.states
    assert ran.xcom("run")["run"]["consumed"] == 0 and ran.xcom("load")["inserted"] == 0
    assert shop.facts() == before


def test_operators_as_functions(airflow: Airflow, shop: Shop) -> None:
    """In TaskFlow's style the ledger of a run goes on as an argument."""
    ran = airflow.run(
        shop.dag("""
        from airflow.sdk import task
        from penstock.airflow import taskflow

        @task
        def tell(ledger):
            return ledger["silver"]

        tell(taskflow.run(drain=True, **shop)) >> taskflow.load(task_id="tables", **shop) >> taskflow.audit(**shop)
    """)
    )
    assert ran.states == dict.fromkeys(("run", "tell", "tables", "audit"), "success"), ran.log[-4000:]
    assert ran.xcom("tell") == ran.xcom("tables")["inserted"] == shop.truth["expected"]["silver"]
    from penstock.airflow import taskflow

    made = {name: getattr(taskflow, name) for name in taskflow.__all__}
    assert all(function.__name__ == name and "as a task" in str(function.__doc__) for name, function in made.items())


def test_a_lake_is_looked_after(airflow: Airflow, shop: Shop) -> None:
    shop.flow.run(drain=True, progress=False)
    shop.overrides["epoch.max_events"] = 500
    ran = airflow.run(
        shop.dag("""
        replay = ReplayOperator(task_id="replay", codes=["missing_field"], start="2024-12-01", end="", **shop)
        days = ["2024-12-12", "2024-12-10"]
        backfill = BackfillOperator.partial(task_id="backfill", max_active_tis_per_dag=1, **shop).expand(start=days)
        compact = CompactOperator(task_id="compact", min_age="0s", **shop)
        retention = RetentionOperator(task_id="retention", keep={"silver": "1d"}, **shop)
        audit = AuditOperator(task_id="audit", **shop)
        replay >> backfill >> compact >> retention >> audit
    """)
    )
    assert set(ran.states.values()) == DONE, ran.states
    letters = sum(n for code, n in shop.truth["expected"]["rejected_by_code"].items() if code == "missing_field")
    assert ran.xcom("replay")["letters"] == letters == ran.xcom("replay")["still_bad"]
    backfilled = [ti for ti in ran.run.get_task_instances() if ti.task_id == "backfill"]
    assert len(backfilled) == 2
    found = [ti.xcom_pull(task_ids="backfill", map_indexes=ti.map_index) for ti in backfilled]
    assert all(one["rows_before"] == one["rows_after"] > 0 and one["entries"] for one in found)
    assert set(ran.xcom("compact")) >= {"files_before", "files_after"}
    assert ran.xcom("retention")["expired"]["silver/events"]["rows"] == shop.truth["expected"]["silver"]


def test_a_check_that_fails_fails_the_task_at_once(airflow: Airflow, shop: Shop) -> None:
    shop.flow.run(drain=True, progress=False)
    ran = airflow.run(
        shop.dag("""
        load = LoadOperator(task_id="load", **shop)
        load >> QualityOperator(task_id="quality", date="2024-12-25", **shop)
    """)
    )
    assert (ran.states["quality"], ran.tries["quality"]) == ("failed", 1)
    found = ran.xcom("quality")
    assert not found["passed"] and "alert" not in found
    failed = [check for check in found["checks"] if not check["passed"]]
    assert failed and all(check["message"] in ran.log for check in failed)


class Webhook:
    """A server that takes what is posted."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.posted.append((self.path, json.loads(body)["text"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.server.shutdown()
    webhook.server.server_close()


def test_an_alert_goes_where_the_connection_says(
    airflow: Airflow, shop: Shop, connection: Any, webhook: Webhook
) -> None:
    shop.flow.run(drain=True, progress=False)
    connection("tested_slack", conn_type="slackwebhook", host=webhook.address, password="T0/B0/hidden")
    ran = airflow.run(
        shop.dag("""
        load = LoadOperator(task_id="load", **shop)
        load >> QualityOperator(task_id="quality", date="2024-12-25", slack_conn_id="tested_slack", **shop)
    """)
    )
    assert (ran.states["quality"], ran.xcom("quality")["alert"]["sent"]) == ("failed", True)
    ((path, text),) = webhook.posted
    assert path == "/T0/B0/hidden" and "ecommerce" in text and "2024-12-25" in text
    assert "hidden" not in ran.log


def test_an_alert_that_cannot_be_sent_changes_nothing(airflow: Airflow, shop: Shop, connection: Any) -> None:
    shop.flow.run(drain=True, progress=False)
    connection("tested_slack", conn_type="slackwebhook", host="chat .example:port", password="T0/B0/hidden")
    ran = airflow.run(
        shop.dag("""
        load = LoadOperator(task_id="load", **shop)
        wrong = QualityOperator(task_id="wrong", date="2024-12-25", slack_conn_id="tested_slack", **shop)
        load >> wrong
        load >> QualityOperator(task_id="none", date="2024-12-25", slack_conn_id="not_there", **shop)
    """)
    )
    for task in ("wrong", "none"):
        found = ran.xcom(task)
        assert (ran.states[task], found["passed"], found["alert"]["sent"]) == ("failed", False, False)
        assert found["alert"]["reason"]
    assert "hidden" not in ran.log


def test_a_connection_that_a_task_does_not_need_may_be_missing(
    airflow: Airflow, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("slack", "elasticsearch"):
        monkeypatch.setenv(f"AIRFLOW__PENSTOCK__{kind.upper()}_CONN_ID", "not_there")
    ran = airflow.run(
        shop.dag("""
        RunOperator(task_id="run", drain=True, **shop) >> LoadOperator(task_id="load", **shop)
    """)
    )
    assert set(ran.states.values()) == DONE


def test_no_password_in_an_argument(airflow: Airflow, shop: Shop) -> None:
    from penstock.airflow import IndexOperator, LoadOperator, QualityOperator, RefreshOperator

    flow, url = shop.flow, "postgresql://u:hidden@h/db"
    for operator in (
        LoadOperator(task_id="a", to=url, pipeline="ecommerce"),
        QualityOperator(task_id="b", date="2024-12-25", warehouse=url, pipeline="ecommerce"),
        RefreshOperator(task_id="c", warehouse=url, pipeline="payments"),
        IndexOperator(task_id="d", to="http://u:hidden@h:9200", pipeline="payments"),
    ):
        with pytest.raises(penstock.SettingsError, match="put it into a connection") as caught:
            operator.work(flow, {})
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("statuses", "error"),
    [((503, 429), "ElasticsearchError"), ((503, 400), "AirflowFailException"), ((400,), "AirflowFailException")],
)
def test_documents_that_may_go_in_later_are_tried_again(
    airflow: Airflow, statuses: tuple[int, ...], error: str
) -> None:
    from penstock.airflow import IndexOperator
    from penstock.elasticsearch import Failure
    from penstock.index import IndexReport

    failed = [Failure(f"hour {status}", status, "because") for status in statuses]
    failed += [Failure("hour 503", 503, "because")] * 200
    report = IndexReport("payments", "hourly_metrics", "http://h:9200", failed=failed)
    pushed: dict[str, Any] = {}
    flow = SimpleNamespace(name="payments", index=lambda *_, **__: report)
    context = {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}
    operator: Any = IndexOperator(task_id="a", pipeline="payments")
    with pytest.raises(Exception, match=f"hour {statuses[-1]}: {statuses[-1]}, because") as caught, operator._told():
        operator.work(flow, context)
    assert type(caught.value).__name__ == error
    assert pushed["return_value"]["ok"] is False
    # XCom is no place for thousands of texts.
    told = pushed["return_value"]
    assert (len(told["failed"]), told["failed_count"]) == (100, 200 + len(statuses))


def test_a_time_out_is_told_as_one(airflow: Airflow) -> None:
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    from penstock.airflow import RunOperator
    from penstock.airflow.base import TaskKilled

    def ends(operator: Any, *, by_airflow: bool) -> None:
        with operator._told():
            if by_airflow:
                with contextlib.suppress(TaskKilled):
                    operator.on_kill()
            raise penstock.errors.Stopped("interrupted", finished=True)

    limit = dt.timedelta(seconds=3600)
    with pytest.raises(AirflowTaskTimeout, match="has worked for 1:00:00; interrupted"):
        ends(RunOperator(task_id="a", pipeline="p", execution_timeout=limit), by_airflow=False)
    for operator in (RunOperator(task_id="b", pipeline="p", execution_timeout=limit),
                     RunOperator(task_id="c", pipeline="p", execution_timeout=None)):  # fmt: skip
        with pytest.raises(penstock.errors.Stopped):
            ends(operator, by_airflow=True)


def test_an_audit_that_finds_something_fails_the_task(airflow: Airflow, shop: Shop) -> None:
    shop.flow.run(drain=True, progress=False)
    flow = shop.flow
    load(flow.spec(), tables=flow.file.tables)
    with duckdb.connect(shop.overrides["warehouse.duckdb"]) as tables:
        tables.execute("DELETE FROM fact_events WHERE idempotency_key = (SELECT min(idempotency_key) FROM fact_events)")
    ran = airflow.run(shop.dag("""AuditOperator(task_id="audit", **shop)"""))
    assert (ran.states["audit"], ran.tries["audit"]) == ("failed", 1)
    assert "Silver = the warehouse" in ran.log and "1 missing" in ran.log
    assert not ran.xcom("audit")["balanced"] and not flow.audit().balanced


@pytest.mark.parametrize(
    ("overrides", "task", "tries", "words"),
    [
        ({"sessions.gap": "soon"}, "RunOperator", 1, "sessions.gap"),
        ({"source.files.paths": []}, "RunOperator", 1, "source.files.paths"),
        ({"lake": "/nowhere/that/is"}, "LoadOperator", 3, "/nowhere/that/is"),
    ],
)
def test_only_what_may_help_is_tried_again(
    overrides: dict[str, Any],
    task: str,
    tries: int,
    words: str,
    airflow: Airflow,
    shop: Shop,
) -> None:
    shop.overrides |= overrides
    ran = airflow.run(shop.dag(f"""{task}(task_id="task", **shop)"""))
    assert (ran.states["task"], ran.tries["task"]) == ("failed", tries)
    assert words in ran.log


def test_a_warehouse_that_refuses_for_good_is_not_tried_again(airflow: Airflow, shop: Shop) -> None:
    shop.flow.run(drain=True, progress=False)
    shop.overrides["warehouse.duckdb"] = __file__
    ran = airflow.run(shop.dag("""LoadOperator(task_id="task", **shop)"""))
    assert (ran.states["task"], ran.tries["task"]) == ("failed", 1)
    assert "this file is not a DuckDB database" in ran.log


LOGIC = """\
import os, signal, threading
from penstock import Table

asked = threading.Event()
epochs = 0

def transform(rows):
    global epochs
    epochs += 1
    if epochs == 2 and not asked.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(60)
    return rows
"""


def test_a_task_that_is_ended_stops_cleanly_and_its_retry_goes_on(
    airflow: Airflow, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of a run: the try ends between two epochs, the next one does the rest."""
    (shop.folder / "tested_logic.py").write_text(LOGIC)
    monkeypatch.syspath_prepend(str(shop.folder))
    shop.overrides |= {"epoch.max_events": 1000, "transform": "tested_logic:transform"}
    ran = airflow.run(
        shop.dag("""
        import tested_logic

        class Run(RunOperator):
            def on_kill(self):
                tested_logic.asked.set()
                super().on_kill()

        Run(task_id="run", drain=True, **shop)
    """)
    )
    assert (ran.states["run"], ran.tries["run"]) == ("success", 2)
    ledger = ran.xcom("run")
    assert as_expected(ledger, shop.truth) and ledger["balanced"]
    # The first try had committed an epoch at least: the second one read what was left.
    assert 0 < ledger["run"]["consumed"] < shop.truth["total"]


def test_on_kill_after_the_work_does_nothing(airflow: Airflow, shop: Shop) -> None:
    dag = airflow.load(shop.dag("""RunOperator(task_id="run", **shop)"""))
    dag.get_task("run").on_kill()
    assert set(airflow.run(shop.dag("""RunOperator(task_id="run", **shop)""")).states.values()) == DONE


def test_connections_reach_the_pipeline_and_their_secrets_nobody_else(
    airflow: Airflow, shop: Shop, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"bootstrap.servers": "127.0.0.1:1", "sasl.username": "ada", "sasl.password": "hidden-kafka",
           "sasl.mechanism": "PLAIN", "security.protocol": "SASL_PLAINTEXT"}  # fmt: skip
    connection("tested_kafka", conn_type="kafka", extra=own)
    connection("tested_aws", conn_type="aws", login="AKIA", password="hidden-aws", extra={"region_name": "eu-west-1"})
    monkeypatch.setenv("AIRFLOW__PENSTOCK__AWS_CONN_ID", "tested_aws")
    del shop.overrides["source.files.paths"]
    shop.overrides |= {"source.kafka.give_up": "100ms"}
    ran = airflow.run(
        shop.dag("""
        class Look(RunOperator):
            def work(self, flow, context):
                secrets = flow.file.source_secrets | flow.file.storage.secrets
                assert set(secrets) == {"sasl.password", "access_key_id", "secret_access_key"}
                return flow.spec()

        Look(task_id="look", kafka_conn_id="{{ 'tested_kafka' }}", **shop)
        RunOperator(task_id="run", kafka_conn_id="tested_kafka", **shop)
    """)
    )
    spec = ran.xcom("look")
    assert spec["source"]["kafka"]["brokers"] == "127.0.0.1:1" and spec["storage"]["region"] == "eu-west-1"
    # No broker is there: that may help, and is tried again.
    assert (ran.states["look"], ran.states["run"], ran.tries["run"]) == ("success", "failed", 3)
    assert "127.0.0.1:1" in ran.log
    home = airflow.dags.parent
    written = [path.read_bytes() for path in (*home.rglob("*.db"), *home.rglob("*.log"))]
    assert written
    for text in (ran.log, json.dumps(spec), *(w.decode("latin-1") for w in written)):
        assert "hidden" not in text


def test_a_project_that_is_not_there(airflow: Airflow, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.airflow import PenstockHook

    nowhere = shop.folder / "nope"
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(nowhere))
    for pipeline in ("ecommerce", "pipeline.yaml"):
        with pytest.raises(penstock.SettingsError, match=r"AIRFLOW__PENSTOCK__PROJECT.*there is no folder .*nope"):
            PenstockHook().pipeline(pipeline)
    with pytest.raises(penstock.SettingsError, match=r"^project: there is no folder"):
        PenstockHook(project=str(nowhere)).pipeline("ecommerce")
    assert not nowhere.exists()
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(shop.folder))
    with pytest.raises(penstock.SettingsError, match="did you mean 'payments'"):
        PenstockHook().pipeline("paymens")


def test_a_connection_that_nobody_made_is_a_wrong_setting(
    airflow: Airflow, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__PENSTOCK__POSTGRES_CONN_ID", "tabels")
    ran = airflow.run(
        shop.dag("""
        AuditOperator(task_id="configured", **shop)
        AuditOperator(task_id="named", postgres_conn_id="taables", **shop)
    """)
    )
    assert (ran.states, ran.tries) == (dict.fromkeys(ran.states, "failed"), dict.fromkeys(ran.tries, 1))
    assert "[penstock] postgres_conn_id: there is no connection 'tabels'" in ran.log
    assert "postgres_conn_id: there is no connection 'taables'" in ran.log


def test_a_project_is_where_relative_paths_begin(airflow: Airflow, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.airflow import PenstockHook

    assert PenstockHook().pipeline("ecommerce").file.base == Path.cwd()
    monkeypatch.setenv("AIRFLOW__PENSTOCK__PROJECT", str(shop.folder))
    assert PenstockHook().pipeline("ecommerce").spec()["lake"] == str(shop.folder / "lake")
    copy_out("ecommerce", shop.folder / "own")
    assert PenstockHook().pipeline("own").spec()["lake"] == str(shop.folder / "own" / "lake")
    # What `penstock init` has copied into the project counts before what the package carries.
    assert PenstockHook().pipeline("ecommerce").file.ready_made
    found = PenstockHook(project=str(shop.folder / "own")).pipeline("ecommerce")
    assert found.file.path == shop.folder / "own" / "pipeline.yaml" and found.file.base == shop.folder / "own"
    # However its name is written.
    copy = found.file.path
    text = copy.read_text()
    for name in ("name: ecommerce  # our shop", 'name: "ecommerce"', "name: ${SHOP:-ecommerce}"):
        copy.write_text(text.replace("name: ecommerce", name))
        assert PenstockHook(project=str(copy.parent)).pipeline("ecommerce").file.path == copy
    for wrong in ("name: [ecommerce", "name: ${TESTED_NOT_SET}\n"):
        copy.write_text(wrong)
        with pytest.raises(penstock.SettingsError, match=r"pipeline\.yaml"):
            PenstockHook(project=str(copy.parent)).pipeline("ecommerce")
    copy.write_text(text)
    with pytest.raises(penstock.SettingsError, match=r"nothing\.yaml"):
        PenstockHook().pipeline("nothing.yaml")
    assert PenstockHook(project="/x").pipeline(str(shop.folder / "own")).file.folder == shop.folder / "own"
