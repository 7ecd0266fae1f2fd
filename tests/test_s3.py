"""Buckets: reading and writing them, what is put in parts, what happens when a server refuses."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import crash
import penstock
import s3_support
from penstock import _core
from penstock.storage import Storage
from services import free_port
from services.fault_proxy import Request, fault_proxy
from services.s3 import SECRET_KEY, S3Client, S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_MADE = Path(__file__).parents[1] / "python/penstock/pipelines/ecommerce"


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket."""
    return s3.bucket(f"b-{uuid.uuid4().hex[:12]}")


def table(rows: int, seed: int = 0) -> pa.Table:
    """Rows that cannot be packed."""
    chance = random.Random(seed)
    return pa.table({"n": range(rows), "bytes": [chance.randbytes(1_000) for _ in range(rows)]})


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> s3_support.BucketPipeline:
    folder = tmp_path_factory.mktemp("lake")
    pipeline = s3_support.make(folder / "p", s3_support.inputs(folder, 3_000), s3)
    done = pipeline.run()
    assert done.returncode == 0, done.stderr
    return pipeline


@pytest.mark.parametrize(
    "layer", ["bronze/events", "silver/events", "silver/sessions", "dead_letters", "gold/per_minute"]
)
def test_read_lake(layer: str, pipeline: s3_support.BucketPipeline) -> None:
    lake = pipeline.fetched().lake
    here = penstock.read_lake(lake, layer)
    there = penstock.read_lake(pipeline.url, layer, storage=pipeline.storage)
    assert len(there) == len(here) > 0
    assert all(path.startswith(f"{pipeline.url}/{layer}/") for path in there.files)
    rows, other = there.to_polars(), here.to_polars()
    assert rows.schema == other.schema
    assert rows.sort(pl.all().exclude("problems")).equals(other.sort(pl.all().exclude("problems")))


def test_read_lake_on_a_connection_of_ones_own(pipeline: s3_support.BucketPipeline) -> None:
    connection = duckdb.connect()
    for _ in range(2):
        events = penstock.read_lake(
            pipeline.url, storage=pipeline.server.settings, columns=["entity", "event_type", "date"]
        ).to_duckdb(connection)
        counted = events.filter("event_type = 'purchase'").aggregate("count(*), count(date)").fetchall()
        assert counted[0][0] == counted[0][1] > 0
    assert pa.table(penstock.read_lake(pipeline.url, storage=pipeline.storage)).num_rows > 0
    assert "rows in" in penstock.read_lake(pipeline.url, storage=pipeline.storage)._repr_html_()


def test_a_layer_that_is_not_there(pipeline: s3_support.BucketPipeline, bucket: str) -> None:
    with pytest.raises(penstock.LakeError, match="gold/per_minute"):
        penstock.read_lake(pipeline.url, "gold/per_hour", storage=pipeline.storage)
    with pytest.raises(penstock.LakeError, match="no lake of Penstock"):
        penstock.read_lake(f"s3://{bucket}", storage=pipeline.storage)


def test_the_environment_is_enough(pipeline: s3_support.BucketPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = pipeline.keys | {
        "AWS_ENDPOINT_URL_S3": pipeline.server.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": pipeline.server.region,
        # A token of other keys: those of the settings are never mixed with it.
        "AWS_CONDITIONAL_PUT": "disabled",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert len(penstock.read_lake(pipeline.url)) > 0
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-other-keys")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    assert len(penstock.read_lake(pipeline.url, storage=pipeline.storage)) > 0


def test_lists_of_several_pages(s3: S3Server, bucket: str) -> None:
    names = [f"x/epochs/{n:05}.commit" for n in range(1_300)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda name: s3.client.request("PUT", f"/{bucket}/{name}", body=b"x")[0], names)) == {200}
    found = _core.LakeObjects(f"s3://{bucket}/x", **Storage.of(s3.settings).for_engine()).list("epochs")
    assert [f"x/{path}" for path, _ in found] == names

    def plan(request: Request, before: int) -> str | None:
        return "cut_reply" if request.method == "GET" and not before else None

    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        reached = Storage.of(s3.settings | {"endpoint": proxy.endpoint})
        found = _core.LakeObjects(f"s3://{bucket}/x", **reached.for_engine()).list("epochs")
        assert [f"x/{path}" for path, _ in found] == names
        assert proxy.happened["cut_reply"] >= 2


# --- writing ----------------------------------------------------------------------------------------------------------


def test_write_parquet(s3: S3Server, bucket: str) -> None:
    rows = pa.table({"date": ["2024-01-01", "2024-01-02", "a/b"], "n": [1, 2, 3]})
    place, storage = f"s3://{bucket}/out", s3.settings
    written = penstock.write_parquet(rows, place, partition_by="date", storage=storage)
    assert sorted(f"out/{path}" for path in written) == sorted(s3.client.objects(bucket))
    with pytest.raises(penstock.LakeError, match="is there already"):
        penstock.write_parquet(rows, place, partition_by="date", storage=storage)
    fewer = rows.slice(0, 1)
    penstock.write_parquet(fewer, place, partition_by="date", replace=True, storage=storage)
    read = pq.read_table(io.BytesIO(s3.client.get(bucket, "out/date=2024-01-01/part-0000.parquet")))
    assert read.to_pydict() == {"n": [1]}


def test_of_16_threads_one_creates(s3: S3Server, bucket: str) -> None:
    rounds, threads = 20, 16
    storage = Storage.of(s3.settings)
    for number in range(rounds):
        together = threading.Barrier(threads)

        def write(thread: int, number: int = number, together: threading.Barrier = together) -> bool:
            rows = pa.table({"writer": [thread]})
            together.wait()
            try:
                penstock.write_parquet(rows, f"s3://{bucket}/{number}", storage=storage)
            except penstock.LakeError as error:
                if "is there already" in str(error):
                    return False
                raise
            return True

        with ThreadPoolExecutor(threads) as pool:
            won = list(pool.map(write, range(threads)))
        assert won.count(True) == 1, f"round {number}: {won}"
        stands = pq.read_table(io.BytesIO(s3.client.get(bucket, f"{number}/part-0000.parquet")))
        assert stands.to_pydict() == {"writer": [won.index(True)]}


LARGE = 40_000  # rows of a kilobyte


def test_large_files_go_in_parts(s3: S3Server, bucket: str) -> None:
    rows = table(LARGE)
    with fault_proxy(s3.endpoint, seed=1, rate=0.3) as proxy:
        storage = s3.settings | {"endpoint": proxy.endpoint}
        (path,) = penstock.write_parquet(rows, f"s3://{bucket}/x", replace=True, storage=storage)
        parts = {target for method, target in proxy.seen if "partNumber" in target and method == "PUT"}
        assert len(parts) >= 4
        assert proxy.happened.total() > 0
    assert pq.read_table(io.BytesIO(s3.client.get(bucket, f"x/{path}"))).equals(rows)
    assert s3.client.uploads(bucket) == 0


def test_a_large_file_that_is_cut_leaves_nothing(s3: S3Server, bucket: str) -> None:
    def plan(request: Request, _: int) -> str | None:
        return "cut_request" if "partNumber=3" in request.target else None

    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        storage = s3.settings | {"endpoint": proxy.endpoint, "timeout": "8s"}
        with pytest.raises(penstock.LakeError, match="cannot be written"):
            penstock.write_parquet(table(LARGE), f"s3://{bucket}/x", replace=True, storage=storage)
        assert proxy.happened["cut_request"] > 1, "it was tried again"
    assert s3.client.objects(bucket) == {}
    assert s3.client.uploads(bucket) == 0, "what had come was given back"


@pytest.mark.parametrize("fault", ["cut_after", "repeat", "fault"])
def test_the_reply_to_the_completion_is_lost(fault: str, s3: S3Server, bucket: str) -> None:
    def plan(request: Request, before: int) -> str | None:
        completes = request.method == "POST" and "uploadId" in request.target
        return fault if completes and not before else None

    rows = table(LARGE, seed=2)
    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        storage = s3.settings | {"endpoint": proxy.endpoint}
        (path,) = penstock.write_parquet(rows, f"s3://{bucket}/x", replace=True, storage=storage)
        assert proxy.happened[fault] == 1
    assert pq.read_table(io.BytesIO(s3.client.get(bucket, f"x/{path}"))).equals(rows)
    assert s3.client.uploads(bucket) == 0


@pytest.mark.parametrize("place", ["upload.part@2", "upload.complete"])
def test_killed_in_the_middle_of_a_large_file(place: str, s3: S3Server, bucket: str) -> None:
    program = (
        "import os, sys, json, pyarrow as pa, penstock\n"
        "rows = pa.table({'bytes': [os.urandom(1_000) for _ in range(40_000)]})\n"
        "penstock.write_parquet(rows, sys.argv[1], replace=True, storage=json.loads(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, f"s3://{bucket}/x", json.dumps(s3.settings)]
    killed = subprocess.run(
        command, env=os.environ | {"PENSTOCK_FAILPOINT": f"{place}=kill"}, capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert f"failpoint {place.partition('@')[0]}" in killed.stderr
    assert s3.client.objects(bucket) == {}, "nothing is visible"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(s3.client.objects(bucket)) == ["x/part-0000.parquet"]


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(lake: str, storage: dict[str, Any], *, write: bool = False) -> str:
    """What reading or writing answers; no secret is in it."""
    rows = pa.table({"n": [1]})
    with pytest.raises(penstock.PenstockError) as caught:
        _ = penstock.write_parquet(rows, lake, storage=storage) if write else penstock.read_lake(lake, storage=storage)
    shown = f"{caught.value} {caught.value!r} {caught.value.__dict__} {caught.value.__cause__}"
    for secret in (SECRET_KEY, storage.get("secret_access_key"), storage.get("session_token")):
        assert secret is None or str(secret) not in shown
    return str(caught.value)


@pytest.mark.parametrize("write", [False, True])
def test_wrong_keys(write: bool, s3: S3Server, bucket: str) -> None:
    lake = f"s3://{bucket}/x"
    said = refused(lake, s3.settings | {"secret_access_key": "wrong-secret"}, write=write)
    assert "secret access key does not belong" in said and "storage.secret_access_key" in said
    said = refused(lake, s3.settings | {"access_key_id": "nobody", "secret_access_key": "wrong-secret"}, write=write)
    assert "does not know the access key" in said and "storage.access_key_id" in said


@pytest.mark.parametrize("write", [False, True])
def test_no_bucket(write: bool, s3: S3Server) -> None:
    said = refused("s3://no-such-bucket/x", s3.settings, write=write)
    assert f"there is no bucket 'no-such-bucket' at {s3.endpoint}" in said


@pytest.mark.parametrize("write", [False, True])
def test_another_region(write: bool, s3: S3Server, bucket: str) -> None:
    said = refused(f"s3://{bucket}/x", s3.settings | {"region": "us-west-2"}, write=write)
    assert "signed for the region us-west-2" in said and f"storage.region: {s3.region}" in said


def test_no_permission(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3", users={"guest": "guests-own-secret"}) as server:
        bucket = server.bucket("private")
        guest = server.settings | {"access_key_id": "guest", "secret_access_key": "guests-own-secret"}
        said = refused(f"s3://{bucket}/x", guest)
        assert "permission denied" in said and "s3:ListBucket" in said and server.endpoint in said
        said = refused(f"s3://{bucket}/x", guest, write=True)
        assert "permission denied" in said and "s3:" in said
        anonymous = {k: v for k, v in server.settings.items() if not k.endswith(("_key", "_key_id"))}
        said = refused(f"s3://{bucket}/x", anonymous | {"anonymous": True})
        assert "permission denied" in said and "storage.anonymous" in said


def test_nobody_is_there() -> None:
    keys = {"access_key_id": "k", "secret_access_key": "some-secret", "allow_http": True, "timeout": "1s"}
    endpoint = f"http://127.0.0.1:{free_port()}"
    said = refused("s3://bucket/x", keys | {"endpoint": endpoint})
    assert f"{endpoint} cannot be reached" in said and "storage.endpoint" in said
    said = refused("s3://bucket/x", keys | {"endpoint": "http://no-such-host.invalid"})
    assert "the host of http://no-such-host.invalid is not known" in said


def test_no_encryption_unless_asked_for(s3: S3Server, bucket: str) -> None:
    said = refused(f"s3://{bucket}/x", s3.settings | {"allow_http": False})
    assert "not encrypted" in said and "storage.allow_http: true" in said


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"access_key_id": "k", "secret_access_key": "some-secret", "allow_http": True}
        said = refused("s3://bucket/x", keys | {"endpoint": endpoint, "timeout": "1s"})
    assert f"{endpoint} did not answer in time" in said and "tries" in said


def answering(status: int, code: str) -> Any:
    body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
    return lambda _request, _before: (status, body)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "RequestTimeTooSkewed", "too far apart"),
        (400, "ExpiredToken", "temporary keys have expired"),
        (400, "InvalidToken", "session token does not belong"),
        (503, "SlowDown", "too busy"),
        (500, "InternalError", "fault of its own"),
        (507, "QuotaExceeded", "no room left"),
        (301, "PermanentRedirect", "storage.region"),
        (501, "NotImplemented", "If-None-Match"),
        (418, "Teapot", "answered 418 (Teapot: so it is)"),
    ],
)
def test_answers_that_a_server_may_give(status: int, code: str, words: str, s3: S3Server, bucket: str) -> None:
    def plan(request: Request, before: int) -> Any:
        # A write is looked for first; that is to be answered as ever.
        return answering(status, code)(request, before) if request.method == "PUT" else None

    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        storage = s3.settings | {"endpoint": proxy.endpoint, "timeout": "4s", "session_token": "a-secret-token"}
        said = refused(f"s3://{bucket}/x", {k: v for k, v in storage.items() if k != "session_token"}, write=True)
    assert words in said, said


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[S3Server, Path]]:
    """A server with a certificate that nobody knows, and that certificate."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE"
    options = f"-newkey rsa:2048 -nodes -days 2 {subject}".split()
    command = ["openssl", "req", "-x509", *options, "-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    options = [f"--cert={certificate}", f"--key={key}"]
    with s3_server(tmp_path / "s3", "versitygw", options=options, scheme="https") as server:
        (server.folder / "data" / "private").mkdir()
        yield server, certificate


def test_certificates(tls: tuple[S3Server, Path], tmp_path: Path) -> None:
    server, certificate = tls
    said = refused("s3://private/x", server.settings)
    assert "certificate" in said and "not trusted" in said and "storage.ca_file" in said
    rows = pa.table({"n": [1, 2]})
    assert penstock.write_parquet(rows, "s3://private/x", storage=server.settings | {"ca_file": str(certificate)})
    (tmp_path / "none.pem").write_text("nothing")
    said = refused("s3://private/x", server.settings | {"ca_file": str(tmp_path / "none.pem")})
    assert "storage.ca_file" in said and "none.pem" in said


# --- the commands -----------------------------------------------------------------------------------------------------


def command(folder: Path, *arguments: str, code: int = 0, **env: str) -> str:
    """Runs `penstock`; gives its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert SECRET_KEY not in done.stdout + done.stderr
    return done.stdout + done.stderr if code else done.stdout


def test_every_command_on_a_bucket(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    options = {"total": 3_000, "seed": 5, "span": 3 * 86_400_000_000, "bad_rate": 0.004}
    _core.generate("ecommerce", json.dumps(options), str(tmp_path / "events.jsonl"))
    (tmp_path / "pipeline.yaml").write_text(
        "name: ecommerce\n"
        f"contract: {READY_MADE / 'contract.yaml'}\n"
        "source: {files: {paths: [events.jsonl]}}\n"
        f"lake: s3://{bucket}/lake\n"
        "storage:\n"
        f"  endpoint: {s3.endpoint}\n"
        f"  region: {s3.region}\n"
        '  access_key_id: "${SHOP_KEY}"\n'
        '  secret_access_key: "${SHOP_SECRET}"\n'
        "  allow_http: true\n"
        "sessions: {gap: 30m}\n"
        "warehouse: {duckdb: warehouse.duckdb}\n"
    )
    shutil.copytree(READY_MADE / "warehouse", tmp_path / "warehouse")
    keys = {"SHOP_KEY": s3.access_key, "SHOP_SECRET": s3.secret_key}
    said = command(tmp_path, "doctor", "pipeline.yaml", **keys)
    assert "of two put-if-absent one is refused" in " ".join(said.split())
    ran = json.loads(command(tmp_path, "run", "pipeline.yaml", "--until-caught-up", "--json", **keys).splitlines()[-1])
    assert ran["balanced"] and ran["silver"] > 2_900
    found = json.loads(command(tmp_path, "inspect", "pipeline.yaml", "--json", **keys))
    assert found["layers"]["silver/events"]["rows"] == ran["silver"]
    loaded = json.loads(command(tmp_path, "load", "pipeline.yaml", "--json", **keys))
    assert loaded["inserted"] == ran["silver"]
    audit = json.loads(command(tmp_path, "audit", "pipeline.yaml", "--json", **keys).splitlines()[-1])
    assert audit["balanced"] and audit["warehouse"]["facts"] == ran["silver"]
    quality = json.loads(command(tmp_path, "quality", "pipeline.yaml", "--date", "2024-12-18", "--json", **keys))
    assert quality["passed"], quality
    wrong = keys | {"SHOP_SECRET": "not-the-secret"}
    said = command(tmp_path, "run", "pipeline.yaml", "--until-caught-up", code=3, **wrong)
    assert "secret access key does not belong" in " ".join(said.split()) and "Traceback" not in said
    said = command(tmp_path, "doctor", "pipeline.yaml", code=1, **wrong)
    assert "secret access key" in " ".join(said.split())
    # No key stands in anything that was written.
    for name in s3.client.objects(bucket):
        assert s3.secret_key.encode() not in s3.client.get(bucket, name), name
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert s3.secret_key.encode() not in path.read_bytes(), path


def test_an_airflow_connection_is_enough(tmp_path: Path, s3: S3Server, bucket: str) -> None:
    source = tmp_path / "in.jsonl"
    _core.generate("ecommerce", json.dumps({"total": 500, "seed": 5}), str(source))
    connection = {
        "conn_type": "aws",
        "login": s3.access_key,
        "password": s3.secret_key,
        "extra": json.dumps({"region_name": s3.region, "endpoint_url": s3.endpoint}),
    }
    overrides = {"lake": f"s3://{bucket}", "source.files.paths": [str(source)]}
    flow = penstock.Pipeline.load("ecommerce", overrides, storage=Storage.from_airflow(connection), base=tmp_path)
    assert flow.run(progress=False).balanced
    assert flow.audit().balanced
    assert s3.secret_key not in repr(flow) + repr(flow.file) + repr(flow.spec()) + json.dumps(flow.spec())


def test_the_probe_finds_a_server_without_conditional_writes(s3: S3Server, bucket: str) -> None:
    """A server that overlooks `If-None-Match`, played by a proxy that says yes to every put."""
    reached = Storage.of(s3.settings)
    _core.LakeObjects(f"s3://{bucket}/x", **reached.for_engine()).probe()
    assert s3.client.objects(bucket) == {}, "it leaves nothing"

    def plan(request: Request, before: int) -> tuple[int, bytes] | None:
        return (200, b"") if request.method == "PUT" and before else None

    with fault_proxy(s3.endpoint, plan=plan) as proxy:
        careless = Storage.of(s3.settings | {"endpoint": proxy.endpoint})
        with pytest.raises(penstock.LakeError, match="both taken"):
            _core.LakeObjects(f"s3://{bucket}/x", **careless.for_engine()).probe()


def test_the_client_of_the_tests_sees_what_is_there(s3: S3Server, bucket: str) -> None:
    assert s3.client.request("PUT", f"/{bucket}/a/b%2F ä.txt", body=b"1")[0] == 200
    assert s3.client.objects(bucket) == {"a/b%2F ä.txt": 1}
    assert S3Client(s3.endpoint, secret_key="wrong").request("GET", f"/{bucket}")[0] in (400, 403)
    assert crash.PIPELINE
