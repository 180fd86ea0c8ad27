"""What is shown of runs after retries, crashes, resumes and cancellations, against a ledger that the tasks keep themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graphflow import history
from graphflow.display.meter import Meter, rows_of
from graphflow.testing.waiting import eventually

PROGRAM = """
import os, signal, time
from graphflow import flow, task

def book(node, index, begin):
    with open(os.environ["LEDGER"], "a") as file:
        file.write(f"{os.environ['LAUNCH']} {node} {index} {begin!r} {time.time()!r}\\n")

@task(retries=1, batch_size=2)
def step(x: int) -> int:
    begin = time.time()
    while time.time() < begin + 0.005:
        pass
    book("step", x, begin)
    if x in (2, 5) and os.environ["MODE"] == "fail":
        raise ValueError(f"item {x}")
    if x == 7 and os.environ["MODE"] == "kill":
        os.kill(os.getpid(), 9)
    if x == 7 and os.environ["MODE"] == "wait":
        open(os.environ["GATE"]).read()
    return x

@task
def total(values: list) -> int:
    book("total", 0, time.time())
    return sum(values)

@flow(name="ledger")
def ledger() -> int:
    return total(step.map(range(2_000 if os.environ["MODE"] == "wait" else 12)))

if __name__ == "__main__":
    import sys
    run = getattr(ledger.with_options(backend=sys.argv[2]), sys.argv[1])
    run(run_id="one") if sys.argv[1] == "run" else run("one")
"""


class Ledger:
    def __init__(self, folder: Path, backend: str) -> None:
        self.folder, self.backend, self.launches = folder, backend, 0
        (folder / "program.py").write_text(PROGRAM)

    def start(self, how: str, mode: str) -> subprocess.Popen[bytes]:
        self.launches += 1
        env = {
            **os.environ,
            "LEDGER": str(self.folder / "ledger"),
            "MODE": mode,
            "LAUNCH": str(self.launches),
        }
        env["GATE"] = str(self.folder / "gate")
        command = [sys.executable, str(self.folder / "program.py"), how, self.backend]
        return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def launch(self, how: str, mode: str) -> int:
        process = self.start(how, mode)
        _, errors = process.communicate()
        assert process.returncode in (0, 1, -signal.SIGKILL), errors.decode()
        return process.returncode

    def lines(self, node: str) -> list[tuple[int, int, float, float]]:
        """What was executed: launch, index, begin, end."""
        found = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        return [(int(a), int(i), float(b), float(e)) for a, of, i, b, e in found if of == node]

    def worked(self, node: str) -> float:
        """From the first begin to the last end of each launch, summed."""
        launches = {line[0] for line in self.lines(node)}
        return sum(
            max(e for a, _, _, e in self.lines(node) if a == each)
            - min(b for a, _, b, _ in self.lines(node) if a == each)
            for each in launches
        )


def cli(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "graphflow", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr


def checked(ledger: Ledger, *, executed: int, counts: dict[str, int]) -> dict[str, Any]:
    """Compare all that is shown of `step` with the ledger; return the run's document."""
    document: dict[str, Any] = json.loads(cli("runs", "show", "one", "-o", "json"))
    step = next(node for node in document["nodes"] if node["name"] == "step")
    lines = ledger.lines("step")
    # An item that is run again by a retry of its run begins with all its attempts.
    last = {index: launch for launch, index, _, _ in lines}
    attempts = Counter(index for launch, index, _, _ in lines if launch == last[index])
    items = [
        json.loads(line)
        for line in cli("runs", "items", "one", "step", "-o", "jsonl", "--limit", "5000").splitlines()
    ]
    assert step["counts"] == counts
    assert step["executed"] == executed
    ended = {item["index"] for item in items if item["state"] in ("Completed", "Failed")}
    assert {item["index"]: item["attempts"] for item in items if item["index"] in ended} == {
        index: attempts[index] for index in ended
    }
    with history() as found:
        run = found.run("one")
        (row,) = (each for each in rows_of(run, Meter(), counts_retries=True) if each.name == "step")
        assert row.retries == step["retries"] == sum(count - 1 for i, count in attempts.items() if i in ended)
        assert row.seconds is not None and row.rate is not None
        # Time is time that somebody worked: never less than the ledger says, never more than the launches lasted.
        lasted = sum(launch["duration_seconds"] for launch in document["launches"])
        worked = ledger.worked("step")
        assert worked * 0.9 - 0.01 <= row.seconds <= lasted + 0.001, (worked, row.seconds, lasted)
        assert document["duration_seconds"] == pytest.approx(lasted, abs=0.2)
        if row.state.is_final():
            assert row.rate == pytest.approx(executed / row.seconds)
            assert step["duration_seconds"] == pytest.approx(row.seconds, abs=1e-5)
            # It does not change with each look.
            again = next(each for each in rows_of(found.run("one"), Meter()) if each.name == "step")
            assert (again.seconds, again.rate) == (row.seconds, row.rate)
        else:
            again = next(each for each in rows_of(found.run("one"), Meter()) if each.name == "step")
            assert again.seconds == row.seconds
    shown = cli("runs", "show", "one")
    table = next(line for line in shown.splitlines() if line.split()[:1] == ["step"])
    watched = cli("runs", "watch", "one")
    assert str(counts.get("Completed", 0)) in table.split() and table.split()[1] == step["state"]
    assert (
        table.split() == next(line for line in watched.splitlines() if line.split()[:1] == ["step"]).split()
        or step["state"] == "Crashed"
    )
    return document


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    return tmp_path


BACKENDS = pytest.mark.parametrize("backend", ["inline", "threads:2"])


@BACKENDS
def test_after_a_retry_the_figures_are_those_of_the_ledger(home: Path, backend: str) -> None:
    ledger = Ledger(home, backend)
    ledger.launch("run", "fail")
    checked(ledger, executed=12, counts={"Completed": 10, "Failed": 2})
    ledger.launch("redrive", "work")
    after = checked(ledger, executed=12, counts={"Completed": 12})
    # Another launch that has nothing to do changes nothing.
    seconds = {node["name"]: (node["duration_seconds"], node["ended"]) for node in after["nodes"]}
    ledger.launch("redrive", "work")
    again = checked(ledger, executed=12, counts={"Completed": 12})
    assert {node["name"]: (node["duration_seconds"], node["ended"]) for node in again["nodes"]} == seconds
    assert Counter(index for _, index, _, _ in ledger.lines("step")) == {
        **dict.fromkeys(range(12), 1),
        2: 3,
        5: 3,
    }


@BACKENDS
def test_after_a_crash_and_a_resume_the_figures_are_those_of_the_ledger(home: Path, backend: str) -> None:
    ledger = Ledger(home, backend)
    assert ledger.launch("run", "kill") == -signal.SIGKILL
    with history() as found:
        run = found.run("one")
        assert run.state.name == "Crashed"
        looks = [found.run("one").nodes["step"].seconds for _ in range(3)]
        assert len(set(looks)) == 1 and run.seconds == found.run("one").seconds
        kept = run.nodes["step"].executed
    before = len(ledger.lines("step"))
    assert ledger.launch("resume", "work") == 0
    assert len(ledger.lines("step")) - before == 12 - kept
    document = checked_attempts(ledger)
    assert len(document["launches"]) == 2


def checked_attempts(ledger: Ledger) -> dict[str, Any]:
    """As `checked`, for runs of which a driver died: its last items were executed and are not known."""
    document: dict[str, Any] = json.loads(cli("runs", "show", "one", "-o", "json"))
    step = next(node for node in document["nodes"] if node["name"] == "step")
    assert step["counts"] == {"Completed": 12} and step["executed"] == 12
    lasted = sum(launch["duration_seconds"] for launch in document["launches"])
    assert 0 < step["duration_seconds"] <= lasted + 0.001
    assert document["duration_seconds"] == pytest.approx(lasted, abs=0.2)
    return document


@BACKENDS
def test_after_a_cancellation_cancelled_items_are_in_no_rate(home: Path, backend: str) -> None:
    os.mkfifo(home / "gate")
    ledger = Ledger(home, backend)
    process = ledger.start("run", "wait")
    eventually(lambda: (home / "ledger").exists() and any(i == 7 for _, i, _, _ in ledger.lines("step")))
    with history() as found:
        found.run("one").cancel()
    with open(home / "gate", "w"):
        pass
    process.communicate()
    with history() as found:
        run = found.run("one")
        step = run.nodes["step"]
        assert run.state.name == "Cancelled" and step.counts["Cancelled"] > 0
        executed = {i for _, i, _, _ in ledger.lines("step")}
        assert step.executed == len(executed) == step.counts["Completed"]
        checked(ledger, executed=len(executed), counts=dict(step.counts))
