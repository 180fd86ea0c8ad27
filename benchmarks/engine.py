"""What the engine costs: a no-op map and CPU work beside raw Dask, and cold starts.

python benchmarks/engine.py [--smoke] [--repeats 5] [--only noop-map cpu-map cold-start]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _measure import Line, print_line, timed

SLOTS = 2
ONE_TASK = """
from graphflow import flow, task

@task
def double(x):
    return 2 * x

@flow
def one():
    return double(21)

assert one() == 42
"""
IMPORT = """
import time
begin = time.perf_counter()
from graphflow import flow, task
seconds = time.perf_counter() - begin
import sys
heavy = {"dask", "distributed", "bokeh", "networkx", "s3fs"} & set(sys.modules)
assert not heavy, heavy
print(seconds)
"""


def nothing(x: int) -> int:
    """A no-op."""
    return x


def burn(seconds: float) -> float:
    """Use CPU time in this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def compare_on_dask(
    question: str, function: Callable[..., object], values: list[float], *, repeats: int, ideal: float | None
) -> None:
    """The same map by raw Dask and by graphflow, each on a warm local cluster of processes, one after the other."""
    from distributed import Client, LocalCluster

    from graphflow import backends, flow, task

    item = task(function)

    @flow
    def mapped(values: list[float]) -> list[object]:
        return item.map(values)

    with (
        LocalCluster(
            n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):

        def raw() -> object:
            return client.gather(client.map(function, values, pure=False))

        assert client.gather(client.map(function, values[:10], pure=False)) == values[:10]
        theirs = [timed(raw) for _ in range(repeats)]
    with backends.processes(slots=SLOTS) as backend:
        bound = mapped.with_options(backend=backend)
        assert bound(values[:10]) == values[:10]  # warm: the workers have imported what they need
        ours = [timed(lambda: bound(values)) for _ in range(repeats)]
    sizes = {"items": len(values), "slots": SLOTS}
    ratio = statistics.median(ours) / statistics.median(theirs)
    for system, seconds in (("graphflow", ours), ("client.map", theirs)):
        line = Line(question=question, system=system, sizes=sizes, seconds=seconds, items=len(values))
        extra = {"ratio_to_client_map": ratio} if system == "graphflow" else {}
        if ideal is not None:
            extra["share_of_ideal"] = ideal / statistics.median(seconds)
        print_line(line, **extra)


def noop_map(*, smoke: bool, repeats: int) -> None:
    """No-op items: what is left is overhead."""
    compare_on_dask("noop-map", nothing, list(range(500 if smoke else 10_000)), repeats=repeats, ideal=None)


def cpu_map(*, smoke: bool, repeats: int) -> None:
    """Items of 50 ms CPU work: how near to (work / slots)."""
    number, seconds = (8, 0.01) if smoke else (400, 0.05)
    compare_on_dask(
        "cpu-map", burn, [seconds] * number, repeats=min(repeats, 3), ideal=number * seconds / SLOTS
    )


def cold_start(*, smoke: bool, repeats: int) -> None:
    """From a cold process: one task, the import, and the help page."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "one.py"
        script.write_text(ONE_TASK, encoding="utf-8")
        commands = {
            "one-task-flow": [sys.executable, str(script)],
            "help": [sys.executable, "-m", "graphflow", "--help"],
            "bare-python": [sys.executable, "-c", ""],
        }
        for question, command in commands.items():
            run_command(command)  # fills the caches of compiled modules
            seconds = [timed(lambda command=command: run_command(command)) for _ in range(repeats)]
            print_line(Line(question=question, system="graphflow", sizes={}, seconds=seconds, items=1))
    imports = [float(run_command([sys.executable, "-c", IMPORT])) for _ in range(repeats)]
    print_line(Line(question="import", system="graphflow", sizes={}, seconds=imports, items=1))


def run_command(command: list[str]) -> str:
    """Run to the end, and return what went to stdout."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


QUESTIONS = {"noop-map": noop_map, "cpu-map": cpu_map, "cold-start": cold_start}


def main() -> None:
    """Ask the questions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    given = parser.parse_args()
    for name in given.only:
        QUESTIONS[name](smoke=given.smoke, repeats=1 if given.smoke else given.repeats)


if __name__ == "__main__":
    main()
