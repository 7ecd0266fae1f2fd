"""Documents in Elasticsearch: a server that fails in all ways, and a real one."""

from __future__ import annotations

import base64
import datetime as dt
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from fake_elasticsearch import CUT, fake_elasticsearch
from index_support import HOURS, documents, payments, warehouse
from penstock import index as index_module
from penstock.elasticsearch import Action, Elasticsearch, Failure, Version
from penstock.errors import ElasticsearchError, SettingsError, WarehouseError
from penstock.index import index
from services import until
from services.certificates import make_authority, sign
from services.elasticsearch import OLDER, elasticsearch_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.elasticsearch import ElasticsearchServer

SECRET = "s3cr3t-that-nobody-sees"
ACTIONS = [Action("hourly_metrics-2024.12", f"hour {n}", {"n": n}) for n in range(5)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nobody waits between attempts; gives which attempts would have been waited after."""
    waited: list[int] = []
    monkeypatch.setattr(Elasticsearch, "_wait", lambda _, attempt: waited.append(attempt))
    return waited


def times(count: int, answer: Any, path: str) -> Callable[[str, str, bytes], Any]:
    """So many requests for this path get this answer, and no others."""
    left = [answer] * count
    return lambda _, asked, __: left.pop() if asked == path and left else None


# --- failures, from a server of our own -------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(429, {}), (503, b"<html>busy</html>"), (502, b""), CUT])
def test_a_busy_server_is_asked_again(answer: Any, impatient: list[int]) -> None:
    with fake_elasticsearch(fail=times(3, answer, "/_bulk")) as fake, Elasticsearch(fake.url) as server:
        report = server.bulk(ACTIONS)
    assert (report.indexed, report.deleted, report.failed) == (5, 0, [])
    assert len(fake.documents["hourly_metrics-2024.12"]) == 5 and impatient == [1, 2, 3]


def test_only_what_was_refused_is_sent_again(impatient: list[int]) -> None:
    busy = {"hour 1": 2, "hour 3": 1}

    def item(name: str) -> Any:
        busy[name] = busy.get(name, 0) - 1
        return (429, {"type": "es_rejected_execution_exception", "reason": "queue full"}) if busy[name] >= 0 else None

    with fake_elasticsearch(item=item) as fake, Elasticsearch(fake.url) as server:
        report = server.bulk(ACTIONS)
    assert (report.indexed, report.failed, report.retried, impatient) == (5, [], 3, [1, 2])
    assert [path for _, path in fake.asked].count("/_bulk") == 3


def test_what_is_refused_for_good_is_named_and_all_else_is_in() -> None:
    broken = {"type": "document_parsing_exception", "reason": "no", "caused_by": {"reason": "not a number"}}
    item = {"hour 2": (400, broken), "hour 4": (429, "queue full")}
    with fake_elasticsearch(item=item.get) as fake, Elasticsearch(fake.url, attempts=3) as server:
        report = server.bulk(ACTIONS)
    assert report.failed == [Failure("hour 2", 400, "no: not a number"), Failure("hour 4", 429, "queue full")]
    assert str(report.failed[0]) == "hour 2: 400, no: not a number"
    assert (report.indexed, report.retried) == (3, 2)
    assert set(fake.documents["hourly_metrics-2024.12"]) == {"hour 0", "hour 1", "hour 3"}


def test_too_much_at_once_is_sent_in_halves() -> None:
    def fail(_: str, path: str, body: bytes) -> Any:
        return (413, {}) if path == "/_bulk" and body.count(b"\n") > 4 else None

    with fake_elasticsearch(fail=fail) as fake, Elasticsearch(fake.url) as server:
        assert server.bulk(ACTIONS).indexed == 5
    assert len(fake.documents["hourly_metrics-2024.12"]) == 5


def test_what_is_gone_already_counts_as_removed() -> None:
    with fake_elasticsearch() as fake, Elasticsearch(fake.url) as server:
        server.bulk(ACTIONS)
        report = server.bulk([Action(a.index, a.id, None) for a in (*ACTIONS, Action(ACTIONS[0].index, "other", None))])
    assert (report.deleted, report.failed, fake.documents) == (6, [], {"hourly_metrics-2024.12": {}})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": {"reason": f"unable to authenticate user [{SECRET}]"}}), r"does not know this user.*\(401\)"),
        ((403, {"error": {"reason": "no privileges"}}), r"may not do that \(403\): no privileges"),
        ((429, {"error": {"reason": "come later"}}), "it answered 429: come later"),
        ((302, b""), "go elsewhere"),
        ((200, b"<html>hello</html>"), "not Elasticsearch"),
        ((200, {"items": []}), "5 documents were sent, and the answer tells of 0"),
        (CUT, r"the connection was cut \(5 times\)"),
    ],
)
def test_what_the_server_says_is_said(answer: Any, said: str) -> None:
    with (
        fake_elasticsearch(fail=times(99, answer, "/_bulk")) as fake,
        Elasticsearch(fake.url, user="ada", password=SECRET) as server,
        pytest.raises(ElasticsearchError, match=said) as caught,
    ):
        server.bulk(ACTIONS)
    assert fake.url in str(caught.value) and SECRET not in str(caught.value) and "ada" not in str(caught.value)


def test_nobody_listens() -> None:
    with fake_elasticsearch() as fake:
        pass
    url = fake.url.replace("//", f"//ada:{SECRET}@")
    with Elasticsearch(url, attempts=2) as server, pytest.raises(ElasticsearchError) as caught:
        server.version()
    assert str(caught.value) == f"{fake.url}: no server listens there (2 times)"
    assert SECRET not in repr(server)


def test_who_asks() -> None:
    basic = f"Basic {base64.b64encode(f'ada:{SECRET}'.encode()).decode()}"
    ways: list[tuple[dict[str, str], str, str | None]] = [
        ({"user": "ada", "password": SECRET}, "", basic),
        ({}, f"ada:{SECRET}@", basic),
        ({"api_key": "b2theQ=="}, "", "ApiKey b2theQ=="),
        ({"api_key": "id:key"}, "", f"ApiKey {base64.b64encode(b'id:key').decode()}"),
        ({}, "", None),
    ]
    with fake_elasticsearch() as fake:
        for told, login, expected in ways:
            with Elasticsearch(fake.url.replace("//", f"//{login}"), **told) as server:
                assert server.version() == Version("8.19.0")
            assert fake.headers.get("Authorization") == expected


def test_tls(tmp_path: Path) -> None:
    ca, other = make_authority(tmp_path, "ca"), make_authority(tmp_path, "other")
    sign(tmp_path, "ca", "server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with fake_elasticsearch(tls) as fake:
        with Elasticsearch(fake.url, ca_file=str(ca)) as server:
            assert server.version().parts == (8, 19)
        for trusted in (str(other), None):
            with (
                Elasticsearch(fake.url, ca_file=trusted) as server,
                pytest.raises(ElasticsearchError, match="certificate is not trusted"),
            ):
                server.version()
        with (
            Elasticsearch(fake.url.replace("https", "http"), attempts=1) as server,
            pytest.raises(ElasticsearchError, match="the connection was cut"),
        ):
            server.version()
    with pytest.raises(SettingsError, match=r"no\.pem: cannot be read"):
        Elasticsearch(fake.url, ca_file=str(tmp_path / "no.pem"))


@pytest.mark.parametrize(
    ("version", "types", "composable", "origin"),
    [
        ({"number": "6.8.23"}, True, False, False),
        ({"number": "7.4.0"}, False, False, False),
        ({"number": "7.8.0"}, False, True, True),
        ({"number": "8.19.21-SNAPSHOT"}, False, True, True),
        ({"number": "2.19.0", "distribution": "opensearch"}, False, True, False),
    ],
)
def test_what_a_version_has(version: dict[str, str], types: bool, composable: bool, origin: bool) -> None:
    told = times(1, (200, {"version": version}), "/")
    with fake_elasticsearch(fail=told) as fake, Elasticsearch(fake.url) as server:
        found = server.version()
    assert (found.has_types, found.has_composable_templates, found.knows_origin) == (types, composable, origin)


def test_the_lifecycle_counts_from_the_end_of_a_month(tmp_path: Path) -> None:
    """What would be removed at once is left out, and the policy is put once."""
    now = dt.datetime.now(dt.timezone.utc)
    hours = {now.strftime("%Y-%m-%dT%H:00:00"): (1, "1.00", 0), **HOURS}
    flow = payments(tmp_path, hours)
    with fake_elasticsearch(lifecycle=True) as fake:
        report = flow.index(fake.url)
        assert (report.documents, report.indexed, report.expired, report.lifecycle) == (4, 1, 3, "400d")
        ((name, settings),) = fake.settings.items()
        assert name == f"hourly_metrics-{now:%Y.%m}" == report.indices[0]
        ends = dt.datetime.fromtimestamp(settings["index.lifecycle.origination_date"] / 1000, dt.timezone.utc)
        assert ends.day == 1 and dt.timedelta(0) < ends - now <= dt.timedelta(31)
        phases = fake.policies["hourly_metrics"]["policy"]["phases"]
        assert (phases["warm"]["min_age"], phases["delete"]["min_age"]) == ("60d", "34560000s")
        # An hour of an old month may come at any time: nothing makes it read-only before it is removed.
        actions = {action for phase in phases.values() for action in phase["actions"]}
        assert actions == {"set_priority", "delete"}
        assert flow.index(fake.url).unchanged == 1
        assert fake.asked.count(("PUT", "/_ilm/policy/hourly_metrics")) == 1
        assert flow.index(fake.url, keep="30d").lifecycle == "30d"
        assert set(fake.policies["hourly_metrics"]["policy"]["phases"]) == {"hot", "delete"}
        kept = flow.index(fake.url, keep="forever")
        assert (kept.indexed, kept.expired, kept.lifecycle, kept.notes) == (3, 0, None, [])


def test_what_was_added_to_the_policy_stays(tmp_path: Path) -> None:
    """Whatever is said of `keep` later: only what is ours changes, and nothing is put that is there."""
    flow = payments(tmp_path)
    cold = {"min_age": "90d", "actions": {"allocate": {"include": {"tier": "slow"}}}}
    with fake_elasticsearch(lifecycle=True) as fake:
        flow.index(fake.url)
        policy = fake.policies["hourly_metrics"]["policy"]
        policy["_meta"] = {"by": "ada"}
        policy["phases"]["cold"] = cold
        policy["phases"]["warm"]["actions"]["shrink"] = {"number_of_shards": 1}
        policy["phases"]["delete"]["actions"]["wait_for_snapshot"] = {"policy": "nightly"}
        for keep, age, priority in (("100d", "8640000s", True), ("30d", "2592000s", False), ("100d", "8640000s", True)):
            for _ in range(2):
                flow.index(fake.url, keep=keep)
            found = fake.policies["hourly_metrics"]["policy"]
            phases = found["phases"]
            assert (found["_meta"], phases["cold"], list(phases)) == ({"by": "ada"}, cold, list(policy["phases"]))
            assert phases["warm"]["actions"]["shrink"] == {"number_of_shards": 1}
            assert ("set_priority" in phases["warm"]["actions"]) is priority
            assert phases["delete"]["min_age"] == age
            assert set(phases["delete"]["actions"]) == {"delete", "wait_for_snapshot"}
        assert fake.asked.count(("PUT", "/_ilm/policy/hourly_metrics")) == 4


@pytest.mark.parametrize(("version", "expired"), [("7.4.2", 1), ("7.5.0", 0)])
def test_a_server_that_counts_from_the_making_is_not_made_to_begin_again(
    tmp_path: Path, version: str, expired: int
) -> None:
    """It has removed the month; made again, it would be kept as long again."""
    now = dt.datetime.now(dt.timezone.utc)
    first = (now.replace(day=1) - dt.timedelta(days=1)).replace(day=1)
    keep = f"{(now - first).days}d"
    flow = payments(tmp_path, {first.strftime("%Y-%m-%dT00:00:00"): (1, "1.00", 0)})
    with fake_elasticsearch(lifecycle=True, version=version) as fake:
        report = flow.index(fake.url, keep=keep)
        assert (report.expired, report.indexed) == (expired, 1 - expired)


def test_two_at_once_remove_nothing_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one looks, another brings an hour that has just come into the view."""
    flow = payments(tmp_path)
    more = {**HOURS, "2024-12-17T14:00:00": (1, "1.00", 0)}
    read = index_module._read

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(index_module, "_read", read)
        arguments[0].close()
        warehouse(tmp_path / "payments.duckdb", more)
        flow.index(fake.url)
        arguments[0].__init__(tmp_path / "payments.duckdb", read_only=True)
        return read(*arguments)

    with fake_elasticsearch() as fake:
        flow.index(fake.url)
        monkeypatch.setattr(index_module, "_read", late)
        assert flow.index(fake.url).deleted == 0
        assert set(fake.documents["hourly_metrics-2024.12"]) == set(documents(more)) - {"2024-11-30T23:00:00Z"}


# --- a real one -------------------------------------------------------------------------------------------------------


def test_into_a_real_server(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    flow = payments(tmp_path, elasticsearch=elasticsearch.url)
    report = flow.index()
    assert (report.documents, report.indexed, report.unchanged, report.deleted, report.ok) == (3, 3, 0, 0, True)
    assert report.indices == ["hourly_metrics-2024.11", "hourly_metrics-2024.12"]
    # No lifecycle management is told once, and keeps nothing from going in.
    assert report.lifecycle is None and len(report.notes) == 1 and "no lifecycle management" in report.notes[0]
    assert elasticsearch.documents("hourly_metrics") == documents(HOURS)
    _, found = elasticsearch.ask("GET", "/hourly_metrics?flat_settings=true")
    for name in report.indices:
        assert found[name]["mappings"]["dynamic"] == "strict"
        kinds = {field: told["type"] for field, told in found[name]["mappings"]["properties"].items()}
        assert kinds == {
            "event_hour": "date",
            "total_transactions": "integer",
            "total_amount": "double",
            "late_transactions": "integer",
            "late_ratio": "float",
        }
        assert found[name]["settings"]["index.number_of_shards"] == "1"
    _, template = elasticsearch.ask("GET", "/_index_template/hourly_metrics")
    assert template["index_templates"][0]["index_template"]["index_patterns"] == ["hourly_metrics-*"]
    # What people ask of it.
    _, sums = elasticsearch.ask(
        "POST", "/hourly_metrics/_search?size=0", {"aggs": {"n": {"sum": {"field": "total_transactions"}}}}
    )
    assert sums["aggregations"]["n"]["value"] == 14


def versions(server: ElasticsearchServer) -> dict[str, int]:
    _, said = server.ask("POST", "/hourly_metrics/_search?version=true&size=100", {"query": {"match_all": {}}})
    return {hit["_id"]: hit["_version"] for hit in said["hits"]["hits"]}


def test_again_changes_nothing_and_then_only_what_has_changed(
    elasticsearch: ElasticsearchServer, tmp_path: Path
) -> None:
    flow = payments(tmp_path, elasticsearch=elasticsearch.url)
    flow.index()
    again = flow.index()
    assert (again.indexed, again.unchanged, again.deleted) == (0, 3, 0)
    assert versions(elasticsearch) == dict.fromkeys(documents(HOURS), 1)
    # One hour is another, one is gone, one is new.
    first, second, third = HOURS
    hours = {first: HOURS[first], second: (5, "9.99", 5), "2025-01-01T00:00:00": (1, "1.00", 0)}
    warehouse(tmp_path / "payments.duckdb", hours)
    changed = flow.index()
    assert (changed.indexed, changed.unchanged, changed.deleted) == (2, 1, 1)
    assert elasticsearch.documents("hourly_metrics") == documents(hours)
    assert versions(elasticsearch)[f"{second}Z"] == 2 and f"{third}Z" not in versions(elasticsearch)
    # Only from an hour on: what is before stays as it is, whatever the view says.
    warehouse(tmp_path / "payments.duckdb", {"2025-01-01T00:00:00": (2, "2.00", 1)})
    since = flow.index(since="2025-01-01T00")
    assert (since.documents, since.indexed, since.deleted) == (1, 1, 0)
    assert len(elasticsearch.documents("hourly_metrics")) == 3


def test_an_empty_view_removes_nothing(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    flow = payments(tmp_path, elasticsearch=elasticsearch.url)
    flow.index()
    warehouse(tmp_path / "payments.duckdb", {})
    with pytest.raises(WarehouseError, match=r"hourly_metrics is empty .* 3 documents .* Is it the right warehouse"):
        flow.index()
    assert len(elasticsearch.documents("hourly_metrics")) == 3


def test_a_document_of_another_shape_is_refused_and_named(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    big = {**HOURS, "2024-12-17T14:00:00": (3_000_000_000, "1.00", 0)}
    report = payments(tmp_path, big).index(elasticsearch.url)
    assert (report.indexed, report.ok) == (3, False)
    (failure,) = report.failed
    assert (failure.id, failure.status) == ("2024-12-17T14:00:00Z", 400)
    assert "total_transactions" in failure.reason and "out of range" in failure.reason
    assert elasticsearch.documents("hourly_metrics") == documents(HOURS)


def test_a_wrong_mapping_is_named(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    mapping = {"properties": {"total_amount": {"type": "keyword"}}}
    status, said = elasticsearch.ask("PUT", "/hourly_metrics-2024.12", {"mappings": mapping})
    assert status == 200, said
    with pytest.raises(ElasticsearchError, match=r"index hourly_metrics-2024\.12: total_amount is of type keyword"):
        payments(tmp_path).index(elasticsearch.url)


def test_an_index_made_otherwise_is_brought_to_what_it_has_to_be(
    elasticsearch: ElasticsearchServer, tmp_path: Path
) -> None:
    """A field of a later version comes to the months that are there, and the alias where it is missing."""
    mapping = {"dynamic": "strict", "properties": {"late_ratio": {"type": "float"}}}
    assert elasticsearch.ask("PUT", "/hourly_metrics-2024.12", {"mappings": mapping})[0] == 200
    assert payments(tmp_path).index(elasticsearch.url).indexed == 3
    assert elasticsearch.documents("hourly_metrics") == documents(HOURS)


def in_the_way(server: ElasticsearchServer, folder: Path, *, reindexes: bool) -> None:
    """What users have today; the commands that the error names make room."""
    assert server.ask("PUT", "/hourly_metrics", {})[0] == 200
    server.ask("POST", "/hourly_metrics/_doc/old?refresh=true", {"event_hour": "2020-01-01T00:00:00Z"})
    assert server.ask("PUT", "/old_hourly_metrics", {})[0] == 200  # nothing makes itself here
    flow = payments(folder)
    with pytest.raises(ElasticsearchError, match="is an index, and has to be an alias") as caught:
        flow.index(server.url, keep="forever")
    _, reindex, remove, _ = str(caught.value).splitlines()
    method, path, body = reindex.split(maxsplit=2)
    assert json.loads(body) == {"source": {"index": "hourly_metrics"}, "dest": {"index": "old_hourly_metrics"}}
    if reindexes:
        status, said = server.ask(method, path, json.loads(body))
        assert (status, said["created"]) == (200, 1), said
        server.ask("POST", "/old_hourly_metrics/_refresh")
        assert list(server.documents("old_hourly_metrics")) == ["old"]
    assert server.ask(*remove.split())[0] == 200
    assert flow.index(server.url, keep="forever").indexed == 3
    assert server.documents("hourly_metrics") == documents(HOURS)


def test_an_index_of_that_name_is_moved_by_hand(elasticsearch: ElasticsearchServer, tmp_path: Path) -> None:
    in_the_way(elasticsearch, tmp_path, reindexes=False)  # it comes without this module


# --- the one that has a lifecycle -------------------------------------------------------------------------------------


@pytest.mark.soak
def test_months_are_removed_when_their_time_is_over(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.timezone.utc)
    this = f"hourly_metrics-{now:%Y.%m}"
    hours = {now.strftime("%Y-%m-%dT%H:00:00"): (2, "3.50", 1)}
    flow = payments(tmp_path, hours)
    with elasticsearch_server(OLDER) as server:
        report = flow.index(server.url)
        assert (report.indexed, report.lifecycle, report.notes) == (1, "400d", [])
        assert server.documents("hourly_metrics") == documents(hours)
        _, told = server.ask("GET", "/_ilm/policy/hourly_metrics")
        assert set(told["hourly_metrics"]["policy"]["phases"]) == {"hot", "warm", "delete"}

        def explained() -> dict[str, Any] | None:
            of = server.ask("GET", f"/{this}/_ilm/explain")[1]["indices"][this]
            return of if of.get("managed") and of.get("phase") == "hot" else None

        assert until("the policy is at work", explained)["policy"] == "hourly_metrics"
        again = flow.index(server.url)
        assert (again.indexed, again.unchanged) == (0, 1)
        assert server.ask("GET", "/_ilm/policy/hourly_metrics")[1]["hourly_metrics"]["version"] == 1
        # Kept for a second only: the server itself removes the month.
        shorter = {"phases": {"delete": {"min_age": "1s", "actions": {"delete": {}}}}}
        shorter["phases"]["cold"] = {"min_age": "0ms", "actions": {"allocate": {"number_of_replicas": 0}}}
        assert server.ask("PUT", "/_ilm/policy/hourly_metrics", {"policy": shorter})[0] == 200
        until("the month is removed", lambda: server.ask("GET", f"/{this}")[0] == 404)
        # The next run makes it anew, and puts the policy right; a phase that somebody added stays, whatever `keep` is.
        assert flow.index(server.url).indexed == 1
        for keep, wanted in (("400d", ["hot", "warm", "cold", "delete"]), ("40d", ["hot", "cold", "delete"])):
            for _ in range(2):
                flow.index(server.url, keep=keep)
            found = server.ask("GET", "/_ilm/policy/hourly_metrics")[1]["hourly_metrics"]
            assert set(found["policy"]["phases"]) == set(wanted)
            assert found["policy"]["phases"]["cold"]["actions"]["allocate"]["number_of_replicas"] == 0
        assert found["version"] == 4
        server.clear()
        in_the_way(server, tmp_path, reindexes=True)


def test_it_is_a_function_over_a_specification(tmp_path: Path) -> None:
    with fake_elasticsearch() as fake:
        spec = payments(tmp_path, elasticsearch=fake.url).spec()
        assert index(spec, since="2024-12-17T13").indexed == 1
