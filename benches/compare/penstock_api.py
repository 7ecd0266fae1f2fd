"""The job with Penstock's Python API.

    python penstock_api.py CONTRACT.yaml EVENTS.jsonl OUT

Besides what the other tools do, it writes the dead letters: every event that was not accepted, whole, with all its
problems.
"""

from __future__ import annotations

import sys

import penstock


def main(contract: str, source: str, target: str) -> None:
    """Runs the job."""
    judged = penstock.Contract.load(contract).validate(source)
    penstock.write_parquet(judged.dead_letters, f"{target}/dead_letters")
    unique = penstock.deduplicate(judged.valid, key="idempotency_key", at="event_time")
    sessions = penstock.sessionize(unique, entity="entity", at="event_time", gap="30m")
    penstock.write_parquet(sessions, f"{target}/silver")


if __name__ == "__main__":
    main(*sys.argv[1:])
