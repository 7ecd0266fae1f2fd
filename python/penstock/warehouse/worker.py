"""A thread that does one thing after the other, and that nobody has to wait for."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Worker:
    """A thread for what may hang. Unlike those of an executor it does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Let the thread do something, after what it was given before."""
        future: Future[T] = Future()
        self._work.put((future, work))
        return future

    def shutdown(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._work.put(None)

    def _run(self) -> None:
        while given := self._work.get():
            future, work = given
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                future.set_exception(error)
            # What it holds on to is not kept until the next.
            del given, future, work
