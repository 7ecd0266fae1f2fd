"""The backend for PostgreSQL, against a real server: types, errors that tell nothing secret, limits, TLS."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.cli._common import exit_code_of
from penstock.errors import DataError, PenstockError, SettingsError, WarehouseError, WrongWarehouseError
from penstock.postgres import Postgres
from penstock.warehouse import connect, postgres_errors
from penstock.warehouse.backend import BackendGoneError, CommitUnknownError, DeadlockError
from penstock.warehouse.postgres_backend import PostgresBackend
from services import until
from services.postgres import PASSWORD, postgres_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from services.postgres import Database, PostgresServer

HIDDEN = "hunter2"
OURS = "FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"
WAITING = f"SELECT 1 {OURS} AND wait_event_type = 'Lock' AND wait_event = 'advisory'"


def naive(*parts: int) -> dt.datetime:
    """A time as the warehouse has it: UTC, without saying so."""
    return dt.datetime(*parts, tzinfo=dt.timezone.utc).replace(tzinfo=None)


def opened(database: Database, *, read_only: bool = False, **settings: Any) -> PostgresBackend:
    """A connection to the test's database."""
    return PostgresBackend(Postgres.of({"url": database.url} | settings), read_only=read_only)


@pytest.fixture
def backend(database: Database) -> Iterator[PostgresBackend]:
    """A connection that is closed at the end."""
    made = opened(database)
    yield made
    made.close()


def test_what_a_query_gives(backend: PostgresBackend) -> None:
    ((*got,),) = backend.rows(
        "SELECT 1, 2::bigint, 3::smallint, sum(4::bigint), 5.50::numeric(12, 2), NULL::numeric, 'text'::text, true, "
        "DATE '2024-12-17', TIMESTAMP '0001-01-01 00:00:00', TIMESTAMPTZ '2024-12-17 01:00:00+01', 'a'::name, "
        "2.5::float8"
    )
    assert got == [
        1, 2, 3, Decimal(4), Decimal("5.50"), None, "text", True, dt.date(2024, 12, 17), naive(1, 1, 1),
        dt.datetime(2024, 12, 17, tzinfo=dt.timezone.utc), "a", 2.5,
    ]  # fmt: skip
    assert [type(value) for value in got[:5]] == [int, int, int, Decimal, Decimal]
    assert backend.rows("SELECT 1 WHERE false") == []


def test_rows_are_there_without_pyarrow(database: Database) -> None:
    told = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from penstock.warehouse import connect\n"
        "warehouse = connect(sys.argv[1])\n"
        "print(warehouse.rows('SELECT 1.5::numeric, now() > DATE \\'2024-01-01\\''))\n"
        "warehouse.temporary('t', 'SELECT 1 AS a'); print(warehouse.columns('t')); warehouse.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", told, database.url], capture_output=True, text=True, check=False)
    assert done.stdout == "[(Decimal('1.5'), True)]\n['a']\n", done.stderr


def test_arrow_goes_there_and_back(backend: PostgresBackend) -> None:
    rows = pa.table(
        {
            "key": ["a", None],
            "amount": pa.array([Decimal("1.25"), None], pa.decimal128(12, 2)),
            "at": pa.array([naive(1, 1, 1), None], pa.timestamp("us")),
            "zoned": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), None], pa.timestamp("us", "UTC")),
            "flag": [True, None],
            "small": pa.array([1, None], pa.int32()),
            "big": pa.array([2**62, None], pa.int64()),
        }
    )
    backend.put_arrow("given", rows)
    assert backend.rows("SELECT * FROM given") == [tuple(row.values()) for row in rows.to_pylist()]
    assert pa.table(backend.arrow("SELECT key, at, zoned, flag, small, big FROM given")).to_pylist() == (
        rows.drop_columns("amount").to_pylist()
    )
    backend.put_arrow("given", rows.slice(0, 0))
    assert backend.rows("SELECT count(*) FROM given") == [(0,)]
    assert backend.columns("given") == rows.column_names
    assert backend.columns("not_there") == []
    backend.drop("given", "not_there")
    assert backend.columns("given") == []


def test_files_are_staged_whatever_duckdb_makes_of_them(backend: PostgresBackend, tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [1, 2], "text": ["a\0b", None]}), path)
    query = (
        "SELECT n, text AS \"Text\", sum(n) OVER () AS huge, [n] AS list, {'n': n} AS fields, n::UTINYINT AS tiny, "
        "uuid '6c0b9c9e-0000-4000-8000-000000000000' AS id, (n / 4)::DECIMAL(12, 2) AS amount, "
        "TIMESTAMP_NS '2024-12-17 10:00:00' AS nanos, lake_file FROM files"
    )
    backend.stage("staged", query, [(path, 7)], "files")
    assert backend.rows("SELECT * FROM staged ORDER BY n") == [
        (
            n, text, Decimal(3), f"[{n}]", f'{{"n":{n}}}', n, "6c0b9c9e-0000-4000-8000-000000000000", Decimal(n) / 4,
            naive(2024, 12, 17, 10), 7,
        )
        for n, text in ((1, "a\ufffdb"), (2, None))
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"have not the columns expected.*nothing_like_it"):
        backend.stage("staged", "SELECT nothing_like_it FROM files", [(path, 7)], "files")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(PenstockError, match=r"a\.parquet"):
        backend.stage("staged", "SELECT n FROM files", [(path, 7)], "files")


def test_nothing_is_seen_before_commit_and_nothing_stays_after_rollback(
    backend: PostgresBackend, database: Database
) -> None:
    database.run("CREATE TABLE kept (n INTEGER)")
    backend.begin("a")
    backend.temporary("numbers", "SELECT generate_series(1, 5) AS n")
    assert backend.change("INSERT INTO kept SELECT n FROM numbers") == 5
    assert (
        backend.change("UPDATE kept SET n = n + 1 WHERE n > 3"),
        backend.change("DELETE FROM kept WHERE n = 1"),
    ) == (
        2,
        1,
    )
    assert database.rows("SELECT count(*) FROM kept") == [(0,)]
    backend.commit()
    assert database.rows("SELECT n FROM kept ORDER BY n") == [(2,), (3,), (5,), (6,)]
    backend.begin("a")
    backend.script("DELETE FROM kept; CREATE TABLE another (n INTEGER)")
    backend.rollback()
    backend.rollback()
    assert database.rows("SELECT count(*), to_regclass('another') FROM kept") == [(4, None)]
    # Between two loads no transaction is open: a database that waits for its oldest one would not be tidied up.
    (state,) = {state for (state,) in database.rows(f"SELECT state {OURS}")}
    assert state == "idle"


def test_a_second_writer_waits_for_the_first(database: Database) -> None:
    first, second, other = opened(database), opened(database), opened(database)
    first.begin("ecommerce")
    other.begin("payments")
    entered = threading.Event()

    def enters() -> None:
        second.begin("ecommerce")
        entered.set()

    waiting = threading.Thread(target=enters)
    waiting.start()
    until("the second one waits", lambda: database.rows(WAITING))
    assert not entered.is_set()
    first.commit()
    waiting.join(30)
    assert entered.is_set()
    for one in (first, second, other):
        one.close()
    holder, late = opened(database), opened(database, lock_timeout="50ms")
    holder.begin("ecommerce")
    with pytest.raises(WarehouseError, match=r"lock timeout.*another load holds the lock"):
        late.begin("ecommerce")
    holder.close()
    late.begin("ecommerce")
    late.close()


def test_a_statement_that_takes_too_long(database: Database) -> None:
    backend = opened(database, statement_timeout="50ms")
    for slow in (lambda: backend.rows("SELECT 1 FROM pg_sleep(30)"), lambda: backend.script("SELECT pg_sleep(30)")):
        with pytest.raises(WarehouseError, match=r"statement timeout.*warehouse\.postgres\.statement_timeout"):
            slow()
    assert backend.rows("SELECT 1") == [(1,)]
    backend.close()


@pytest.mark.parametrize("how", ["rows", "script", "change", "temporary"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_statement(
    backend: PostgresBackend, database: Database, how: str, sent: signal.Signals
) -> None:
    running = f"SELECT 1 {OURS} AND state = 'active' AND query LIKE '%pg_sleep(600)%'"

    def interrupts() -> None:
        until("the statement runs", lambda: database.rows(running))
        os.kill(os.getpid(), sent)

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(sent, stops)
    thread = threading.Thread(target=interrupts)
    thread.start()
    backend.begin("ecommerce")
    query = "SELECT 1 FROM pg_sleep(600)"
    try:
        with pytest.raises(KeyboardInterrupt):
            getattr(backend, how)(*(("t", query) if how == "temporary" else (query,)))
    finally:
        signal.signal(sent, before)
        thread.join()
    assert not database.rows(running)
    backend.rollback()
    backend.begin("ecommerce")
    assert backend.rows("SELECT 1") == [(1,)]


def test_queries_only(database: Database) -> None:
    database.run("CREATE TABLE kept (n INTEGER)")
    backend = opened(database, read_only=True)
    assert backend.rows("SELECT count(*) FROM kept") == [(0,)]
    with pytest.raises(WarehouseError, match="read-only"):
        backend.change("INSERT INTO kept VALUES (1)")
    backend.close()


def test_errors_hold_no_values(backend: PostgresBackend, database: Database) -> None:
    database.run("CREATE TABLE kept (key TEXT UNIQUE, n INTEGER CHECK (n < 5), filled TEXT NOT NULL DEFAULT 'x')")
    secret = "ada@example.org"
    for statement, kind, said in (
        (f"INSERT INTO kept VALUES ('{secret}', 1), ('{secret}', 2)", DataError, 'unique constraint "kept_key_key"'),
        (f"INSERT INTO kept VALUES ('{secret}', 9)", DataError, "check constraint"),
        (f"INSERT INTO kept VALUES ('{secret}', 1, NULL)", DataError, "not-null constraint"),
        (f"INSERT INTO kept SELECT 'x', CAST('{secret}' || '' AS INTEGER)", DataError, "invalid input syntax"),
        (f"SELECT '{secret}' FROM nothing_like_it", DataError, "nothing_like_it"),
        (f"SELECT column_like_none, '{secret}' FROM kept", DataError, "column_like_none"),
        (f"SELEC '{secret}'", WarehouseError, "syntax error"),
        ("CREATE TABLE kept (n INTEGER)", WarehouseError, "already exists; somebody else's table"),
    ):
        for run in (backend.script, backend.change):
            with pytest.raises(kind, match=re.escape(said)) as caught:
                run(statement)
            assert (secret in str(caught.value), caught.value.__suppress_context__) == (False, True)
            assert str(caught.value).startswith(f"warehouse {backend.place}: ")
    # An error that comes only while rows are fetched.
    for query in (
        f"SELECT CAST('{secret}' || g AS INTEGER) FROM generate_series(1, 9) AS g",
        "SELECT 1 / (3 - g) FROM generate_series(1, 9) AS g",
    ):
        with pytest.raises(PenstockError, match=r"invalid input syntax|division by zero") as caught:
            backend.rows(query)
        assert secret not in str(caught.value)
    assert database.rows("SELECT count(*) FROM kept") == [(0,)]


def refused(url: str, **settings: Any) -> str:
    """What is said to a URL that does not work; never what is secret in it."""
    with pytest.raises((WarehouseError, SettingsError)) as caught:
        connect({"postgres": {"url": url} | settings})
    said = str(caught.value)
    assert HIDDEN not in said
    assert PASSWORD not in said
    assert caught.value.__cause__ is None
    return said


@pytest.mark.parametrize(
    ("said", "for_good"),
    [
        ('FATAL:  password authentication failed for user "u"', True),
        ("fe_sendauth: no password supplied", True),
        ('FATAL:  role "u" does not exist', True),
        ('FATAL:  database "shop" does not exist', True),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u", database "shop", no encryption', True),
        ("SSL error: certificate verify failed", True),
        ("Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?", False),
        ("FATAL:  the database system is starting up", False),
        ("FATAL:  the database system is shutting down", False),
        ("FATAL:  sorry, too many clients already", False),
        ('could not translate host name "db" to address: Temporary failure in name resolution', False),
        ("timeout expired", False),
        ("something that nobody knows", False),
    ],
)
def test_what_may_pass_is_no_wrong_setting(said: str, for_good: bool) -> None:
    text = f'connection to server at "db" (10.0.0.2), port 5432 failed: {said}'
    error = postgres_errors.explain_connection("db:5432/shop", Exception(text))
    assert isinstance(error, WarehouseError)
    assert (type(error) is WrongWarehouseError) == for_good
    assert exit_code_of(error) == (2 if for_good else 3)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("42501", 2),
        ("3F000", 2),
        ("42P07", 2),
        ("40P01", 3),
        ("53100", 3),
        ("53200", 3),
        ("53300", 3),
        ("55P03", 3),
        ("25006", 3),
        ("57014", 3),
        ("57P01", 3),
        ("XX000", 3),
    ],
)
def test_what_a_statement_met_that_may_pass_is_no_wrong_setting(state: str, code: int) -> None:
    error = Exception("ERROR: it is so")
    error.sqlstate = state  # type: ignore[attr-defined]
    told = postgres_errors.explain("db:5432/shop", error)
    assert isinstance(told, WarehouseError)
    assert exit_code_of(told) == code


def test_connections_that_cannot_be_made(postgres: PostgresServer, database: Database) -> None:
    here = f"127.0.0.1:{postgres.port}"
    assert refused(f"postgresql://guarded:{HIDDEN}@{here}/{database.name}?sslmode=disable").startswith(
        f"warehouse {here}/{database.name}: password authentication failed for user"
    )
    assert "PGPASSWORD" in refused(f"postgresql://guarded@{here}/{database.name}?sslmode=disable")
    assert "CREATE DATABASE" in refused(f"postgresql://postgres:{HIDDEN}@{here}/nodb?sslmode=disable")
    assert "CREATE ROLE" in refused(f"postgresql://no_such:{HIDDEN}@{here}/{database.name}?sslmode=disable")
    assert "Connection refused. Is the server running" in refused(f"postgresql://u:{HIDDEN}@127.0.0.1:1/x")
    assert "Is the host's name right?" in refused(f"postgresql://u:{HIDDEN}@nohost.invalid/x")
    assert "there is no schema nowhere" in refused(database.url, schema="nowhere")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "it is empty"),
        ("postgresql:host=x,password=hunter2", "write postgresql://"),
        ("postgresql://u:hunter2@h", "no database is named"),
        ("postgresql://u:hunter2@h:port/x", "its host or port cannot be read"),
        ("postgresql://u:hunter2@h:99999/x", "its host or port cannot be read"),
        ("postgresql://u:hunter2/3@h/x", "%2F"),
        ("postgresql://u:hunter2@3@h/x", "%40"),
        ("postgresql://u:hunter2?3@h/x", "%3F"),
        ("postgresql://u:hunter2%@h/x", "%25"),
        ("postgresql://u:hunter2 3@h/x", "%20"),
        ("postgresql://u:hunter2#3@h/x", "%23"),
        ("postgresql://u:hunter2@[::1/x", "its host or port cannot be read"),
        ("postgresql://u:hunter2@h/x?ssl_mode=require", "did you mean 'sslmode'?"),
        ("postgresql://u:hunter2@h/x?sslmode=always", "invalid sslmode value"),
    ],
)
def test_urls_that_cannot_be_read(url: str, said: str) -> None:
    assert said in refused(url)


def test_where_a_url_leads(postgres: PostgresServer, database: Database) -> None:
    for url, place in (
        ("postgres://u:hunter2@db.example:5433/shop", "db.example:5433/shop"),
        ("postgresql://db.example/shop?user=u&password=hunter2", "db.example:5432/shop"),
        ("postgresql:///shop?host=/run/postgresql", "/run/postgresql:5432/shop"),
        ("postgresql:///shop", "localhost/shop"),
        ("postgresql://a,b:5433/shop", "a:5432,b:5433/shop"),
        ("postgresql://[::1]:5433/shop", "[::1]:5433/shop"),
        ("postgresql://?service=shop", "service shop"),
        ("postgresql://h/d%20b?sslmode=verify-full", "h:5432/d b"),
    ):
        found = Postgres.of(url)
        assert found.place == place
        assert Postgres.of({"url": url, "schema": "marts"}).place == f"{place} (schema marts)"
        assert HIDDEN not in repr(found) + str(found.spec())
        assert Postgres.from_spec(found.spec(), url) == found


def test_a_schema_of_its_own(database: Database) -> None:
    database.run("CREATE SCHEMA marts; CREATE TABLE public.kept (a INTEGER); CREATE TABLE marts.kept (b INTEGER)")
    backend = opened(database, schema="marts")
    assert backend.columns("kept") == ["b"]
    backend.begin()
    backend.script("CREATE TABLE made (n INTEGER)")
    backend.commit()
    backend.close()
    assert database.rows("SELECT table_schema FROM information_schema.tables WHERE table_name = 'made'") == [("marts",)]


def test_rights_that_are_missing(postgres: PostgresServer, database: Database) -> None:
    backend = PostgresBackend(Postgres.of(postgres.url(database.name, f"guarded:{PASSWORD}")))
    with pytest.raises(WrongWarehouseError, match=r"permission denied for schema public; .* needs more rights"):
        backend.script("CREATE TABLE made (n INTEGER)")
    backend.close()


def test_tls(postgres: PostgresServer, database: Database) -> None:
    def url(ca: Path, **more: str) -> str:
        return postgres.url(database.name, **{"sslmode": "verify-full", "sslrootcert": str(ca)} | more)

    backend = PostgresBackend(Postgres.of(url(postgres.ca)))
    assert backend.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]
    backend.close()
    assert "name its authority's certificate in sslrootcert" in refused(url(postgres.other_ca))
    assert "sslrootcert" in refused(url(postgres.folder / "none.pem"))
    with postgres_server(ssl="off") as plain:
        assert "The server has no TLS" in refused(plain.url(sslmode="require"))


def test_a_connection_that_is_lost(database: Database) -> None:
    terminate = f"SELECT pg_terminate_backend(pid) {OURS}"
    database.run("CREATE TABLE kept (n INTEGER)")
    backend = opened(database)
    calls: tuple[Callable[[], object], ...] = (
        lambda: backend.rows("SELECT 1"),
        lambda: backend.script("SELECT 1"),
        lambda: backend.change("INSERT INTO kept VALUES (1)"),
        lambda: backend.put_arrow("t", duckdb.sql("SELECT 1 AS n")),
        lambda: backend.begin("again"),
    )
    for call in calls:
        backend.begin("a")
        backend.change("INSERT INTO kept VALUES (1)")
        database.rows(terminate)
        with pytest.raises(BackendGoneError, match="the connection was lost"):
            call()
        backend.rollback()
        backend.reopen(10)
    backend.begin("a")
    backend.change("INSERT INTO kept VALUES (1)")
    database.rows(terminate)
    with pytest.raises(CommitUnknownError, match="whether it was done is not known"):
        backend.commit()
    backend.reopen(10)
    assert backend.rows("SELECT count(*) FROM kept") == [(0,)]
    backend.close()
    backend.close()


def test_a_server_that_comes_back() -> None:
    with postgres_server() as server:
        backend = PostgresBackend(Postgres.of(server.url()))
        server.kill()
        with pytest.raises(BackendGoneError):
            backend.rows("SELECT 1")
        with pytest.raises(BackendGoneError, match="Connection refused"):
            backend.reopen(0.2)
        comes = threading.Thread(target=server.start)
        comes.start()
        backend.reopen(60)
        comes.join()
        assert backend.rows("SELECT 1") == [(1,)]
        backend.close()


def test_a_deadlock(database: Database) -> None:
    database.run("CREATE TABLE kept (k INTEGER PRIMARY KEY, n INTEGER); INSERT INTO kept VALUES (1, 0), (2, 0)")
    one, other = opened(database), opened(database)
    for backend, key in ((one, 1), (other, 2)):
        backend.begin()
        backend.change(f"UPDATE kept SET n = 1 WHERE k = {key}")
    failed: list[PenstockError] = []

    def crosses(backend: PostgresBackend, key: int) -> None:
        try:
            backend.change(f"UPDATE kept SET n = 2 WHERE k = {key}")
        except PenstockError as error:
            failed.append(error)

    threads = [threading.Thread(target=crosses, args=pair) for pair in ((one, 2), (other, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in failed] == [DeadlockError]
    one.close()
    other.close()


def test_the_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    monkeypatch.delitem(sys.modules, "penstock.warehouse.postgres_backend")
    with pytest.raises(ImportError, match=r'pip install "penstock\[postgres\]"'):
        connect("postgresql://u@h/x")
