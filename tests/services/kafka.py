"""Apache Kafka: one node (broker and controller), on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from services import Process, free_port, need, until
from services.certificates import make_authority, sign
from services.java import install, java

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

# Small and quick: a topic for offsets with few partitions, a session that runs out soon, checkpoints that come often.
# And nothing goes by its age unless a test asks for it: messages may carry any timestamp.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    "log.initial.task.delay.ms": "500",
    "log.flush.start.offset.checkpoint.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "2097152",
    "log.retention.ms": "-1",
}
T = TypeVar("T")
CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
ADMIN, ADMIN_PASSWORD = "admin", "admin-secret"
MARK = "listener.name.sasl_ssl"


class KafkaBroker:
    """A broker in a folder of its own.

    Args:
        users: Names and passwords: SASL_SSL (SCRAM-SHA-256 and PLAIN) and ACLs are demanded then. Nobody but `admin`
            may do anything until `allow` is called.
        properties: More of Kafka's own settings.
        heap: The most memory that Java takes for itself.
        quick: Let Java compile little: quick to start, slow to serve. Not for benchmarks.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
        quick: bool = True,
    ) -> None:
        self.users = dict(users or {})
        self.secure = users is not None
        self.properties = dict(properties or {})
        self.heap = heap
        self.quick = quick
        self.process: Process | None = None
        self._admin: Any = None

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.classpath, self.archive = install(_archive)
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
        self.log = self.folder / "broker.log"
        for attempt in range(5):
            self.port, self.controller = free_port(), free_port()
            self._format()
            try:
                self.start()
            except _PortTakenError:
                if attempt == 4:
                    raise
                shutil.rmtree(self.folder / "data")
                self.log.unlink()
                continue
            break
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bootstrap(self) -> str:
        """Its address; the same after a restart."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, wait: bool = True) -> None:
        """Start it, again on the same data and ports, and wait until it serves all that it has."""
        if self.process and self.process.running():
            return
        command = java(self.classpath, heap=self.heap, quick=self.quick, archive=self.archive)
        self.process = Process(
            [*command, "kafka.Kafka", str(self.folder / "server.properties")], self.log, folder=self.folder
        )
        if wait:
            self.wait()

    def wait(self, *, seconds: float = 90.0) -> None:
        """Wait until it serves every topic that it has, and consumer groups."""
        until(f"Kafka on {self.bootstrap} (its log: {self.log})", self._serves, seconds=seconds)
        self.group_offsets("nobody", "__consumer_offsets")

    def stop(self) -> None:
        """SIGTERM."""
        self._forget_admin()
        if self.process:
            self.process.stop()
            self.process = None

    def kill(self) -> None:
        """`kill -9`."""
        self._forget_admin()
        if self.process:
            self.process.kill()
            self.process = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) it and start it again."""
        self.kill() if kill else self.stop()
        self.start()

    def _serves(self) -> bool:
        if self.process is None or not self.process.running():
            said = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
            if "Address already in use" in said:
                raise _PortTakenError(said)
            raise RuntimeError(f"Kafka ended by itself:\n{said}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        from confluent_kafka import KafkaException

        try:
            found = self.admin().list_topics(timeout=2)
        except KafkaException:
            return False
        return bool(found.brokers) and all(
            p.leader >= 0 for topic in found.topics.values() for p in topic.partitions.values()
        )

    def _format(self) -> None:
        listeners = {"CONTROLLER": self.controller}
        own = {**PROPERTIES, "controller.quorum.voters": f"1@127.0.0.1:{self.controller}"}
        own["log.dirs"] = str(self.folder / "data")
        protocol = "SASL_SSL" if self.secure else "PLAINTEXT"
        listeners = {protocol: self.port, **listeners}
        own["listeners"] = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
        own["advertised.listeners"] = f"{protocol}://127.0.0.1:{self.port}"
        scram: list[str] = []
        if self.secure:
            own |= self._security()
            for name, password in {ADMIN: ADMIN_PASSWORD, **self.users}.items():
                scram += ["--add-scram", f"SCRAM-SHA-256=[name={name},password={password}]"]
        own |= self.properties
        file = self.folder / "server.properties"
        file.write_text("".join(f"{k}={v}\n" for k, v in own.items()))
        command = [*java(self.classpath, heap="128m", archive=self.archive), "kafka.tools.StorageTool", "format"]
        command += ["-t", CLUSTER_ID, "-c", str(file), *scram]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"Kafka's storage was not formatted: {done.stdout}{done.stderr}")

    def _security(self) -> dict[str, str]:
        need("openssl", why="a broker with TLS")
        self.ca = make_authority(self.folder, "ca")
        # An authority that has signed nothing here: whoever trusts only it does not trust the broker.
        self.other_ca = make_authority(self.folder, "other")
        store = sign(self.folder, "ca", "broker")
        plain = "".join(f' user_{n}="{p}"' for n, p in {ADMIN: ADMIN_PASSWORD, **self.users}.items())
        security = "org.apache.kafka.common.security"
        return {
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,PLAIN",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-256",
            f"{MARK}.scram-sha-256.sasl.jaas.config": f"{security}.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="{ADMIN_PASSWORD}";',
            f"{MARK}.plain.sasl.jaas.config": f"{security}.plain.PlainLoginModule required "
            f'username="{ADMIN}" password="{ADMIN_PASSWORD}"{plain};',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:ANONYMOUS",
        }

    # --- clients ----------------------------------------------------------------------------------------------------

    def settings(self, user: str | None = None, *, mechanism: str = "SCRAM-SHA-256") -> dict[str, str]:
        """librdkafka's settings for a client (of this user; of the administrator unless told)."""
        found = {"bootstrap.servers": self.bootstrap}
        if self.secure:
            name = user or ADMIN
            found |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": mechanism,
                "sasl.username": name,
                "sasl.password": {ADMIN: ADMIN_PASSWORD, **self.users}[name],
                "ssl.ca.location": str(self.ca),
            }
        return found

    def admin(self) -> Any:
        """An administrator's client; one for all calls until the broker goes."""
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            self._admin = AdminClient(self.settings() | QUIET)
        return self._admin

    def _forget_admin(self) -> None:
        self._admin = None

    def _ask(self, call: Callable[[], T], *, done: str = "") -> T | None:
        """Calls, and again while the broker is not quite back.

        Args:
            call: What is asked.
            done: The error that says that an earlier call, whose answer was lost, has done it.
        """
        from confluent_kafka import KafkaException

        calls = 0

        def ask() -> tuple[T | None] | None:
            nonlocal calls
            calls += 1
            try:
                return (call(),)
            except KafkaException as error:
                if calls > 1 and error.args[0].name() == done:
                    return (None,)
                if _passing(error):
                    return None
                raise

        return until("the administrator's call", ask)[0]

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Make a topic and wait until it can be used."""
        from confluent_kafka.admin import NewTopic

        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        self._ask(lambda: self.admin().create_topics([topic])[name].result(30), done="TOPIC_ALREADY_EXISTS")
        until(f"topic {name}", lambda: self.partitions(name) == partitions)
        return name

    def partitions(self, topic: str) -> int:
        """How many partitions with a leader a topic has; 0 where there is none."""
        found = self.admin().list_topics(timeout=30).topics.get(topic)
        return sum(1 for p in found.partitions.values() if p.leader >= 0) if found and not found.error else 0

    def add_partitions(self, topic: str, total: int) -> None:
        """Let a topic have this many partitions."""
        from confluent_kafka.admin import NewPartitions

        more = NewPartitions(topic, total)
        self._ask(lambda: self.admin().create_partitions([more])[topic].result(30), done="INVALID_PARTITIONS")
        until(f"{total} partitions of {topic}", lambda: self.partitions(topic) == total)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until nobody sees it any more."""
        self._ask(lambda: self.admin().delete_topics([name])[name].result(30), done="UNKNOWN_TOPIC_OR_PART")
        until(f"topic {name} to go", lambda: name not in self.admin().list_topics(timeout=30).topics)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete what lies before an offset, by partition, as retention would."""
        from confluent_kafka import TopicPartition

        places = [TopicPartition(topic, p, o) for p, o in before.items()]
        self._ask(lambda: [future.result(30) for future in self.admin().delete_records(places).values()])
        until(
            f"records of {topic} to go",
            lambda: all(self.offsets(topic)[p][0] >= offset for p, offset in before.items()),
        )

    def offsets(self, topic: str, *, stable: bool = False) -> dict[int, tuple[int, int]]:
        """First and end offset by partition; of `stable`, the end is where the first open transaction begins."""
        from confluent_kafka import IsolationLevel, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        level = IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED

        places = [TopicPartition(topic, p) for p in range(self.partitions(topic))]
        if not places:
            return {}

        def ask(spec: Any) -> dict[int, int]:
            asked = self.admin().list_offsets(dict.fromkeys(places, spec), isolation_level=level)
            return {place.partition: future.result(30).offset for place, future in asked.items()}

        found = self._ask(lambda: (ask(OffsetSpec.earliest()), ask(OffsetSpec.latest())))
        assert found is not None
        first, end = found
        return {p: (first[p], end[p]) for p in first}

    def end_offsets(self, topic: str, *, stable: bool = False) -> dict[int, int]:
        """End offset by partition; of `stable`, as `offsets` has it."""
        return {p: end for p, (_, end) in self.offsets(topic, stable=stable).items()}

    def group_offsets(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a consumer group has committed, by partition; those without one are left out."""
        from confluent_kafka import Consumer, TopicPartition

        # By a consumer: librdkafka's administrator crashes while the group has no coordinator (2.16).
        client = Consumer(self.settings() | {"group.id": group} | QUIET)
        places = [TopicPartition(topic, p) for p in range(max(1, self.partitions(topic)))]
        try:
            found = self._ask(lambda: client.committed(places, timeout=30))
        finally:
            client.close()
        return {place.partition: place.offset for place in found or () if place.offset >= 0}

    def produce(
        self,
        topic: str,
        messages: Iterable[Any],
        *,
        partition: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> int:
        """Send messages and wait until the broker has them all. Gives their number.

        Args:
            topic: Where.
            messages: Each a value (bytes, text, None for a tombstone, anything else as JSON), or a dict of `value`
                and any of `key`, `headers`, `timestamp`, `partition` (a dict without `value` is JSON).
            partition: Where all of them go; by key unless told.
            config: More of librdkafka's settings.
        """
        from confluent_kafka import Producer

        client = Producer(self.settings() | {"enable.idempotence": True, "linger.ms": 5} | QUIET | dict(config or {}))
        failed: list[Any] = []

        def done(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error)

        count = 0
        for message in messages:
            whole = dict(message) if isinstance(message, dict) and "value" in message else {"value": message}
            value = whole.pop("value")
            if value is not None and not isinstance(value, (bytes, str)):
                value = json.dumps(value)
            if partition is not None:
                whole["partition"] = partition
            while True:
                try:
                    client.produce(topic, value, on_delivery=done, **whole)
                    break
                except BufferError:
                    client.poll(0.1)
            client.poll(0)
            count += 1
        if client.flush(60) or failed:
            raise RuntimeError(f"{topic}: not everything was delivered: {failed[:3]}")
        return count

    def consume(self, topic: str, *, config: Mapping[str, Any] | None = None) -> list[Any]:
        """Every message from first to end offset, as seen when called."""
        from confluent_kafka import Consumer, TopicPartition

        offsets = self.offsets(topic)
        client = Consumer(
            self.settings()
            | {"group.id": "-", "enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 50}
            | QUIET
            | dict(config or {})
        )
        found = []
        try:
            client.assign([TopicPartition(topic, p, first) for p, (first, _) in offsets.items()])
            open_, deadline = {p for p, (first, end) in offsets.items() if end > first}, time.monotonic() + 60
            while open_:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic}: partitions {sorted(open_)} were not read to their end within 60 s")
                for message in client.consume(1_000, 0.2):
                    if message.error() is None:
                        found.append(message)
                    elif message.error().name() == "_PARTITION_EOF":
                        open_.discard(message.partition())
                    else:
                        raise RuntimeError(str(message.error()))
        finally:
            client.close()
        return found

    def allow(self, user: str, what: str, name: str, *operations: str, prefix: bool = False) -> None:
        """Let a user do something: `allow("alice", "topic", "events", "read", "describe")`."""
        from confluent_kafka.admin import (
            AclBinding,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        rules = [
            AclBinding(
                ResourceType[what.upper()],
                name,
                ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation[operation.upper()],
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        self._ask(lambda: [future.result(30) for future in self.admin().create_acls(rules).values()])


# librdkafka writes what it thinks of a broker that is away to standard error; here that is expected.
QUIET: dict[str, Any] = {"log_level": 0, "reconnect.backoff.max.ms": 500}


def _passing(error: Any) -> bool:
    """Whether it is worth asking again."""
    found = error.args[0]
    return bool(found.retriable()) or found.name() in {
        "NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "NOT_CONTROLLER", "_TRANSPORT",
        "UNKNOWN_LEADER_EPOCH", "FENCED_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR", "REQUEST_TIMED_OUT", "_TIMED_OUT",
    }  # fmt: skip


class _PortTakenError(RuntimeError):
    """Somebody else was quicker."""


def _archive(classpath: str, archive: Path) -> None:
    """Run a broker once and let Java keep the classes that it loaded. Without it everything works, only slower."""
    part = archive.with_suffix(".part")
    broker = KafkaBroker()
    broker.classpath, broker.archive = classpath, part
    broker.folder = Path(tempfile.mkdtemp(prefix="penstock-kafka-"))
    broker.log = broker.folder / "broker.log"
    broker.port, broker.controller = free_port(), free_port()
    try:
        broker._format()
        command = java(classpath, heap="512m")
        command = [*command[:-2], f"-XX:ArchiveClassesAtExit={part}", *command[-2:], "kafka.Kafka"]
        broker.process = Process([*command, str(broker.folder / "server.properties")], broker.log)
        with contextlib.suppress(TimeoutError, RuntimeError):
            broker.wait(seconds=120)
            broker.create_topic("warm")
            broker.produce("warm", [b"up"])
        broker.stop()
        if part.exists():
            part.rename(archive)
    finally:
        broker.kill()
        shutil.rmtree(broker.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_broker() -> Iterable[KafkaBroker]:
    """One broker for all tests that neither kill it nor demand passwords."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def secure_broker() -> Iterable[KafkaBroker]:
    """One broker that demands TLS and a password, and lets `alice` do what ACLs say, and `bob` nothing."""
    with KafkaBroker(users={"alice": "alice-secret", "bob": "bob-secret"}) as broker:
        yield broker
