"""A cluster that lets not everybody in: who is let in reads, the others soon learn why, and no secret is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kafka_support import Flow, message
from penstock import Pipeline
from penstock.connections import Connections
from penstock.errors import PenstockError, SettingsError, SourceError
from services import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from services.kafka import KafkaBroker


@pytest.fixture
def flow(secure_broker: KafkaBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Flow:
    """A pipeline of alice's over a topic that she may read, with a group that she may use."""
    topic = secure_broker.create_topic("".join(c if c.isalnum() else "-" for c in request.node.name))
    secure_broker.allow("alice", "topic", topic, "read", "describe")
    secure_broker.allow("alice", "group", f"group-{topic}", "read", "describe")
    secure_broker.produce(topic, [message(n) for n in range(20)])
    return Flow(tmp_path / topic, secure_broker, [topic], source=as_user(secure_broker, "alice"))


def as_user(broker: KafkaBroker, name: str, mechanism: str = "SCRAM-SHA-256") -> dict[str, Any]:
    own = broker.settings(name, mechanism=mechanism)
    del own["bootstrap.servers"]
    return own


def refused(flow: Flow, **kafka: Any) -> str:
    """The error of a run, which shows no password, nor does anything that was written.

    It has to come: a run that waited for better times instead would go on beyond the time that a test has.
    """
    with pytest.raises(PenstockError) as error:
        flow.run(give_up="5s", **kafka)
    said = str(error.value)
    shows_nothing(said + repr(error.value), flow)
    assert isinstance(error.value, SourceError), said
    return said


def shows_nothing(text: str, flow: Flow) -> None:
    for password in ("alice-secret", "bob-secret", "wrong-secret", "key-secret"):
        assert password not in text
        for written in flow.everything_written():
            assert password.encode() not in written


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_who_is_let_in_reads(flow: Flow, mechanism: str) -> None:
    found = flow.run(**as_user(flow.broker, "alice", mechanism))
    assert found.consumed == 20
    assert flow.broker.group_offsets(flow.group, flow.topics[0]) == {0: 20}
    pipeline = flow.pipeline()
    shown = [repr(pipeline), repr(pipeline.settings), str(pipeline.settings), repr(pipeline.file)]
    shown += [str(pipeline.spec()), str(pipeline.settings.model_dump()), pipeline.settings.model_dump_json()]
    shown += [str(flow.events), str(found), repr(found)]
    shows_nothing("".join(shown), flow)


def test_an_airflow_connection_lets_in(flow: Flow) -> None:
    """The file names topics and group; brokers, user and password come from a connection, and go nowhere else."""
    flow.pipeline()
    file = flow.folder / "pipeline.yaml"
    whole = json.loads(file.read_text())
    whole["source"]["kafka"] = {"topics": flow.topics, "group": flow.group}
    file.write_text(json.dumps(whole))

    def given(password: str) -> Connections:
        own = flow.broker.settings("alice", mechanism="SCRAM-SHA-256") | {"sasl.password": password}
        own |= {"group.id": "of-others", "auto.offset.reset": "latest", "enable.auto.commit": False}
        return Connections.from_airflow(kafka={"conn_id": "kafka", "conn_type": "kafka", "extra": json.dumps(own)})

    overrides = {"source.kafka.give_up": "5s"}
    with pytest.raises(SourceError, match="refuses this user or password") as error:
        Pipeline.load(file, overrides, connections=given("wrong-secret")).run(progress=False)
    shows_nothing(str(error.value), flow)
    pipeline = Pipeline.load(file, overrides, connections=given("alice-secret"))
    found = pipeline.run(progress=False)
    assert found.consumed == 20 and pipeline.audit(broker=True).balanced
    assert flow.broker.group_offsets(flow.group, flow.topics[0]) == {0: 20}
    shows_nothing(repr(pipeline) + repr(pipeline.file) + repr(pipeline.spec()) + json.dumps(pipeline.spec()), flow)


def test_a_wrong_password(flow: Flow) -> None:
    for mechanism in ("SCRAM-SHA-256", "PLAIN"):
        said = refused(flow, **as_user(flow.broker, "alice", mechanism) | {"sasl.password": "wrong-secret"})
        assert "the broker refuses this user or password" in said
        assert "sasl.username, sasl.password and sasl.mechanism" in said


def test_an_unknown_user(flow: Flow) -> None:
    assert "refuses this user or password" in refused(flow, **{"sasl.username": "mallory"})


def test_a_mechanism_that_the_broker_does_not_have(flow: Flow) -> None:
    said = refused(flow, **{"sasl.mechanism": "SCRAM-SHA-512"})
    assert "sasl.mechanism" in said


def test_an_untrusted_certificate(flow: Flow) -> None:
    said = refused(flow, **{"ssl.ca.location": str(flow.broker.other_ca)})
    assert "no TLS connection to the broker" in said
    assert "ssl.ca.location" in said


def test_a_certificate_for_another_name(flow: Flow) -> None:
    # The certificate is for 127.0.0.1 and localhost; this name leads to the same place.
    said = refused(flow, brokers=f"127.1:{flow.broker.port}")
    assert "no TLS connection to the broker" in said


def test_no_tls_and_no_password(flow: Flow) -> None:
    said = refused(flow, **{"security.protocol": "PLAINTEXT"})
    assert "security.protocol" in said
    said = refused(flow, **{"security.protocol": "SASL_PLAINTEXT"})
    assert "security.protocol" in said


def test_tls_where_there_is_none(flow: Flow, kafka_broker: KafkaBroker) -> None:
    said = refused(flow, brokers=kafka_broker.bootstrap)
    assert "no TLS connection" in said or "security.protocol" in said


def test_a_forbidden_topic(flow: Flow) -> None:
    flow.broker.create_topic(f"{flow.topics[0]}-hidden")
    said = refused(flow, topics=[f"{flow.topics[0]}-hidden"])
    assert f"topic {flow.topics[0]}-hidden: user alice may not read it" in said
    # To be seen is not to be read.
    flow.broker.create_topic(f"{flow.topics[0]}-seen")
    flow.broker.produce(f"{flow.topics[0]}-seen", [message(1)])
    flow.broker.allow("alice", "topic", f"{flow.topics[0]}-seen", "describe")
    said = refused(flow, topics=[f"{flow.topics[0]}-seen"])
    assert f"topic {flow.topics[0]}-seen: user alice may not read it" in said


def test_a_forbidden_group(flow: Flow) -> None:
    said = refused(flow, group="somebody-elses")
    assert "consumer group somebody-elses: user alice may not use it" in said
    assert not flow.log(), "nothing was planned"


def test_nothing_allowed(flow: Flow) -> None:
    assert "user bob may not read it" in refused(flow, **as_user(flow.broker, "bob"))


def test_a_topic_that_is_not_there(flow: Flow) -> None:
    flow.broker.allow("alice", "topic", "absent", "describe", "read", prefix=True)
    assert "topic absent-1: there is no such topic" in refused(flow, topics=["absent-1"])


@pytest.mark.parametrize("brokers", ["127.0.0.1:{port}", "no-such-host.invalid:9092"])
def test_a_broker_that_is_not_there(flow: Flow, brokers: str) -> None:
    said = refused(flow, brokers=brokers.format(port=free_port()))
    assert "cannot be reached for 5 s" in said
    assert "source.kafka.brokers" in said


def test_a_key_with_a_wrong_password(flow: Flow, tmp_path: Path) -> None:
    key = tmp_path / "client.key"
    subprocess.run(
        ["openssl", "genrsa", "-aes256", "-passout", "pass:key-secret", "-out", str(key), "2048"],
        check=True,
        capture_output=True,
    )
    for password in ("wrong-secret", "key-secret"):
        with pytest.raises(SettingsError) as error:
            flow.run(**{"ssl.key.location": str(key), "ssl.key.password": password, "ssl.certificate.location": "/no"})
        shows_nothing(str(error.value), flow)


def test_secrets_come_from_the_environment(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "alice-secret")
    assert flow.run(**{"sasl.password": "${KAFKA_PASSWORD}"}).consumed == 20
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong-secret")
    assert "refuses this user or password" in refused(flow, **{"sasl.password": "${KAFKA_PASSWORD}"})


def test_the_command_line_shows_no_secret_either(flow: Flow) -> None:
    flow.pipeline(give_up="5s")
    command = [sys.executable, "-m", "penstock", "run", str(flow.folder), "--until-caught-up", "--json"]
    wrong = [*command, "--set", "source.kafka.sasl.password=wrong-secret", "--set", "source.kafka.debug=security"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "refuses this user or password" in done.stderr
    shows_nothing(done.stdout + done.stderr, flow)
    done = subprocess.run([*command, "--set", "source.kafka.debug=all"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shows_nothing(done.stdout + done.stderr, flow)
