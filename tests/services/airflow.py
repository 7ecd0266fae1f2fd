"""A whole Airflow: scheduler, DAG processor, API server and triggerer, with LocalExecutor, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from services import Process, free_port, until

if TYPE_CHECKING:
    from typing_extensions import Self


class Standalone:
    """`airflow standalone` with its metadata in PostgreSQL.

    Args:
        database: Where the metadata goes, as `host:port/name`, without a password.
        env: More of its environment.
    """

    def __init__(self, database: str, env: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-standalone-"))
        self.dags = self.folder / "dags"
        self.dags.mkdir()
        self.log = self.folder / "standalone.log"
        self.lineage = self.folder / "lineage.jsonl"
        transport = {"type": "file", "log_file_path": str(self.lineage), "append": True}
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.ports = [self.port, *(free_port() for _ in range(2))]
        server = f"postgres@{database}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{server}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg://{server}",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(self.ports[1]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.ports[2]),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **env,
        }
        self.process: Process | None = None
        self._token = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "airflow", "standalone"]
        self.process = Process(command, self.log, env=self.env, group=True, folder=self.folder)
        try:
            # What it takes on a machine that does nothing else is half a minute.
            until(f"Airflow's API answers (see {self.log})", self._answers, seconds=180, every=0.3)
            self._token = self.call("GET", "/auth/token")["access_token"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Its parts are sessions of their own, or survive a signal: each is known by its environment.
        while found := self.processes():
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=10)
        if self.process is not None:
            self.process.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.running(), self.log.read_text()[-4000:]
        try:
            health = self.call("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor"))

    def told(self, job: str) -> list[dict[str, Any]]:
        """What OpenLineage was told of a task (`dag.task`)."""
        lines = self.lineage.read_text().splitlines() if self.lineage.exists() else []
        return [event for event in map(json.loads, lines) if event["job"]["name"] == job]

    def processes(self) -> list[psutil.Process]:
        """All that belong to it."""
        session = self.process.pid if self.process else None
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                # A process that has given itself a title has no environment to see any more.
                ours = os.getsid(process.pid) == session or process.environ().get("AIRFLOW_HOME") == str(self.folder)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of its API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
