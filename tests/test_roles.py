"""The roles that `penstock migrate --roles` makes: each can what it must, and nothing else. Real attempts."""

from __future__ import annotations

import contextlib
import urllib.parse
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from penstock.errors import PenstockError, WarehouseError
from penstock.quality.checks import run_checks
from penstock.warehouse import audit, load
from penstock.warehouse.upgrading import ROLES, migrate
from test_warehouse import Loaded
from warehouse_support import event, install
from warehouse_tables import Warehouses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.postgres import Database

DENIED = psycopg.errors.InsufficientPrivilege


class World:
    """A warehouse whose roles are made, and a user in each of them.

    Attributes:
        lake: The lake that is loaded.
        database: Where the warehouse is.
        users: Their names, by role; `admin` has made all of it and is no superuser, `stranger` is in no role.
    """

    def __init__(self, lake: Loaded, database: Database) -> None:
        self.lake, self.database = lake, database
        mark = uuid.uuid4().hex[:8]
        self.users = {role: f"{role}_{mark}" for role in ("admin", "owner", "loader", "reader", "modeller", "stranger")}
        for name in self.users.values():
            database.run(f"CREATE ROLE {name} LOGIN")
        admin = self.users["admin"]
        database.run(f"ALTER ROLE {admin} CREATEROLE")
        database.run(f"ALTER DATABASE {database.name} OWNER TO {admin}")
        database.run(f"CREATE SCHEMA warehouse AUTHORIZATION {admin}")

    def target(self, role: str) -> dict[str, Any]:
        """The setting `warehouse` of a user."""
        url = urllib.parse.urlsplit(self.database.url)
        host = url.netloc.rpartition("@")[2]
        return {"postgres": {"url": url._replace(netloc=f"{self.users[role]}@{host}").geturl(), "schema": "warehouse"}}

    @contextlib.contextmanager
    def client(self, role: str) -> Iterator[psycopg.Connection[Any]]:
        """A connection of a user."""
        url = self.target(role)["postgres"]["url"]
        with psycopg.connect(url, autocommit=True, options="-c search_path=warehouse") as connection:
            yield connection

    def may(self, role: str, sql: str) -> None:
        """The user can do this."""
        with self.client(role) as connection:
            connection.execute(sql.encode())

    def may_not(self, role: str, *statements: str) -> None:
        """The server refuses each of these."""
        with self.client(role) as connection:
            for sql in statements:
                with pytest.raises(DENIED):
                    connection.execute(sql.encode())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[World]:
    """Such a warehouse, in which nothing is loaded yet."""
    lake = Loaded(tmp_path / "lake")
    lake.root.mkdir()
    lake.warehouses = Warehouses(tmp_path, database)
    install(lake, monkeypatch)
    lake.commit([event("s1", "ada", "2024-12-16T10:00:00", "user_signup"), event("p1", "ada", "2024-12-17T10:00:00")])
    made = World(lake, database)
    report = migrate(lake.spec(), made.target("admin"), roles=True)
    assert (report.before, tuple(report.roles)) == (None, ROLES)
    for role in ("owner", "loader", "reader", "modeller"):
        database.run(f"GRANT penstock_{role} TO {made.users[role]}")
    yield made
    # Roles belong to the whole server, and tests share it.
    for name in (*made.users.values(), *ROLES):
        database.run(f"DROP OWNED BY {name}" if name in ROLES else f"REASSIGN OWNED BY {name} TO postgres")
    for name in made.users.values():
        database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


CHANGES = ("DELETE FROM fact_events", "UPDATE fact_events SET country = 'FR'", "TRUNCATE fact_events")
ALTERS = (
    "DROP TABLE fact_events",
    "ALTER TABLE fact_events ADD COLUMN x INTEGER",
    "CREATE INDEX ON fact_events (page)",
)


def test_each_role_can_what_it_must_and_nothing_else(world: World) -> None:
    lake = world.lake

    # Who loads.
    assert load(lake.spec(), world.target("loader")).counts.inserted == 2
    assert load(lake.spec(), world.target("loader"), date="2024-12-17").counts.inserted == 0
    world.may_not("loader", *ALTERS, "CREATE TABLE x (n INTEGER)", "TRUNCATE fact_events", "DROP SCHEMA warehouse")
    world.may_not("loader", "UPDATE penstock_schema SET version = 1", "DELETE FROM penstock_schema")

    # Who reads.
    assert audit(lake.spec(), world.target("reader")).balanced
    spec = lake.spec(warehouse=world.target("reader"))
    assert {check.name for check in run_checks(spec, "2024-12-17").checks} >= {"freshness", "volume"}
    world.may_not("reader", *ALTERS, *CHANGES, "CREATE TABLE x (n INTEGER)", "DELETE FROM penstock_loads")
    with pytest.raises(PenstockError, match=r"permission denied"):
        load(lake.spec(), world.target("reader"), date="2024-12-17")

    # Who makes models; what they make can be read.
    world.may("modeller", "SET ROLE penstock_modeller; CREATE TABLE mart AS SELECT count(*) AS n FROM fact_events")
    world.may("modeller", "CREATE TEMPORARY TABLE mart__dbt_tmp AS SELECT 1")
    world.may_not("modeller", *ALTERS, *CHANGES)
    with world.client("reader") as connection:
        assert connection.execute("SELECT n FROM mart").fetchall() == [(2,)]
    world.may_not("reader", "DELETE FROM mart")

    # Nobody else.
    with pytest.raises(WarehouseError, match="permission denied for schema warehouse"):
        audit(lake.spec(), world.target("stranger"))
    world.may_not("stranger", "SELECT * FROM warehouse.fact_events", "CREATE TABLE warehouse.x (n INTEGER)")


def test_it_can_be_run_again(world: World) -> None:
    rights = (
        "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class "
        "WHERE relnamespace = 'warehouse'::regnamespace AND relkind = 'r' ORDER BY 1"
    )
    before = world.database.rows(rights)
    assert {owner for _, owner, _ in before} == {"penstock_owner"}
    again = migrate(world.lake.spec(), world.target("admin"), roles=True)
    assert again.before == again.after
    assert world.database.rows(rights) == before


def test_who_owns_upgrades_and_the_others_go_on(world: World) -> None:
    lake = world.lake
    load(lake.spec(), world.target("loader"))
    world.may("owner", "DROP TABLE penstock_days; UPDATE penstock_schema SET version = 1")
    for role in ("loader", "reader", "stranger"):
        with pytest.raises(WarehouseError, match=r"permission denied|must be owner"):
            migrate(lake.spec(), world.target(role))
    assert migrate(lake.spec(), world.target("owner")).before == 1
    # The table that was made belongs to the role, and not to the user: the loader has its rights on it.
    lake.commit([event("p2", "bob", "2024-12-18T10:00:00", "purchase")])
    assert load(lake.spec(), world.target("loader")).counts.inserted == 1
    assert audit(lake.spec(), world.target("reader")).balanced


def test_the_versions_of_a_second_pipeline_are_the_owners_too(world: World) -> None:
    report = migrate({"name": "payments", "lake": "x"}, world.target("admin"), roles=True)
    assert report.before is None
    world.may("loader", "SELECT * FROM transactions")
    for pipeline in ("ecommerce", "payments"):
        table = f"penstock_alembic_{pipeline}"
        world.may("owner", f"SELECT version_num FROM {table}")
        world.may_not("loader", f"UPDATE {table} SET version_num = '0001'", f"DELETE FROM {table}")
        world.may_not("reader", f"SELECT * FROM {table}")


def test_a_superuser_makes_them_too(world: World) -> None:
    postgres = {"postgres": {"url": world.database.url, "schema": "warehouse"}}
    assert migrate(world.lake.spec(), postgres, roles=True).before is not None
    assert load(world.lake.spec(), world.target("loader")).counts.inserted == 2


def test_the_statements_can_be_had(world: World) -> None:
    written = migrate(world.lake.spec(), world.target("admin"), sql=True, roles=True).sql
    assert written
    assert "'penstock_days'" in written and "{tables}" not in written
    assert "password" not in written.lower()
    world.database.run("SET search_path = warehouse; " + written)
