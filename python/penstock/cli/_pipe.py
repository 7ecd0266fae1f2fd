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
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def listen_no_more() -> None:
    """From now on it is no error when whoever reads standard output goes away."""
    if sys.stdout is not None:
        sys.stdout = cast("TextIO", _Unheard(sys.stdout))
