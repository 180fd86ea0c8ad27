"""What a small run costs beside its tasks: a thousand in one process, and many processes in one home.

python benchmarks/small_runs.py [--runs 1000] [--processes 20] [--smoke]

Prints one JSON line for the runs of one process, one for those of many processes at the same time, and, where `strace` is
installed, one with how often a single run syncs, opens, creates and removes files.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import home, show

CALLS = ("fsync", "fdatasync", "openat", "mkdir", "rename", "renameat", "unlink")
MARK = "/graphflow-bench-mark"
CHILD = """
import os, sys, time
from graphflow import flow, task
from graphflow.bench.items import nothing
item = task(nothing)
small = flow(lambda x: item(x)).with_options(name="small")
for _ in range(3):
    small(1)
begin, used = time.perf_counter(), time.process_time()
os.path.exists({mark!r})
for number in range(int(sys.argv[1])):
    assert small(number) == number
os.path.exists({mark!r})
print(time.perf_counter() - begin, time.process_time() - used)
"""


def child(runs: int, *before: str) -> subprocess.Popen[str]:
    """A process that makes so many runs in the current home."""
    code = CHILD.format(mark=MARK)
    environment = {**os.environ, "GRAPHFLOW_PROGRESS": "off"}
    command = [*before, sys.executable, "-c", code, str(runs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def ended(process: subprocess.Popen[str]) -> tuple[float, float]:
    """The wall and CPU seconds of a process's runs."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process of runs ended with exit code {process.returncode}")
    seconds, cpu = out.split()[-2:]
    return float(seconds), float(cpu)


def sizes_of(folder: Path) -> tuple[int, int]:
    """Files and bytes below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def one_process(runs: int) -> None:
    """Runs one after the other."""
    with home() as folder:
        seconds, cpu = ended(child(runs))
        files, nbytes = sizes_of(folder)
    show(
        {
            "question": "small runs, one process",
            "runs": runs,
            "ms_per_run": round(seconds / runs * 1e3, 2),
            "cpu_ms_per_run": round(cpu / runs * 1e3, 2),
            "files_per_run": round(files / (runs + 3), 1),
            "bytes_per_run": round(nbytes / (runs + 3)),
        }
    )


def many_processes(runs: int, processes: int) -> None:
    """Processes that run flows in one home at the same time."""
    with home():
        begin = time.perf_counter()
        children = [child(runs) for _ in range(processes)]
        found = [ended(each) for each in children]
        total = time.perf_counter() - begin
    show(
        {
            "question": "small runs, many processes in one home",
            "processes": processes,
            "runs": runs * processes,
            "seconds": round(total, 2),
            "runs_per_second": round(runs * processes / max(seconds for seconds, _ in found), 1),
            "cpu_ms_per_run": round(sum(cpu for _, cpu in found) / runs / processes * 1e3, 2),
        }
    )


def system_calls() -> None:
    """How often one warm run asks the file system for something."""
    if shutil.which("strace") is None:
        print(json.dumps({"question": "system calls of one run", "skipped": "strace is not installed"}))
        return
    with home(), tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        trace = f"trace={','.join(CALLS)},stat,newfstatat"
        ended(child(1, "strace", "-f", "-o", str(log), "-e", trace))
        between = log.read_text().split(MARK)[1]
    counts = collections.Counter(re.findall(r"^\d+ +(\w+)\(", between, re.MULTILINE))
    show({"question": "system calls of one run", **{name: counts[name] for name in CALLS}})


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    given = parser.parse_args()
    runs, processes = (5, 2) if given.smoke else (given.runs, given.processes)
    one_process(runs)
    many_processes(max(1, runs // 20), processes)
    system_calls()


if __name__ == "__main__":
    main()
