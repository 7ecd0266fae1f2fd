"""The exception tree: one root, builtin bases where one fits, whole after pickling."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

import penstock
from penstock import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_survives_pickling(kind: type[errors.PenstockError]) -> None:
    error = kind("what went wrong, and what to do")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == other.message == "what went wrong, and what to do"
    assert issubclass(kind, penstock.PenstockError)
    assert getattr(penstock, kind.__name__) is kind
    assert kind.__doc__


def test_what_is_known_survives_too() -> None:
    error = errors.SettingsError("p.yaml:4: sessions.gpa: …", name="sessions.gpa", file="p.yaml", line=4)
    other = pickle.loads(pickle.dumps(error))
    assert (other.name, other.file, other.line) == ("sessions.gpa", "p.yaml", 4)
    superseded = pickle.loads(pickle.dumps(errors.SupersededError("x", ours=1, theirs=2, holder="host/7")))
    assert (superseded.ours, superseded.theirs, superseded.holder) == (1, 2, "host/7")
    assert errors.ContractError("x").line is None
    with pytest.raises(TypeError, match="lien"):
        errors.ContractError("x", lien=3)


def test_builtin_bases() -> None:
    for kind in (errors.SettingsError, errors.ContractError, errors.DataError):
        assert issubclass(kind, ValueError)
    for kind in (
        errors.SourceError,
        errors.LakeError,
        errors.SpillError,
        errors.WarehouseError,
        errors.ElasticsearchError,
    ):
        assert issubclass(kind, OSError)
    assert issubclass(errors.MissingExtraError, ImportError)


def test_the_engine_says_where_in_attributes_too(tmp_path: Path) -> None:
    broken = tmp_path / "contract.yaml"
    broken.write_text("name: x\nroles:\n  event_type: /type\n  nonsense: /a\n")
    with pytest.raises(penstock.ContractError) as caught:
        penstock.Contract.load(broken)
    assert (caught.value.file, caught.value.line) == (str(broken), 4)
    with pytest.raises(penstock.SettingsError) as wrong:
        penstock.read_lake("gopher://lake", "silver/events")
    assert wrong.value.name == "lake"


def _in_a_worker() -> None:
    penstock.Contract.load({"name": "no-roles"})


def test_an_error_of_the_engine_crosses_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_in_a_worker).exception()
    assert isinstance(error, penstock.ContractError)
    assert "roles" in str(error)


def test_the_docstring_names_every_exit_code() -> None:
    from penstock.cli._common import exit_code_of

    table = {}
    for line in (errors.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[2].isdecimal():
            table.update(dict.fromkeys((name.strip(" `") for name in cells[0].split(",")), int(cells[2])))
    assert table == {kind.__name__: exit_code_of(kind("x")) for kind in CLASSES if kind is not errors.PenstockError}
