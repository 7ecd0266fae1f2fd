"""What is gone: offsets by retention, topics deleted and made again, other clusters. Never in silence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import crash
import penstock
from kafka_support import Flow, Running, message
from penstock.errors import SourceError
from services.kafka import KafkaBroker

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def topic(kafka_broker: KafkaBroker, request: pytest.FixtureRequest) -> str:
    """A topic of two partitions for one test."""
    return kafka_broker.create_topic("".join(c if c.isalnum() else "-" for c in request.node.name), partitions=2)


@pytest.fixture
def flow(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> Flow:
    """A pipeline over it that has read ten events of each partition."""
    flow = Flow(tmp_path / topic, kafka_broker, [topic])
    for partition in (0, 1):
        kafka_broker.produce(
            topic, [message(n) for n in range(partition * 10, partition * 10 + 10)], partition=partition
        )
    assert flow.run().consumed == 20
    return flow


def produce(flow: Flow, first: int, count: int, *, partition: int = 1) -> None:
    flow.broker.produce(flow.topics[0], [message(n) for n in range(first, first + count)], partition=partition)


def numbers(flow: Flow) -> set[int]:
    """The events of Silver."""
    return {int(name[1:]) for name in flow.ids()}


class TestRetention:
    """Offsets that the broker has deleted before they were read."""

    def test_an_error_that_says_which(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        flow.broker.delete_records(topic, {1: 25})
        before = len(flow.log())
        with pytest.raises(SourceError) as refused:
            flow.run()
        assert f"topic {topic}, partition 1: offsets 10 to 24 (15 of them) are gone" in str(refused.value)
        assert "--accept-gap" in str(refused.value)
        assert len(flow.log()) == before, "nothing was planned"

    def test_an_accepted_gap_is_in_the_ledger(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        flow.broker.delete_records(topic, {1: 25})
        found = flow.run(accept_gap=True)
        assert (found.consumed, found.lost, found.run.lost) == (55, 15, 15)
        gap = {"topic": topic, "partition": 1, "from": 10, "to": 25}
        assert [{k: e[k] for k in gap} for e in flow.events if e["event"] == "gap"] == [gap]
        assert [plan["gaps"] for plan in flow.log() if plan.get("gaps")] == [[gap]]
        flow.audit()
        produce(flow, 200, 5)
        later = flow.run()
        assert (later.consumed, later.lost, later.run.lost) == (60, 15, 0)
        assert ("lost before they were read", 15, 0) in later.rows()

    def test_a_gap_with_nothing_behind_it(self, flow: Flow, topic: str) -> None:
        """All that was not read is gone, and nothing new is there: the loss is recorded all the same."""
        produce(flow, 100, 30)
        flow.broker.delete_records(topic, {1: 40})
        assert flow.run(accept_gap=True).lost == 30
        assert flow.run().run.epochs == 0
        flow.audit()

    def test_an_accepted_gap_survives_a_crash(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        flow.broker.delete_records(topic, {1: 25})
        with Running(flow, "--until-caught-up", "--accept-gap", failpoint="plan.after=kill") as killed:
            assert killed.end() == -signal.SIGKILL
        # The plan stands, so the gap is accepted, though this run does not ask for it again.
        found = flow.run()
        assert (found.consumed, found.lost) == (55, 15)
        flow.audit()

    def test_gone_while_it_reads(self, flow: Flow, topic: str) -> None:
        """A run without end that retention overtakes ends with the error, too, or counts the loss."""
        own = {"queued.max.messages.kbytes": 1, "queued.min.messages": 1, "fetch.message.max.bytes": 1_000}
        flow.settings = {"epoch": {"max_events": 10}}
        for first in range(1_000, 3_000, 200):
            produce(flow, first, 200)
        with Running(flow, failpoint="plan.after@2=stop", **own) as run:
            # It stands still (SIGSTOP) in the middle of an epoch; meanwhile all that it has not fetched goes.
            crash.halted(run.process)
            flow.broker.delete_records(topic, {1: flow.broker.end_offsets(topic)[1]})
            produce(flow, 9_000, 5)
            run.process.send_signal(signal.SIGCONT)
            assert run.end() == 3
            assert "are gone: the broker has deleted them (retention)" in run.said
        found = flow.run(accept_gap=True)
        assert found.consumed + found.lost == 20 + 2_000 + 5
        assert found.lost > 0
        assert flow.ids()[-5:] == [f"e{n}" for n in range(9_000, 9_005)]
        flow.audit()

    def test_gone_while_it_reads_and_accepted(self, flow: Flow, topic: str) -> None:
        """The run counts the loss and goes on, also where it comes in the middle of a tick."""
        own = {"queued.max.messages.kbytes": 1, "queued.min.messages": 1, "fetch.message.max.bytes": 1_000}
        # Messages are fetched two hundred at a time: the last that were fetched do not fill a tick.
        flow.settings = {"epoch": {"max_events": 330, "tick": "10s", "max_wait": "100ms"}}
        for first in range(1_000, 3_000, 200):
            produce(flow, first, 200)
        with Running(flow, "--accept-gap", failpoint="plan.after=stop", **own) as run:
            run.wait("it to stand still", lambda: "failpoint plan.after" in run.said)
            flow.broker.delete_records(topic, {1: flow.broker.end_offsets(topic)[1]})
            produce(flow, 9_000, 500)
            run.process.send_signal(signal.SIGCONT)
            run.wait("what came behind the gap", lambda: 9_499 in numbers(flow))
            assert run.stop() == 0
        ticks = [tick["ranges"] for plan in flow.log() for tick in plan["ticks"]]
        twice = [ranges for ranges in ticks if [r["partition"] for r in ranges].count(1) > 1]
        assert len(twice) == 1, "the gap lies in the middle of a tick"
        gaps = [gap for plan in flow.log() for gap in plan.get("gaps", [])]
        lost = sum(gap["to"] - gap["from"] for gap in gaps)
        ledger = flow.pipeline().inspect()
        assert lost > 0 and ledger.counts.consumed + lost == 20 + 2_000 + 500
        assert numbers(flow) >= set(range(9_000, 9_500))
        flow.audit()

    def test_a_topic_named_later_begins_with_what_it_has(self, flow: Flow, topic: str) -> None:
        """Nothing was ever read of it: what is gone of it is no loss of this pipeline."""
        older = flow.broker.create_topic(f"{topic}-older", partitions=1)
        flow.broker.produce(older, [message(n) for n in range(500, 540)])
        flow.broker.delete_records(older, {0: 30})
        flow.topics = [topic, older]
        found = flow.run(start="latest")
        assert (found.consumed, found.lost) == (30, 0)
        assert numbers(flow) == {*range(20), *range(530, 540)}
        flow.audit()

    def test_a_topic_named_later_is_overtaken_while_it_is_read(self, flow: Flow, topic: str) -> None:
        """Once something was read of it, what goes is a loss as of any other."""
        own = {"queued.max.messages.kbytes": 1, "queued.min.messages": 1, "fetch.message.max.bytes": 1_000}
        later = flow.broker.create_topic(f"{topic}-later", partitions=1)
        flow.broker.produce(later, [message(n) for n in range(1_000, 1_200)])
        flow.topics = [topic, later]
        flow.settings = {"epoch": {"max_events": 10}}
        with Running(flow, failpoint="plan.after@2=stop", **own) as run:
            run.wait("it to stand still", lambda: "failpoint plan.after" in run.said)
            flow.broker.produce(later, [message(n) for n in range(1_200, 3_000)])
            flow.broker.delete_records(later, {0: 2_000})
            run.process.send_signal(signal.SIGCONT)
            assert run.end() == 3
            assert f"topic {later}, partition 0: offsets" in run.said and "are gone" in run.said

    def test_offsets_of_a_plan_that_are_gone(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        with Running(flow, "--until-caught-up", failpoint="plan.after=kill") as killed:
            assert killed.end() == -signal.SIGKILL
        flow.broker.delete_records(topic, {1: 30})
        with pytest.raises(SourceError, match=r"offsets 10 to 29 are gone .* planned over 10 to 59"):
            flow.run()
        with pytest.raises(SourceError, match=r"planned over 10 to 59.*--void"):
            flow.run(accept_gap=True)

    def test_a_partition_found_later_has_lost_its_beginning(self, flow: Flow, topic: str) -> None:
        flow.broker.add_partitions(topic, 3)
        produce(flow, 100, 20, partition=2)
        flow.broker.delete_records(topic, {2: 5})
        with pytest.raises(SourceError, match="partition 2: offsets 0 to 4"):
            flow.run()
        assert flow.run(accept_gap=True).lost == 5

    def test_on_the_command_line(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        flow.broker.delete_records(topic, {1: 25})
        command = [sys.executable, "-m", "penstock", "run", str(flow.folder), "--until-caught-up", "--json", "--quiet"]
        flow.pipeline()
        refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 3
        assert "offsets 10 to 24" in refused.stderr
        done = subprocess.run([*command, "--accept-gap"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["lost"] == 15


class TestRecreated:
    """A topic that was deleted and made again holds other events under the same offsets."""

    def remake(self, flow: Flow, topic: str, count: int) -> None:
        flow.broker.delete_topic(topic)
        flow.broker.create_topic(topic, partitions=2)
        for partition in (0, 1):
            produce(flow, 1_000 + 500 * partition, count, partition=partition)

    @pytest.mark.parametrize("count", [0, 3, 10, 200])
    def test_it_is_an_error_however_long_it_is(self, flow: Flow, topic: str, count: int) -> None:
        self.remake(flow, topic, count)
        before = len(flow.log())
        for accept_gap in (False, True):
            with pytest.raises(SourceError, match=f"topic {topic}: was deleted and made again: its id was .* and is "):
                flow.run(accept_gap=accept_gap)
        assert len(flow.log()) == before
        assert flow.ids() == sorted(f"e{n}" for n in range(20))

    def test_while_it_is_being_read(self, flow: Flow, topic: str) -> None:
        with Running(flow, **{"topic.metadata.refresh.interval.ms": 300}) as run:
            run.wait("it to read", lambda: run.seen("lag"))
            self.remake(flow, topic, 200)
            assert run.end() == 3
            assert "was deleted and made again" in run.said or "was deleted" in run.said
        assert flow.ids() == sorted(f"e{n}" for n in range(20)), "nothing of the new topic was taken"

    def test_a_planned_range_of_it_is_not_read(self, flow: Flow, topic: str) -> None:
        produce(flow, 100, 50)
        with Running(flow, "--until-caught-up", failpoint="plan.after=kill") as killed:
            assert killed.end() == -signal.SIGKILL
        self.remake(flow, topic, 200)
        with pytest.raises(SourceError, match="was deleted and made again"):
            flow.run()

    def test_deleted_for_good(self, flow: Flow, topic: str) -> None:
        flow.broker.delete_topic(topic)
        for missing in ("auto", "wait"):
            with pytest.raises(SourceError, match=f"topic {topic}: was read before and is there no more"):
                flow.run(missing_topics=missing)


def test_another_cluster_is_an_error(flow: Flow, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import services.kafka

    monkeypatch.setattr(services.kafka, "CLUSTER_ID", "MkU3OEVBNTcwNTJENDM2Qk")
    with KafkaBroker() as other:
        other.create_topic(topic, partitions=2)
        flow.broker = other
        with pytest.raises(SourceError, match=r"is cluster .*, and this pipeline has read from cluster"):
            flow.run()


def test_the_api_has_it(flow: Flow, topic: str) -> None:
    produce(flow, 100, 50)
    flow.broker.delete_records(topic, {1: 25})
    flow.pipeline()
    pipeline = penstock.Pipeline.load(flow.folder)
    assert pipeline.run(accept_gap=True, progress=False).lost == 15
