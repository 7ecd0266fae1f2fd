"""One transaction, done once, however the connection ends."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

from penstock.warehouse.backend import BackendGoneError, CommitUnknownError, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.warehouse.backend import Backend

T = TypeVar("T")

ATTEMPTS = 4
"""How often a transaction is tried."""

GIVE_UP = 60.0
"""For so many seconds a database that went away is waited for."""

_log = logging.getLogger("penstock.warehouse")


def transact(
    backend: Backend,
    lock: str,
    work: Callable[[], T],
    *,
    landed: Callable[[], bool] | None = None,
    attempts: int = ATTEMPTS,
    give_up: float | None = None,
) -> T:
    """Run `work` in one transaction under a lock.

    What the database has undone (a connection that was lost, a deadlock) is done again from the start. When the answer
    to COMMIT is lost, `landed` looks: under the lock, which whoever was cut off has then given back one way or the
    other, so that what it finds is final.

    Args:
        backend: Outside a transaction.
        lock: The name of the lock. All who write the same rows take the same one.
        work: Everything between BEGIN and COMMIT; with temporary tables of its own, for a new connection has none.
        landed: Whether the rows of this very attempt are there. Without it, `work` finds out by itself.
        attempts: How often it is tried.
        give_up: For so many seconds a database that went away is waited for; `GIVE_UP` unless given.

    Raises:
        BackendGoneError: The database did not come back; nothing of it stays.
        CommitUnknownError: It did not come back, and it is not known whether it has committed.
        DeadlockError: All attempts ended so.
    """
    give_up = GIVE_UP if give_up is None else give_up
    for attempt in range(1, attempts + 1):
        last = attempt == attempts
        try:
            backend.begin(lock)
            result = work()
        except BackendGoneError as error:
            backend.rollback()
            if last:
                raise
            _told(error)
            backend.reopen(give_up)
            continue
        except DeadlockError as error:
            backend.rollback()
            if last:
                raise
            _told(error)
            # So that the two do not meet again in step.
            time.sleep(random.uniform(0.0, 0.1 * 2**attempt))  # noqa: S311 - no secret
            continue
        except BaseException:
            backend.rollback()
            raise
        try:
            backend.commit()
        except CommitUnknownError as error:
            _told(error)
            if _committed(backend, lock, landed, give_up, error):
                return result
            if last:
                raise
            continue
        except DeadlockError as error:
            if last:
                raise
            _told(error)
            continue
        return result
    raise AssertionError("the last attempt returns or raises")


def looked(backend: Backend, look: Callable[[], T], give_up: float | None = None) -> T:
    """What `look` finds outside a transaction; once more on a new connection where the old one is lost.

    Raises:
        BackendGoneError: The database did not come back within `give_up` (or `GIVE_UP`) seconds.
    """
    try:
        return look()
    except BackendGoneError as error:
        _told(error)
        backend.reopen(GIVE_UP if give_up is None else give_up)
        return look()


def _committed(
    backend: Backend, lock: str, landed: Callable[[], bool] | None, give_up: float, unknown: CommitUnknownError
) -> bool:
    """Whether a transaction is there whose COMMIT was not answered."""
    try:
        backend.reopen(give_up)
        if landed is None:
            return False
        backend.begin(lock)
        found = landed()
        backend.rollback()
    except BackendGoneError:
        backend.rollback()
        raise unknown from None
    return found


def _told(error: Exception) -> None:
    _log.warning("%s; trying again", error)
