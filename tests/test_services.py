"""The servers that the tests run: each must be what it pretends to be, or the tests on it prove nothing."""

from __future__ import annotations

import socket

import pytest

from services.kafka import KafkaBroker
from services.postgres import PASSWORD, Database, PostgresServer, postgres_server


def test_a_killed_broker_comes_back_with_what_it_acknowledged() -> None:
    with KafkaBroker() as broker:
        broker.create_topic("events", partitions=3)
        keyed = [{"key": f"k{i}", "value": {"n": i}, "headers": {"h": b"1"}, "timestamp": 1_000 + i} for i in range(90)]
        assert broker.produce("events", keyed) == 90
        broker.produce("events", [None, b"plain"], partition=2)
        before, address = broker.end_offsets("events"), broker.bootstrap
        assert sum(before.values()) == 92 and all(before.values())
        broker.kill()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", broker.port), 1)
        broker.start()
        assert broker.bootstrap == address and broker.end_offsets("events") == before
        found = broker.consume("events")
        assert sorted(m.offset() for m in found if m.partition() == 2) == list(range(before[2]))
        first = next(m for m in found if m.key() == b"k0")
        assert (first.value(), first.timestamp()[1], first.headers()) == (b'{"n": 0}', 1_000, [("h", b"1")])

        broker.delete_records("events", {2: 3})
        broker.restart()
        assert broker.offsets("events")[2] == (3, before[2])
        broker.add_partitions("events", 5)
        assert len(broker.end_offsets("events")) == 5
        broker.delete_topic("events")
        assert broker.partitions("events") == 0


def test_a_broker_that_demands_a_password_lets_nobody_in_without(secure_broker: KafkaBroker) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    broker = secure_broker
    broker.create_topic("for-alice")
    broker.allow("alice", "topic", "for-alice", "read", "describe")

    def topics(**other: str) -> list[str]:
        client = AdminClient(broker.settings("alice") | {"log_level": 0} | other)
        return list(client.list_topics(timeout=60).topics)

    assert "for-alice" in topics()
    assert "for-alice" in topics(**{"sasl.mechanism": "PLAIN"})
    for wrong in (
        {"sasl.password": "wrong"},
        {"ssl.ca.location": str(broker.other_ca)},
        {"security.protocol": "PLAINTEXT"},
        {"sasl.username": "mallory"},
    ):
        with pytest.raises(KafkaException):
            AdminClient(broker.settings("alice") | {"log_level": 0} | wrong).list_topics(timeout=2)
    bob = AdminClient(broker.settings("bob") | {"log_level": 0})
    assert not bob.list_topics(timeout=60).topics


def test_a_killed_postgres_comes_back_with_what_it_committed() -> None:
    import psycopg

    with postgres_server() as server:
        database = Database(server, server.database())
        database.run("CREATE TABLE kept (n INTEGER); INSERT INTO kept SELECT * FROM generate_series(1, 1000)")
        open_one = server.connect(database.name)
        open_one.execute("BEGIN")
        open_one.execute("DELETE FROM kept")
        server.kill()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port), 1)
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("COMMIT")
        server.start()
        assert database.rows("SELECT count(*), sum(n) FROM kept") == [(1000, 500_500)]
        server.stop()
        server.start()
        assert database.rows("SELECT count(*) FROM kept") == [(1000,)]
    assert not server.folder.exists()


def test_a_postgres_that_demands_a_password_and_has_a_certificate(postgres: PostgresServer, database: Database) -> None:
    import psycopg

    def who(**more: str) -> str:
        with psycopg.connect(postgres.url(database.name, "guarded"), **more) as connection:
            return str(
                connection.execute(
                    "SELECT current_user || ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                ).fetchone()[0]
            )  # type: ignore[index]

    assert who(password=PASSWORD) == "guardedfalse"
    trusting = {"password": PASSWORD, "sslmode": "verify-full", "sslrootcert": str(postgres.ca)}
    assert who(**trusting) == "guardedtrue"
    for wrong in ({"password": "wrong"}, {"sslrootcert": str(postgres.other_ca)}):
        with pytest.raises(psycopg.OperationalError):
            who(**trusting | wrong)
