"""PostgreSQL servers for tests: the programs of the machine, a cluster of their own, nothing of it survives.

A server speaks TLS to whoever asks for it, with a certificate of an authority of its own. It trusts everybody on
loopback but the role `guarded`, who has to give a password.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services import Process, free_port, missing, need, until
from services.certificates import make_authority, sign

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

PASSWORD = "a-secret-that-stays-a-secret"
NEEDED = ("initdb", "postgres")


def programs() -> Path | None:
    """The folder with the newest server's programs: from PATH, or where Debian puts them; none without one."""
    on_path = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    debian = sorted(
        (path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()),
        key=lambda path: int(path.parent.name),
        reverse=True,
    )
    return next((place for place in [*on_path, *debian] if all((place / name).exists() for name in NEEDED)), None)


def _somebody() -> pwd.struct_passwd | None:
    """Who runs the server when we are root, whom PostgreSQL refuses; none when we are not."""
    if os.geteuid() != 0:
        return None
    found = [user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody")]
    if not found:
        missing("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")
    return max(found, key=lambda user: user.pw_name == "postgres")


@dataclass
class PostgresServer:
    """A server with its data in a folder; started again it has the same port and data.

    Attributes:
        folder: Where data, certificates and log lie.
        settings: Further settings of the server.
        ca: The certificate of the authority that it is signed by.
        other_ca: That of another authority.
    """

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: Process | None = None

    def __post_init__(self) -> None:
        self.ca, self.other_ca = self.folder / "ca.pem", self.folder / "other.pem"
        self._user = _somebody()

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self.folder / "data"

    def url(self, database: str = "postgres", user: str = "postgres", **settings: str) -> str:
        """Where a database is, for libpq; without TLS unless `sslmode` says otherwise."""
        named = {"sslmode": "disable"} | settings
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?" + "&".join(f"{k}={v}" for k, v in named.items())

    def connect(self, database: str = "postgres", **more: Any) -> psycopg.Connection[Any]:
        """A connection of a client that has nothing to do with what is tested; each statement is committed."""
        import psycopg

        return psycopg.connect(self.url(database), autocommit=True, **more)

    def make(self) -> None:
        """Makes the cluster."""
        make_authority(self.folder, "ca")
        make_authority(self.folder, "other")
        sign(self.folder, "ca", "server")
        if self._user:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        made = subprocess.run(
            self._command("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        (self.data / "pg_hba.conf").write_text(
            "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
        )

    def _command(self, program: str, *arguments: str) -> list[str]:
        place = programs()
        assert place is not None
        became = (
            ["setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups"]
            if self._user
            else []
        )
        return [*became, str(place / program), "-D", str(self.data), *arguments]

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}

    def start(self) -> PostgresServer:
        """Starts it and waits until it answers."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # What a killed process has written is there; only a loss of power would show the difference.
            "fsync": "off",
            "shared_buffers": "64MB",
            "max_connections": "50",
            "ssl": "on",
            "ssl_cert_file": str(self.folder / "server.crt"),
            "ssl_key_file": str(self.folder / "server.key"),
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = self.folder / "log"
        self.process = Process(self._command("postgres", *options), log, env=self._environment(), folder=self.folder)

        def answers() -> bool:
            import psycopg

            assert self.process is not None
            assert self.process.running(), f"PostgreSQL ended: {log.read_text(errors='replace')[-2000:]}"
            with contextlib.suppress(psycopg.OperationalError), self.connect(connect_timeout=2):
                return True
            return False

        until(f"PostgreSQL on port {self.port} answers (see {log})", answers)
        return self

    @property
    def version(self) -> int:
        """Its major version."""
        with self.connect() as connection:
            return connection.info.server_version // 10_000

    def database(self, name: str | None = None, how: str = "") -> str:
        """Makes a database; gives its name."""
        name = name or f"test_{uuid.uuid4().hex}"
        with self.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}" {how}'.encode())
        return name

    def kill(self) -> None:
        """Ends it with all its processes at once: started again, it recovers from its log."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Ends it in good order; who is connected is thrown out."""
        self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            if self.process.running():
                os.kill(self.process.pid, how)
                until("PostgreSQL ends", lambda: self.process is None or not self.process.running())
            self.process.kill()
        self.process = None


@dataclass(frozen=True)
class Database:
    """A database of its own for one test.

    Attributes:
        server: Where it is.
        name: Its name.
    """

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        """Where it is, for libpq."""
        return self.server.url(self.name)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query gives to another client."""
        with self.server.connect(self.name) as connection:
            return connection.execute(sql.encode()).fetchall()

    def run(self, sql: str) -> None:
        """Runs statements as another client, with all rights."""
        with self.server.connect(self.name) as connection:
            connection.execute(sql.encode())


@contextlib.contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """A server of one's own, that may be stopped and killed."""
    if programs() is None:
        missing("no PostgreSQL server: install Debian's package postgresql, or put initdb and postgres on PATH")
    need("openssl", why="PostgreSQL's certificate")
    # Not below the tests' own folder: the server's user may have no way into it.
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
    server = PostgresServer(folder, settings)
    try:
        server.make()
        server.start()
        with server.connect() as admin:
            admin.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'".encode())
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for the whole session, that nobody stops; each test takes a database of its own."""
    # Nothing is recovered, and no database lasts until it needs to be cleaned.
    idle = {"autovacuum": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with postgres_server(**idle) as server:
        yield server


@contextlib.contextmanager
def new_database(server: PostgresServer, how: str = "") -> Iterator[Database]:
    """An empty database, made in some way: `ENCODING 'LATIN1' …`."""
    name = server.database(how=how)
    yield Database(server, name)
    with server.connect() as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """An empty database on the session's server."""
    with new_database(postgres) as made:
        yield made
