"""What the tests on S3 share: a pipeline whose lake is a bucket, and its objects as a folder to compare."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import crash
from penstock import _core
from penstock.storage import Storage

if TYPE_CHECKING:
    import subprocess

    from services.s3 import S3Server

PREFIX = "some/where"


@dataclass(frozen=True)
class BucketPipeline(crash.Pipeline):
    """A pipeline over generated files whose lake is `s3://bucket/some/where`; its keys stand in the environment."""

    server: S3Server
    bucket: str

    @property
    def keys(self) -> dict[str, str]:
        """The variables that hold the keys."""
        return {"AWS_ACCESS_KEY_ID": self.server.access_key, "AWS_SECRET_ACCESS_KEY": self.server.secret_key}

    def start(self, **options: Any) -> subprocess.Popen[str]:
        """Starts a run of its own process."""
        with mock.patch.dict(os.environ, self.keys):
            return super().start(**options)

    def ledger(self) -> dict[str, Any]:
        """The ledger, counted again from the bucket's objects."""
        with mock.patch.dict(os.environ, self.keys):
            return super().ledger()

    @property
    def url(self) -> str:
        """Where its lake is."""
        return str(json.loads(self.spec.read_text())["lake"])

    @property
    def storage(self) -> Storage:
        """How its bucket is reached."""
        return Storage.of(self.server.settings)

    def fetched(self) -> BucketPipeline:
        """The same, with the objects of the bucket in a folder, as they are now."""
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "lake"
        for key in self.server.client.objects(self.bucket, f"{PREFIX}/"):
            path = folder / key.removeprefix(f"{PREFIX}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.server.client.get(self.bucket, key))
        return replace(self, lake=folder)


def make(
    folder: Path,
    inputs: list[Path],
    server: S3Server,
    *,
    endpoint: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> BucketPipeline:
    """A pipeline over `inputs` with a new bucket of its own.

    Args:
        folder: Where its specification lies.
        inputs: The files.
        server: The server of the bucket.
        endpoint: Another way to the server: a proxy.
        timeout: How many seconds a request may take with its retries.
        options: As for `crash.make`.
    """
    plain = crash.make(folder, inputs, **options)
    bucket = server.bucket(f"lake-{uuid.uuid4().hex[:12]}")
    spec = json.loads(plain.spec.read_text())
    spec["lake"] = f"s3://{bucket}/{PREFIX}"
    spec["storage"] = {"endpoint": endpoint or server.endpoint, "region": server.region, "allow_http": True}
    if timeout is not None:
        spec["storage"]["timeout_us"] = int(timeout * 1e6)
    plain.spec.write_text(json.dumps(spec))
    return BucketPipeline(plain.folder, plain.lake, plain.spec, server, bucket)


def assert_same(undisturbed: crash.Pipeline, pipeline: BucketPipeline) -> None:
    """The bucket holds, file for file and row for row, what the undisturbed run left on a disk."""
    crash.assert_same(undisturbed, pipeline.fetched())


def inputs(folder: Path, events: int) -> list[Path]:
    """Events with flaws, in two files."""
    whole = folder / "whole.jsonl"
    options = {"total": events, "seed": 11, "bad_rate": 0.05, "duplicate_rate": 0.05}
    _core.generate("ecommerce", json.dumps(options), str(whole))
    lines = whole.read_bytes().splitlines(keepends=True)
    whole.unlink()
    first, second = folder / "a.jsonl", folder / "b.jsonl"
    first.write_bytes(b"".join(lines[::2]))
    second.write_bytes(b"".join(lines[1::2]))
    return [first, second]
