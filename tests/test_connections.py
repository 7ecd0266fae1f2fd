"""Airflow connections: one meaning in every form, the pipeline file before them, and no secret shown."""

from __future__ import annotations

import json
import pickle
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

import penstock
from penstock.connections import (
    AirflowConnection,
    Connections,
    HttpConnection,
    KafkaConnection,
    PostgresConnection,
    slack_webhook,
)
from penstock.kafka import KafkaSource
from penstock.settings import load_file
from penstock.storage import secrets_of

CONTRACT = """\
name: c
roles: {event_type: /t, event_time: /at, idempotency_key: /id, entity: /u}
events: {'*': {v1: {type: object}}}
"""
PIPELINE = """\
name: shop
contract: contract.yaml
source:
  kafka: {topics: [orders], group: shop%s}
lake: s3://bucket/prefix
"""
SASL = {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-256", "sasl.username": "ada"}
KAFKA = {
    "conn_id": "kafka_default",
    "conn_type": "kafka",
    "extra": {
        "bootstrap.servers": "b1:9092,b2:9092",
        "group.id": "of-others",
        "auto.offset.reset": "beginning",
        "enable.auto.commit": False,
        "socket.keepalive.enable": True,
        "session.timeout.ms": 6000,
        **SASL,
        "sasl.password": "hidden-password",
    },
}


def write(folder: Path, kafka: str = "") -> Path:
    (folder / "contract.yaml").write_text(CONTRACT)
    path = folder / "pipeline.yaml"
    path.write_text(PIPELINE % kafka)
    return path


def forms(connection: dict[str, Any]) -> list[Any]:
    """The same connection in all its forms."""
    text = connection | {"extra": json.dumps(connection.get("extra", {}))}
    where = urllib.parse.quote(connection.get("host") or "", safe="")
    user = urllib.parse.quote(connection.get("login") or "", safe="")
    password = urllib.parse.quote(connection.get("password") or "", safe="")
    port = f":{connection['port']}" if connection.get("port") else ""
    schema = urllib.parse.quote(connection.get("schema") or "", safe="")
    uri = f"{connection['conn_type']}://{user}:{password}@{where}{port}/{schema}?__extra__="
    return [
        connection,
        text,
        json.dumps(connection),
        json.dumps(text),
        SimpleNamespace(**(text | {"extra_dejson": connection.get("extra", {})})),
        uri + urllib.parse.quote(text["extra"], safe=""),
    ]


@pytest.mark.parametrize("connection", forms(KAFKA), ids=["mapping", "text", "JSON", "JSON in JSON", "object", "URI"])
def test_kafka(connection: Any, tmp_path: Path) -> None:
    found = KafkaConnection.from_airflow(connection)
    assert found.brokers == "b1:9092,b2:9092"
    given = Connections(kafka=found)
    flow = penstock.Pipeline.load(write(tmp_path), connections=given)
    flow.file.check_source()
    kafka = flow.spec()["source"]["kafka"]
    assert (kafka["brokers"], kafka["group"], kafka["topics"]) == ("b1:9092,b2:9092", "shop", ["orders"])
    assert kafka["settings"] == SASL | {"socket.keepalive.enable": "true", "session.timeout.ms": "6000"}
    assert flow.file.source_secrets == {"sasl.password": "hidden-password"}
    shown = [found, given, flow, flow.file, flow.spec(), json.dumps(flow.spec()), flow._repr_html_(), flow.settings]
    assert not [one for one in map(repr, shown) if "hidden" in one]
    assert pickle.loads(pickle.dumps(given)) == given


def test_the_file_counts_before_the_connection(tmp_path: Path) -> None:
    given = Connections.from_airflow(kafka=KAFKA)
    path = write(tmp_path, ', brokers: "own:1", session.timeout.ms: 9000')
    kafka = load_file(path, connections=given).spec()["source"]["kafka"]
    assert kafka["brokers"] == "own:1"
    assert kafka["settings"] == SASL | {"socket.keepalive.enable": "true", "session.timeout.ms": "9000"}
    # Who one is, is one thing: a password of the connection does not go with a user of the file.
    file = load_file(write(tmp_path, ", sasl.mechanisms: PLAIN, sasl.username: bob"), connections=given)
    own = {name: value for name, value in file.spec()["source"]["kafka"]["settings"].items() if "sasl" in name}
    assert own == {"sasl.mechanisms": "PLAIN", "sasl.username": "bob"} and file.source_secrets == {}
    keys = {"ssl.key.location": "k", "ssl.key.password": "hidden", "ssl.certificate.location": "c", "ssl.ca.pem": "a"}
    source = KafkaSource.model_validate({"topics": ["t"], "group": "g", "ssl.keystore.location": "own"})
    assert source.over(KafkaConnection(own=keys)).own == {"ssl.keystore.location": "own", "ssl.ca.pem": "a"}


def test_without_a_connection_it_is_said_where_kafka_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(penstock.SettingsError, match=r"KAFKA_BROKERS.*connection of Airflow"):
        load_file(write(tmp_path)).check_source()


def test_an_older_form_of_a_kafka_connection() -> None:
    found = KafkaConnection.from_airflow({"host": "broker", "port": "9093", "login": "ada", "password": "hidden"})
    source = KafkaSource(topics=["t"], group="g").over(found)
    assert (source.brokers, source.own, source.secrets) == (
        "broker:9093",
        {"sasl.username": "ada"},
        {"sasl.password": "hidden"},
    )
    assert KafkaConnection.from_airflow({"extra": {"bootstrap.servers": ["a:1", "b:2"]}}).brokers == "a:1,b:2"


def test_a_lake_and_its_keys(tmp_path: Path) -> None:
    aws = {"conn_type": "aws", "login": "AKIA", "password": "hidden", "extra": {"region_name": "eu-west-1"}}
    given = Connections.from_airflow(aws=aws)
    flow = penstock.Pipeline.load(write(tmp_path), connections=given)
    assert flow.spec()["storage"] == {"region": "eu-west-1"}
    assert secrets_of(flow.spec()) == {"access_key_id": "AKIA", "secret_access_key": "hidden"}
    flow = penstock.Pipeline.load(write(tmp_path), connections=given, storage={"region": "own"})
    assert flow.spec()["storage"] == {"region": "own"} and secrets_of(flow.spec())
    assert "hidden" not in repr(given)


POSTGRES = {
    "conn_id": "postgres_default",
    "conn_type": "postgres",
    "host": "db.example.org",
    "port": 5433,
    "schema": "shop",
    "login": "ada@example",
    "password": "hid/den ?&=%ü",
    "extra": {"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem", "keepalives": 1, "cursor": "dictcursor"},
}


@pytest.mark.parametrize("connection", forms(POSTGRES))
def test_postgres(connection: Any) -> None:
    found = PostgresConnection.from_airflow(connection)
    assert found.place == "db.example.org:5433/shop"
    assert found.url.get_secret_value() == (
        "postgresql://ada%40example:hid%2Fden%20%3F%26%3D%25%C3%BC@db.example.org:5433/shop"
        "?sslmode=verify-full&sslrootcert=%2Fetc%2Fmy%20ca.pem&keepalives=1"
    )
    assert "den" not in repr(found) and "den" not in repr(Connections(warehouse=found))


@given(*[st.text(st.characters(min_codepoint=1, codec="utf-8")) for _ in range(3)])
def test_libpq_reads_what_the_connection_says(user: str, password: str, database: str) -> None:
    connection = AirflowConnection(
        kind="postgres", host="h", login=user, password=password, schema=database, extra={"sslmode": "require"}
    )
    read = conninfo_to_dict(PostgresConnection.from_airflow(connection).url.get_secret_value())
    wanted = {"host": "h", "user": user, "password": password, "dbname": database, "sslmode": "require"}
    assert read == {name: value for name, value in wanted.items() if value}


@pytest.mark.parametrize(
    ("host", "port", "read"),
    [
        ("/var/run/postgresql", None, {"host": "/var/run/postgresql"}),
        ("::1", None, {"host": "::1"}),
        ("[fe80::1]", 5433, {"host": "fe80::1", "port": "5433"}),
        ("db:1", 5433, {"host": "db", "port": "1"}),
        ("a,b", 5433, {"host": "a,b", "port": "5433,5433"}),
        ("h1:5432,h2:5433", 5434, {"host": "h1,h2", "port": "5432,5433"}),
        ("::1,h2:5433", 5434, {"host": "::1,h2", "port": "5434,5433"}),
        ("", 5433, {"port": "5433"}),
    ],
)
def test_hosts_of_postgres(host: str, port: int | None, read: dict[str, str]) -> None:
    url = PostgresConnection.from_airflow({"host": host, "port": port, "schema": "d"}).url.get_secret_value()
    assert conninfo_to_dict(url) == read | {"dbname": "d"}


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        ({"password": "T0/B0/hidden"}, "https://hooks.slack.com/services/T0/B0/hidden"),
        (
            {"host": "https://hooks.slack.com/services/", "password": "/T0/B0/x"},
            "https://hooks.slack.com/services/T0/B0/x",
        ),
        ({"host": "chat", "schema": "https", "port": 8443, "password": "t"}, "https://chat:8443/t"),
        ({"password": "https://chat.example.org/hooks/x"}, "https://chat.example.org/hooks/x"),
        ("slackwebhook://:T0%2FB0%2Fx@https%3A%2F%2Fchat.example.org/", "https://chat.example.org/T0/B0/x"),
        ("http://https://:t@chat/", "https://chat/t"),
    ],
)
def test_slack(connection: Any, url: str) -> None:
    found = slack_webhook(connection)
    assert found.get_secret_value() == url
    assert "hidden" not in repr(Connections(slack=found))


ELASTICSEARCH = {
    "conn_type": "elasticsearch",
    "host": "search",
    "port": 9200,
    "schema": "https",
    "login": "ada",
    "password": "hidden",
    "extra": {"ca_certs": "/etc/ca.pem", "api_key": "hidden-key"},
}


@pytest.mark.parametrize("connection", forms(ELASTICSEARCH))
def test_elasticsearch(connection: Any) -> None:
    found = HttpConnection.from_airflow(connection)
    assert (found.url, found.user, found.ca_file) == ("https://search:9200", "ada", "/etc/ca.pem")
    assert found.password and found.password.get_secret_value() == "hidden"
    assert found.api_key and found.api_key.get_secret_value() == "hidden-key"
    assert "hidden" not in repr(found)


def test_an_address_with_a_password_in_it() -> None:
    found = HttpConnection.from_airflow({"conn_type": "http", "host": "https://ada:hid%2Fden@search/path/", "port": 80})
    assert (found.url, found.user) == ("https://search:80/path", "ada")
    assert found.password and found.password.get_secret_value() == "hid/den"


@pytest.mark.parametrize(
    ("kind", "connection", "words"),
    [
        (
            "kafka",
            {"conn_type": "aws", "conn_id": "mine"},
            "'mine': its type is 'aws'; Kafka needs one of type 'kafka'",
        ),
        ("kafka", {"extra": {"oauth_cb": "hidden.function"}}, "oauth_cb is a function"),
        ("kafka", {"extra": {"on_commit": "hidden.function"}}, "on_commit is a function"),
        ("kafka", {"extra": {"sasl.mechanisms": "OAUTHBEARER", "sasl.password": "hidden"}}, "method=oidc"),
        ("kafka", {"extra": {"bootstrap.servers": "u:hidden@h:9092"}}, "an '@' stands in it: a broker is host:port"),
        ("kafka", {"host": "u:hidden@h"}, "an '@' stands in it"),
        ("kafka", {"extra": {"topics": ["hidden"]}}, "topics is no setting of librdkafka"),
        ("kafka", {"extra": {"sasl.password": [{"hidden": 1}], "debug": ["hidden"], "x": object()}}, "x: librdkafka"),
        ("kafka", {"extra": "{hidden"}, "its extra is not JSON"),
        ("kafka", {"extra": '["hidden"]'}, "its extra is no mapping"),
        ("kafka", SimpleNamespace(conn_id="mine", extra="{hidden", extra_dejson={}), "'mine': its extra is not JSON"),
        ("kafka", "{hidden", "not JSON"),
        ("kafka", "hidden", "as a URI"),
        ("kafka", "kafka://u:hidden@[::1/x", "no URI"),
        ("kafka", "kafka://u:hidden@h:port/x", "no URI"),
        ("kafka", "kafka://?__extra__={hidden", "not JSON"),
        ("postgres", {"conn_type": "mysql", "password": "hidden"}, "PostgreSQL needs one of type 'postgres'"),
        ("postgres", {"port": "hidden"}, "its port is no number"),
        ("postgres", {"extra": {"iam": True}}, "iam: tokens"),
        ("postgres", {"extra": {"ssl_mode": "hidden"}}, "'ssl_mode'; did you mean 'sslmode'"),
        ("slack", {"conn_type": "slack", "password": "hidden"}, "'slackwebhook'"),
        ("slack", {"conn_type": "slackwebhook"}, "its password is empty"),
        ("elasticsearch", {"password": "hidden"}, "names no host"),
        ("aws", {"conn_type": "aws", "extra": {"config_kwargs": "{hidden"}}, "config_kwargs is not JSON"),
    ],
)
def test_connections_that_cannot_be_used(kind: str, connection: Any, words: str) -> None:
    with pytest.raises(penstock.SettingsError) as caught:
        Connections.from_airflow(**{kind: connection})
    assert words in str(caught.value) and str(caught.value).startswith("Airflow connection")
    assert "hidden" not in str(caught.value) and "hidden" not in repr(caught.value)


def test_a_connection_of_postgresql_takes_the_place_of_a_duckdb_file(tmp_path: Path) -> None:
    """A warehouse in PostgreSQL that the file names, and one that is named for this time, count before it."""
    known = Connections.from_airflow(postgres="postgres://ada:hidden@db:5432/shop")
    spec = penstock.Pipeline.load("payments", connections=known).spec()
    assert (spec["warehouse"]["postgres"]["place"], spec["warehouse"]["fill"]) == ("db:5432/shop", "epoch")
    assert spec.warehouse_secret == "postgresql://ada:hidden@db:5432/shop" and "hidden" not in json.dumps(spec)
    own = penstock.Pipeline.load(
        "payments", {"warehouse.duckdb": str(tmp_path / "own.duckdb")}, connections=known
    ).spec()
    assert own["warehouse"] == {"duckdb": str(tmp_path / "own.duckdb"), "fill": "epoch"} and not own.warehouse_secret
    own = penstock.Pipeline.load("payments", {"warehouse.postgres": "postgresql://h/own"}, connections=known).spec()
    assert own["warehouse"]["postgres"]["place"] == "h:5432/own"
    assert (
        "postgres"
        in penstock.Pipeline.load("payments", {"warehouse.fill": "load"}, connections=known).spec()["warehouse"]
    )
