"""`storage`: every setting reaches the engine, keys come from one place, and no secret is ever shown."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import penstock
from penstock.settings import load_file
from penstock.storage import Spec, Storage, secrets_of, storage_of

CONTRACT = """\
name: c
roles: {event_type: /t, event_time: /at, idempotency_key: /id, entity: /u}
events: {'*': {v1: {type: object}}}
"""
PIPELINE = """\
name: shop
contract: contract.yaml
source:
  files: {paths: ["in/*.jsonl"]}
lake: s3://bucket/prefix
"""
EVERYTHING = {
    "endpoint": "https://s3.example.org",
    "region": "eu-central-1",
    "path_style": False,
    "allow_http": False,
    "ca_file": "/etc/ca.pem",
    "server_side_encryption": "aws:kms",
    "kms_key_id": "key-7",
    "timeout": "45s",
}
KEYS = {"access_key_id": "AKIA-NAME", "secret_access_key": "hidden-secret", "session_token": "hidden-token"}


def write(folder: Path, storage: str) -> Path:
    (folder / "contract.yaml").write_text(CONTRACT)
    path = folder / "pipeline.yaml"
    path.write_text(PIPELINE + storage)
    return path


def test_every_setting_reaches_the_engine(tmp_path: Path) -> None:
    file = load_file(write(tmp_path, f"storage: {json.dumps(EVERYTHING | KEYS)}\n"))
    spec = file.spec()
    told = {name: value for name, value in EVERYTHING.items() if name != "timeout"} | {"timeout_us": 45_000_000}
    assert spec["storage"] == told
    assert spec["lake"] == "s3://bucket/prefix"
    assert secrets_of(spec) == file.storage.secrets == KEYS
    assert storage_of(spec) == file.storage
    for shown in (json.dumps(spec), repr(spec), str(spec), repr(file), repr(file.settings), repr(file.storage)):
        assert "hidden" not in shown and "AKIA" not in shown


def test_the_specification_keeps_its_keys_through_pickling() -> None:
    spec = Spec({"lake": "s3://b", "storage": {}}, KEYS)
    for other in (pickle.loads(pickle.dumps(spec)), copy.copy(spec), copy.deepcopy(spec)):
        assert other == {"lake": "s3://b", "storage": {}} and secrets_of(other) == KEYS
    assert secrets_of({"lake": "s3://b"}) == {}


def test_keys_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "AKIA-NAME")
    monkeypatch.setenv("SHOP_SECRET", "hidden-secret")
    text = 'storage: {access_key_id: "${SHOP_KEY}", secret_access_key: "${SHOP_SECRET}"}\n'
    file = load_file(write(tmp_path, text), ["storage.region=eu-west-1"])
    assert file.storage.secrets == {"access_key_id": "AKIA-NAME", "secret_access_key": "hidden-secret"}
    assert file.spec()["storage"] == {"region": "eu-west-1"}


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"endpiont": "https://x"}, "endpoint"),
        ({"endpoint": "s3.example.org"}, "https://"),
        ({"endpoint": "https://me:hidden@host"}, "user or password"),
        ({"access_key_id": "x"}, "belong together"),
        ({"secret_access_key": "hidden"}, "belong together"),
        ({"session_token": "hidden"}, "give all three"),
        ({"access_key_id": "", "secret_access_key": "hidden"}, "access_key_id"),
        ({"timeout": "2m"}, "60s at most"),
        ({"kms_key_id": "x"}, "server_side_encryption"),
        ({"server_side_encryption": "rot13"}, "AES256"),
        ({"access_key_id": ["hidden"], "secret_access_key": {"hidden": 1}}, "access_key_id"),
    ],
)
def test_mistakes_are_named_without_their_values(storage: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(penstock.SettingsError) as caught:
        load_file(write(tmp_path, f"storage: {json.dumps(storage)}\n"))
    assert words in str(caught.value) and "pipeline.yaml:" in str(caught.value)
    assert "hidden" not in str(caught.value)
    with pytest.raises(penstock.SettingsError) as caught:
        Storage.of(storage)
    assert words in str(caught.value) and str(caught.value).startswith("storage")
    assert "hidden" not in str(caught.value)


def test_the_file_counts_before_the_connection(tmp_path: Path) -> None:
    connection = Storage.of({"endpoint": "https://other", "region": "us-west-2"} | KEYS)
    path = write(tmp_path, "storage: {region: eu-central-1}\n")
    flow = penstock.Pipeline.load(path, storage=connection)
    assert flow.file.storage == Storage.of({"endpoint": "https://other", "region": "eu-central-1"} | KEYS)
    # Keys are one thing: a token of the connection does not go with keys of the file.
    own = {"access_key_id": "A", "secret_access_key": "hidden-own"}
    path = write(tmp_path, f"storage: {json.dumps(own)}\n")
    assert penstock.Pipeline.load(path, storage=connection).file.storage.secrets == own
    assert Storage.of({"anonymous": True}).over(connection).secrets == {}


EXTRA = {
    "region_name": "eu-central-1",
    "endpoint_url": "http://minio:9000",
    "aws_session_token": "hidden-token",
    "config_kwargs": {"s3": {"addressing_style": "virtual"}},
    "verify": "/etc/ca.pem",
}
FROM_EXTRA = {
    "endpoint": "http://minio:9000",
    "allow_http": True,
    "region": "eu-central-1",
    "path_style": False,
    "ca_file": "/etc/ca.pem",
}
CONNECTION = {"conn_type": "aws", "login": "AKIA-NAME", "password": "hidden-secret", "extra": EXTRA}


@pytest.mark.parametrize(
    "connection",
    [
        CONNECTION,
        CONNECTION | {"extra": json.dumps(EXTRA)},
        json.dumps(CONNECTION),
        SimpleNamespace(conn_type="aws", login="AKIA-NAME", password="hidden-secret", extra_dejson=EXTRA),
        {
            "conn_type": "aws",
            "extra": EXTRA | {"aws_access_key_id": "AKIA-NAME", "aws_secret_access_key": "hidden-secret"},
        },
    ],
    ids=["mapping", "extra as text", "JSON", "object", "keys in the extra"],
)
def test_an_airflow_connection(connection: Any) -> None:
    storage = Storage.from_airflow(connection)
    assert storage.spec() == FROM_EXTRA
    assert storage.secrets == KEYS
    assert "hidden" not in repr(storage)


def test_an_airflow_connection_as_a_uri() -> None:
    storage = Storage.from_airflow("aws://AKIA:se%2Fcret@/?region_name=eu-west-1")
    assert storage.spec() == {"region": "eu-west-1"}
    assert storage.secrets == {"access_key_id": "AKIA", "secret_access_key": "se/cret"}
    nested = (
        "aws://@/?__extra__=%7B%22service_config%22%3A%7B%22s3%22%3A%7B%22endpoint_url%22%3A%22https%3A//x%22%7D%7D%7D"
    )
    assert Storage.from_airflow(nested).spec() == {"endpoint": "https://x"}
    assert Storage.from_airflow("aws://") == Storage()


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ({"conn_type": "postgres"}, "'aws'"),
        ({"conn_type": "aws", "extra": {"role_arn": "arn:x"}}, "role_arn"),
        ({"conn_type": "aws", "extra": "{hidden"}, "not JSON"),
        ("{hidden", "not JSON"),
        ("nothing", "as a URI"),
        ({"conn_type": "aws", "login": "k"}, "belong together"),
    ],
)
def test_connections_that_cannot_be_used(connection: Any, words: str) -> None:
    with pytest.raises(penstock.SettingsError, match=words) as caught:
        Storage.from_airflow(connection)
    assert "hidden" not in str(caught.value)
