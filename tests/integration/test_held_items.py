"""A slow item holds back nobody but itself: the others are seen as they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow import backends, flow, task
from graphflow.errors import ValueUnavailable
from graphflow.testing.waiting import eventually, eventually_async

SECONDS = 60.0


@pytest.fixture(params=["threads", "processes", "no shared disk"])
def backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "threads":
        return "threads:2"
    shared = request.getfixturevalue("shared_processes")
    if request.param == "no shared disk":
        request.getfixturevalue("monkeypatch").setattr(shared, "_shares_disk", False)
    return shared


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "gate"
    yield path
    path.touch()


def completed(run: Any, name: str) -> int:
    try:
        return int(run.nodes[name].counts.get("Completed", 0))
    except (KeyError, ValueUnavailable):
        # It has not begun, or nothing of it is recorded yet.
        return 0


@pytest.mark.parametrize(
    "options", [{}, {"timeout_seconds": 120}, {"task_run_name": "{x}"}, {"batched": True}], ids=str
)
def test_all_others_complete_while_one_item_executes(
    backend: Any, gate: Path, options: dict[str, Any]
) -> None:
    is_batched = "batched" in options

    @task(**options)
    def work(x: Any) -> Any:
        for each in x if is_batched else [x]:
            if each == 40:
                eventually(gate.exists)
        # Large enough for a pack, or to stay on its worker.
        return [str(each) * 500 for each in x] if is_batched else str(x) * 500

    run = flow(backend=backend)(lambda: work.map(range(100))).start()
    # Of a batched call, all items are under way as long as one is.
    eventually(lambda: completed(run, "work") >= (50 if is_batched else 99))
    assert run.nodes["work"].items[40].state != "Completed"
    gate.touch()
    assert run.result(timeout=SECONDS) == [str(x) * 500 for x in range(100)]
    assert {item.attempts for item in run.nodes["work"].items} == {1}


def test_lanes_go_on_past_a_slow_one(backend: Any, gate: Path) -> None:
    @task
    def first(x: int) -> int:
        return x + 1

    @task
    def second(x: int) -> int:
        if x == 10:
            eventually(gate.exists)
        return 10 * x

    @flow(backend=backend)
    def body() -> Any:
        return second.map(first.map(range(50)))

    run = body.start()
    eventually(lambda: completed(run, "second") == 49)
    gate.touch()
    assert run.result(timeout=SECONDS) == [10 * (x + 1) for x in range(50)]


def test_a_fixed_batch_tells_what_has_ended(backend: Any, gate: Path) -> None:
    @task(batch_size=10)
    def work(x: int) -> int:
        if x % 10 == 6:
            eventually(gate.exists)
        return x

    run = flow(backend=backend)(lambda: work.map(range(20))).start()
    eventually(lambda: completed(run, "work") == 12)
    gate.touch()
    assert run.result(timeout=SECONDS) == list(range(20))
    assert {item.attempts for item in run.nodes["work"].items} == {1}


@pytest.mark.parametrize("size", [None, 30])
def test_async_items_that_ended_are_seen_while_others_run(backend: Any, gate: Path, size: Any) -> None:
    @task(batch_size=size, concurrency=10)
    async def work(x: int) -> int:
        if x == 4:
            await eventually_async(gate.exists)
        return x

    run = flow(backend=backend)(lambda: work.map(range(60))).start()
    eventually(lambda: completed(run, "work") == 59)
    gate.touch()
    assert run.result(timeout=SECONDS) == list(range(60))
    assert {item.attempts for item in run.nodes["work"].items} == {1}


def test_failures_and_retries_are_booked_in_parts_too(backend: Any, gate: Path, tally: Any) -> None:
    @task(retries=1)
    def work(x: int) -> int:
        if x == 20:
            eventually(gate.exists)
        if x % 7 == 3 and tally.add(x) < 3:
            raise ValueError(f"no {x}")
        return x

    @flow(backend=backend)
    def body() -> Any:
        return work.map(range(60))

    run = body.start()
    bad = [x for x in range(60) if x % 7 == 3]
    eventually(lambda: completed(run, "work") == 59 - len(bad))
    gate.touch()
    assert run.wait(SECONDS)
    assert [failure.index for failure in run.nodes["work"].failures()] == bad
    for item in run.nodes["work"].items:
        assert item.attempts == (2 if item.index in bad else 1)
        assert str(item.exception) == (f"no {item.index}" if item.index in bad else "None")


def test_an_item_is_stopped_by_force_after_the_others_were_seen() -> None:
    # In C, where no exception comes through, and in a slice that has been over for long.
    @task(timeout_seconds=1.0)
    def work(x: int) -> int:
        if x == 2:
            time.sleep(600)  # in C: killed long before that
        return x

    with backends.processes(slots=1) as backend:
        run = flow(backend=backend)(lambda: work.map(range(6))).run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "Completed",
        "Completed",
        "TimedOut",
        *["Completed"] * 3,
    ]
    assert {item.attempts for item in run.nodes["work"].items} == {1}


def test_a_run_is_cancelled_while_a_batch_holds_items() -> None:
    begun, gate = threading.Event(), threading.Event()

    @task(batch_size=10)
    def work(x: int) -> int:
        if x == 5:
            begun.set()
            gate.wait(SECONDS)
        return x

    run = flow(backend="threads:1")(lambda: work.map(range(10))).start()
    eventually(lambda: completed(run, "work") == 5)
    run.cancel()
    gate.set()
    assert run.wait(SECONDS)
    assert run.state == "Cancelled"
    counts = run.nodes["work"].counts
    assert counts["Completed"] + counts["Cancelled"] == 10 and counts["Completed"] >= 5
