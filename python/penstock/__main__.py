"""The command `penstock`, and `python -m penstock`: little is imported before Ctrl-C has its answer."""

from __future__ import annotations

import gc
import os
import signal
from typing import NoReturn

# As `penstock.cli` has it for a command that is interrupted.
_INTERRUPTED = 130
# What is imported stays: looking through it for garbage again and again takes some milliseconds.
_OBJECTS = 100_000


def _leave(*_: object) -> NoReturn:
    os._exit(_INTERRUPTED)


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
    command()


if __name__ == "__main__":
    main()
