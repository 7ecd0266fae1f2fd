"""Have the kernels become slower? Counts their instructions and compares them with those that are kept here.

    python benches/check.py [--update] [--only WORDS] [--profile fast]      # `make bench-check` and `… UPDATE=1`

Builds `benches/instructions.rs` and runs each kernel under callgrind, on one thread and from fixed seeds, so that the
counts do not depend on how busy the machine is. More than 5 % above or below what `benches/instructions.json` says
fails; `--update` writes what was counted into it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benches" / "instructions.json"
MARGIN = 0.05
ENVIRONMENT = {"RAYON_NUM_THREADS": "1", "LC_ALL": "C", "PATH": os.environ.get("PATH", "")}


def build(profile: str) -> str:
    """The program. The engine is one unit of code, compiled anew: so what is inlined follows from the code alone."""
    command = ["cargo", "bench", "--locked", "--profile", profile, "--features", "kafka,s3", "--bench", "instructions"]
    command += [
        "--config",
        f"profile.{profile}.package.penstock.codegen-units=1",
        "--no-run",
        "--message-format",
        "json",
    ]
    environment = {**os.environ, "CARGO_INCREMENTAL": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return str(next(f["executable"] for f in found if f.get("target", {}).get("name") == "instructions"))


def count(program: str, kernel: str) -> int:
    """The instructions of one kernel."""
    with tempfile.TemporaryDirectory(prefix="penstock-callgrind-") as folder:
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=penstock_measured"]
        command += [f"--callgrind-out-file={folder}/out", program, kernel]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found or not int(found[1]):
        sys.exit(f"{' '.join(command)}\nended with {done.returncode} and counted nothing:\n{done.stderr[-2000:]}")
    return int(found[1])


def count_all(program: str, kernels: list[str]) -> dict[str, int]:
    """The instructions of these, some of them beside each other: what runs beside does not change a count."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(kernels, pool.map(lambda kernel: count(program, kernel), kernels), strict=True))


def compiler() -> str:
    """What built the program."""
    done = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split()[:2])


def report(found: dict[str, int], kept: dict[str, int]) -> tuple[list[str], bool]:
    """A line for each kernel, and whether all are within the margin."""
    lines, good = [], True
    for kernel, now in found.items():
        before = kept.get(kernel)
        if before is None:
            lines.append(f"✗ {kernel:34} {now:>13,}   not kept yet")
            good = False
            continue
        change = now / before - 1
        within = abs(change) <= MARGIN
        verdict = "" if within else f"   more than {MARGIN:.0%} {'more' if change > 0 else 'less'} than {before:,}"
        lines.append(f"{'✓' if within else '✗'} {kernel:34} {now:>13,} {change:>+8.2%}{verdict}")
        good = good and within
    return lines, good


def main() -> None:
    """Count, compare, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="fast", help="the profile of Cargo to build with")
    parser.add_argument("--update", action="store_true", help="keep what is counted")
    parser.add_argument("--only", default="", help="kernels whose name holds these words")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit(
            "make bench-check needs valgrind, which was not found on PATH (Debian, Ubuntu: apt-get install valgrind)"
        )
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"kernels": {}}
    built = {"rustc": compiler(), "machine": platform.machine(), "profile": options.profile}
    for what in () if options.update else ("machine", "profile"):
        if kept.get(what, built[what]) != built[what]:
            sys.exit(f"the counts in {KEPT.name} are those of the {what} {kept[what]}, not of {built[what]}")
    program = build(options.profile)
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    kernels = [kernel for kernel in listed if options.only in kernel]
    if not kernels:
        sys.exit(f"no kernel has '{options.only}' in its name; there are: {', '.join(listed)}")
    found = count_all(program, kernels)
    lines, good = report(found, kept["kernels"])
    print("\n".join(lines))
    gone = sorted(set(kept["kernels"]) - set(listed))
    if options.update:
        counts = {kernel: found.get(kernel, kept["kernels"].get(kernel)) for kernel in listed}
        KEPT.write_text(json.dumps({**built, "kernels": counts}, indent=2) + "\n")
        print(f"{len(found)} of {len(counts)} counts written to {KEPT.name}")
        return
    if kept.get("rustc", built["rustc"]) != built["rustc"]:
        print(f"What is kept was made by {kept['rustc']}, this by {built['rustc']}: that may move counts.")
    if gone:
        print(f"No longer there: {', '.join(gone)}.")
    if not good or gone:
        sys.exit("Where the change is meant: make bench-check UPDATE=1, and say why in the commit.")


if __name__ == "__main__":
    main()
