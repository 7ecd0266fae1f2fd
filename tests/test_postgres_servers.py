"""Servers and databases as others have set them up: other encodings and limits, rules of their own, and hangs."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import DataError, PenstockError, WarehouseError
from penstock.postgres import Postgres
from penstock.warehouse import postgres_backend
from penstock.warehouse.backend import BackendGoneError
from penstock.warehouse.postgres_backend import PostgresBackend
from services import until
from services.postgres import PASSWORD, new_database
from test_postgres_backend import HIDDEN, OURS, WAITING, opened, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.postgres import Database, PostgresServer

LIMITS = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"


def test_no_password_in_what_the_driver_says_of_a_url(postgres: PostgresServer) -> None:
    here = f"127.0.0.1:{postgres.port}/postgres?sslmode=disable"
    for scheme in ("POSTGRES", "Postgresql"):
        assert "password authentication failed" in refused(f"{scheme}://guarded:{HIDDEN}@{here}")
        backend = PostgresBackend(Postgres.of(f"{scheme}://guarded:{PASSWORD}@{here}"))
        assert backend.rows("SELECT current_user::text") == [("guarded",)]
        backend.close()
    for said in (
        f'invalid connection option "Postgres://u:{HIDDEN}@h/db?sslmode"',
        f'missing "=" after "Postgres://u:{HIDDEN}@h/db" in connection info string',
    ):
        told = postgres_backend.explain_connection("h:5432/db", Exception(said))
        assert str(told) == "warehouse h:5432/db: the driver cannot read its URL"


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("sslmode={}", 'invalid sslmode value: "…"'),
        ("options=-c%20{}", "-c … requires a value"),
        ("options=-c%20{}%3D1", 'unrecognized configuration parameter "…"'),
        ("options={}", "command-line argument"),
        ("options=-c%20work_mem%3D{}", 'invalid value for parameter "…": "…"'),
        ("port={}", 'invalid integer value "…" for connection option "port"'),
        ("connect_timeout={}", 'invalid integer value "…" for connection option "connect_timeout"'),
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(postgres: PostgresServer, parameter: str, said: str) -> None:
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres?{parameter.format(HIDDEN)}"
    told = refused(url)
    assert said in told and HIDDEN not in told


def test_where_the_socket_was_looked_for(tmp_path: Path) -> None:
    said = refused(f"postgresql:///shop?host={tmp_path}")
    assert f'on socket "{tmp_path}/.s.PGSQL.5432" failed: No such file or directory. Name the folder' in said
    assert "?host=/var/run/postgresql" in said


def test_text_in_a_database_of_another_encoding(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_database(postgres, "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0") as latin:
        latin.run("CREATE TABLE kept (city TEXT)")
        for encoding in (None, "LATIN1"):
            if encoding:
                monkeypatch.setenv("PGCLIENTENCODING", encoding)
            backend = opened(latin)
            backend.put_arrow("given", pa.table({"city": ["Zürich"]}))
            backend.change("INSERT INTO kept SELECT city FROM given UNION ALL SELECT 'Genève'")
            assert backend.rows("SELECT city, length(city) FROM kept") == [("Zürich", 6), ("Genève", 6)]
            with pytest.raises(DataError, match=r"no equivalent in|WITH ENCODING 'UTF8'") as caught:
                backend.put_arrow("given", pa.table({"city": ["Łódź"]}))
            assert "0x" not in str(caught.value)
            backend.close()
            monkeypatch.delenv("PGCLIENTENCODING", raising=False)
            assert latin.rows("SELECT city FROM kept") == [("Zürich",), ("Genève",)]
            latin.run("DELETE FROM kept")
    with new_database(postgres, "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0") as none:
        assert "WITH ENCODING 'UTF8'" in refused(none.url)


def test_what_does_not_fit_into_memory_goes_to_the_folder_for_that(database: Database, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    backend = opened(database)
    query = "SELECT current_setting('temp_directory') AS folder FROM files"
    backend.stage("staged", query, [(str(tmp_path / "a.parquet"), 7)], "files")
    ((folder,),) = backend.rows("SELECT folder FROM staged")
    backend.close()
    assert Path(folder).parent == Path(tempfile.gettempdir())
    assert not Path(folder).exists()


def test_what_is_committed_is_seen_under_the_lock_whatever_the_default_is(database: Database) -> None:
    database.run("CREATE TABLE kept (n INTEGER)")
    database.run(f"ALTER DATABASE \"{database.name}\" SET default_transaction_isolation = 'repeatable read'")
    first, second = opened(database), opened(database)
    first.begin("ecommerce")
    first.change("INSERT INTO kept VALUES (1)")
    seen: list[Any] = []

    def follows() -> None:
        second.begin("ecommerce")
        seen.extend(second.rows("SELECT n FROM kept"))
        second.rollback()

    thread = threading.Thread(target=follows)
    thread.start()
    until("the second waits for the lock", lambda: database.rows(WAITING))
    first.commit()
    thread.join(60)
    assert seen == [(1,)]
    first.close()
    second.close()


def test_limits_of_others_stand(database: Database) -> None:
    def limits(url: str = database.url, **settings: str) -> tuple[str, ...]:
        backend = PostgresBackend(Postgres.of({"url": url} | settings))
        ((*found,),) = backend.rows(LIMITS)
        backend.close()
        return tuple(found)

    assert limits() == ("30min", "10min")
    assert limits(f"{database.url}&options=-c%20statement_timeout%3D5s") == ("5s", "10min")
    database.run(f"ALTER DATABASE \"{database.name}\" SET lock_timeout = '7s'")
    assert limits() == ("30min", "7s")
    assert limits(statement_timeout="1m", lock_timeout="2m") == ("1min", "2min")
    told = Postgres.of({"url": database.url, "statement_timeout": "30m"})
    again = Postgres.from_spec(told.spec(), database.url)
    assert again.model_fields_set == {"url", "schema_", "statement_timeout"}


def test_a_server_that_cannot_look_for_its_clients(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # On Windows; here it gets a value that it refuses with the same code.
    script = PostgresBackend.script

    def windows(backend: PostgresBackend, sql: str) -> None:
        script(
            backend, sql.replace("client_connection_check_interval = '1s'", "client_connection_check_interval = '-1'")
        )

    monkeypatch.setattr(PostgresBackend, "script", windows)
    backend = opened(database)
    assert backend.rows("SELECT current_setting('client_connection_check_interval')") == [("0",)]
    assert backend.rows("SELECT current_setting('search_path')") == [("public",)]
    backend.close()


def test_which_lock_was_waited_for(database: Database) -> None:
    database.run("CREATE TABLE kept (n INTEGER)")
    holder = opened(database)
    holder.begin("ecommerce")
    holder.script("LOCK TABLE kept")
    for limits in ({"lock_timeout": "50ms"}, {"statement_timeout": "50ms"}):
        late = opened(database, **limits)
        with pytest.raises(WarehouseError, match="another load holds the lock"):
            late.begin("ecommerce")
        with pytest.raises(WarehouseError) as caught:
            late.rows("SELECT n FROM kept")
        assert "another load" not in str(caught.value)
        assert ("a lock on a table" in str(caught.value)) == ("lock_timeout" in limits)
        late.close()
    holder.close()


def test_no_values_of_events_in_other_errors(backend_rules: PostgresBackend) -> None:
    backend = backend_rules
    secret = "ada@example.org"
    for statement, kind, said in (
        (f"INSERT INTO kept VALUES ('{secret}')", WarehouseError, r"a trigger .* refused it \(SQLSTATE P0001\)"),
        ("SELECT CAST('99999999999' || '' AS INTEGER)", DataError, "value … is out of range for type integer"),
        (f"SELECT to_date('{secret}' || '', 'YYYY')", DataError, "invalid value"),
        (f"INSERT INTO long SELECT '{secret}' || string_agg(md5(g::text), '') FROM generate_series(1, 400) AS g",
         DataError, "too long to be looked up.*maxLength"),
    ):  # fmt: skip
        with pytest.raises(kind, match=said) as caught:
            backend.script(statement)
        assert type(caught.value) is kind
        assert not any(text in str(caught.value) for text in (secret, "ada@", "99999"))
    # While rows are fetched.
    with pytest.raises(PenstockError, match="value … is out of range") as caught:
        backend.rows("SELECT CAST('9999999999' || g AS INTEGER) FROM generate_series(1, 9) AS g")
    assert "99999" not in str(caught.value)


@pytest.fixture
def backend_rules(database: Database) -> Iterator[PostgresBackend]:
    """A connection to tables with a trigger and an index."""
    database.run(
        """
        CREATE TABLE kept (key TEXT);
        CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not from %', NEW.key; END $$;
        CREATE TRIGGER refuses BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION refuses();
        CREATE TABLE long (key TEXT PRIMARY KEY);
        """
    )
    backend = opened(database)
    yield backend
    backend.close()


SLOW = "SELECT g::bigint AS n FROM generate_series(1, 3) AS g WHERE pg_sleep(300 * (g / 3)) IS NOT NULL"


def test_rows_on_their_way_are_lost_with_the_connection(database: Database) -> None:
    backend = opened(database)

    def terminates() -> None:
        until("the query runs", lambda: database.rows(f"SELECT 1 {OURS} AND query LIKE '%pg_sleep(%'"))
        database.rows(f"SELECT pg_terminate_backend(pid) {OURS}")

    thread = threading.Thread(target=terminates)
    thread.start()
    with pytest.raises(BackendGoneError, match="the connection was lost"):
        pa.table(backend.arrow(SLOW))
    thread.join()
    backend.close()


def test_a_signal_ends_rows_on_their_way(database: Database) -> None:
    backend = opened(database)
    running = f"SELECT 1 {OURS} AND state = 'active' AND query LIKE '%pg_sleep(%'"

    def interrupts() -> None:
        until("the query runs", lambda: database.rows(running))
        os.kill(os.getpid(), signal.SIGTERM)

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stops)
    thread = threading.Thread(target=interrupts)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pa.table(backend.arrow(SLOW))
    finally:
        signal.signal(signal.SIGTERM, before)
        thread.join()
    assert not database.rows(running)
    assert pa.table(backend.arrow("SELECT 1::bigint AS n")).to_pylist() == [{"n": 1}]
    backend.close()


def test_a_server_that_does_not_react_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_backend, "PATIENCE", 0.5)
    database.run("CREATE TABLE kept (n INTEGER)")
    backend = opened(database)
    ((pid,),) = backend.rows("SELECT pg_backend_pid()")
    backend.begin("ecommerce")
    backend.change("INSERT INTO kept VALUES (1)")

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    def hangs() -> None:
        until("it runs", lambda: database.rows(f"SELECT 1 {OURS} AND state = 'active' AND query LIKE '%pg_sleep(%'"))
        os.kill(pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stops)
    thread = threading.Thread(target=hangs)
    thread.start()
    try:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.script("SELECT pg_sleep(600)")
        backend.rollback()
        with pytest.raises(BackendGoneError):
            backend.rows("SELECT 1")
        backend.reopen(10)
        assert backend.rows("SELECT count(*) FROM kept") == [(0,)]
        assert time.monotonic() - began < 60
    finally:
        signal.signal(signal.SIGTERM, before)
        thread.join()
        os.kill(pid, signal.SIGCONT)
    until("the server has undone it", lambda: not database.rows(f"SELECT 1 {OURS} AND pid = {pid}"))
    backend.begin("ecommerce")
    backend.close()
