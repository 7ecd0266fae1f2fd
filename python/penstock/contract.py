"""Contracts: what a valid event is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock import _core
from penstock._html import escape
from penstock.errors import ContractError, DataError
from penstock.progress import Progress
from penstock.table import Table, is_arrow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock._typing import ArrowLike, ArrowSchemaExportable


@dataclass(frozen=True)
class Validation:
    """What a contract said of some events.

    Attributes:
        valid: The valid events, typed: one column a property, and the roles under fixed names.
        dead_letters: The others, whole, with every problem found.
        events: How many there were.
        rejected_by_code: How many were rejected, by their first problem.
    """

    valid: Table
    dead_letters: Table
    events: int
    rejected_by_code: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"penstock.Validation({self.events:,} events: {len(self.valid):,} valid, {self._dead()})"

    def _dead(self) -> str:
        codes = ", ".join(f"{code} {count:,}" for code, count in self.rejected_by_code.items())
        return f"{len(self.dead_letters):,} dead letters" + (f" ({codes})" if codes else "")

    def _repr_html_(self) -> str:
        codes = "".join(
            f"<tr><td>&nbsp;&nbsp;{escape(code)}</td><td style='text-align:right'>{count:,}</td></tr>"
            for code, count in self.rejected_by_code.items()
        )
        return (
            "<table>"
            f"<tr><th>events</th><td style='text-align:right'>{self.events:,}</td></tr>"
            f"<tr><th>valid</th><td style='text-align:right'>{len(self.valid):,}</td></tr>"
            f"<tr><th>dead letters</th><td style='text-align:right'>{len(self.dead_letters):,}</td></tr>{codes}</table>"
        )


@dataclass(frozen=True)
class ContractDiff:
    """What changed from one contract to another, and whom it breaks.

    Attributes:
        changes: One a change: `event_type`, `version`, `pointer`, `change`, `breaks` (`readers`, `writers`).
        backward: Readers of the new contract can read what was written under the old one.
        forward: Readers of the old contract can read what is written under the new one.
    """

    changes: tuple[dict[str, Any], ...]
    backward: bool
    forward: bool

    @property
    def full(self) -> bool:
        """Both at once."""
        return self.backward and self.forward

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changes": list(self.changes),
            "backward": self.backward,
            "forward": self.forward,
            "full": self.full,
        }


class Contract:
    """What a valid event is: roles, and a JSON Schema for each event type and version. Compiled once, used anywhere."""

    def __init__(self, inner: _core.Contract, origin: str | None = None) -> None:
        self._inner = inner
        self._origin = origin

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],
        *,
        max_bytes: int | None = None,
        max_depth: int | None = None,
        assert_formats: bool = True,
        secret: str | bytes | None = None,
    ) -> Contract:
        """Load a contract from a file (YAML or JSON; schema files are looked for beside it) or from a dict.

        Args:
            source: The file, or what would stand in it.
            max_bytes: The largest event; 1 MiB unless given.
            max_depth: The deepest nesting; 64 unless given.
            assert_formats: Whether `format` is checked; False makes it a note, as the standard has it.
            secret: The key with which properties marked `x-penstock-pii: hash` are hashed.

        Raises:
            ContractError: It is broken; the message names file, line and reason.
        """
        key = secret.encode() if isinstance(secret, str) else secret
        limits: dict[str, Any] = {
            "max_bytes": max_bytes,
            "max_depth": max_depth,
            "assert_formats": assert_formats,
            "secret": key,
        }
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            if not path.is_file():
                there = "is a folder" if path.is_dir() else "there is no such file"
                raise ContractError(f"{path}: {there}; a contract is a YAML file", file=str(path))
            return cls(_core.Contract.load(path, **limits), str(path))
        try:
            text = json.dumps(source)
        except TypeError as error:
            raise ContractError(f"contract: {error}; a contract holds what JSON can say") from None
        # Schema files that it names are looked for in the working directory.
        return cls(_core.Contract.from_text(text, Path.cwd() / "<contract>", **limits))

    @property
    def name(self) -> str:
        """Its name."""
        return self._inner.name

    @property
    def text(self) -> str:
        """The whole contract as canonical JSON, schemas inlined; loaded again, it gives an equal one."""
        return self._inner.text

    @property
    def digest(self) -> str:
        """SHA-256 of `text`."""
        return self._inner.digest

    @property
    def event_types(self) -> list[str]:
        """The event types that it names."""
        return self._inner.event_types

    @property
    def schema(self) -> ArrowSchemaExportable:
        """The Arrow schema of valid events."""
        return self._inner.schema

    def explain(self) -> dict[str, Any]:
        """What it accepts: for each event type and version the path and why, columns, what is required."""
        return dict(json.loads(self._inner.explain()))

    def diff(self, new: Contract) -> ContractDiff:
        """What changes from this contract to `new`, and whom it breaks."""
        found = json.loads(_core.contract_diff(self._inner, new._inner))
        return ContractDiff(tuple(found["changes"]), bool(found["backward"]), bool(found["forward"]))

    def validate(
        self, data: str | os.PathLike[str] | bytes | bytearray | memoryview | ArrowLike, *, progress: bool | None = None
    ) -> Validation:
        """Judge events: a file of JSON lines (plain, gzip, zstd), bytes of them, or an Arrow column of text or binary.

        Args:
            data: The events.
            progress: Show it; None: in a terminal or a notebook.

        Raises:
            SourceError: The file cannot be read.
            DataError: The column is not one of text or binary.
        """
        given: Any
        if isinstance(data, (bytearray, memoryview)):
            given = bytes(data)
        elif isinstance(data, (str, bytes, os.PathLike)) or is_arrow(data):
            given = data
        else:
            raise DataError(
                f"data: {type(data).__name__} is no path, no bytes and no Arrow column; for text in memory pass its "
                "bytes, one event a line"
            )
        with Progress("validate", progress) as shown:
            valid, dead, counts = _core.validate(self._inner, given, progress=shown.callback)
        found = json.loads(counts)
        return Validation(Table(valid), Table(dead), int(found["events"]), dict(found["rejected_by_code"]))

    def __repr__(self) -> str:
        types = ", ".join(self.event_types)
        return f"penstock.Contract({self.name!r}: {types}; {self.digest[:16]})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(kind)}</td></tr>" for name, kind in self.columns)
        types = escape(", ".join(self.event_types))
        return (
            f"<p><b>Contract {escape(self.name)}</b> <small>{self.digest[:16]}</small><br>{types}</p>"
            f"<table><thead><tr><th>column</th><th>type</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and types of the columns of valid events."""
        return self._inner.columns()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Contract) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


def validate(
    contract: Contract | str | os.PathLike[str] | Mapping[str, Any],
    data: str | os.PathLike[str] | bytes | ArrowLike,
    *,
    progress: bool | None = None,
) -> Validation:
    """Judge events by a contract, given as one, as its file, or as a dict: see `Contract.validate`."""
    judge = contract if isinstance(contract, Contract) else Contract.load(contract)
    return judge.validate(data, progress=progress)
