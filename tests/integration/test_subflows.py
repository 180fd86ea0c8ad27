"""Flows called inside flows and inside tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from graphflow import flow, flow_context, task
from graphflow.errors import FlowTimedOut, ForcingError, ParameterError


@task
def inc(x: int) -> int:
    return x + 1


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


@flow
def inner(x: int) -> Any:
    return inc(inc(x))


def test_an_inner_flow_adds_its_nodes_to_the_run_under_its_name(backend_name: str) -> None:
    @flow
    def middle(x: int) -> Any:
        return inner(inc(x))

    @flow(backend=backend_name)
    def outer() -> Any:
        return [inc(inner(1)), inner(2), middle(3)]

    run = outer.run()
    assert run.value == [4, 4, 6]
    assert [node.group for node in run.nodes] == [
        *["inner"] * 2,
        "",
        *["inner-1"] * 2,
        "middle",
        *["middle/inner"] * 2,
    ]
    assert len({node.key for node in run.nodes}) == len(run.nodes)
    assert len({node.name for node in run.nodes}) == len(run.nodes)


def test_an_inner_flow_stays_lazy_and_takes_futures(backend_name: str, tally: Any) -> None:
    @task
    def count() -> int:
        return tally.add()

    @flow
    def lazy(x: int) -> Any:
        return inc(x)

    @flow(backend=backend_name)
    def outer() -> Any:
        future = lazy(count())
        assert tally.count() == 0
        return future

    assert outer() == 2


def test_parameters_of_an_inner_flow_are_checked_where_it_is_called(backend_name: str) -> None:
    @flow
    def typed(x: int) -> Any:
        return inc(x)

    @flow(backend=backend_name)
    def outer(x: Any) -> Any:
        return typed(x)

    assert outer("3") == 4
    with pytest.raises(ParameterError, match="parameter 'x' must be int, not 'many'"):
        outer("many")


def test_an_inner_body_that_raises_can_be_caught(backend_name: str) -> None:
    @flow
    def fails() -> None:
        raise KeyError("inner")

    @flow(backend=backend_name)
    def outer() -> Any:
        try:
            fails()
        except KeyError:
            return inc(1)

    assert outer() == 2


def test_a_failure_in_an_inner_flow_fails_the_run(backend_name: str) -> None:
    @flow
    def fails() -> int:
        boom(1)
        return 5

    @flow(backend=backend_name)
    def outer() -> Any:
        return fails()

    with pytest.raises(ValueError, match="boom 1"):
        outer()


def test_an_inner_body_knows_that_it_is_inner(backend_name: str) -> None:
    @flow(flow_run_name="inner of {x}")
    def asks(x: int) -> Any:
        context = flow_context()
        return context.flow_name, context.run_name, context.parameters, context.run_id

    @flow(backend=backend_name)
    def outer() -> Any:
        return asks(3), flow_context().flow_name

    run = outer.run()
    assert run.value == (("asks", "inner of 3", {"x": 3}, run.id), "outer")


def test_an_inner_flow_with_retries_is_tried_again(backend_name: str, tally: Any) -> None:
    @task
    def flaky() -> int:
        if tally.add() < 3:
            raise OSError("not yet")
        return 7

    @flow(retries=3, retry_delay_seconds=0.001)
    def stubborn() -> Any:
        return flaky()

    @flow(backend=backend_name)
    def outer() -> Any:
        return inc(stubborn())

    assert outer() == 8
    assert tally.count() == 3


def test_an_inner_flow_with_retries_that_fails_raises_where_it_is_called(
    backend_name: str, tally: Any
) -> None:
    @flow(retries=1)
    def hopeless() -> Any:
        tally.add()
        boom("again")
        return 5

    @flow(backend=backend_name)
    def outer() -> str:
        with pytest.raises(ValueError, match="boom again"):
            hopeless()
        return "caught"

    assert outer() == "caught"
    assert tally.count() == 2


def test_hooks_of_an_inner_flow_are_called_with_its_run(backend_name: str) -> None:
    seen: list[Any] = []

    def hook(flow: Any, run: Any, state: Any) -> None:
        seen.append((flow.name, run.flow_name, str(state), run.value))

    @flow(on_running=[hook], on_completion=[hook], on_failure=[hook])
    def hooked(fails: bool) -> Any:
        return boom() if fails else inc(1)

    @flow(backend=backend_name)
    def outer() -> Any:
        value = hooked(False)
        with pytest.raises(ValueError, match="boom"):
            hooked(True)
        return value

    assert outer() == 2
    assert seen == [
        ("hooked", "hooked", "Running", None),
        ("hooked", "hooked", "Completed", 2),
        ("hooked", "hooked", "Running", None),
        ("hooked", "hooked", "Failed", None),
    ]


def test_the_timeout_of_an_inner_flow_counts() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(timeout_seconds=0.2)
    def slow(forces: bool) -> Any:
        return blocked().result() if forces else blocked()

    @flow(backend="threads")
    def outer() -> Any:
        for forces in (False, True):
            with pytest.raises(FlowTimedOut, match="flow 'slow' ran longer than"):
                slow(forces)
        gate.set()
        return inc(1)

    assert outer() == 2


def test_the_backend_of_an_inner_flow_is_warned_about(backend_name: str, caplog: Any) -> None:
    @flow(backend="threads:3")
    def other() -> Any:
        return inc(1)

    @flow(backend=backend_name)
    def outer() -> Any:
        return other()

    assert outer() == 2
    assert "flow 'other' asks for backend 'threads:3', but it was called inside another flow" in caplog.text


def test_a_flow_may_be_called_inside_a_task(backend_name: str) -> None:
    @task
    def work(x: int) -> Any:
        return inner(x)

    @flow(backend=backend_name)
    def outer() -> Any:
        return work.map([1, 2])

    run = outer.run()
    assert run.value == [3, 4]
    assert [node.group for node in run.nodes] == ["", *["inner"] * 4]


def test_a_flow_with_retries_inside_a_task_is_refused(backend_name: str) -> None:
    @task
    def work() -> Any:
        return inner.with_options(retries=2)(1)

    @flow(backend=backend_name)
    def outer() -> Any:
        return work()

    with pytest.raises(ForcingError, match="flow 'inner' was called inside a running task and has retries"):
        outer()


def test_recursive_flows(backend_name: str) -> None:
    @flow(backend=backend_name)
    def down(n: int) -> Any:
        return inc(down(n - 1)) if n else 0

    assert down(20) == 20


def test_an_inner_flow_is_in_the_graph_with_its_group() -> None:
    @flow
    def outer() -> Any:
        return inc(inner(1))

    assert [node.group for node in outer.graph()] == ["inner", "inner", ""]
    with_retries = flow(lambda: inner.with_options(retries=1)(1), name="o")  # type: ignore[call-overload]
    assert len(with_retries.graph()) == 2


def test_async_inner_flows_keep_their_groups_apart_when_they_run_at_once(backend_name: str) -> None:
    @flow
    async def step(x: int) -> Any:
        first = await inc(x)
        await asyncio.sleep(0)
        return inc(first)

    @flow(backend=backend_name)
    async def outer() -> Any:
        both = await asyncio.gather(step(1), step(10))
        return both, inc(100)

    run = asyncio.run(outer.run())
    assert run.value == ([3, 12], 101)
    assert sorted(node.group for node in run.nodes) == ["", "step", "step", "step-1", "step-1"]


def test_async_inner_flows_with_retries_and_hooks(backend_name: str, tally: Any) -> None:
    seen: list[str] = []

    @flow(retries=2, on_completion=[lambda f, r, s: seen.append(str(s))])
    async def flaky() -> Any:
        if tally.add() < 2:
            raise OSError
        return inc(1)

    @flow(backend=backend_name)
    async def outer() -> Any:
        return await flaky()

    assert asyncio.run(outer()) == 2
    assert seen == ["Completed"]
