"""YAML with places: every value knows its file and line, `${ENV}` is filled in, and a key given twice is an error."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from penstock.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Loc = tuple[str | int, ...]

_REFERENCE = re.compile(r"\$(?:\$|\{([^}:]*)(?::-([^}]*))?\})")


@dataclass
class Document:
    """A YAML file as values, with the place of each."""

    value: Any
    file: str
    lines: dict[Loc, int] = field(default_factory=dict)
    # As written, before ${ENV} was filled in: what came from the environment may be a secret.
    written: dict[Loc, str] = field(default_factory=dict)
    # What `--set` gave, also what it made on the way there, by the name that it was given under.
    options: dict[Loc, str] = field(default_factory=dict)
    # Where a variable is not set, in a part that only some commands need; there the value is empty.
    unset: dict[Loc, SettingsError] = field(default_factory=dict)

    def place(self, loc: Loc) -> tuple[str, int | None]:
        """File and line of a value, or of the nearest one around it; or the option that gave it."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.options:
                return f"--set {self.options[loc[:end]]}", None
            if loc[:end] in self.lines:
                return self.file, self.lines[loc[:end]]
        return self.file, None

    def lacks(self, part: str) -> SettingsError | None:
        """What is said to whoever needs this part, where a variable in it is not set; what `--set` replaced is gone."""
        for loc, error in self.unset.items():
            here = self.value
            for step in loc if loc[0] == part and loc in self.written else ():
                if isinstance(here, list) and isinstance(step, int):
                    here = here[step] if step < len(here) else None
                else:
                    here = here.get(step) if isinstance(here, dict) else None
            if here == "":
                return error
        return None

    def shown(self, loc: Loc, value: object) -> str:
        """The value as it may be shown."""
        return repr(self.written.get(loc, value))


def dotted(loc: Loc) -> str:
    """`windows.0.size`."""
    return ".".join(str(part) for part in loc)


def parse(
    text: str, path: Path, environment: Mapping[str, str] | None = None, later: Callable[[Loc], bool] = lambda _: False
) -> Document:
    """Read a YAML file; a variable that is not set is only noted (`Document.unset`) where that is `later` enough.

    Raises:
        SettingsError: It is no YAML, a key stands twice, or a variable is not set.
    """
    env = os.environ if environment is None else environment
    loader = yaml.SafeLoader(text)
    document = Document(None, str(path))
    try:
        node = loader.get_single_node()
        document.value = {} if node is None else _build(loader, node, (), document, env, (), later)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise SettingsError(
            f"{path}{f':{line}' if line else ''}: this is no YAML: {error.problem or error.context}",
            file=str(path),
            line=line,
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: this is no YAML: {error}", file=str(path)) from None
    finally:
        loader.dispose()
    return document


def _build(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    loc: Loc,
    document: Document,
    env: Mapping[str, str],
    above: tuple[int, ...],
    later: Callable[[Loc], bool],
) -> Any:
    document.lines[loc] = node.start_mark.line + 1
    if id(node) in above:
        raise _error(document, loc, "an alias that holds itself has no value")
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        own = len(node.value)
        loader.flatten_mapping(node)
        merged = len(node.value) > own or any(k.tag == "tag:yaml.org,2002:merge" for k, _ in node.value)
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool)):
                raise _error(document, loc, "a key that is a list or a mapping is no setting")
            if key in result and not merged:
                document.lines[(*loc, str(key))] = key_node.start_mark.line + 1
                raise _error(document, (*loc, str(key)), "stands here twice; keep one")
            here = (*loc, str(key))
            result[str(key)] = _build(loader, value_node, here, document, env, above, later)
            document.lines[here] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*loc, i), document, env, above, later) for i, item in enumerate(node.value)]
    value = loader.construct_object(node, deep=True)
    if isinstance(value, str) and "$" in value:
        document.written[loc] = value
        try:
            return _fill(value, loc, document, env)
        except SettingsError as error:
            if not later(loc):
                raise
            document.unset[loc] = error
            return ""
    return value


def fill(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text with `${ENV}` and `${ENV:-default}` filled in.

    Raises:
        KeyError: A variable is not set; it is named.
    """
    env = os.environ if environment is None else environment

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, default = found[1], found[2]
        value = env.get(name)
        # As in a shell: `:-` also covers a variable that is set to nothing.
        if value or (value is not None and default is None):
            return value
        if default is not None:
            return default
        raise KeyError(name)

    return _REFERENCE.sub(one, text)


def _fill(text: str, loc: Loc, document: Document, env: Mapping[str, str]) -> str:
    try:
        return fill(text, env)
    except KeyError as missing:
        name = missing.args[0]
        raise _error(
            document, loc, f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        ) from None


def _error(document: Document, loc: Loc, reason: str) -> SettingsError:
    file, line = document.place(loc)
    where = f"{file}:{line}" if line else file
    name = dotted(loc)
    return SettingsError(
        f"{where}: {name}: {reason}" if name else f"{where}: {reason}", name=name, file=file, line=line
    )


def override(document: Document, assignment: str) -> None:
    """Apply one `a.b=c`; `c` is read as YAML, so that lists and numbers can be given.

    Raises:
        SettingsError: It is no assignment, or leads through a value that is no mapping.
    """
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"--set {assignment}: write it as name=value, such as sessions.gap=45m")
    name = name.strip()
    loc: Loc = tuple(part.strip() for part in name.split("."))
    given = text
    try:
        text = fill(text)
    except KeyError as missing:
        raise SettingsError(
            f"--set {name}: the environment variable {missing.args[0]} is not set; set it, or write $$ for a dollar",
            name=name,
        ) from None
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        value = text
    here = document.value
    steps: list[str | int] = []
    for part in loc[:-1]:
        here = _step(here, str(part), steps, name)
        if tuple(steps) not in document.lines:
            document.options.setdefault(tuple(steps), name)
    last: str | int = str(loc[-1])
    if isinstance(here, list):
        last = _index(here, str(last), name)
        here[last] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise SettingsError(
            f"--set {name}: {dotted(tuple(steps))} is a single value and has nothing below it", name=name
        )
    whole = (*steps, last)
    for known in [known for known in (*document.lines, *document.options) if known[: len(whole)] == whole]:
        document.lines.pop(known, None)
        document.written.pop(known, None)
        document.options.pop(known, None)
    document.options[whole] = name
    if given != text:
        # What came out of the environment may be a secret: messages show what was written.
        document.written[whole] = given


def _step(here: Any, part: str, steps: list[str | int], name: str) -> Any:
    if isinstance(here, list):
        index = _index(here, part, name)
        steps.append(index)
        return here[index]
    if not isinstance(here, dict):
        raise SettingsError(
            f"--set {name}: {dotted(tuple(steps))} is a single value and has nothing below it", name=name
        )
    steps.append(part)
    if here.get(part) is None:
        here[part] = {}
    return here[part]


def _index(here: list[Any], part: str, name: str) -> int:
    if part.isdecimal() and int(part) < len(here):
        return int(part)
    raise SettingsError(
        f"--set {name}: {part!r} is no place in a list of {len(here)}; they are counted from 0", name=name
    )
