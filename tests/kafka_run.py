"""Runs a pipeline without end, or until caught up: what the tests of the Kafka source start, stop and kill.

Usage: python kafka_run.py PIPELINE.yaml [--until-caught-up] [--accept-gap] [--shard=N/OF]. Prints each event of the run
as a line of JSON; an error as its class and message on standard error, with exit code 3; stopped, 0. Its last line then
says whether the epoch in hand was finished; there is none where the run did not stop in time and was left behind.
"""

import json
import sys

from penstock import Pipeline
from penstock.errors import PenstockError, Stopped


def main() -> int:
    """Runs the pipeline that the command line names."""
    options = sys.argv[2:]
    try:
        Pipeline.load(sys.argv[1]).run(
            until_caught_up="--until-caught-up" in options,
            accept_gap="--accept-gap" in options,
            shard=next((o.removeprefix("--shard=") for o in options if o.startswith("--shard=")), None),
            progress=False,
            on_event=lambda event: print(json.dumps(event), flush=True),
        )
    except Stopped as stopped:
        print(json.dumps({"event": "stopped", "finished": stopped.finished}), flush=True)
        return 0
    except KeyboardInterrupt:
        return 0
    except PenstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
