"""Fixtures of the integration tests: every test of behaviour runs on each backend.

`backend_name` is for tests that share nothing but values with their tasks, so that they run on worker
processes too; `local_name` is for tests whose tasks share objects with the test.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow
from graphflow.ports import Backend
from graphflow.testing.waiting import eventually

LOCAL = ["inline", "threads"]
BACKENDS = [*LOCAL, "processes"]


@pytest.fixture(scope="session")
def shared_processes() -> Iterator[Backend]:
    """One local Dask cluster for all tests of behaviour."""
    with backends.processes(slots=2) as backend:
        yield backend


@pytest.fixture(params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> Any:
    """What the test runs on: a backend's name, or the cluster that such tests share."""
    if request.param == "processes":
        return request.getfixturevalue("shared_processes")
    return request.param


@pytest.fixture(params=LOCAL)
def local_name(request: pytest.FixtureRequest) -> str:
    """The name of a backend in this process: tasks may share events and lists with the test."""
    name: str = request.param
    return name


class Tally:
    """Counts executions in a file, so that they are counted in whatever process they happen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, what: Any = "x") -> int:
        """Count one; gives how many there are now."""
        with open(self.path, "ab", buffering=0) as file:
            file.write(f"{what}\n".encode())
        return self.count(what)

    def all(self) -> list[str]:
        """Everything that was counted, in order."""
        return self.path.read_text().splitlines() if os.path.exists(self.path) else []

    def count(self, what: Any = "x") -> int:
        """How often something was counted."""
        return self.all().count(str(what))


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    """A counter of executions."""
    return Tally(tmp_path / "tally")


@pytest.fixture
def run_body(backend_name: Any) -> Callable[[Callable[[], Any]], Any]:
    """Runs a function as a flow on the backend and gives its value."""

    def run(body: Callable[[], Any]) -> Any:
        return flow(backend=backend_name)(body)()

    return run


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that another thread does, collecting garbage on the way."""

    def wait(holds: Callable[[], bool]) -> None:
        def look() -> bool:
            gc.collect()
            return holds()

        eventually(look)

    return wait


@pytest.fixture
def results_of() -> Callable[[Any], Path]:
    """The folder of a run's results."""
    from graphflow.driver.durability import open_history

    return lambda run: Path(open_history().results_folder(run.id))
