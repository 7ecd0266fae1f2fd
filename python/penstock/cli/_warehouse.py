"""What commands share that are told a warehouse by `--to`."""

from __future__ import annotations

from penstock.cli._common import warn


def warn_of_password(to: str | None) -> None:
    """Say that a password does not belong on a command line."""
    from penstock.postgres import has_password, is_postgres

    if to is not None and is_postgres(to) and has_password(to):
        warn(
            "Warning: --to holds a password, which other users of this machine see among its processes. Give it in "
            "PGPASSWORD, in a password file (passfile, ~/.pgpass), or as ${VARIABLE} in the pipeline file"
        )
