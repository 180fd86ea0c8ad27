"""Calls that run in one batch are what they would be alone, on every backend."""

from __future__ import annotations

import contextvars
import os
from pathlib import Path
from typing import Any

import pytest

from graphflow import Skip, flow, history, task, task_context
from graphflow.errors import UpstreamFailed

BACKENDS = ["inline", "threads:2", "processes:2"]
SEEN: contextvars.ContextVar[int] = contextvars.ContextVar("seen", default=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_call_has_its_own_name_value_failure_and_log(backend: str) -> None:
    @task(retries=1, log_prints=True, task_run_name="number {x}")
    def half(x: int) -> tuple[str, int]:
        print(f"halves {x}")
        if x == 5:
            raise ValueError("five")
        if x == 6:
            raise Skip("six")
        if x == 7 and task_context().attempt == 1:
            raise RuntimeError("once")
        return task_context().node, x // 2

    @flow(backend=backend)
    def halves() -> list[Any]:
        futures = [half(x) for x in range(40)]
        return [future.result(raise_on_failure=False) for future in futures]

    run = halves.run()
    values = run.result()
    names = ["half", *(f"half-{number}" for number in range(1, 40))]
    for x, (name, value) in enumerate(zip(names, values, strict=True)):
        if x == 5:
            assert isinstance(value, ValueError)
        elif x == 6:
            assert value is None
        else:
            assert value == (name, x // 2)
    for view in (run, history().run(run.id)):
        nodes = {node.name: node for node in view.nodes if node.task_name == "half"}
        assert [nodes[name].state.name for name in names[4:8]] == [
            "Completed",
            "Failed",
            "Skipped",
            "Completed",
        ]
        assert [nodes[name].items[0].attempts for name in names[4:8]] == [1, 2, 1, 2]
        assert [line.message for line in nodes["half-9"].items[0].log] == ["halves 9"]
        assert nodes["half-9"].items[0].label == "number 9"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_failure_in_a_chain_reaches_what_follows_it_alone(backend: str) -> None:
    @task
    def step(x: int, *others: int) -> int:
        if x == 10:
            raise ValueError("ten")
        return x + 1

    @flow(backend=backend)
    def chains() -> Any:
        good, bad = step(100), step(5)
        for _ in range(9):
            good, bad = step(good), step(bad)
        return good, bad

    run = chains.run()
    assert isinstance(run.exception, ValueError)
    states = [node.state.name for node in run.nodes if node.task_name == "step"]
    assert states.count("Completed") == 15 and states.count("Failed") == 1
    assert states.count("UpstreamFailed") == 4
    last = [node for node in run.nodes if node.task_name == "step"][-1]
    with pytest.raises(UpstreamFailed, match="ten"):
        raise last.items[0].exception or AssertionError


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_what_one_call_does_to_its_arguments_and_context_is_not_seen_by_the_next(backend: str) -> None:
    shared: list[int] = []

    @task
    def grow(values: list[int], x: int) -> tuple[int, int]:
        before = SEEN.get()
        SEEN.set(x)
        values.append(x)
        return len(values), before

    @flow(backend=backend)
    def body() -> Any:
        return [grow(shared, x) for x in range(1, 30)]

    assert body() == [(1, 0)] * 29
    assert shared == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_that_return_calls_are_grafted(backend: str) -> None:
    @task
    def leaf(x: int) -> int:
        return x * x

    @task
    def branch(x: int) -> Any:
        return leaf(x) if x % 3 else leaf.map(range(x))

    @flow(backend=backend)
    def body() -> Any:
        return [branch(x) for x in range(12)]

    assert body() == [x * x if x % 3 else [i * i for i in range(x)] for x in range(12)]


def test_a_call_that_kills_its_worker_is_crashed_and_no_other(tmp_path: Path) -> None:
    @task
    def risky(x: int) -> int:
        with (tmp_path / f"{x}").open("a") as file:
            file.write("x")
        if x == 4:
            os._exit(3)
        return x

    @flow(backend="processes:2")
    def body() -> Any:
        return [risky(x) for x in range(12)]

    run = body.run()
    states = [node.state.name for node in run.nodes if node.task_name == "risky"]
    assert states == ["Crashed" if x == 4 else "Completed" for x in range(12)]
    assert (tmp_path / "4").read_text() == "xx"


def test_a_resumed_run_takes_over_what_ended_in_bundles() -> None:
    executed: list[int] = []
    broken = [True]

    @task
    def work(x: int) -> int:
        executed.append(x)
        if x == 17 and broken:
            raise ValueError("not yet")
        return x

    @task
    def total(*values: int) -> int:
        return sum(values)

    @flow(backend="threads:1", name="bundles-resumed")
    def body() -> Any:
        return total(*[work(x) for x in range(30)])

    run = body.run()
    assert run.state.name == "Failed"
    broken.clear()
    again = body.resume(run.id)
    assert again.result() == sum(range(30))
    assert sorted(executed) == sorted([*range(30), 17])
