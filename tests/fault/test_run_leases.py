"""Two drivers and one run: only one of them drives it, and one that slept through its lease writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow.errors import HistoryLocked
from graphflow.orchestration.stores.opening import open_stores

SIZE = 40
VALUE = sum(x * x for x in range(SIZE))
FLOWS = Path(__file__).parent / "programs" / "flows.py"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe that the last task waits for."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def test_of_two_drivers_that_resume_a_run_one_wins(
    stage: Any, gate: Path, wait_until: Callable[..., None]
) -> None:
    given = {"name": "gated", "run_id": "run-1", "parameters": {"size": SIZE, "gate": str(gate)}}
    assert stage.drive(rules="driver.report.received:kill@4", **given).wait() == -signal.SIGKILL
    drivers = [stage.drive(**given) for _ in range(2)]
    wait_until(lambda: any(driver.has_ended for driver in drivers))
    loser = next(driver for driver in drivers if driver.has_ended)
    (winner,) = (driver for driver in drivers if driver is not loser)
    refused = loser.result()
    assert refused["refused"] == "LeaseHeld", refused
    # Until the winner's lease is written, the one before it is named.
    assert "drives it" in refused["message"]
    wait_until(lambda: stage.counts().get("hold", 0) == 1)
    code, errors = run_cli(stage, gate)
    assert code == 9, errors
    assert f"process {winner.pid} on " in errors
    with open(gate, "w"):
        pass
    assert winner.result()["value"] == VALUE
    counts = stage.counts()
    assert counts["hold"] == 1 and len(counts) == SIZE + 1
    assert max(counts.values()) <= 2
    assert stage.look("run-1")["wrong"] == []


def run_cli(stage: Any, gate: Path) -> tuple[int, str]:
    """The same from the command line."""
    given = {"size": SIZE, "gate": gate, "tally": stage.tally}
    found = subprocess.run(
        [sys.executable, "-m", "graphflow", "run", f"{FLOWS}:gated", "--run-id", "run-1", "--quiet"]
        + [part for name, value in given.items() for part in ("-p", f"{name}={value}")],
        capture_output=True,
        text=True,
        env={**os.environ, "GRAPHFLOW_HOME": str(stage.home)},
    )
    return found.returncode, found.stderr


PLACES = [
    "driver.report.received@3",
    "journal.commit.before@6",
    "driver.tell.before@5",
    "driver.submit.before@6",
    "anchor.write.after@6",
]
"""Where the thread that writes the history is, outside of a transaction."""


@pytest.mark.parametrize("place", PLACES)
def test_a_driver_that_was_stopped_for_longer_than_its_lease_writes_nothing_more(
    stage: Any, gate: Path, wait_until: Callable[..., None], place: str
) -> None:
    name, _, hit = place.partition("@")
    given = {"name": "gated", "run_id": "run-1", "parameters": {"size": SIZE, "gate": str(gate)}}
    sleeper = stage.drive(rules=f"{name}:pause@{hit}", **given)
    wait_until(lambda: sleeper.is_stopped)
    assert stage.drive(**given).result()["refused"] == "LeaseHeld"
    other = stage.drive(call="later", **given)
    wait_until(lambda: other.has_ended or stage.counts().get("hold", 0) == 1)
    assert not other.has_ended, other.result()
    seen = stage.look("run-1")
    before = stage.counts()
    sleeper.send(signal.SIGCONT)
    found = sleeper.result()
    assert found.get("error") == "LeaseLost", found
    assert found["state"] == "Crashed"
    assert "writes are now refused" in found["message"]
    again = stage.look("run-1")
    assert again["written"]["1"] == seen["written"]["1"] and again["wrong"] == []
    # What it had sent already may still end, nothing else begins.
    assert sum(stage.counts().values()) - sum(before.values()) <= 6 * 5
    with open(gate, "w"):
        pass
    assert other.result()["value"] == VALUE
    seen = stage.look("run-1")
    assert (seen["state"], seen["wrong"]) == ("Completed", [])


def test_a_driver_that_was_stopped_in_the_middle_of_a_commit_is_told_of(
    stage: Any, gate: Path, wait_until: Callable[..., None]
) -> None:
    given = {"name": "gated", "run_id": "run-1", "parameters": {"size": SIZE, "gate": str(gate)}}
    sleeper = stage.drive(rules="journal.commit.filled:pause@6", **given)
    wait_until(lambda: sleeper.is_stopped)
    found = stage.drive(call="later", patience=0.2, **given).result()
    assert found["refused"] == "HistoryLocked", found
    assert "stopped (Ctrl-Z)" in found["message"] and "Continue or end it" in found["message"]
    sleeper.send(signal.SIGCONT)
    # It still has its lease, and goes on.
    wait_until(lambda: sleeper.has_ended or stage.counts().get("hold", 0) == 1)
    assert not sleeper.has_ended, sleeper.result()
    with open(gate, "w"):
        pass
    assert sleeper.result()["value"] == VALUE
    assert max(stage.counts().values()) == 1
    seen = stage.look("run-1")
    assert (seen["state"], seen["wrong"]) == ("Completed", [])


def test_a_short_lease_runs_out_while_its_driver_is_stopped(
    stage: Any, gate: Path, wait_until: Callable[..., None]
) -> None:
    env = {"GRAPHFLOW_LEASE_SECONDS": "1"}
    given = {"name": "gated", "run_id": "run-1", "parameters": {"size": SIZE, "gate": str(gate)}, "env": env}
    sleeper = stage.drive(rules="lease.renew.before:pause@3", **given)
    wait_until(lambda: sleeper.is_stopped)
    while True:
        other = stage.drive(**given)
        wait_until(lambda other=other: other.has_ended or stage.counts()["hold"] == 2)
        if not other.has_ended:
            break
        assert other.result()["refused"] == "LeaseHeld"
    sleeper.send(signal.SIGCONT)
    with open(gate, "w"):
        pass
    assert other.result()["value"] == VALUE
    found = sleeper.result()
    assert found["error"] == "LeaseLost", found
    counts = stage.counts()
    assert counts == {**{f"step {x}": 1 for x in range(SIZE)}, "hold": 2}
    seen = stage.look("run-1")
    assert (seen["state"], seen["wrong"]) == ("Completed", [])


def test_what_a_driver_that_was_stopped_past_its_lease_had_of_a_limit_is_for_others(
    stage: Any, gate: Path, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    os.mkfifo(tmp_path / "other-gate")
    gates = {"run-1": gate, "run-2": tmp_path / "other-gate"}

    def drive(run_id: str) -> Any:
        given = {"size": SIZE, "gate": str(gates[run_id])}
        env = {"GRAPHFLOW_LEASE_SECONDS": "5"}
        return stage.drive(name="limited_hold", run_id=run_id, parameters=given, env=env)

    def is_driven_by_another() -> bool:
        nonlocal successor
        if successor.has_ended:
            assert successor.result()["refused"] == "LeaseHeld"
            successor = drive("run-1")
        return ("run-1", 2) in {(held.holder, held.epoch) for held in holders()}

    def holders() -> Any:
        return stores.limits.all()[0].holders

    def slots() -> dict[str, int]:
        return {held.holder: held.slots for held in holders()}

    with open_stores(stage.home) as stores:
        stores.limits.set("db", 1)
        sleeper = drive("run-1")
        wait_until(lambda: stage.counts().get("hold") == 1)
        other = drive("run-2")
        wait_until(lambda: slots() == {"run-1": 1, "run-2": 0})
        stop_outside_of_transactions(sleeper, stores, wait_until)
        # Only when the lease has run out is its slot free: until then there is one at work.
        wait_until(lambda: stage.counts()["hold"] == 2)
        successor = drive("run-1")
        wait_until(is_driven_by_another)
        assert slots() == {"run-1": 0, "run-2": 1}
        written = stage.look("run-1")["written"]["1"]
        told = events_of_first(stores)
        sleeper.send(signal.SIGCONT)
        # It gives up without waiting for its task.
        wait_until(lambda: sleeper.has_ended)
        found = sleeper.result()
        assert (found["state"], found["error"]) == ("Crashed", "LeaseLost"), found
        assert "writes are now refused" in found["message"]
        seen = stage.look("run-1")
        assert (seen["written"]["1"], seen["wrong"]) == (written, [])
        assert events_of_first(stores) == told
        assert slots() == {"run-1": 0, "run-2": 1}
        assert stage.counts()["hold"] == 2
        wait_until(lambda: is_opened(gates["run-2"]))
        assert other.result()["value"] == VALUE
        # What waited for the slot has it now.
        wait_until(lambda: is_opened(gate))
        assert successor.result()["value"] == VALUE
    assert stage.counts() == {**{f"step {x}": 2 for x in range(SIZE)}, "hold": 3}
    seen = stage.look("run-1")
    assert (seen["state"], seen["wrong"]) == ("Completed", [])


def stop_outside_of_transactions(driver: Any, stores: Any, wait_until: Callable[..., None]) -> None:
    """Stop a driver where it does not keep others from writing."""

    def is_stopped_and_free() -> bool:
        driver.send(signal.SIGSTOP)
        wait_until(lambda: driver.is_stopped)
        try:
            with stores.catalog.transaction():
                return True
        except HistoryLocked:
            driver.send(signal.SIGCONT)
            return False

    wait_until(is_stopped_and_free)


def events_of_first(stores: Any) -> set[str]:
    """The events that the first driver of the run told."""
    found = {each.id for each in stores.events.last(subject="run-1", limit=1_000)}
    return {each for each in found if not each.startswith("run-1:2.")}


def is_opened(gate: Path) -> bool:
    """Open a gate that somebody waits for; False if nobody does."""
    try:
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_a_clock_that_is_set_back_takes_no_run_from_its_driver(
    stage: Any, gate: Path, wait_until: Callable[..., None]
) -> None:
    given = {"name": "gated", "run_id": "run-1", "parameters": {"size": SIZE, "gate": str(gate)}}
    driver = stage.drive(call="backward", **given)
    wait_until(lambda: stage.counts().get("hold", 0) == 1)
    assert stage.drive(**given).result()["refused"] == "LeaseHeld"
    driver.kill()
    before = stage.counts()
    seen = stage.look("run-1")
    assert seen["wrong"] == [] and len(seen["done"]["step"]) == SIZE
    other = stage.drive(call="backward", **given)
    with open(gate, "w"):
        pass
    assert other.result()["value"] == VALUE
    assert stage.counts() == {**before, "hold": 2}
    assert stage.look("run-1")["wrong"] == []
