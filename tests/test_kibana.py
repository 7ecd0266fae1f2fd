"""The dashboard for Kibana: whole, and about fields that the documents have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.resources import copy_out, ready_made_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

PAYMENTS = ready_made_folder("payments")
FILE = PAYMENTS / "kibana" / "hourly_metrics.ndjson"
MAPPING = json.loads((PAYMENTS / "elasticsearch" / "hourly_metrics.json").read_text())["mappings"]["properties"]
NUMBERS = ("integer", "double", "float")


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    found = [json.loads(line) for line in FILE.read_text().splitlines()]
    assert len({(o["type"], o["id"]) for o in found}) == len(found) == 6
    return {(o["type"], o["id"]): o for o in found}


def below(value: Any) -> Iterator[tuple[str, Any]]:
    """Each key with its value, also inside JSON that stands as text."""
    if isinstance(value, str) and value[:1] in "{[" and value:
        value = json.loads(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from below(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from below(inner)


def test_every_reference_leads_somewhere_and_is_used(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    for told in objects.values():
        names = set()
        for reference in told["references"]:
            assert (reference["type"], reference["id"]) in objects
            names.add(reference["name"])
        used = {value for name, value in below(told["attributes"]) if name == "indexRefName"}
        panels = json.loads(told["attributes"].get("panelsJSON", "[]"))
        used |= {f"{panel['panelIndex']}:{panel['panelRefName']}" for panel in panels}
        assert used == names
    ((dashboard,), views) = (
        [o for (kind, _), o in objects.items() if kind == wanted] for wanted in ("dashboard", "index-pattern")
    )
    assert len(json.loads(dashboard["attributes"]["panelsJSON"])) == 4
    assert [view["attributes"]["title"] for view in views] == ["hourly_metrics"]


def test_the_fields_are_those_of_the_documents(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    ((_, view),) = [(key, told) for key, told in objects.items() if key[0] == "index-pattern"]
    assert MAPPING[view["attributes"]["timeFieldName"]]["type"] == "date"
    assert set(json.loads(view["attributes"]["fieldFormatMap"])) <= set(MAPPING)
    shown = set()
    for (kind, _), told in objects.items():
        if kind != "visualization":
            continue
        state = json.loads(told["attributes"]["visState"])
        assert state["title"] == told["attributes"]["title"]
        for part in state["aggs"]:
            field = part["params"]["field"]
            wanted = ("date",) if part["type"] == "date_histogram" else NUMBERS
            assert MAPPING[field]["type"] in wanted, (field, part["type"])
            shown.add(field)
        ids = [part["id"] for part in state["aggs"]]
        assert len(set(ids)) == len(ids)
        assert {series["data"]["id"] for series in state["params"].get("seriesParams", ())} <= set(ids)
    assert shown == set(MAPPING)


ATTRIBUTES = {
    "index-pattern": {
        "title",
        "timeFieldName",
        "fields",
        "fieldAttrs",
        "fieldFormatMap",
        "runtimeFieldMap",
        "typeMeta",
    },
    "visualization": {"title", "description", "version", "uiStateJSON", "visState", "kibanaSavedObjectMeta"},
    "dashboard": {
        *("title", "description", "version", "hits", "timeRestore"),
        *("optionsJSON", "panelsJSON", "kibanaSavedObjectMeta"),
    },
}
"""All that a saved object of a type may have, and has to."""

JSON = {
    **dict.fromkeys(("fieldAttrs", "fieldFormatMap", "runtimeFieldMap", "typeMeta", "uiStateJSON"), dict),
    **dict.fromkeys(("visState", "optionsJSON", "searchSourceJSON"), dict),
    **dict.fromkeys(("fields", "panelsJSON"), list),
}
"""Attributes that are JSON as text, and what it is."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, none of whose keys stands there twice."""
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def test_each_object_is_whole(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    """An import takes what is wrong without a word; it is seen when the dashboard is opened."""
    for line in FILE.read_text().splitlines():
        json.loads(line, object_pairs_hook=once)
    for (kind, name), told in objects.items():
        assert set(told) == {"id", "type", "coreMigrationVersion", "migrationVersion", "attributes", "references"}
        assert re.fullmatch(r"penstock-payments-[a-z-]+", name) and list(told["migrationVersion"]) == [kind]
        assert set(told["attributes"]) == ATTRIBUTES[kind]
        texts = {**told["attributes"], **told["attributes"].get("kibanaSavedObjectMeta", {})}
        for attribute, value in texts.items():
            if attribute in JSON:
                assert type(json.loads(value, object_pairs_hook=once)) is JSON[attribute], (name, attribute)
            else:
                assert not str(value).startswith(("{", "[")) or attribute == "kibanaSavedObjectMeta", (name, attribute)


def test_each_picture_draws_what_it_adds_up(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Series, axes and buckets name each other, and every number is drawn once."""
    seen = set()
    for (kind, name), told in objects.items():
        if kind != "visualization":
            continue
        state = json.loads(told["attributes"]["visState"])
        seen.add(state["type"])
        assert state["params"]["type"] == state["type"]
        metrics = [part for part in state["aggs"] if part["schema"] == "metric"]
        buckets = [part for part in state["aggs"] if part["schema"] == "segment"]
        assert len(metrics) + len(buckets) == len(state["aggs"]) and all(part["enabled"] for part in state["aggs"])
        assert {part["type"] for part in metrics} <= {"sum", "avg", "max"}
        assert all(part["params"]["customLabel"] for part in metrics)
        if state["type"] == "metric":
            assert not buckets, name
            continue
        assert [(part["type"], part["params"]["field"]) for part in buckets] == [("date_histogram", "event_hour")]
        params = state["params"]
        axes = {axis["id"] for axis in params["valueAxes"]}
        drawn = [series["data"] for series in params["seriesParams"]]
        assert drawn == [{"label": part["params"]["customLabel"], "id": part["id"]} for part in metrics], name
        assert {series["valueAxis"] for series in params["seriesParams"]} <= axes
        assert {series["type"] for series in params["seriesParams"]} == {state["type"]}
    assert seen == {"metric", "histogram", "line"}


def test_panels_do_not_overlap(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(next(o for k, o in objects.items() if k[0] == "dashboard")["attributes"]["panelsJSON"]):
        at = panel["gridData"]
        assert at["i"] == panel["panelIndex"] and panel["type"] == "visualization"
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells and max(x for x, _ in mine) < 48
        cells |= mine


def test_the_mapping_is_the_one_that_users_know() -> None:
    assert {name: told["type"] for name, told in MAPPING.items()} == {
        "event_hour": "date",
        "total_transactions": "integer",
        "total_amount": "double",
        "late_transactions": "integer",
        "late_ratio": "float",
    }


def test_init_brings_both(tmp_path: Path) -> None:
    written = {str(path.relative_to(tmp_path)) for path in copy_out("payments", tmp_path)}
    assert {"kibana/hourly_metrics.ndjson", "elasticsearch/hourly_metrics.json"} <= written
    assert not re.search(r"/(root|home|tmp)/", (tmp_path / "kibana/hourly_metrics.ndjson").read_text())
