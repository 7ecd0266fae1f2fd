"""`source.files`: JSON lines, plain, gzip or zstd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from pathlib import Path


def _paths(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class FilesSource(BaseModel):
    """`source.files`: JSON lines, plain, gzip or zstd.

    Attributes:
        paths: Paths and globs, relative to the pipeline file; one alone needs no list.
        bounded: A run until caught up takes the files as ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    paths: Annotated[list[str], BeforeValidator(_paths), Field(min_length=1)]
    bounded: bool = True

    def spec(self, base: Path) -> dict[str, Any]:
        """The engine's form; relative paths begin at `base`."""
        return {"paths": self.paths, "bounded": self.bounded, "base_dir": str(base.absolute())}
