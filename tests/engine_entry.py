"""Makes one entry of the log straight through the engine: what the crash tests kill.

Usage: python engine_entry.py SPEC.json KIND OPTIONS.json. Prints the report as JSON; an error as its class and message
on standard error, with exit code 3.
"""

import json
import sys
from pathlib import Path

from penstock import _core
from penstock.errors import PenstockError
from penstock.shards import together

COMMANDS = {
    "compact": _core.compact,
    "replay": _core.replay,
    "backfill": _core.backfill,
    "retention": _core.retention,
}


def main() -> int:
    """Makes the entry that the command line names."""
    try:
        print(json.dumps(together(json.loads(COMMANDS[sys.argv[2]](Path(sys.argv[1]).read_text(), sys.argv[3])))))
    except PenstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
