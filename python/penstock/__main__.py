"""The command `penstock`, and `python -m penstock`: little is imported before Ctrl-C has its answer."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import NoReturn

# As `penstock.cli` has it for a command that is interrupted.
_INTERRUPTED = 130
# What is imported stays: looking through it for garbage again and again takes some milliseconds.
_OBJECTS = 100_000


def _leave(*_: object) -> NoReturn:
    os._exit(_INTERRUPTED)


def _end(code: int) -> None:
    """Ends the process as Python does, but for what is in memory: taking that apart, object by object, is for nobody.

    Comes back where that is not enough: others' code may have left something unwritten, threads are waited for, and
    DuckDB calls what is left a leak.
    """
    from penstock.cli._common import nothing_is_left

    others = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if not nothing_is_left() or "duckdb" in sys.modules or others:
        return
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to run them
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> NoReturn:
    """The command `penstock`. Interrupted while it is being imported it ends at once: nothing was begun."""
    gc.set_threshold(_OBJECTS)
    # Who started it may have let it ignore Ctrl-C.
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers:
        signal.signal(signal.SIGINT, _leave)
    from penstock.cli import main as command

    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise


if __name__ == "__main__":
    main()
