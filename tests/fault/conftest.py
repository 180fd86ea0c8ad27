"""Real processes that cost little: they are forked from one that has imported everything and has one thread."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from graphflow.testing.waiting import eventually

PROGRAMS = Path(__file__).parent / "programs"
# Tests know the flows too; what is imported here is imported by the programs from their own folder.
sys.path[:0] = [str(PROGRAMS)]


class Child:
    """A process that does one thing."""

    def __init__(self, warm: Warm, pid: int, place: Path) -> None:
        self.pid = pid
        self._warm = warm
        self._place = place
        self.code: int | None = None

    def wait(self) -> int:
        """Its exit code, at its end; minus the signal that killed it."""
        if self.code is None:
            self.code = int(self._warm.ask({"wait": self.pid}))
        return self.code

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal."""
        return state_of(self.pid) == "T"

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return state_of(self.pid) in ("", "Z")

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait()

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.code is None:
            os.kill(self.pid, number)

    def result(self) -> Any:
        """What its function gave."""
        code = self.wait()
        assert code == 0, f"the process ended with {code}: {self.output()}"
        return json.loads(self._place.read_text())

    def output(self) -> str:
        """What it printed."""
        return Path(f"{self._place}.out").read_text()


class Warm:
    """Starts processes that call a function of `programs/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._children: list[Child] = []
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "warm.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRAPHFLOW_HOME": str(folder)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, order: Mapping[str, Any]) -> str:
        """One line in, one line out."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def start(self, call: str, *, env: Mapping[str, str], **given: Any) -> Child:
        """A process that calls `module:function`."""
        self._count += 1
        place = self._folder / f"result-{self._count}"
        pid = int(self.ask({"call": call, "with": given, "place": str(place), "env": dict(env)}))
        child = Child(self, pid, place)
        self._children.append(child)
        return child

    def end_children(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            if child.code is None:
                child.send(signal.SIGCONT)
                child.kill()
        self._children.clear()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Cluster:
    """A Dask scheduler with worker processes, which outlive the drivers."""

    def __init__(self, workers: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "cluster.py"), str(workers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Dask tells of each client that vanished, with all that it would have been sent.
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def close(self) -> None:
        """End it, if it was not killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster with two worker processes."""
    made = Cluster(2)
    try:
        yield made.address
    finally:
        made.close()


@pytest.fixture
def new_cluster() -> Iterator[Callable[[], Cluster]]:
    """Makes clusters that may be killed."""
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster(2))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


def state_of(pid: int) -> str:
    """What the system says of a process: `T` is stopped, `Z` ended and not waited for, empty gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Waits for what another process does to files."""
    return eventually


@pytest.fixture(scope="session")
def warm_process() -> Iterator[Warm]:
    """One per test process."""
    with tempfile.TemporaryDirectory(prefix="graphflow-warm-") as folder:
        warm = Warm(Path(folder))
        try:
            yield warm
        finally:
            warm.close()


class Stage:
    """A home of its own, a file that counts executions, and processes that work with them."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self._warm = warm
        self.home = folder / "home"
        self.tally = folder / "tally"

    def start(self, call: str, env: Mapping[str, str] | None = None, **given: Any) -> Child:
        """A process that calls a function of `programs/flows.py`."""
        (self.home.parent / "tmp").mkdir(exist_ok=True)
        places = {"GRAPHFLOW_HOME": str(self.home), "TMPDIR": str(self.home.parent / "tmp")}
        return self._warm.start(f"flows:{call}", env={**places, **(env or {})}, **given)

    def drive(
        self,
        name: str,
        run_id: str,
        *,
        parameters: Mapping[str, Any],
        call: str = "drive",
        env: Mapping[str, str] | None = None,
        **given: Any,
    ) -> Child:
        """A driver of a flow, which counts in the file."""
        complete = {**parameters, "tally": str(self.tally)}
        return self.start(call, env, name=name, run_id=run_id, parameters=complete, **given)

    def look(self, run_id: str, *, verifies: bool = True) -> Any:
        """What is durable of a run."""
        return self.start("look", run_id=run_id, verifies=verifies).result()

    def counts(self) -> dict[str, int]:
        """How often each item was executed."""
        found: dict[str, int] = {}
        if self.tally.exists():
            for line in self.tally.read_text().splitlines():
                found[line] = found.get(line, 0) + 1
        return found


@pytest.fixture
def stage(warm_process: Warm, tmp_path: Path) -> Iterator[Stage]:
    """A stage that is empty."""
    try:
        yield Stage(warm_process, tmp_path)
    finally:
        warm_process.end_children()


@pytest.fixture
def new_stage(warm_process: Warm, tmp_path: Path) -> Iterator[Callable[[str], Stage]]:
    """Makes several stages."""

    def make(name: str) -> Stage:
        (tmp_path / name).mkdir()
        return Stage(warm_process, tmp_path / name)

    try:
        yield make
    finally:
        warm_process.end_children()
