"""The Python API: any Arrow in, Arrow out; lazy imports; displays; what is wrong is said in the user's words."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import penstock

READY_MADE = Path(penstock.__file__).parent / "pipelines/ecommerce"
UTC = dt.timezone.utc
T0 = dt.datetime(2024, 1, 1, tzinfo=UTC)

CONTRACT = {
    "name": "shop",
    "roles": {"event_type": "/type", "event_time": "/at", "idempotency_key": "/id", "entity": "/user"},
    "events": {
        "sale": {
            "v1": {
                "type": "object",
                "required": ["type", "at", "id", "user", "amount"],
                "properties": {
                    "type": {"type": "string"},
                    "at": {"type": "string", "format": "date-time"},
                    "id": {"type": "string"},
                    "user": {"type": "string"},
                    "amount": {"type": "number", "minimum": 0, "x-penstock-decimal": [12, 2]},
                },
            }
        }
    },
}


def sale(**changed: Any) -> str:
    return json.dumps(
        {"type": "sale", "at": "2024-01-01T00:00:00Z", "id": "1", "user": "ada", "amount": 12.3} | changed
    )


GOOD, BAD, BROKEN = sale(), sale(amount=-1, user=7), "{"
LINES = f"{GOOD}\n{BAD}\n\n{BROKEN}\n".encode()


@pytest.fixture(scope="module")
def contract() -> penstock.Contract:
    return penstock.Contract.load(CONTRACT)


def events() -> pl.DataFrame:
    minutes = [0, 10, 50, 5, 10]
    return pl.DataFrame(
        {
            "id": ["1", "2", "3", "4", "2"],
            "user": ["ada", "ada", "ada", "bob", "ada"],
            "at": [T0 + dt.timedelta(minutes=m) for m in minutes],
            "amount": [Decimal("1.10"), Decimal("2.20"), Decimal("3.30"), Decimal("4.40"), Decimal("2.20")],
        },
        schema_overrides={"at": pl.Datetime("us", "UTC"), "amount": pl.Decimal(12, 2)},
    )


PRODUCERS = {
    "polars": lambda frame: frame,
    "pyarrow": lambda frame: frame.to_arrow(),
    "pyarrow batch": lambda frame: frame.to_arrow().combine_chunks().to_batches()[0],
    "pyarrow reader": lambda frame: frame.to_arrow().to_reader(),
    "pandas": lambda frame: frame.to_arrow().to_pandas(types_mapper=pd.ArrowDtype),
    "duckdb": lambda frame: duckdb.connect().from_arrow(frame.to_arrow()),
    "penstock": lambda frame: penstock.deduplicate(frame.with_row_index("n"), key="n"),
}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_any_arrow_goes_in(producer: str) -> None:
    made = PRODUCERS[producer](events())
    unique = penstock.deduplicate(made, key="id", at="at")
    assert unique.to_polars()["id"].to_list() == ["1", "2", "3", "4"]


def test_any_arrow_comes_out() -> None:
    unique = penstock.deduplicate(events(), key="id")
    assert len(unique) == unique.num_rows == 4
    assert unique.column_names == ["id", "user", "at", "amount"]
    assert pa.table(unique).equals(unique.to_pyarrow())
    assert pl.DataFrame(unique).equals(unique.to_polars())
    assert pl.DataFrame(unique).equals(unique.to_polars()), "a table can be read again"
    assert list(unique.to_pandas()["id"]) == ["1", "2", "3", "4"]
    table = unique.to_pyarrow()
    unique_rows = unique  # noqa: F841 - DuckDB finds it by its name
    assert duckdb.sql("SELECT sum(amount) FROM unique_rows").fetchall() == [(Decimal("11.00"),)]
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")
    assert table.schema.field("amount").type == pa.decimal128(12, 2)


def test_horizon() -> None:
    frame = pl.DataFrame({"k": ["a"] * 3, "at": [T0, T0 + dt.timedelta(hours=1), T0 + dt.timedelta(days=3)]})
    frame = frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
    assert len(penstock.deduplicate(frame, key="k", at="at")) == 1
    for horizon in ("24h", dt.timedelta(days=1)):
        assert len(penstock.deduplicate(frame, key="k", at="at", horizon=horizon)) == 2


def test_a_null_among_the_values_of_a_dictionary_is_no_empty_name() -> None:
    users = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1], pa.uint16()), pa.array([None, ""]))
    at = pa.array([T0 + dt.timedelta(minutes=n) for n in range(4)])
    sessions = penstock.sessionize(pa.table({"user": users, "at": at}), entity="user", at="at", gap="30m").to_polars()
    assert sessions["session_seq"].to_list() == [1, 1, 2, 2]
    assert sessions["session_id"].n_unique() == 2


def test_sessions_and_windows() -> None:
    sessions = penstock.sessionize(events(), entity="user", at="at", gap="30m").to_polars()
    assert sessions["session_seq"].to_list() == [1, 2, 1, 1, 3]
    assert sessions["session_id"].n_unique() == 3
    windows = penstock.aggregate_windows(
        events(), at="at", size="1h", by=["user"], aggregates={"total": "sum(amount)", "n": "count()"}
    ).to_polars()
    assert windows.select("user", "total", "n").rows() == [("ada", Decimal("8.80"), 4), ("bob", Decimal("4.40"), 1)]


def test_histories() -> None:
    def change(hours: float, plan: str) -> pl.DataFrame:
        frame = pl.DataFrame({"user": ["ada"], "at": [T0 + dt.timedelta(hours=hours)], "plan": [plan]})
        return frame.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    def merge(current: Any, changes: Any) -> penstock.Merge:
        return penstock.scd2_merge(current, changes, key="user", at="at", tracked=["plan"])

    first = merge(None, pl.concat([change(1, "A"), change(2, "A")]))
    assert first.history.to_polars()["plan"].to_list() == ["A"]
    second = merge(first, change(1.5, "B"))
    rows = second.history.to_polars().sort("effective_start")
    assert rows["plan"].to_list() == ["A", "B", "A"], "the second A was remembered"
    assert rows["is_current"].to_list() == [False, False, True]
    assert len(second.removed) == 0
    assert len(second.upserts) >= 2
    assert second.history is second.history, "made once"
    bare = merge(first.history, change(1.5, "B"))
    assert bare.history.to_polars().sort("effective_start")["plan"].to_list() == ["A", "B"], "a bare history forgot it"
    assert bare.notes


@pytest.mark.parametrize("kind", ["bytes", "path", "gzip", "polars", "pyarrow", "chunked", "binary", "view"])
def test_validate_takes(kind: str, contract: penstock.Contract, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(LINES)
    with gzip.open(tmp_path / "events.jsonl.gz", "wb") as file:
        file.write(LINES)
    column = [GOOD, BAD, BROKEN]
    data: dict[str, Any] = {
        "bytes": bytearray(LINES),
        "path": path,
        "gzip": str(tmp_path / "events.jsonl.gz"),
        "polars": pl.Series(column),
        "pyarrow": pa.array(column),
        "chunked": pa.chunked_array([column[:1], column[1:]]),
        "binary": pa.array([line.encode() for line in column], pa.large_binary()),
        "view": pa.array(column, pa.string_view()),
    }
    v = contract.validate(data[kind])
    assert (v.events, len(v.valid), len(v.dead_letters)) == (3, 1, 2)
    assert v.rejected_by_code == {"malformed_json": 1, "wrong_type": 1}
    row = v.valid.to_polars().row(0, named=True)
    assert (row["amount"], row["event_time"], row["entity"]) == (Decimal("12.30"), T0, "ada")
    dead = v.dead_letters.to_polars()
    assert dead["value"].to_list() == [BAD.encode(), BROKEN.encode()]
    problems = {(p["code"], p["pointer"]) for p in dead["problems"][0]}
    assert problems == {("wrong_type", "/user"), ("out_of_range", "/amount")}
    assert penstock.validate(CONTRACT, data["bytes"]).events == 3


def test_contracts(contract: penstock.Contract, tmp_path: Path) -> None:
    again = penstock.Contract.load(json.loads(contract.text))
    assert again == contract
    assert hash(again) == hash(contract)
    assert (contract.name, contract.event_types) == ("shop", ["sale"])
    assert pa.schema(contract.schema).field("amount").type == pa.decimal128(12, 2)
    assert contract.explain()["event_types"]["sale"]["versions"]["v1"]["path"] == "fast"
    stricter = json.loads(json.dumps(CONTRACT))
    stricter["events"]["sale"]["v1"]["required"].append("note")
    found = contract.diff(penstock.Contract.load(stricter))
    assert found.changes
    assert not found.full
    with pytest.raises(penstock.ContractError, match="there is no such file"):
        penstock.Contract.load(tmp_path / "none.yaml")
    with pytest.raises(penstock.ContractError, match="is a folder"):
        penstock.Contract.load(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nroles: {event_type: /t}\n")
    with pytest.raises(penstock.ContractError, match=r"broken\.yaml:\d+: "):
        penstock.Contract.load(broken)
    with pytest.raises(penstock.ContractError, match="what JSON can say"):
        penstock.Contract.load({"name": object()})


def test_write_and_read_parquet(tmp_path: Path) -> None:
    frame = events().with_columns(date=pl.col("at").dt.date())
    files = penstock.write_parquet(frame, tmp_path / "out", partition_by="date")
    assert files
    assert all(file.startswith("date=2024-01-01/") for file in files)
    back = pl.read_parquet(tmp_path / "out", hive_partitioning=True)
    assert back.select(frame.columns).equals(frame)
    with pytest.raises(penstock.LakeError):
        penstock.write_parquet(frame, tmp_path / "out", partition_by="date")
    penstock.write_parquet(frame, tmp_path / "out", partition_by="date", replace=True)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> penstock.Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "contract.yaml").write_text(json.dumps(CONTRACT))
    (folder / "in.jsonl").write_bytes(LINES + sale(id="2", at="2024-01-01T01:00:00Z").encode() + b"\n" + GOOD.encode())
    (folder / "pipeline.yaml").write_text(
        "name: shop\ncontract: contract.yaml\nsource: {files: {paths: [in.jsonl]}}\nlake: lake\nsessions: {gap: 30m}\n"
        "windows: [{name: hourly, size: 1h, aggregates: {total: sum(amount)}}]\n"
    )
    return penstock.Pipeline.load(folder)


@pytest.fixture(scope="module")
def ledger(pipeline: penstock.Pipeline) -> penstock.Ledger:
    return pipeline.run()


def test_a_run_gives_the_ledger(pipeline: penstock.Pipeline, ledger: penstock.Ledger) -> None:
    assert ledger.balanced
    assert (ledger.consumed, ledger.silver, ledger.pending) == (5, 2, 0)
    assert (ledger.rejected, ledger.duplicate, ledger.late) == (2, 1, 0)
    assert ledger.rejected_by_code == {"malformed_json": 1, "wrong_type": 1}
    assert (ledger.run.consumed, ledger.sessions, ledger.bronze, ledger.dead_letters) == (5, 2, 5, 2)
    assert pickle.loads(pickle.dumps(ledger)) == ledger
    assert {"consumed", "silver", "pending", "rejected", "duplicate", "late", "balanced"} <= ledger.to_dict().keys()
    seen: list[dict[str, Any]] = []
    again = pipeline.run(on_event=seen.append)
    assert (again.consumed, again.run.consumed) == (5, 0)
    assert seen[0]["event"] == "started"


def test_audit_and_inspect(pipeline: penstock.Pipeline, ledger: penstock.Ledger) -> None:
    audit = pipeline.audit()
    assert audit.balanced
    assert audit.recount.silver == ledger.silver == audit.ledger.silver
    assert all(check.passed for check in audit.checks)
    found = pipeline.inspect(epochs=3)
    assert found.layers["silver/events"]["rows"] == 2
    assert found.watermark == ledger.watermark
    assert len(found.partitions) == 1


def test_read_lake(pipeline: penstock.Pipeline, ledger: penstock.Ledger) -> None:
    lake = pipeline.spec()["lake"]
    silver = penstock.read_lake(lake, "silver/events")
    assert len(silver) == ledger.silver
    frame = silver.to_polars()
    assert frame.height == 2
    assert frame.equals(pl.DataFrame(silver))
    assert frame["date"].to_list() == [T0.date()] * 2
    assert frame.schema["event_time"] == pl.Datetime("us", "UTC")
    some = penstock.read_lake(lake, "silver/events", columns=["amount", "date"])
    assert some.to_pyarrow().column_names == ["amount", "date"]
    assert len(some.to_pandas()) == 2
    assert penstock.read_lake(lake, "bronze/events").to_polars()["event_type"].sort().to_list().count("sale") >= 3
    assert penstock.read_lake(lake, "gold/hourly").to_polars()["total"].to_list() == [Decimal("12.30")] * 2
    assert silver.to_duckdb().filter("amount > 12").aggregate("count(*)").fetchall() == [(2,)]
    for layer, said in (("silver", "did you mean 'silver/events'"), ("gold/huorly", "did you mean 'gold/hourly'")):
        with pytest.raises(penstock.LakeError, match=said):
            penstock.read_lake(lake, layer)
    with pytest.raises(penstock.LakeError, match="did you mean 'amount'"):
        penstock.read_lake(lake, columns=["amuont"]).to_polars()
    with pytest.raises(penstock.LakeError):
        penstock.read_lake(f"{lake}/nowhere")


def test_displays(pipeline: penstock.Pipeline, ledger: penstock.Ledger, contract: penstock.Contract) -> None:
    v = contract.validate(LINES.replace(b'"ada"', b'"<b>ada"'))
    merge = penstock.scd2_merge(None, events(), key="user", at="at", tracked=["id"])
    lake = penstock.read_lake(pipeline.spec()["lake"])
    for thing in (ledger, pipeline, pipeline.audit(), pipeline.inspect(), contract, v, v.valid, merge, lake):
        assert "<table>" in thing._repr_html_()
        assert repr(thing)
    assert "<b>ada" not in v.valid._repr_html_()
    assert "&lt;b&gt;ada" in v.valid._repr_html_()
    assert "balanced" in ledger._repr_html_()
    assert "1 valid" in repr(v)


def test_the_core_needs_no_other_library(pipeline: penstock.Pipeline, ledger: penstock.Ledger) -> None:
    """What is not among the dependencies of the package is made unfindable."""
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'polars', 'pandas', 'numpy', 'pytz', 'IPython', 'dbt'): sys.modules[name] = None\n"
        "import penstock\n"
        "lake = penstock.read_lake(sys.argv[1])\n"
        "unique = penstock.deduplicate(lake, key='id')\n"
        "assert len(unique) == len(lake) == 2\n"
        "assert '12.30' in lake._repr_html_() and 'amount' in unique._repr_html_()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, pipeline.spec()["lake"]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_is_said() -> None:
    frame = events()
    with pytest.raises(penstock.DataError, match="did you mean 'user'"):
        penstock.sessionize(frame, entity="usr", at="at")
    with pytest.raises(penstock.SettingsError, match="gap: '30' is no duration"):
        penstock.sessionize(frame, entity="user", at="at", gap="30")
    with pytest.raises(penstock.DataError, match=r"list has no Arrow data.*polars\.DataFrame"):
        penstock.deduplicate([{"id": 1}], key="id")  # type: ignore[arg-type]
    with pytest.raises(penstock.DataError, match="key: 7 is neither"):
        penstock.deduplicate(frame, key=7)  # type: ignore[arg-type]
    with pytest.raises(penstock.DataError, match="aggregates: a mapping"):
        penstock.aggregate_windows(frame, at="at", size="1m", aggregates=["count()"])  # type: ignore[arg-type]
    with pytest.raises(penstock.DataError, match="is no path, no bytes"):
        penstock.Contract.load(CONTRACT).validate(7)  # type: ignore[arg-type]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(penstock.MissingExtraError, match="pip install polars"):
        penstock.deduplicate(events().to_arrow(), key="id").to_polars()


def test_public_names() -> None:
    assert set(penstock.__all__) <= set(dir(penstock))
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sesionize'"):
        penstock.sesionize  # noqa: B018
    from penstock import _core

    assert penstock.__version__ == _core.__version__


def test_validate_takes_a_table_of_one_column(contract: penstock.Contract) -> None:
    table = pa.table({"value": [GOOD, BAD]})
    found = contract.validate(table)
    assert (found.valid.num_rows, found.dead_letters.num_rows) == (1, 1)
    assert contract.validate(pl.DataFrame({"value": [GOOD]})).valid.num_rows == 1
    with pytest.raises(penstock.DataError, match="this table has 2: value, key"):
        contract.validate(table.append_column("key", pa.array(["a", "b"])))
