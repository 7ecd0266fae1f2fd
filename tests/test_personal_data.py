"""Personal properties: hashed, masked or dropped from Silver on, and the secret nowhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

import penstock

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "correct-horse-battery-staple"

CONTRACT = """
name: people
roles: {event_type: /type, event_time: /at, idempotency_key: /id, entity: /user}
events:
  visit:
    v1:
      type: object
      required: [type, at, id, user]
      properties:
        type: {const: visit}
        at: {type: string, format: date-time}
        id: {type: string}
        user: {type: string, x-penstock-pii: hash}
        email: {type: string, x-penstock-pii: mask}
        phone: {type: string, x-penstock-pii: drop}
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Three visits of two people."""
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    visits = [
        {
            "type": "visit",
            "at": f"2024-01-01T0{n}:00:00Z",
            "id": str(n),
            "user": user,
            "email": "a@b.example",
            "phone": "555",
        }
        for n, user in enumerate(["anna", "bert", "anna"])
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(v) + "\n" for v in visits))
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "name: people\ncontract: contract.yaml\nsource: {files: {paths: [in.jsonl]}}\nlake: lake\n"
        "sessions: {gap: 30m}\npii: {secret: '${PEOPLE_SECRET}'}\n"
    )
    return path


def test_silver_has_no_names_and_the_lake_no_secret(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEOPLE_SECRET", SECRET)
    opened = penstock.Pipeline.load(pipeline)
    assert SECRET not in repr(opened)
    opened.run(until_caught_up=True, progress=False)
    lake = pipeline.parent / "lake"
    silver = pl.DataFrame(penstock.read_lake(str(lake), "silver/events")).sort("event_time")
    assert silver["user"].n_unique() == 2
    assert silver["user"][0] == silver["user"][2]
    assert silver["entity"].to_list() == silver["user"].to_list(), "a role takes the mark of its property"
    assert not set(silver["user"]) & {"anna", "bert"}
    assert "a@b.example" not in silver["email"].to_list()
    assert "phone" not in silver.columns
    written = [path for path in lake.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    for layer in ("silver", "_penstock"):
        named = [p for p in (lake / layer).rglob("*") if p.is_file() and b"a@b.example" in p.read_bytes()]
        assert named == [], "what is masked is masked in state too"


def test_without_the_secret_nothing_starts(pipeline: Path) -> None:
    path = pipeline.with_name("bare.yaml")
    path.write_text(pipeline.read_text().split("pii:")[0])
    with pytest.raises(penstock.SettingsError, match=r"^pii\.secret: "):
        penstock.Pipeline.load(path).run(until_caught_up=True, progress=False)
    assert not list((pipeline.parent / "lake").rglob("terms/*")), "no term was taken"


def test_an_empty_secret_is_none(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEOPLE_SECRET", "")
    with pytest.raises(penstock.SettingsError, match=r"pii\.secret.*it is empty"):
        penstock.Pipeline.load(pipeline)


def test_one_person_stays_one_person(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(secret: str) -> None:
        monkeypatch.setenv("PEOPLE_SECRET", secret)
        penstock.Pipeline.load(pipeline).run(until_caught_up=True, progress=False)

    run(SECRET)
    lines = (pipeline.parent / "in.jsonl").read_text()
    (pipeline.parent / "in.jsonl").write_text(lines + lines.replace('"id": "', '"id": "again-'))
    with pytest.raises(penstock.SettingsError, match="the same person would become another") as refused:
        run("another-secret")
    assert "another-secret" not in str(refused.value)
    run(SECRET)
    silver = pl.DataFrame(penstock.read_lake(str(pipeline.parent / "lake"), "silver/events"))
    assert silver["user"].n_unique() == 2
