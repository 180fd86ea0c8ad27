"""Runs of a flow that are killed at failpoints and resumed, each compared with an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from graphflow.cli.chaos.launch import LaunchOrder, LaunchResult
from graphflow.common.failpoints import VARIABLE
from graphflow.errors import HistoryError, RunNotFound
from graphflow.histories.sqlite import SqliteHistory
from graphflow.records.replay import Replay

__all__ = ["ChaosReport", "Kill", "Trials"]

KILLS_PER_RUN = 5
"""After this many kills a run may finish, and another one is started."""
SHORTEST_PATIENCE_SECONDS = 60.0
LATEST_FACTOR = 20.0
"""A launch that takes this many times as long as an undisturbed run counts as hanging."""
IDLE_RUNS = 3
"""After this many runs in which nothing could be killed, no more are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A process killed at its `hit`-th pass through a failpoint, in a launch of a run."""

    run_id: str
    launch: int
    failpoint: str
    hit: int
    is_driver: bool


@dataclass(slots=True, kw_only=True)
class ChaosReport:
    """The outcome; `again` counts items per task that were running when a process died, and so ran again."""

    value: str = ""
    digest: str = ""
    boundaries: int = 0
    runs: int = 0
    launches: int = 0
    kills: list[Kill] = field(default_factory=list)
    again: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    """How often, at most, one item of a task was running when a process died."""
    problems: list[str] = field(default_factory=list)

    @property
    def drivers_killed(self) -> int:
        """The number of drivers that were killed."""
        return sum(kill.is_driver for kill in self.kills)


@dataclass(frozen=True, slots=True)
class _Launch:
    code: int | None
    result: LaunchResult | None
    output: str
    seconds: float


class Trials:
    """Runs a flow, kills its processes, and resumes it.

    Parameters
    ----------
    folder
        Where histories, results and outputs go.
    order
        Returns the order for a launch, given the run's id and the file for its outcome.
    kills
        How many processes to kill.
    seed
        The seed for the choice of failpoints.
    say
        Called with each line of progress.
    """

    def __init__(
        self,
        folder: Path,
        order: Callable[[str, str], LaunchOrder],
        *,
        kills: int,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._order = order
        self._wanted = kills
        self._chance = random.Random(seed)
        self._say = say
        self._patience = SHORTEST_PATIENCE_SECONDS
        self._boundaries: list[tuple[str, int]] = []
        self.report = ChaosReport()

    def run(self) -> ChaosReport:
        """Run the trials, and return the report."""
        if self._run_undisturbed():
            idle = 0
            while len(self.report.kills) < self._wanted and not self.report.problems and idle < IDLE_RUNS:
                before = len(self.report.kills)
                self._run_disturbed(f"chaos-{self.report.runs + 1}")
                idle = 0 if len(self.report.kills) > before else idle + 1
            if idle == IDLE_RUNS and not self.report.problems:
                self.report.problems.append(
                    f"only {len(self.report.kills)} of {self._wanted} kills were possible: the run takes different steps each time"
                )
        return self.report

    # -- one run ----------------------------------------------------------------------------------------------

    def _run_undisturbed(self) -> bool:
        record = self._folder / "hits"
        launch = self._live("chaos-undisturbed", f"*:record={record}")
        found = launch.result
        if found is None or found.state != "Completed":
            self.report.problems.append(f"the flow does not complete undisturbed: {_what_became_of(launch)}")
            return False
        self._patience = max(SHORTEST_PATIENCE_SECONDS, LATEST_FACTOR * launch.seconds)
        seen: Counter[tuple[str, str]] = Counter()
        for line in record.read_text().splitlines():
            pid, _, name = line.partition(" ")
            seen[pid, name] += 1
            self._boundaries.append((name, seen[pid, name]))
        self.report.value, self.report.digest = found.text, found.digest
        self.report.boundaries = len(self._boundaries)
        self._say(
            f"undisturbed: {launch.seconds:.1f} s, {len(self._boundaries)} failpoint passes at which it can be killed"
        )
        return True

    def _run_disturbed(self, run_id: str) -> None:
        self.report.runs += 1
        kills = number = 0
        while True:
            number += 1
            is_free = kills >= KILLS_PER_RUN or len(self.report.kills) >= self._wanted
            name, hit = self._chance.choice(self._boundaries)
            mark = self._folder / f"{run_id}-{number}.killed"
            launch = self._live(run_id, "" if is_free else f"{name}:kill@{hit}!{mark}")
            self.report.launches += 1
            if mark.exists():
                kills += 1
                is_driver = launch.code == -signal.SIGKILL
                self.report.kills.append(
                    Kill(run_id=run_id, launch=number, failpoint=name, hit=hit, is_driver=is_driver)
                )
                who = "driver" if is_driver else "worker"
                self._say(f"{run_id}, launch {number}: {who} killed at {name}, hit {hit}")
                if is_driver:
                    self._verify(run_id)
                    continue
            self._judge(run_id, number, launch)
            return

    def _judge(self, run_id: str, number: int, launch: _Launch) -> None:
        """Check a run that ended or cannot be resumed."""
        found = launch.result
        if found is None or found.state != "Completed":
            self.report.problems.append(
                f"{run_id} was not completed by launch {number}: {_what_became_of(launch)}"
            )
            return
        self._verify(run_id)
        self._count_repeated(run_id)
        if found.digest == self.report.digest:
            self._say(f"{run_id}: completed in launch {number}, same value")
            return
        again = self._live(f"{run_id}-undisturbed", "").result
        if again is not None and again.digest != self.report.digest:
            self.report.problems.append(
                "the flow's value differs between undisturbed runs, so it cannot be compared: "
                f"{self.report.value} and {again.text}; return a value that depends on the flow's parameters alone"
            )
        else:
            self.report.problems.append(
                f"{run_id} returned a different value than the undisturbed run: {found.text} instead of {self.report.value}"
            )

    def _verify(self, run_id: str) -> None:
        try:
            wrong = self._history.verify(run_id)
        except RunNotFound:
            # It was killed before it was written down.
            return
        self.report.problems += [f"the history of {run_id} is damaged: {each}" for each in wrong]

    def _count_repeated(self, run_id: str) -> None:
        replay = Replay()
        try:
            for entry in self._history.read(run_id):
                replay.add(entry)
        except HistoryError as error:
            self.report.problems.append(str(error))
            return
        for node in replay.nodes.values():
            died = node.died()
            if died and not node.entry.is_builtin:
                task = node.entry.task_name
                self.report.again[task] = self.report.again.get(task, 0) + len(died)
                self.report.most[task] = max(self.report.most.get(task, 0), *died.values())

    @property
    def _history(self) -> SqliteHistory:
        return SqliteHistory(self._folder / "home")

    # -- one launch ---------------------------------------------------------------------------------------------

    def _live(self, run_id: str, rules: str) -> _Launch:
        place = self._folder / "result"
        place.unlink(missing_ok=True)
        temporary = self._folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            VARIABLE: rules,
            "GRAPHFLOW_HOME": str(self._folder / "home"),
            "GRAPHFLOW_HISTORY": "disk",
            "TMPDIR": str(temporary),
        }
        order = json.dumps(asdict(self._order(run_id, str(place))))
        with open(self._folder / "output", "w+") as output:
            began = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "graphflow.cli.chaos.launch", order],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = process.wait(self._patience)
            except subprocess.TimeoutExpired:
                self._say(f"{run_id}: killed, as it had not ended after {self._patience:.0f} s")
            finally:
                # Its workers too.
                _end_session(process)
            seconds = time.monotonic() - began
            output.seek(0)
            text = output.read()
        result = LaunchResult(**json.loads(place.read_text())) if place.exists() else None
        return _Launch(code, result, text, seconds)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _what_became_of(launch: _Launch) -> str:
    if launch.result is not None:
        state = f"it ended {launch.result.state}" if launch.result.state else "it was refused"
        return f"{state}: {launch.result.message}"
    lines = "\n".join(launch.output.strip().splitlines()[-15:])
    ended = "it did not end" if launch.code is None else f"its process exited with code {launch.code}"
    return f"{ended}{': ' if lines else ''}{lines}"
