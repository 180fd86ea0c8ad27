"""Async tasks and flows, and flows called where an event loop runs already."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from graphflow import as_completed, flow, get_run_logger, task, task_context
from graphflow.errors import FlowTimedOut
from graphflow.testing.waiting import eventually_async


@task
def inc(x: int) -> int:
    return x + 1


@task
async def ainc(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@task
def boom() -> None:
    raise ValueError("boom")


def test_async_tasks_work_in_plain_flows(run_body: Any) -> None:
    assert run_body(lambda: [ainc(1), inc(ainc(inc(1))), ainc.map(range(5)), inc.map(ainc.map([1]))]) == [
        2,
        4,
        [1, 2, 3, 4, 5],
        [3],
    ]


def test_items_of_an_async_task_run_concurrently_in_one_slot() -> None:
    @task(concurrency=20)
    async def meet(i: int) -> int:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 30)
        return i

    waiting = 0
    all_here = asyncio.Event()

    @flow(backend="threads:1")
    def body() -> Any:
        return meet.with_options(batch_size=20).map(range(20))

    assert body() == list(range(20))


def test_concurrency_is_a_bound() -> None:
    now = most = 0

    @task(concurrency=3, batch_size=30)
    async def count(i: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    flow(backend="threads:1")(lambda: count.map(range(30)))()
    assert most == 3


def test_each_concurrent_item_has_its_own_context_and_log(backend_name: str) -> None:
    @task(log_prints=True)
    async def work(i: int) -> Any:
        before = task_context().map_index
        print("first", i)
        await asyncio.sleep(0.001)
        get_run_logger().info("second %s", i)
        return before, task_context().map_index

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(10))

    run = body.run()
    assert run.value == [(i, i) for i in range(10)]
    for item in run.nodes["work"].items:
        assert [line.message for line in item.log] == [f"first {item.index}", f"second {item.index}"]


def test_a_failing_async_item_stops_no_sibling_and_is_retried(backend_name: str) -> None:
    @task(retries=1)
    async def work(i: int) -> int:
        await asyncio.sleep(0)
        if i % 2 and task_context().attempt == 1:
            raise OSError(i)
        if i == 3:
            raise ValueError(i)
        return i

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(5))

    run = body.run()
    items = run.nodes["work"].items
    assert [str(item.state) for item in items] == ["Completed"] * 3 + ["Failed", "Completed"]
    assert [item.attempts for item in items] == [1, 2, 1, 2, 1]


def test_an_async_flow_awaits_futures(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body(x: int) -> Any:
        first = await inc(x)
        both = await asyncio.gather(inc(first), ainc(first))
        mapped = await inc.map(both)
        item = await inc.map([1, 2])[1]
        return [first, both, mapped, item, inc(first)]

    assert asyncio.run(body(1)) == [2, [3, 3], [4, 4], 3, 3]
    run = asyncio.run(body.run(1))
    assert run.state == "Completed"
    assert run.value[0] == 2


def test_awaiting_a_failure_raises_it_and_counts_as_seeing(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body() -> str:
        with pytest.raises(ValueError, match="boom"):
            await boom()
        return "seen"

    assert asyncio.run(body()) == "seen"


def test_a_failed_async_flow_raises_and_its_run_does_not(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body() -> Any:
        return boom()

    with pytest.raises(ValueError, match="boom"):
        asyncio.run(body())
    assert asyncio.run(body.run()).state == "Failed"


def test_the_loop_goes_on_while_a_flow_waits() -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(backend="threads")
    async def body() -> Any:
        return await blocked()

    async def main() -> Any:
        running = asyncio.create_task(body())
        await asyncio.sleep(0)
        gate.set()
        return await running

    assert asyncio.run(main()) is True


def test_two_async_flows_run_at_once(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body(x: int) -> Any:
        first = await inc(x)
        await asyncio.sleep(0)
        return inc(first)

    async def main() -> Any:
        return await asyncio.gather(body(1), body(10))

    assert asyncio.run(main()) == [3, 12]


def test_a_cancelled_async_flow_is_cancelled() -> None:
    started, gate = threading.Event(), threading.Event()
    kept: list[Any] = []

    @task
    def blocked() -> bool:
        started.set()
        return gate.wait(30)

    @flow(backend="threads", on_cancellation=[lambda f, run, s: kept.append(run)])
    async def body() -> Any:
        return await blocked()

    async def main() -> None:
        running = asyncio.create_task(body())
        await eventually_async(started.is_set)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    gate.set()
    assert kept[0].state == "Cancelled"


@pytest.mark.parametrize("forces", [True, False])
def test_an_async_flow_times_out(forces: bool) -> None:
    gate = threading.Event()

    @task
    def blocked() -> bool:
        return gate.wait(30)

    @flow(timeout_seconds=0.1, backend="threads")
    async def body() -> Any:
        return await blocked() if forces else blocked()

    with pytest.raises(FlowTimedOut, match="ran longer than"):
        asyncio.run(body())
    gate.set()


def test_an_async_flow_is_tried_again(backend_name: str, tally: Any) -> None:
    @flow(retries=2, retry_delay_seconds=0.001, backend=backend_name)
    async def body() -> Any:
        if tally.add() < 3:
            raise OSError
        return inc(1)

    assert asyncio.run(body()) == 2


def test_a_plain_flow_may_be_called_where_a_loop_runs(backend_name: str) -> None:
    # As in a notebook's cell.
    @flow(backend=backend_name)
    def body() -> Any:
        return [inc(1).result(), ainc(1).result(), f"{inc(2)}", inc.map(ainc.map([1, 2]))]

    async def cell() -> Any:
        return body(), body.run().value

    expected = [2, 2, "3", [3, 4]]
    assert asyncio.run(cell()) == (expected, expected)


def test_an_async_flow_may_be_awaited_where_a_loop_runs(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body() -> Any:
        return await inc(1), as_completed([inc(1)]) is not None, ainc(5)

    async def cell() -> Any:
        return await body()

    assert asyncio.run(cell()) == (2, True, 6)


def test_calls_outside_flows_work_where_a_loop_runs() -> None:
    async def cell() -> Any:
        future = inc(1)
        return await future, inc(5).result(), await ainc(1)

    assert asyncio.run(cell()) == (2, 6, 2)


def test_an_async_flow_can_be_started_in_a_thread(backend_name: str) -> None:
    @flow(backend=backend_name)
    async def body() -> Any:
        return await inc(1)

    assert body.start().result(timeout=30) == 2


def test_the_graph_of_an_async_flow() -> None:
    @flow
    async def body() -> Any:
        return inc(ainc(1))

    assert [node.name for node in body.graph()] == ["ainc", "inc"]
