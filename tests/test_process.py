"""The engine inside a Python process: forks, Ctrl-C, threads."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

import penstock
from penstock import _core
from services import until

if TYPE_CHECKING:
    from pathlib import Path

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def sessions_of(n: int) -> int:
    """Uses the engine's threads, and gives the number of sessions found."""
    events = pa.table(
        {
            "user": [f"u{i % 7}" for i in range(n)],
            "at": pa.array([i * 10_000_000 for i in range(n)], pa.timestamp("us", "UTC")),
        }
    )
    out = pa.table(penstock.sessionize(events, entity="user", at="at", gap="5s"))
    return len(set(out["session_id"].to_pylist()))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_after_work_can_work() -> None:
    assert sessions_of(700) == 700
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sessions_of(700) == 700 else 1)
    try:
        _, status = until("the child ends", lambda: ended if any(ended := os.waitpid(pid, os.WNOHANG)) else None)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_multiprocessing(method: str) -> None:
    assert sessions_of(70) == 70
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(sessions_of, [70, 140, 700]).get(timeout=240) == [70, 140, 700]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_other_threads_go_on_while_the_engine_works(tmp_path: Path) -> None:
    """The engine writes into a pipe that another thread empties: it would wait for ever if it kept Python to itself."""
    script = textwrap.dedent(
        """
        import json, sys, threading
        from penstock import _core
        lines = []
        def read():
            with open(sys.argv[1], "rb") as pipe:
                lines.extend(pipe)
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        _core.generate("ecommerce", json.dumps({"total": 5_000, "seed": 1}), sys.argv[1])
        thread.join()
        print(len(lines))
        """
    )
    os.mkfifo(tmp_path / "pipe")
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pipe")], capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "5000"), ran.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_answered() -> None:
    """A long call, far longer than is waited for here, ends with KeyboardInterrupt when SIGINT comes."""
    script = textwrap.dedent(
        """
        import json, signal, sys, threading, os
        from penstock import _core
        def send():
            started.wait()
            os.kill(os.getpid(), signal.SIGINT)
        started = threading.Event()
        threading.Thread(target=send, daemon=True).start()
        def progress(*_):
            started.set()
        options = json.dumps({"total": 500_000_000, "seed": 1})
        try:
            _core.generate("ecommerce", options, sys.argv[1], on_progress=progress)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    ran = subprocess.run([sys.executable, "-c", script, os.devnull], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, "interrupted"), ran.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_run_that_is_interrupted_says_how_it_ended(tmp_path: Path) -> None:
    """Asked to stop while it reads, a run finishes the epoch in hand; the next one goes on."""
    _core.generate("ecommerce", json.dumps({"total": 40_000, "seed": 1}), str(tmp_path / "in.jsonl"))
    overrides = {"source.files.paths": ["in.jsonl"], "lake": "lake", "durability": "process"}
    flow = penstock.Pipeline.load("ecommerce", overrides, base=tmp_path)

    asked = []

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "progress" and not asked:
            asked.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        # It would not end by itself: under load, all could be read before the signal is heard.
        flow.run(until_caught_up=False, on_event=interrupt)
    stopped = caught.value
    assert isinstance(stopped, penstock.errors.Stopped)
    assert stopped.finished
    assert stopped.ledger.run.epochs == 1
    assert stopped.ledger.consumed > 0
    rest = flow.run()
    assert rest.consumed == stopped.ledger.consumed + rest.run.consumed
    assert rest.balanced
    assert flow.audit().balanced


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("seconds", [0.5, 60])
def test_work_that_was_left_behind_calls_nobody_while_python_exits(tmp_path: Path, seconds: float) -> None:
    """Interrupted twice, a call is left behind while it is in Python. The process ends all the same."""
    script = textwrap.dedent(
        """
        import json, os, signal, sys, time
        from penstock import _core
        def progress(*_):
            print("called", flush=True)
            end = time.monotonic() + float(sys.argv[2])
            while time.monotonic() < end:
                time.sleep(0.001)
        heard = []
        def interrupt(*_):
            heard.append(1)
            if len(heard) <= 2:
                raise KeyboardInterrupt
        signal.signal(signal.SIGINT, interrupt)
        options = json.dumps({"total": 500_000_000, "seed": 1})
        try:
            _core.generate("ecommerce", options, sys.argv[1], on_progress=progress)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, lambda *_: None)
            print("interrupted", flush=True)
        sys.exit(7)
        """
    )
    command = [sys.executable, "-c", script, os.devnull, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "called\n"
            interrupted = threading.Event()
            sender = threading.Thread(target=keep_interrupting, args=(process, interrupted))
            sender.start()
            said = next((line for line in process.stdout if line != "called\n"), "")
            interrupted.set()
            sender.join()
            # Who is in a call for so long is not waited for: Python's own end would crash then.
            assert (process.wait(60), said) == (130 if seconds > 30 else 7, "interrupted\n"), process.stderr.read()
        finally:
            process.kill()


@needs_fork
def test_a_child_that_was_forked_beside_a_call_ends_by_itself(tmp_path: Path) -> None:
    """A thread of the parent's is in a call: of the child's, which has no such thread, nobody is."""
    script = textwrap.dedent(
        """
        import json, os, sys, threading
        from penstock import _core
        called, done = threading.Event(), threading.Event()
        def progress(*_):
            called.set()
            return done.wait()
        options = json.dumps({"total": 100_000, "seed": 1})
        thread = threading.Thread(
            target=_core.generate, args=("ecommerce", options, sys.argv[1]), kwargs={"on_progress": progress}
        )
        thread.start()
        called.wait()
        child = os.fork()
        if child == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        thread.join()
        """
    )
    ran = subprocess.run([sys.executable, "-c", script, os.devnull], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, "7"), ran.stderr


def keep_interrupting(process: subprocess.Popen[str], heard: threading.Event) -> None:
    """Ctrl-C again and again, until it was heard."""
    while not heard.wait(0.1) and process.poll() is None:
        process.send_signal(signal.SIGINT)


def test_exit_codes_of_a_stop() -> None:
    from penstock.cli._common import ExitCode, exit_code_of

    assert exit_code_of(penstock.errors.Stopped(finished=True)) is ExitCode.INTERRUPTED
    assert exit_code_of(penstock.errors.Stopped(finished=False)) is ExitCode.GIVEN_UP


CALLS_AGAIN = """
    import json, sys, threading
    from pathlib import Path
    import penstock
    from penstock import _core

    folder = Path(sys.argv[1])
    _core.generate("ecommerce", json.dumps({"total": 300, "seed": 5}), str(folder / "in.jsonl"))
    done = []

    def run(number):
        settings = {"source.files.paths": [str(folder / "in.jsonl")], "source.files.bounded": True}
        base = folder / str(number)
        base.mkdir()
        told = penstock.Pipeline.load("ecommerce", settings, base=base).spec()
        contract = penstock.Contract.load(told["contract_path"])._inner
        spec = json.dumps(told | {"transform": {"function": "here:transform"}})

        class Sink:
            name = "sink"

            def write(self, epoch):
                both.wait()
                log = json.loads(_core.lake_log(spec, -1, shard=0))
                shards = []
                _core.validate(contract, b"{}", progress=lambda text: shards.append(_core.lake_shards(spec)))
                done.append(("sink", len(log), shards))
                return True

            def forbid(self, epoch, term):
                return True

        def transform(rows):
            penstock.sessionize(rows, entity="user_id", at="event_timestamp", gap="30m")
            done.append(("transform",))
            return rows

        _core.run_pipeline(
            spec, until_caught_up=True, max_epochs=1, drain=True, transform=transform, sinks=[Sink()]
        )

    both = threading.Barrier(2)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(done))
"""


def test_python_that_the_engine_calls_may_call_the_engine(tmp_path: Path) -> None:
    # On one processor, two runs at once: each has called Python when the other one calls the engine again.
    command = [sys.executable, "-c", textwrap.dedent(CALLS_AGAIN), str(tmp_path)]
    environment = os.environ | {"RAYON_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == str([("sink", 0, [[]])] * 2 + [("transform",)] * 2) + "\n", done.stderr
