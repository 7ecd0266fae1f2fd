"""`penstock migrate`: a warehouse of version 1, kept as it was made then, is brought to the newest without loss."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import typer
from typer.testing import CliRunner

import migration_lake
from penstock.cli._common import exit_code_of
from penstock.cli.migrate import migrate as command
from penstock.errors import SettingsError, WarehouseError, WrongWarehouseError
from penstock.warehouse import audit, connect, load
from penstock.warehouse.migrate import SCHEMA_VERSION, require_current
from penstock.warehouse.upgrading import migrate
from test_warehouse import Loaded
from warehouse_support import install
from warehouse_tables import KINDS, Warehouses

if TYPE_CHECKING:
    from services.postgres import Database

VERSION_1 = (Path(__file__).parent / "data/warehouse_v1.sql").read_text(encoding="utf-8")
OLD_TABLES = ("dim_user", "dim_user_changes", "dim_time", "dim_device", "fact_events", "fact_duplicates")
NEW_COLUMNS = ("load_id", "rows_read", "kind", "term", "lake")
NEW_TABLES = ("penstock_offsets", "penstock_refreshes", "penstock_terms")


@pytest.fixture(params=KINDS)
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Loaded:
    """The lake behind the dump, and the dump as its warehouse."""
    made = Loaded(tmp_path / "lake")
    made.root.mkdir()
    made.warehouses = Warehouses(tmp_path, request.getfixturevalue("database") if request.param == "postgres" else None)
    install(made, monkeypatch)
    migration_lake.first(made)
    made.warehouses.target()
    made.warehouses.run(VERSION_1)
    return made


def everything(lake: Loaded, name: str = "warehouse", **more: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All tables but Alembic's own."""
    tables = [table for table in lake.warehouses.tables(name) if not table.startswith("penstock_alembic")]
    return lake.warehouses.everything(name, tables, **more)


def indexes(lake: Loaded, name: str) -> list[tuple[Any, ...]]:
    """The names of all indexes of a schema but Alembic's."""
    found = f"SELECT indexname FROM pg_indexes WHERE schemaname = '{name}' AND indexname NOT LIKE 'penstock_alembic%'"
    return sorted(lake.warehouses.rows(found, name))


def test_version_1_loses_nothing_and_is_loaded_on(lake: Loaded) -> None:
    before = lake.warehouses.everything(without=NEW_COLUMNS)
    report = migrate(lake.spec(), lake.warehouses.target())
    assert (report.before, report.after, report.kind) == (1, SCHEMA_VERSION, lake.warehouses.kind)
    after = everything(lake, without=NEW_COLUMNS)
    assert after.pop("penstock_schema") == [("ecommerce", SCHEMA_VERSION)]
    days = after.pop("penstock_days")
    assert [after.pop(table) for table in NEW_TABLES] == [[], [], []]
    assert {str(day) for _, day, _ in days} == {"2024-12-16", "2024-12-17", "2024-12-18", "2024-12-19"}
    assert {number for *_, number in days} == {2}, "the last load, which may have touched them all"
    del before["penstock_schema"]
    assert after == before
    assert migrate(lake.spec(), lake.warehouses.target()).before == SCHEMA_VERSION, "again, it does nothing"
    again = everything(lake, without=NEW_COLUMNS)
    assert {table: again[table] for table in before} == before
    assert again["penstock_days"] == days

    migration_lake.then(lake)
    assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 2
    assert audit(lake.spec(), lake.warehouses.target()).balanced
    load(lake.spec(), lake.warehouses.target("fresh"))
    upgraded, fresh = everything(lake), everything(lake, "fresh")
    for tables in (upgraded, fresh):
        del tables["penstock_loads"]
        tables["penstock_days"] = [row[:2] for row in tables["penstock_days"]]
    assert upgraded == fresh
    if lake.warehouses.kind == "postgres":
        assert indexes(lake, "warehouse") == indexes(lake, "fresh")


def test_a_load_upgrades_a_file_by_itself_and_in_postgresql_says_what_to_run(lake: Loaded) -> None:
    migration_lake.then(lake)
    if lake.warehouses.kind == "duckdb":
        assert load(lake.spec(), lake.warehouses.target()).counts.inserted == 2
        assert lake.warehouses.rows("SELECT version FROM penstock_schema") == [(SCHEMA_VERSION,)]
        return
    before = lake.warehouses.everything()
    says = r"are of version 1, .* needs version 2\. Run: penstock migrate ecommerce"
    with pytest.raises(SettingsError, match=says) as refused:
        load(lake.spec(), lake.warehouses.target())
    assert exit_code_of(refused.value) == 2
    # Another pipeline in the same schema: the record of the loads is that of both.
    with (
        contextlib.closing(connect(lake.warehouses.target())) as backend,
        pytest.raises(SettingsError, match="Run: penstock migrate other"),
    ):
        require_current(backend, "other")
    assert lake.warehouses.everything() == before


def test_the_statements_can_be_had_and_run_by_hand(lake: Loaded) -> None:
    target = lake.warehouses.target()
    before = lake.warehouses.everything()
    written = migrate(lake.spec(), target, sql=True).sql
    assert written
    assert lake.warehouses.everything() == before, "nothing was changed"
    lake.warehouses.run(written)
    by_hand = everything(lake)
    if lake.warehouses.kind == "postgres":
        assert lake.warehouses.rows("SELECT version_num FROM penstock_alembic_ecommerce") == [("0002",)]
    assert migrate(lake.spec(), target).before == SCHEMA_VERSION
    assert everything(lake) == by_hand
    migration_lake.then(lake)
    assert load(lake.spec(), target).counts.inserted == 2


def test_tables_are_made_where_there_are_none(lake: Loaded) -> None:
    by_hand, made = lake.warehouses.target("by_hand"), lake.warehouses.target("made")
    written = migrate(lake.spec(), by_hand, sql=True).sql
    assert written
    lake.warehouses.run(written, "by_hand")
    report = migrate(lake.spec(), made)
    assert (report.before, report.after) == (None, SCHEMA_VERSION)
    assert everything(lake, "by_hand") == everything(lake, "made")
    assert load(lake.spec(), made).counts.inserted == 6
    if lake.warehouses.kind == "postgres":
        assert indexes(lake, "by_hand") == indexes(lake, "made")


def test_a_migration_that_fails_leaves_nothing(lake: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.warehouses.run("CREATE TABLE penstock_days (their_own TEXT)")
    before = lake.warehouses.everything()
    with pytest.raises(Exception, match="pipeline") as failed:
        migrate(lake.spec(), lake.warehouses.target())
    assert "INSERT INTO" not in str(failed.value)
    assert lake.warehouses.everything() == before


def test_a_newer_version_is_left_alone(lake: Loaded) -> None:
    lake.warehouses.run(f"UPDATE penstock_schema SET version = {SCHEMA_VERSION + 1}")
    before = lake.warehouses.everything()
    with pytest.raises(WrongWarehouseError, match="made by a newer penstock"):
        migrate(lake.spec(), lake.warehouses.target())
    assert lake.warehouses.everything() == before


def test_alembic_of_somebody_else_in_the_same_schema(lake: Loaded) -> None:
    """Airflow keeps its version so; ours is elsewhere."""
    if lake.warehouses.kind == "duckdb":
        pytest.skip("Alembic is for PostgreSQL")
    lake.warehouses.run("CREATE TABLE alembic_version AS SELECT 'theirs' AS version_num")
    migrate(lake.spec(), lake.warehouses.target())
    assert lake.warehouses.rows("SELECT * FROM alembic_version") == [("theirs",)]
    assert lake.warehouses.rows("SELECT * FROM penstock_alembic_ecommerce") == [("0002",)]


def test_alembic_is_imported_by_nobody_else(tmp_path: Path) -> None:
    asks = "import sys, penstock.warehouse.upgrading; print({'alembic', 'sqlalchemy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_files_are_in_the_package() -> None:
    """Alembic is pointed at them; a wheel has them because they lie below the package."""
    import penstock.warehouse

    folder = Path(penstock.warehouse.__file__).parent
    for name in ("revisions/env.py", "revisions/versions/v0002.py", "migrations/0002.sql", "roles.sql"):
        assert (folder / name).is_file()
    newest = max(int(path.stem[1:]) for path in (folder / "revisions/versions").glob("v*.py"))
    assert newest == SCHEMA_VERSION, "a version has its revision"


app = typer.Typer()
app.command()(command)


def cli(*arguments: str) -> dict[str, Any]:
    """Run the command with --json."""
    result = CliRunner().invoke(app, ["ecommerce", *arguments, "--json"], env=os.environ | {"COLUMNS": "200"})
    if result.exception:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_command_line(tmp_path: Path) -> None:
    to = f"duckdb:{tmp_path / 'w.duckdb'}"
    assert "CREATE TABLE fact_events" in cli("--to", to, "--sql")["sql"]
    assert not (tmp_path / "w.duckdb").exists()
    assert cli("--to", to)["before"] is None
    assert cli("--to", to)["before"] == SCHEMA_VERSION
    with duckdb.connect(str(tmp_path / "w.duckdb")) as con:
        assert con.execute("SELECT count(*) FROM dim_time").fetchone() == (96_432,)
    with pytest.raises(SettingsError, match="a DuckDB file has no roles"):
        cli("--to", to, "--roles")


def test_a_password_on_the_command_line_gives_a_warning() -> None:
    for secret in ("u:hunter2@127.0.0.1:1/x", "127.0.0.1:1/x?user=u&password=hunter2"):
        result = CliRunner().invoke(app, ["ecommerce", "--to", f"postgresql://{secret}"], env={"COLUMNS": "300"})
        assert isinstance(result.exception, WarehouseError)
        assert "PGPASSWORD" in result.stderr and "passfile" in result.stderr and "${VARIABLE}" in result.stderr
        assert "hunter2" not in result.output + str(result.exception)
    assert "PGPASSWORD" not in CliRunner().invoke(app, ["ecommerce", "--to", "postgresql://u@127.0.0.1:1/x"]).stderr


def test_no_server_and_no_schema(database: Database) -> None:
    with pytest.raises(WarehouseError, match="Connection refused"):
        migrate({"name": "ecommerce"}, "postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(WarehouseError, match="there is no schema nowhere"):
        migrate({"name": "ecommerce"}, {"postgres": {"url": database.url, "schema": "nowhere"}})
