"""Standard output that nobody reads to its end: `penstock doctor | head -1`."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast


class _Unheard:
    """A stream that goes on, into nothing, when its reader has gone: how the command ends is another matter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._into_nothing()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._into_nothing()

    def _into_nothing(self) -> None:
        into_nothing(self._stream)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def into_nothing(stream: TextIO) -> None:
    """From now on whatever is written to it is gone."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def listen_no_more() -> None:
    """From now on it is no error when whoever reads standard output goes away."""
    if sys.stdout is not None:
        sys.stdout = cast("TextIO", _Unheard(sys.stdout))


def flush() -> None:
    """Write what is left for standard output.

    Where that fails (a full disk), it is said, and the command ends with exit code 3 unless it failed anyhow.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try once more at its end.
        into_nothing(sys.stdout)
        under_way = error.__context__
        if not (isinstance(under_way, SystemExit) and under_way.code):
            sys.stderr.write(f"penstock: standard output: {error.strerror or error}\n")
            sys.exit(3)
