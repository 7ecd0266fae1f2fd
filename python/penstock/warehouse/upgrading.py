"""`penstock migrate`: a warehouse's tables to the newest version, in one transaction; and the roles of PostgreSQL."""
# ruff: noqa: S608 - what is put into the statements are names of our own, or quoted

from __future__ import annotations

import io
import re
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import MissingExtraError, PenstockError, SettingsError
from penstock.warehouse.duckdb_backend import quoted
from penstock.warehouse.migrate import SCHEMA_VERSION, ddl_of, make_or_upgrade, new_tables, plan, version_of
from penstock.warehouse.model import tables_of
from penstock.warehouse.target import WAIT, Target, connect, warehouse_of
from penstock.warehouse.transaction import transact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.abc import Traversable

    from penstock.postgres import Postgres

ROLES = ("penstock_owner", "penstock_loader", "penstock_reader", "penstock_modeller")
"""Who may change tables, load them, read them, and make models of them."""


@dataclass
class MigrateReport:
    """What was done to a warehouse's tables.

    Attributes:
        before: The version that they were of; none where there were none.
        after: The version that they are of now.
        sql: The statements, where they were only asked for.
        roles: The roles that have their rights now.
    """

    pipeline: str
    warehouse: str
    kind: str
    before: int | None
    after: int
    sql: str | None = None
    roles: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def migrate(
    spec: Mapping[str, Any],
    warehouse: str | Mapping[str, Any] | Target | None = None,
    *,
    tables: Path | Traversable | None = None,
    sql: bool = False,
    roles: bool = False,
) -> MigrateReport:
    """Bring the tables of a warehouse to the newest version; make them where there are none.

    All of it is one transaction, under the lock of the tables: others see the old tables or the new ones. Run again, it
    changes nothing.

    Args:
        spec: The pipeline file, read: `name`, `warehouse`.
        warehouse: Another warehouse than that of `spec`.
        tables: The folder with the SQL files of the tables; that of the ready-made pipeline of this name unless given.
        sql: Change nothing, and give the statements that would be run.
        roles: Make the roles too, and give them their rights on these tables; in PostgreSQL only.

    Raises:
        SettingsError: The warehouse setting is wrong, or roles are wanted in a DuckDB file.
        WarehouseError: The warehouse cannot be opened or changed, or was made by a newer version.
        MissingExtraError: It is PostgreSQL, and what is needed for it is not installed.
    """
    target = warehouse_of(spec, warehouse)
    pipeline = str(spec["name"])
    ddl = ddl_of(tables if tables is not None else tables_of(pipeline), target.kind)
    if target.postgres is not None:
        return _postgres(target.postgres, pipeline, ddl, sql=sql, roles=roles)
    if roles:
        raise SettingsError("--roles: a DuckDB file has no roles; who may read or write it the file system says")
    new = not Path(target.place).exists()
    if sql and new:
        made = "\n".join(new_tables(pipeline, ddl, target.kind, bookkeeping=True))
        return MigrateReport(pipeline, target.place, target.kind, None, SCHEMA_VERSION, sql=made)
    backend = connect(target, read_only=sql, wait=WAIT)
    try:
        before = version_of(backend, pipeline)
        report = MigrateReport(pipeline, backend.place, target.kind, before, SCHEMA_VERSION)
        if sql:
            planned = plan(backend, pipeline, ddl)
            report.sql = "\n".join(text for texts in planned.values() for text in texts)
        elif before != SCHEMA_VERSION:
            transact(backend, "tables", lambda: make_or_upgrade(backend, pipeline, ddl))
    finally:
        backend.close()
    return report


class _Session:
    """A connection of SQLAlchemy's, in a transaction, as far as a warehouse is looked at and changed here."""

    kind = "postgres"

    def __init__(self, postgres: Postgres, connection: Any) -> None:
        self.place = postgres.place
        self.connection = connection

    def run(self, sql: str) -> Any:
        """Run statements, several too; nothing in them stands for a value."""
        return self.connection.exec_driver_sql(sql, execution_options={"no_parameters": True})

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        return [tuple(row) for row in self.run(sql)]

    def columns(self, table: str) -> list[str]:
        """Names of a table's columns; empty when there is no such table."""
        found = self.rows(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass({quoted(table)}) AND attnum > 0 "
            "AND NOT attisdropped ORDER BY attnum"
        )
        return [name for (name,) in found]

    def act_as_owner(self) -> None:
        """Become the role that the tables belong to, so that new ones do so too; where there is such a role."""
        owned = self.rows(
            "SELECT 1 FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner "
            f"WHERE c.oid = to_regclass('penstock_schema') AND r.rolname = {quoted(ROLES[0])} "
            "AND pg_has_role(current_user, r.oid, 'MEMBER')"
        )
        if owned:
            self.run(f"SET LOCAL ROLE {ROLES[0]}")


def _postgres(postgres: Postgres, pipeline: str, ddl: Mapping[str, str], *, sql: bool, roles: bool) -> MigrateReport:
    try:
        import psycopg
        import sqlalchemy
    except ImportError as missing:
        raise MissingExtraError(
            'migrations of PostgreSQL need a package that is not installed: pip install "penstock[postgres]"',
            extra="postgres",
        ) from missing
    from penstock.warehouse.postgres_errors import explain, explain_connection

    url = postgres.url.get_secret_value()

    def opens() -> Any:
        named = {} if "application_name" in postgres.parameters else {"application_name": "penstock"}
        return psycopg.connect(url, **named)

    # Libpq reads its URL itself, with all that it may name; this one is only for the dialect.
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=opens, poolclass=sqlalchemy.pool.NullPool)
    try:
        connection = engine.connect()
    except psycopg.Error as error:
        raise explain_connection(postgres.place, error) from None
    except sqlalchemy.exc.DBAPIError as error:
        raise explain_connection(postgres.place, error.orig or error) from None
    try:
        with connection, connection.begin() as transaction:
            report = _in_transaction(postgres, _Session(postgres, connection), pipeline, ddl, sql=sql, roles=roles)
            if sql:
                transaction.rollback()
            return report
    except sqlalchemy.exc.DBAPIError as error:
        # What SQLAlchemy says holds the statement; what the server says after its first line may hold values.
        raise explain(postgres.place, error.orig or error) from None
    except psycopg.Error as error:
        raise explain(postgres.place, error) from None
    finally:
        engine.dispose()


def _in_transaction(
    postgres: Postgres, session: _Session, pipeline: str, ddl: Mapping[str, str], *, sql: bool, roles: bool
) -> MigrateReport:
    from penstock.warehouse.postgres_backend import LOCKS, OLDEST

    ((version,),) = session.rows("SELECT current_setting('server_version_num')::int")
    if version < OLDEST * 10_000:
        raise _wrong(postgres, f"PostgreSQL {version // 10_000} is too old; {OLDEST} or newer")
    may = session.rows(
        f"SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = {quoted(postgres.schema_)}"
    )
    if not may:
        raise _wrong(postgres, f"there is no schema {postgres.schema_}. Make it, or name another one")
    if not may[0][0]:
        raise _wrong(
            postgres, f"permission denied for schema {postgres.schema_}; see the roles in the guide to PostgreSQL"
        )
    lock = quoted(f"{postgres.schema_}/tables")
    session.run(
        f"""
        SET LOCAL search_path = "{postgres.schema_}";
        SET LOCAL TimeZone = 'UTC';
        SET LOCAL client_min_messages = 'warning';
        SET LOCAL lock_timeout = {postgres.lock_timeout // 1_000};
        SET LOCAL statement_timeout = {postgres.statement_timeout // 1_000};
        """
    )
    if not sql:
        session.run(f"SELECT pg_advisory_xact_lock({LOCKS}, hashtext({lock}))")
        session.act_as_owner()
    before = version_of(session, pipeline)
    report = MigrateReport(pipeline, postgres.place, "postgres", before, SCHEMA_VERSION)
    statements = plan(session, pipeline, ddl)
    granted = _roles_sql(pipeline, ddl) if roles else ""
    if sql:
        report.sql = _offline(postgres, session, pipeline, before, statements) + granted
        return report
    _online(postgres, session, pipeline, before, statements)
    if roles:
        session.run("RESET ROLE")
        session.run(granted)
        report.roles = list(ROLES)
    return report


def _wrong(postgres: Postgres, reason: str) -> PenstockError:
    from penstock.errors import WrongWarehouseError

    return WrongWarehouseError(f"warehouse {postgres.place}: {reason}")


def _version_table(pipeline: str) -> str:
    """Where Alembic notes the version: a table for each pipeline, and none that is called as other programs' are."""
    return f"penstock_alembic_{pipeline}"[:63]


def _alembic(session: _Session, postgres: Postgres, pipeline: str, statements: Mapping[int, list[str]]) -> Any:
    from alembic.config import Config

    with as_file(files("penstock.warehouse") / "revisions") as folder:
        config = Config(output_buffer=io.StringIO())
        # Alembic fills in what stands behind a '%'.
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes.update(
        connection=session.connection,
        run=session.run,
        schema=postgres.schema_,
        statements=statements,
        version_table=_version_table(pipeline),
    )
    return config


def _online(
    postgres: Postgres, session: _Session, pipeline: str, before: int | None, statements: Mapping[int, list[str]]
) -> None:
    from alembic import command

    config = _alembic(session, postgres, pipeline, statements)
    if before is None:
        for texts in statements.values():
            for text in texts:
                session.run(text)
    # penstock_schema is the truth: a load that makes the tables knows nothing of Alembic.
    command.stamp(config, f"{before or SCHEMA_VERSION:04}", purge=True)
    command.upgrade(config, "head")


def _offline(
    postgres: Postgres, session: _Session, pipeline: str, before: int | None, statements: Mapping[int, list[str]]
) -> str:
    from alembic import command

    config = _alembic(session, postgres, pipeline, statements)
    parts = [f'SET LOCAL search_path = "{postgres.schema_}";\n']
    if before is None:
        parts += [text for texts in statements.values() for text in texts]
    if not session.columns(_version_table(pipeline)):
        command.stamp(config, f"{before or SCHEMA_VERSION:04}", sql=True)
    if before is not None and before < SCHEMA_VERSION:
        command.upgrade(config, f"{before:04}:head", sql=True)
    parts.append(config.output_buffer.getvalue())
    return "\n".join(["BEGIN;", *parts, "COMMIT;\n"])


def _roles_sql(pipeline: str, ddl: Mapping[str, str]) -> str:
    ours = files("penstock.warehouse")
    migrations = [file.read_text(encoding="utf-8") for file in (ours / "migrations").iterdir()]
    texts = [(ours / "bookkeeping.sql").read_text(encoding="utf-8"), *migrations, *ddl.values()]
    named = re.findall(
        r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW) (?:IF NOT EXISTS )?(\w+)", "\n".join(texts), re.MULTILINE
    )
    listed = ", ".join(quoted(name) for name in dict.fromkeys([*named, _version_table(pipeline)]))
    return (ours / "roles.sql").read_text(encoding="utf-8").replace("{tables}", listed)
