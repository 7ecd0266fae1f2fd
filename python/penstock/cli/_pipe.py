"""Standard output that nobody reads to its end (`penstock doctor | head -1`), that is closed, full, or ASCII."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, NoReturn, TextIO, cast

# What stands in our own words and not in every encoding.
_PLAIN = {"✓": "+", "✗": "x", "…": "..."}


class StandardOutputError(OSError):
    """Standard output takes nothing: its disk is full."""

    def __str__(self) -> str:
        return f"standard output: {self.strerror}"


def _failed(error: OSError) -> NoReturn:
    raise StandardOutputError(error.errno, error.strerror or str(error)) from None


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
        except OSError as error:
            _failed(error)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._into_nothing()
        except OSError as error:
            _failed(error)

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


def _in_plain_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


def _open(name: str, number: int) -> None:
    """A stream that was closed before the command began takes everything, and no file gets its number."""
    if getattr(sys, name) is not None:
        return
    try:
        os.fstat(number)
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        if nothing != number:
            os.dup2(nothing, number)
            os.close(nothing)
    setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "wb", closefd=False), encoding="utf-8"))


def listen_no_more() -> None:
    """From now on it is no error when whoever reads standard output goes away, or was never there.

    A letter that its encoding does not have is written in another way.
    """
    _open("stdout", 1)
    _open("stderr", 2)
    codecs.register_error("penstock", _in_plain_letters)
    out = sys.stdout
    # A file's name that is no text goes out as it came in.
    if isinstance(out, io.TextIOWrapper) and not (is_utf8(out) and out.errors == "surrogateescape"):
        out.reconfigure(errors="penstock")
    sys.stdout = cast("TextIO", _Unheard(out))


def is_utf8(stream: TextIO) -> bool:
    """Whether every letter can be written to it."""
    return (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf")


def flush() -> None:
    """Write what is left for standard output.

    Where that fails (a full disk), it is said, and the command ends with exit code 3 unless it failed anyhow.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try once more at its end.
        into_nothing(sys.stdout)
        # It may be that very error on which the command is ending.
        under_way = error.__context__.__context__ if error.__context__ else None
        if not (isinstance(under_way, SystemExit) and under_way.code):
            sys.stderr.write(f"Error: {error}\n")
            sys.exit(3)
