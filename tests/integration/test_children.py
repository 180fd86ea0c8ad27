"""Tasks that start processes of their own: in worker processes as in this one, with functions and classes of the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from graphflow import backends, flow, task


class Number:
    def __init__(self, value):
        self.value = value


def squared(number):
    print("a child prints")
    return number.value ** 2


@task
def in_children(how, x):
    if how == "process":
        queue = multiprocessing.Queue()
        child = multiprocessing.Process(target=queue.put, args=(x,))
        child.start()
        found = queue.get()
        child.join()
        return [found]
    kind, _, start = how.partition(" ")
    context = multiprocessing.get_context(start)
    numbers = [Number(x), Number(x + 1)]
    if kind == "executor":
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            return list(pool.map(squared, numbers))
    with context.Pool(2) as pool:
        return pool.map(squared, numbers)


@flow
def main(ways):
    return in_children.map(ways, 2)


if __name__ == "__main__":
    ways = ["process", "pool fork", "pool spawn", "executor fork", "executor spawn"]
    with backends.processes(slots=2) as pool:
        for backend in ("threads:2", pool):
            assert main.with_options(backend=backend)(ways) == [[2], *[[4, 9]] * 4], backend
    print("done")
"""


def test_tasks_start_processes_on_each_backend(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
