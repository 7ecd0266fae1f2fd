"""Runs a pipeline straight through the engine: what the crash tests start, stop and kill.

Usage: python engine_run.py SPEC.json [MAX_EPOCHS|all [VOID]]. Epochs go into the SQLite database, too, that
PENSTOCK_TEST_SINK names. Prints the ledger as JSON; an error as its class and message on standard error, with exit
code 3.
"""

import os
import sys
from pathlib import Path

from penstock import _core
from penstock.errors import PenstockError
from sqlite_sink import SqliteSink


def main() -> int:
    """Runs the pipeline of the specification that the command line names."""
    spec = Path(sys.argv[1]).read_text()
    max_epochs = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] != "all" else None
    void = int(sys.argv[3]) if len(sys.argv) > 3 else None
    database = os.environ.get("PENSTOCK_TEST_SINK")
    sinks = [SqliteSink(Path(database), spec)] if database else []
    try:
        print(_core.run_pipeline(spec, until_caught_up=True, max_epochs=max_epochs, void=void, sinks=sinks))
    except PenstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
