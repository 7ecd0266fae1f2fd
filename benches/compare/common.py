"""What the comparisons share: the machine, processes measured from start to end, and where results go."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "out"

# A child's peak memory begins with that of the process that started it, and this one may hold tables: so a small
# process starts the job and measures it.
LAUNCHER = """
import json, os, subprocess, sys, time
# What was installed with a package manager is compiled; so is what was run once, unless that is forbidden.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
with open(sys.argv[1], "wb") as log:
    start = time.perf_counter()
    child = subprocess.Popen(sys.argv[2:], stdout=log, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([child.returncode, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def measure(command: list[str], log: Path) -> tuple[float, float, float]:
    """Runs a process to its end: seconds of wall time, seconds of CPU, peak MiB of it and its children."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(log), *command]
    code, wall, cpu, peak = json.loads(subprocess.run(launcher, check=True, capture_output=True).stdout)
    if code:
        sys.exit(f"{' '.join(command)}\nended with {code}:\n{log.read_text(errors='replace')[-4000:]}")
    return wall, cpu, peak / (1024 if sys.platform != "darwin" else 1024**2)  # KiB on Linux, bytes on macOS


def empty(folder: Path) -> None:
    """Makes the folder, and makes it empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def settle(file: Path) -> None:
    """Waits until a file is on the disk: else what is measured next would share the disk with it."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = models[0] if models else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "penstock": version_of("penstock"),
        "profile": profile(),
        "polars": version_of("polars"),
        "duckdb": version_of("duckdb"),
    }


def version_of(package: str) -> str:
    """The version of a package; ours is not installed where it is developed."""
    if package == "penstock":
        import penstock

        return penstock.__version__
    return version(package)


def profile() -> str:
    """How the engine that is measured was built: `make bench` puts it below target/bench, by its profile's name."""
    import penstock

    folder = Path(penstock.__file__).resolve().parents[1]
    if folder.parent == HERE.parents[1] / "target" / "bench":
        return folder.name
    return "fast" if folder == HERE.parents[1] / "python" else "release"


def described(where: dict[str, str]) -> str:
    """The machine and the versions in a sentence."""
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory']}, {where['system']}, load {where['load']} before; "
        f"Python {where['python']}, penstock {where['penstock']} (profile {where['profile']}), "
        f"polars {where['polars']}, duckdb {where['duckdb']}."
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table as markdown: text in the first column, numbers in the others."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def keep(name: str, text: str, numbers: dict[str, Any]) -> None:
    """Prints a result, and writes it to benches/out as markdown and as JSON."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.md").write_text(text + "\n")
    (OUT / f"{name}.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(text)
