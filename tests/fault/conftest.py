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

PROGRAMS = Path(__file__).parent / "programs"


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
        return self._warm.start(
            f"flows:{call}", env={"GRAPHFLOW_HOME": str(self.home), **(env or {})}, **given
        )

    def drive(self, name: str, run_id: str, *, env: Mapping[str, str] | None = None, **given: Any) -> Child:
        """A driver of a flow, which counts in the file."""
        parameters = {**given.pop("parameters"), "tally": str(self.tally)}
        return self.start("drive", env, name=name, run_id=run_id, parameters=parameters, **given)

    def look(self, run_id: str) -> Any:
        """What is durable of a run."""
        return self.start("look", run_id=run_id).result()

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
