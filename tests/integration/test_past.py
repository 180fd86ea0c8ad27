"""What is known of runs afterwards, and of those of others: `graphflow.history()`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow import Skip, flow, get_run_logger, task
from graphflow.backends import inline, threads
from graphflow.errors import (
    GraphflowError,
    LeaseHeld,
    MapFailed,
    RemoteError,
    RequestRefused,
    ResultDamaged,
    RunNotFound,
    UpstreamFailed,
    ValueUnavailable,
)
from graphflow.runs.history import RunHistory
from graphflow.runs.recorded import RecordedRun
from graphflow.testing.waiting import eventually


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Histories of this test alone."""
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def history(home: Path) -> Iterator[RunHistory]:
    with graphflow.history() as found:
        yield found


@task(retries=1, task_run_name="half of {x}")
def half(x: int) -> float:
    if x == 3:
        raise Skip("three is odd")
    if x % 5 == 2:
        raise ValueError(f"bad {x}")
    get_run_logger().info("half of %d", x)
    return x / 2


@task
def plus(x: float) -> float:
    return x + 1


@task
def total(values: list[float]) -> float:
    return sum(values)


@flow(backend=inline(), log_prints=True)
def halves(n: int = 12) -> Any:
    print("halving")
    return plus.map(half.map(range(n)))


@flow(backend=inline())
def fine(n: int = 4) -> Any:
    return total(plus.map(range(n)))


# -- lists of runs ---------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_in_pages_and_filtered(history: RunHistory) -> None:
    assert history.runs() == []
    made = [fine.run(n=n) for n in range(3)] + [halves.run()]
    listed = history.runs()
    assert [run.id for run in listed] == [run.id for run in reversed(made)]
    assert [run.state_name for run in listed] == ["Failed", "Completed", "Completed", "Completed"]
    assert [run.flow_name for run in history.runs(flow="halves")] == ["halves"]
    assert len(history.runs(state=["completed", "Crashed"])) == 3
    page = history.runs(limit=2)
    rest = history.runs(before=page[-1])
    assert [run.id for run in (*page, *rest)] == [run.id for run in listed]
    assert len(history.runs(since=timedelta(hours=1))) == 4
    assert history.runs(since=datetime.now(UTC) + timedelta(hours=1)) == []
    with pytest.raises(ValueError, match="unknown state 'Done'; the states are Pending,"):
        history.runs(state="Done")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        history.runs(limit=0)


def test_a_run_is_found_by_id_prefix_name_and_place(history: RunHistory) -> None:
    first, second = fine.run(), halves.run()
    assert history.run(first.id).id == history.run(first.name).id == first.id
    assert history.run("@latest").id == history.run("@latest-failed").id == second.id
    with pytest.raises(RunNotFound, match="no run matches 'nobody'"):
        history.run("nobody")


def test_the_histories_of_another_folder_are_read_by_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = fine.run()
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "other"))
    with graphflow.history(home) as there, graphflow.history() as here:
        assert there.run("@latest").id == run.id and here.runs() == []
        assert there.run("@latest").result() == 10


# -- one run ---------------------------------------------------------------------------------------------------


def told(item: Any) -> dict[str, Any]:
    """All that an item tells, but what is not the same object again."""
    error = item.exception
    return {
        "index": item.index,
        "label": item.label,
        "state": item.state.name,
        "message": item.state.message,
        "attempts": item.attempts,
        "started": item.started,
        "duration": item.duration_seconds,
        "error": None if error is None else (type(error), str(error)),
        "log": item.log,
        "history": [(state.name, state.message) for state in item.history],
    }


def test_what_is_read_back_is_what_the_run_showed(history: RunHistory) -> None:
    run = halves.run()
    past = history.run(run.id)
    assert (past.id, past.name, past.flow_name, past.state.name) == (run.id, run.name, "halves", "Failed")
    assert past.state.message == run.state.message and past.parameters == {"n": "12"}
    assert str(past.exception).split(":")[0] == "MapFailed"
    assert past.pid == os.getpid() and past.lease_until is None and past.is_over
    assert [node.name for node in past.nodes] == [node.name for node in run.nodes]
    for mine, theirs in zip(past.nodes, run.nodes, strict=True):
        assert (mine.key, mine.task_name, mine.group, mine.is_mapped) == (
            theirs.key,
            theirs.task_name,
            theirs.group,
            theirs.is_mapped,
        )
        assert (mine.state.name, mine.width, mine.counts, mine.retries) == (
            theirs.state.name,
            theirs.width,
            theirs.counts,
            theirs.retries,
        )
        assert [state.name for state in mine.history] == [state.name for state in theirs.history]
        assert [told(item) for item in mine.items] == [told(item) for item in theirs.items]
        assert [(each.message, each.count, list(each.indices)) for each in mine.errors] == [
            (each.message, each.count, list(each.indices)) for each in theirs.errors
        ]
        assert [item.inputs for item in mine.failures()] == [failure.inputs for failure in theirs.failures()]
        assert [item.traceback for item in mine.failures()] == [each.traceback for each in theirs.failures()]
    assert [line.message for line in past.logs] == [line.message for line in run.logs]
    assert past.graph.to_text() == run.graph.to_text()


def test_items_are_chosen_by_state_and_range(history: RunHistory) -> None:
    halves.run(n=20)
    run = history.run("@latest")
    assert [item.index for item in run.items("half").where(states="Failed")] == [2, 7, 12, 17]
    assert [
        item.index for item in run.items("half").where(states=["failed", "Skipped"], start=3, stop=13)
    ] == [3, 7, 12]
    assert [item.index for item in run.items("half").where(start=18)] == [18, 19]
    assert [item.index for item in run.items("half")[4:6]] == [4, 5]
    assert [item.index for item in run.failures("half")] == [2, 7, 12, 17]
    assert len(run.failures()) == 8 and run.nodes["half"].failures().where(index=7)[0].index == 7
    with pytest.raises(KeyError, match="this run has no node 'thirds'; its nodes: half, plus"):
        run.items("thirds")
    with pytest.raises(IndexError, match="there is no item 20"):
        run.nodes["half"].items[20]
    assert run.nodes["half"].failures().where(index=3) == []


def test_the_log_is_filtered_and_read_on_from_a_place(history: RunHistory) -> None:
    halves.run(n=5)
    run = history.run("@latest")
    assert [line.message for line in run.logs] == ["halving", "half of 0", "half of 1", "half of 4"]
    assert [line.message for line in run.logs.where(node="half", index=4)] == ["half of 4"]
    assert len(run.logs) == 4 and len(run.logs.where(after=3)) == 1 and run.logs.where(after=4) == []
    assert run.logs.where(level="WARNING") == [] and run.logs.dropped == 0
    with pytest.raises(ValueError, match="unknown level 'LOUD'"):
        run.logs.where(level="LOUD")


def test_events_tell_all_that_happened_in_order(history: RunHistory) -> None:
    fine.run()
    events = history.run("@latest").events
    assert events == sorted(events, key=lambda event: event.at)
    assert [(event.kind, event.state) for event in events if event.kind in ("driver", "run")] == [
        ("driver", ""),
        ("run", "Running"),
        ("run", "Completed"),
    ]
    assert [event.state for event in events if event.node == "total"] == ["Running", "Completed"]


# -- values ----------------------------------------------------------------------------------------------------


def test_values_of_runs_nodes_and_items_are_read_from_the_result_store(history: RunHistory) -> None:
    fine.run(n=5)
    run = history.run("@latest")
    assert run.result() == run.value == 15
    assert run.nodes["plus"].result() == [1, 2, 3, 4, 5] and run.nodes["plus"].items[3].result() == 4
    assert run.nodes["total"].result() == 15 and run.nodes["plus"].items[-1].value == 5
    with pytest.raises(IndexError):
        run.nodes["plus"].items[5].result()


def test_what_failed_raises_what_it_failed_with(history: RunHistory) -> None:
    halves.run()
    run = history.run("@latest")
    with pytest.raises(RemoteError, match="MapFailed: 2 of 12 items of half failed"):
        run.result()
    with pytest.raises(ValueError, match="bad 7"):
        run.nodes["half"].items[7].result()
    with pytest.raises(
        UpstreamFailed, match=r"did not run, because half\[7\] failed: ValueError: bad 7"
    ) as caught:
        run.nodes["plus"].items[7].result()
    assert caught.value.root == "half[7]" and isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(MapFailed, match="2 of 12 items of half failed") as group:
        run.nodes["half"].result()
    assert [str(each) for each in group.value.exceptions] == ["bad 2", "bad 7"]
    assert run.nodes["half"].items[3].result() is None
    with pytest.raises(ValueUnavailable, match="is Skipped: it has no value"):
        run.nodes["half"].items[3].value


def test_a_value_that_was_not_kept_says_why(history: RunHistory) -> None:
    @task(persist_result=False)
    def secret(x: int) -> int:
        return x

    @task
    def lock(x: int) -> Any:
        return threading.Lock() if x == 1 else x

    @flow(backend=threads(1))
    def keeps_little() -> Any:
        return [secret.map(range(3)), lock.map(range(3))]

    keeps_little.run()
    run = history.run("@latest")
    with pytest.raises(
        ValueUnavailable, match=r"the value of secret\[1\] was not stored: .*persist_result=False"
    ):
        run.nodes["secret"].items[1].value
    with pytest.raises(ValueUnavailable, match=r"secret\[0\] was not stored"):
        run.nodes["secret"].result()
    assert run.nodes["lock"].items[2].result() == 2
    with pytest.raises(ValueUnavailable, match=r"lock\[1\] was not stored"):
        run.nodes["lock"].items[1].result()


def test_a_damaged_result_is_refused_and_found(history: RunHistory, home: Path) -> None:
    fine.run()
    run = history.run("@latest")
    assert history.verify(run.id) == []
    for pack in (home / "runs" / run.id / "results").glob("*.pack"):
        data = bytearray(pack.read_bytes())
        for place in range(0, len(data), 7):
            data[place] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
    with pytest.raises(ResultDamaged):
        run.nodes["plus"].result()
    assert any("damaged or missing" in text for text in history.verify(run.id))


# -- while it goes on ----------------------------------------------------------------------------------------------


class Held:
    """A flow whose items wait, at most until the test is over."""

    def __init__(self, width: int = 6) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        begun, go = self.begun, self.go

        @task
        def wait(x: int) -> int:
            if x:
                begun.release()
                assert go.wait(60)
            return x

        @flow(backend=threads(2))
        def held() -> Any:
            return wait.map(range(width))

        self.run = held.start()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()
    assert made.run.wait(60)


def test_a_run_is_seen_while_it_goes_on_and_followed_to_its_end(held: Held, history: RunHistory) -> None:
    assert held.begun.acquire(timeout=30)
    run = history.run(held.run.id)
    assert run.state == "Running" and not run.is_over and run.ended is None
    assert run.lease_until is not None and run.lease_until > datetime.now(UTC)
    node = eventually(lambda: run.refresh().nodes and run.nodes["wait"])
    eventually(lambda: run.refresh().nodes["wait"].counts["Running"])
    assert node.state == "Running" and node.items[1].state in ("Running", "Pending")
    with pytest.raises(ValueUnavailable, match="it has no value yet"):
        run.nodes["wait"].result()
    with pytest.raises(LeaseHeld) as caught:
        run.check_free()
    assert caught.value.pid == os.getpid()
    with pytest.raises(LeaseHeld):
        history.remove(run.id)
    held.go.set()
    assert held.run.wait(60)
    assert run.state == "Running", "what was read stays as it is"
    assert run.refresh().state == "Completed" and run.nodes["wait"].result() == list(range(6))


def test_a_run_is_paused_resumed_and_changed_from_outside(held: Held, history: RunHistory) -> None:
    assert held.begun.acquire(timeout=30)
    run = history.run(held.run.id)
    run.pause()
    assert run.refresh().state == "Paused"
    run.resume()
    assert run.refresh().state == "Running"
    run.update("wait", max_concurrency=1)
    with pytest.raises(RequestRefused, match="did not update it: TaskOptionError: .*no option 'size'"):
        run.update("wait", size=3)
    asked = [event.message for event in run.refresh().events if event.kind == "request"]
    assert asked[:3] == ["pause", "resume", "update node=wait max_concurrency=1"] and "no option" in asked[3]


def test_a_run_is_cancelled_from_outside(held: Held, history: RunHistory) -> None:
    assert held.begun.acquire(timeout=30)
    run = history.run(held.run.id)
    run.cancel()
    held.go.set()
    assert held.run.wait(60)
    assert run.refresh().state == "Cancelled"
    with pytest.raises(
        RequestRefused, match="has already ended \\(Cancelled\\), so it cannot be asked to pause"
    ):
        run.pause()


def test_a_driver_that_does_not_answer_is_not_waited_for(
    held: Held, history: RunHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = history.run(held.run.id)
    monkeypatch.setattr(run._histories, "answer_of", lambda request: None)
    monkeypatch.setattr("graphflow.runs.recorded.ANSWER_SECONDS", 0)
    with pytest.raises(TimeoutError, match=r"did not answer within 0 s; the request is kept"):
        run.pause()
    monkeypatch.setattr(run._histories, "answer_of", lambda request: "")
    run.resume()


def test_damage_of_the_runs_own_value_and_parameters_is_found(history: RunHistory, tmp_path: Path) -> None:
    run_id = halves.run(n=1).id
    assert history.verify(run_id) == []
    folder = Path(os.environ["GRAPHFLOW_HOME"]) / "runs" / run_id / "results"
    for name, says in (("value", "the value of the run"), ("parameters", "the parameters of the run")):
        (place,) = folder.glob(f"*-{name}")
        data = bytearray(place.read_bytes())
        data[-2] ^= 1
        place.write_bytes(data)
        (wrong,) = [each for each in history.verify(run_id) if says in each]
        assert "differs from what was written" in wrong
    with pytest.raises(ResultDamaged, match="the value of the run"):
        history.run(run_id).result()


# -- after a crash -----------------------------------------------------------------------------------------------------

CRASHING = """
import sys, time
from graphflow import flow, task
from graphflow.backends import threads

@task
def step(x):
    if x == 5:
        print("here", flush=True)
        time.sleep(600)
    return x

@task
def late(xs): return len(xs)

@flow(backend=threads(1))
def crashing():
    return late(step.with_options(batch_size=1).map(range(10)))

crashing()
"""


def test_a_run_whose_driver_was_killed_is_crashed_with_all_that_it_did(
    history: RunHistory, tmp_path: Path
) -> None:
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        run: RecordedRun = history.run("@latest")
        eventually(lambda: run.refresh().nodes["step"].counts["Completed"] == 5)
        assert run.nodes["step"].counts["Running"] >= 1 and run.pid == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: run.refresh().is_over)
    assert run.state == "Crashed" and "its driver died" in str(run.exception)
    assert run.nodes["step"].counts == {"Completed": 5, "Pending": 5}
    assert (run.nodes["step"].state, run.nodes["late"].state) == ("Crashed", "Pending")
    assert [item.value for item in run.items("step").where(states="Completed")] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueUnavailable, match="is Pending: it has no value"):
        run.nodes["step"].items[5].value
    history.remove(run.id)
    with pytest.raises(RunNotFound):
        run.refresh()
    assert issubclass(RunNotFound, GraphflowError)
