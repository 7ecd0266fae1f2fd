"""Elasticsearch servers for tests: fetched once from Maven Central, a folder of their own, nothing of it survives.

The newer one (`VERSION`) has templates, aliases and bulk requests, but no lifecycle management, which is in no package
that can be had. The older one (`OLDER`) has it, and wants types.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services import Process, cache, free_port, locked, missing, need, until

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION, OLDER = "8.19.21", "6.8.23"
_ARTIFACTS = {
    VERSION: f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip",
    OLDER: f"org.elasticsearch.distribution.zip:elasticsearch:{OLDER}:zip",
}
_SETTINGS = {
    "cluster.name": "tests",
    "node.name": "one",
    "discovery.type": "single-node",
    "network.host": "127.0.0.1",
    "cluster.routing.allocation.disk.threshold_enabled": "false",
    "action.destructive_requires_name": "false",
}
_OWN = {
    VERSION: {"xpack.security.enabled": "false", "action.auto_create_index": "false"},
    OLDER: {
        "xpack.watcher.enabled": "false",
        "action.auto_create_index": "false",
        "xpack.ml.enabled": "false",
        "indices.lifecycle.poll_interval": "1s",
    },
}


def _home() -> Path:
    home = os.environ.get("JAVA_HOME")
    program = Path(home) / "bin" / "java" if home else Path(shutil.which("java") or "")
    if not program.is_file():
        missing("Elasticsearch needs Java 17 (Debian: apt-get install openjdk-17-jre-headless maven)")
    return program.resolve().parents[1]


def _archive(version: str) -> Path:
    """The server, as it was fetched."""
    folder = cache() / "elasticsearch"
    file = folder / f"elasticsearch-{version}.zip"
    with locked(f"elasticsearch-{version}"):
        if not file.exists():
            need("mvn", why="fetching Elasticsearch")
            folder.mkdir(exist_ok=True)
            command = ["mvn", "-B", "-q", "dependency:copy", f"-Dartifact={_ARTIFACTS[version]}"]
            for left in (2, 1, 0):
                with tempfile.TemporaryDirectory(dir=folder) as work:
                    done = subprocess.run(
                        [*command, f"-DoutputDirectory={work}"], cwd=work, capture_output=True, text=True, check=False
                    )
                    found = next(Path(work).glob("*.zip"), None)
                    if done.returncode == 0 and found:
                        found.rename(file)
                        break
                if not left:
                    missing(f"Elasticsearch {version} cannot be fetched from Maven Central: {done.stdout[-2000:]}")
    return file


def _unpack(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        for entry in packed.infolist():
            if entry.external_attr >> 16 & 0o111 and not entry.is_dir():
                (folder / entry.filename).chmod(0o755)
    return next(folder.glob("elasticsearch-*"))


@dataclass
class ElasticsearchServer:
    """A server with its data in a folder; started again it has the same port and data.

    Attributes:
        folder: Where programs, data and log lie.
        version: Of the server.
        settings: Further settings of the server.
    """

    folder: Path
    version: str = VERSION
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    transport: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def make(self) -> None:
        """Unpacks it and writes its settings."""
        self.home = _unpack(_archive(self.version), self.folder)
        inside = "transport.port" if self.version == VERSION else "transport.tcp.port"
        own = _SETTINGS | {"http.port": str(self.port), inside: str(self.transport)}
        own |= _OWN[self.version] | self.settings
        text = "".join(f"{name}: {value}\n" for name, value in own.items())
        (self.home / "config" / "elasticsearch.yml").write_text(text)
        (self.folder / "tmp").mkdir()
        options = self.home / "config" / "jvm.options"
        # Another collector is chosen below, and a log of its work is of no use.
        lines = [line for line in options.read_text().splitlines() if not any(x in line for x in _LEFT_OUT)]
        options.write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self.folder.chmod(0o755)
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def start(self) -> ElasticsearchServer:
        """Starts it and waits until it answers."""
        became = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            became = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        java = str(_home())
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.folder),
            "JAVA_HOME": java,
            "ES_JAVA_HOME": java,
            "ES_JAVA_OPTS": "-Xms192m -Xmx192m -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
            "ES_TMPDIR": str(self.folder / "tmp"),
        }
        log = self.folder / "log"
        self.process = Process(
            [*became, str(self.home / "bin" / "elasticsearch")], log, env=env, group=True, folder=self.folder
        )

        def answers() -> bool:
            assert self.process is not None
            assert self.process.running(), f"Elasticsearch ended: {log.read_text(errors='replace')[-3000:]}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.ask("GET", "/_cluster/health")[0] == 200
            return False

        until(f"Elasticsearch on port {self.port} answers (see {log})", answers, seconds=120)
        return self

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """A request of a client that has nothing to do with what is tested: status, and what was said."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            return answer.status, json.loads(said) if said else None
        finally:
            connection.close()

    def documents(self, index: str) -> dict[str, dict[str, Any]]:
        """What can be found there, by id."""
        status, said = self.ask("POST", f"/{index}/_search?size=10000", {"query": {"match_all": {}}})
        assert status == 200, said
        return {hit["_id"]: hit["_source"] for hit in said["hits"]["hits"]}

    def clear(self) -> None:
        """Removes all indices, templates and policies of tests."""
        self.ask("DELETE", "/*hourly_metrics*")
        for kind in ("_template", "_index_template", "_ilm/policy"):
            self.ask("DELETE", f"/{kind}/hourly_metrics")

    def kill(self) -> None:
        """`kill -9`: what it has acknowledged stays."""
        if self.process is not None:
            self.process.kill()


_LEFT_OUT = (
    "UseG1GC",
    "UseConcMarkSweep",
    "CMSInitiating",
    "Xlog:gc",
    "PrintGC",
    "Xloggc",
    "GCLogFile",
    "AlwaysPreTouch",
)


@contextlib.contextmanager
def elasticsearch_server(version: str = VERSION, **settings: str) -> Iterator[ElasticsearchServer]:
    """A server of one's own."""
    _home()
    if os.geteuid() == 0:
        need("setpriv", why="Elasticsearch, which does not run as root,")
    # Not below the tests' own folder: the server's user may have no way into it.
    folder = Path(tempfile.mkdtemp(prefix="penstock-elasticsearch-"))
    server = ElasticsearchServer(folder, version, settings)
    try:
        server.make()
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def elasticsearch_session() -> Iterator[ElasticsearchServer]:
    """A server for the whole session."""
    with elasticsearch_server() as server:
        yield server


@pytest.fixture
def elasticsearch(elasticsearch_session: ElasticsearchServer) -> ElasticsearchServer:
    """The session's server, without what tests before have put there."""
    elasticsearch_session.clear()
    return elasticsearch_session
