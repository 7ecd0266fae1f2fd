"""An Airflow of the tests' own: a home in a folder, its database in SQLite, DAGs run in this process."""

from __future__ import annotations

import atexit
import datetime as dt
import importlib.util
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HOME = Path(tempfile.mkdtemp(prefix="penstock-airflow-"))
# After what Airflow itself does at the end, which makes its folder for logs again.
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
# Airflow reads its settings when it is imported first.
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # One name stands for another DAG in each test.
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HOME / "logs"),
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__COSMOS__CACHE_DIR": str(HOME / "cosmos"),
    "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
}


def pytest_unconfigure() -> None:
    """Also where no test asked for an Airflow there is a folder."""
    shutil.rmtree(HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A thread watches how long a test takes: a task with a time-out of its own takes the signal away."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300, method="thread"))


@dataclass
class Ran:
    """What became of a run of a DAG, and all that was said."""

    run: Any
    log: str

    @property
    def states(self) -> dict[str, str]:
        """Each task's state; those of a mapped one have a number."""
        found = self.run.get_task_instances()
        return {f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state) for ti in found}

    @property
    def tries(self) -> dict[str, int]:
        """How often each was tried."""
        return {ti.task_id: ti.try_number for ti in self.run.get_task_instances()}

    def xcom(self, task: str) -> Any:
        """What a task returned, as it came through Airflow's database."""
        return self.run.get_task_instance(task).xcom_pull(task_ids=task)


class Airflow:
    """Runs DAG files."""

    def __init__(self, dags: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.dags = dags
        self.capture = capture

    def load(self, source: str, name: str = "tested") -> Any:
        """The DAG of a file."""
        path = self.dags / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return next(found for found in vars(module).values() if type(found).__name__ == "DAG")

    def run(
        self,
        source: str,
        conf: dict[str, Any] | None = None,
        *,
        name: str = "tested",
        retries: int | None = None,
        skip: str | None = None,
    ) -> Ran:
        """Run the DAG of a file from its beginning to its end.

        Args:
            source: The file's text.
            conf: The run's parameters.
            name: The file's name.
            retries: As many, in the place of what the DAG says.
            skip: Tasks that are taken as done, by a pattern.
        """
        dag = self.load(source, name)
        for task in dag.tasks:
            # Nobody waits for a retry.
            task.retry_delay = dt.timedelta(0)
            if retries is not None:
                task.retries = retries
        self._make_known()
        self.capture.readouterr()
        run = dag.test(run_conf=conf, mark_success_pattern=skip)
        said = self.capture.readouterr()
        return Ran(run, said.out + said.err)

    def _make_known(self) -> None:
        """Let Airflow's database know the DAG files; from 3.2 on `DAG.test` does it itself."""
        import airflow as its

        if tuple(map(int, its.__version__.split(".")[:2])) >= (3, 2):
            return
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.models.dagbag import DagBag, sync_bag_to_db

        DagBundlesManager().sync_bundles_to_db()
        sync_bag_to_db(DagBag(self.dags, include_examples=False), "dags-folder", None)


@pytest.fixture(scope="session")
def _home() -> Path:
    (HOME / "dags").mkdir()
    from airflow.utils.db import initdb

    initdb()
    return HOME


@pytest.fixture
def airflow(_home: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Airflow]:
    """An Airflow without DAGs. What a task does to the signals of its process is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    dags = _home / "dags"
    yield Airflow(dags, capfd)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    shutil.rmtree(dags)
    dags.mkdir()


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a connection known to Airflow by its name."""

    def make(name: str, **known: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(known))

    return make
