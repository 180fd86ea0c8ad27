"""A flow that runs while its module is imported: nothing waits for the end of that import, and no worker begins it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import asyncio
import os

from graphflow import flow, task


class Thing:
    def __init__(self, x):
        self.x = x


@task
def make(x):
    return Thing(x)


@task
def read(thing):
    return thing.x


@flow(backend=os.environ["BACKEND"])
def main():
    return read.map(make.map(range(3)).result())


@flow(backend=os.environ["BACKEND"])
async def main_async():
    return [thing.x for thing in await make.map(range(3))]


print("imported")
print(main(), asyncio.run(main_async()), [thing.x for thing in make.map([1, 2]).result()])
"""


@pytest.mark.parametrize("backend", ["inline", "threads:2", "processes:1", "local"])
def test_a_flow_runs_while_its_module_is_imported(backend: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-c", "import program"],
        cwd=tmp_path,
        env={**os.environ, "BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["imported", "[0, 1, 2] [0, 1, 2] [1, 2]"]
