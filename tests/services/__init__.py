"""Real servers for the tests: each is a context manager that runs one on loopback, and can kill and start it again.

What has to be fetched once is kept in a cache (`~/.cache/penstock-tests`, or where `PENSTOCK_TEST_CACHE` says). Where
a server cannot be had, the test is skipped and says so; with `CI` in the environment it fails instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def cache() -> Path:
    """The folder for what is fetched once."""
    folder = Path(os.environ.get("PENSTOCK_TEST_CACHE") or Path.home() / ".cache" / "penstock-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time (of all that share the cache) is in here."""
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def missing(what: str) -> NoReturn:
    """A service cannot be had: skip the test; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} (CI is set: nothing is skipped there)", pytrace=False)
    pytest.skip(f"NOT TESTED: {what}")


def need(*programs: str, why: str) -> None:
    """Says that a service cannot be had where one of these programs is not on PATH."""
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        missing(f"{why} needs {' and '.join(absent)} on PATH")


# Given by this process: a server that is not there yet, or killed to be started again, has its port all the same.
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has, on loopback, and that no test beside this one is given.

    From below those that the system gives to outgoing connections, where there are any: else, while a killed server is
    away, one of its clients may be given the port that it looks for, and find itself.
    """
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        lowest = 0
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for _ in range(200 if lowest > 12_000 else 0):
        # SeaweedFS takes the port that is 10,000 above each, too.
        port = random.randrange(10_240 + worker, min(lowest, 20_240), workers)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, check: Callable[[], T | None], *, seconds: float = 60.0, every: float = 0.05) -> T:
    """Asks `check` until it gives something true.

    Raises:
        TimeoutError: It did not within this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


class Process:
    """A server's process, which ends with the test process however that ends; with `group` all that it has started.

    Args:
        command: What runs.
        log: What it says goes there.
        env: Its environment.
        group: All that it has started ends with it.
        folder: What is its own alone: gone, too, where the test process was killed and can tidy nothing.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        *,
        env: dict[str, str] | None = None,
        group: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.group = group
        with log.open("ab") as out:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        # Its standard input ends when this process does.
        end = f"read _; kill -9 {'-' if group else ''}{self.child.pid}"
        if folder is not None:
            # While it ends it may still write.
            end += '; for _ in 1 2 3 4 5; do rm -rf -- "$0" && break; sleep 1; done'
        self.watch = subprocess.Popen(
            ["sh", "-c", end, *([str(folder)] if folder is not None else [])],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.child.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        if self.child.poll() is None:
            return True
        # Nobody may kill by its number any more: it can be another process's soon.
        self._ended()
        return False

    def stop(self, *, seconds: float = 30.0) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        if self.running():
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self._ended()

    def kill(self) -> None:
        """`kill -9`."""
        if self.running() and self.group:
            os.killpg(self.child.pid, signal.SIGKILL)
        elif self.running():
            self.child.kill()
        self._ended()

    def _ended(self) -> None:
        # First the one that would kill: the process id is free for others as soon as it is waited for.
        self.watch.kill()
        self.watch.wait()
        if self.watch.stdin:
            self.watch.stdin.close()
        self.child.wait()
