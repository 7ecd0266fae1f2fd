"""Mistakes in a pipeline file, for people: where, the setting's whole name, why, and the nearest right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from penstock import _yaml
from penstock.errors import SettingsError
from penstock.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import ValidationError


def explain(error: ValidationError, document: _yaml.Document, settings: type[BaseModel]) -> SettingsError:
    """All mistakes in one message, the first one's place in the attributes."""
    messages: list[str] = []
    first: tuple[str, str, int | None] | None = None
    for found in error.errors(include_url=False, include_context=True):
        loc = _tidy(found["loc"])
        name = _yaml.dotted(loc)
        file, line = document.place(loc)
        first = first or (name, file, line)
        where = f"{file}:{line}" if line else file
        # An option says the name already.
        what = f"{name}: " if name and where != f"--set {name}" else ""
        messages.append(f"{where}: {what}{_reason(dict(found), loc, document, settings)}")
    messages = list(dict.fromkeys(messages))
    name, file, line = first or ("", document.file, None)
    return SettingsError("\n".join(messages), name=name, file=file, line=line)


def _tidy(loc: tuple[int | str, ...]) -> _yaml.Loc:
    # Pydantic adds the tried types of a union to the place (`contract.str`); those are no keys.
    return tuple(part for part in loc if part not in ("str", "dict[str,any]", "[key]"))


def _reason(found: dict[str, Any], loc: _yaml.Loc, document: _yaml.Document, settings: type[BaseModel]) -> str:
    kind = found["type"]
    if kind == "extra_forbidden":
        return _unknown(loc, document.options.get(loc), settings)
    if kind == "missing":
        return "is missing"
    secret = (
        loc[-1:] == ("secret",) or loc[:2] == ("warehouse", "postgres") or "kafka" in loc or loc[:1] == ("storage",)
    )
    shown = (
        "" if secret or isinstance(found.get("input"), (dict, list)) else f"{document.shown(loc, found.get('input'))}: "
    )
    if kind == "value_error":
        # Our own words; they hold the value, so they are used only where the file itself has it.
        return _own_words(found, loc, document, secret=secret)
    if kind == "literal_error":
        expected = found["ctx"]["expected"]
        options = [part.strip("' ") for part in expected.replace(" or ", ", ").split(",")]
        near = nearest(str(found.get("input")), options)
        return f"{shown}must be {expected}" + (f"; did you mean {near!r}?" if near else "")
    if kind == "string_pattern_mismatch":
        return f"{shown}use up to 64 letters, digits, '_' and '-', the first a letter or digit"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a mapping (key: value)"
    if kind == "list_type":
        return f"{shown}must be a list, such as [a, b]"
    if kind == "too_short":
        return "must not be empty"
    if kind == "string_too_short":
        return "must not be empty"
    words = str(found["msg"])
    return f"{shown}{words[:1].lower()}{words[1:]}"


def _own_words(found: dict[str, Any], loc: _yaml.Loc, document: _yaml.Document, *, secret: bool) -> str:
    said = str(found.get("ctx", {}).get("error", found["msg"]))
    value = found.get("input")
    if loc in document.written or secret:
        # The value came from the environment: say what is wrong with it, not what it is.
        hidden = said.replace(repr(value), "it")
        written = document.written.get(loc)
        return f"what {written} holds is wrong: {hidden}" if written else f"wrong (the value is not shown): {hidden}"
    return said


def _unknown(loc: _yaml.Loc, option: str | None, settings: type[BaseModel]) -> str:
    key, above = str(loc[-1]), loc[:-1]
    here = _keys(above, settings)
    everywhere = [_yaml.dotted(known) for known in _all_keys(settings, ())]
    if option and option != _yaml.dotted(loc):
        # An option names a setting below this one, which the option alone has made.
        near = nearest(option, everywhere)
        if near:
            return f"there is no such setting; did you mean {near!r}?"
    near = nearest(key, here)
    if near:
        return f"there is no such setting; did you mean {_yaml.dotted((*above, near))!r}?"
    elsewhere = [name for name in everywhere if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"there is no such setting here; did you mean {elsewhere[0]!r}?"
    return f"there is no such setting; there are: {', '.join(sorted(here))}"


def _keys(loc: _yaml.Loc, settings: type[BaseModel]) -> list[str]:
    """The settings that may stand at a place."""
    model: type[BaseModel] | None = settings
    for part in loc:
        if isinstance(part, int) or model is None:
            continue
        model = next((model_in(f.annotation) for n, f in model.model_fields.items() if (f.alias or n) == part), None)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _all_keys(model: type[BaseModel], above: _yaml.Loc) -> Iterator[_yaml.Loc]:
    for name, field in model.model_fields.items():
        loc = (*above, field.alias or name)
        yield loc
        below = model_in(field.annotation)
        if below is not None:
            yield from _all_keys(below, loc)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a type is, or holds (`list[Window]`, `Sessions | None`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = model_in(part)
        if found is not None:
            return found
    return None
