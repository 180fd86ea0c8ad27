"""Batched tasks: the function gets lists, the books stay those of the items."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graphflow import Skip, flow, starmap, task, task_context, unmapped
from graphflow.errors import BatchedResultError, TaskOptionError


@task(batched=True)
def tenfold(xs: list[int]) -> list[int]:
    return [10 * x for x in xs]


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@pytest.mark.parametrize("size", [None, 1, 7, 1_000])
def test_any_batch_size_gives_what_a_plain_loop_gives(run_body: Any, size: Any) -> None:
    sized = tenfold.with_options(batch_size=size)
    assert run_body(lambda: [sized.map(range(100)), total(sized.map(sized.map(range(10))))]) == [
        [10 * x for x in range(100)],
        100 * sum(range(10)),
    ]


def test_a_fixed_size_is_the_size_of_each_call(backend_name: Any) -> None:
    @task(batched=True, batch_size=8)
    def sizes(xs: list[int]) -> list[int]:
        return [len(xs)] * len(xs)

    assert flow(backend=backend_name)(lambda: sizes.map(range(20)))() == [8] * 16 + [4] * 4


def test_generators_and_async_functions(run_body: Any) -> None:
    @task(batched=True)
    def yields(xs: list[int]) -> Iterator[int]:
        for x in xs:
            yield x + 1

    @task(batched=True)
    async def awaits(xs: list[int]) -> list[int]:
        return [x + 1 for x in xs]

    @task(batched=True)
    async def ayields(xs: list[int]) -> Any:
        for x in xs:
            yield x + 1

    assert (
        run_body(lambda: [each.map(range(30)) for each in (yields, awaits, ayields)])
        == [list(range(1, 31))] * 3
    )


def test_a_plain_call_passes_its_arguments_as_they_are(run_body: Any) -> None:
    @task(batched=True)
    def yields(xs: list[int]) -> Iterator[int]:
        yield from xs
        yield -1

    assert run_body(lambda: [tenfold([1, 2]), yields((5, 6))]) == [[10, 20], [5, 6, -1]]


def test_several_inputs_constants_and_tuples(run_body: Any) -> None:
    @task(batched=True)
    def join(xs: list[int], ys: list[int], by: str, *, last: list[int]) -> list[str]:
        return [f"{x}{by}{y}{by}{last}" for x, y in zip(xs, ys, strict=True)]

    @task(batched=True)
    def add(xs: list[int], ys: list[int]) -> list[int]:
        return [x + y for x, y in zip(xs, ys, strict=True)]

    assert run_body(
        lambda: [
            join.map([1, 2], range(2), "-", last=unmapped([9])),
            add.map(starmap([(1, 2), (3, 4)])),
            add.starmap([{"xs": 1, "ys": 2}, {"xs": 5, "ys": 6}]),
        ]
    ) == [["1-0-[9]", "2-1-[9]"], [3, 7], [3, 11]]


def test_arrays_arrive_as_arrays(backend_name: Any) -> None:
    @task
    def source() -> Any:
        return np.arange(20)

    @task(batched=True, retries=1, retry_delay_seconds=0.001)
    def kinds(xs: Any, ys: Any) -> list[str]:
        if task_context().attempt == 1 and (xs % 3 == 0).any():
            raise ValueError
        return [f"{type(xs).__name__} {type(ys).__name__} {x + y}" for x, y in zip(xs, ys, strict=True)]

    @flow(backend=backend_name)
    def body() -> Any:
        return kinds.map(np.arange(20), source())

    assert body() == [f"ndarray ndarray {2 * x}" for x in range(20)]


def test_only_the_items_that_fail_fail_and_are_retried(backend_name: Any) -> None:
    @task(batched=True, retries=2, retry_delay_seconds=0.001)
    def work(xs: list[int]) -> list[int]:
        for x in xs:
            if x == 3 and task_context().attempt < 3:
                raise OSError("later")
            if x == 11:
                raise ValueError(f"never {len(xs)}")
            if x == 15:
                raise Skip
        return xs

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(20))

    run = body.run()
    items = run.nodes["work"].items
    states = {11: "Failed", 15: "Skipped"}
    assert [str(item.state) for item in items] == [states.get(i, "Completed") for i in range(20)]
    assert [item.attempts for item in items] == [3 if i in (3, 11) else 1 for i in range(20)]
    assert str(items[11].exception) == "never 1"
    assert [item.value for item in items if item.state == "Completed"] == [
        i for i in range(20) if i not in states
    ]


def test_a_wrong_count_is_a_clear_error(backend_name: Any) -> None:
    @task(batched=True, batch_size=4, retries=5)
    def short(xs: list[int]) -> list[int]:
        return xs[1:] if 0 in xs else xs

    @flow(backend=backend_name)
    def body() -> Any:
        return short.map(range(8))

    run = body.run()
    assert [str(item.state) for item in run.nodes["short"].items] == ["Failed"] * 4 + ["Completed"] * 4
    assert {item.attempts for item in run.nodes["short"].items} == {1}
    error = run.nodes["short"].items[0].exception
    assert isinstance(error, BatchedResultError)
    assert str(error) == (
        "batched task 'short' was given 4 items and returned 3 results; return (or yield) exactly one result per "
        "item, in their order"
    )


def test_futures_are_refused_as_results(backend_name: Any) -> None:
    @task(batched=True)
    def calls(xs: list[int]) -> Any:
        return [total([x]) for x in xs]

    run = flow(backend=backend_name)(lambda: calls.map(range(3))).run()
    error = run.nodes["calls"].items[0].exception
    assert isinstance(error, BatchedResultError) and "task.fn(...)" in str(error)


def test_what_a_call_may_ask_about_itself(backend_name: Any) -> None:
    @task(batched=True, batch_size=3)
    def about(xs: list[int]) -> list[Any]:
        context = task_context()
        try:
            key = context.idempotency_key
        except Exception as error:
            key = str(error)
        return [
            (context.map_index, i, k, key)
            for i, k in zip(context.map_indices, context.idempotency_keys, strict=True)
        ]

    @task
    def plain(x: int) -> Any:
        return task_context().map_index, task_context().map_indices

    found, one = flow(backend=backend_name)(lambda: [about.map(["a", "b", "c", "d"]), plain.map([0])])()
    assert [each[:2] for each in found] == [(None, i) for i in range(4)]
    assert len({each[2] for each in found}) == 4
    assert "idempotency_keys" in found[0][3]
    assert one == [(0, ())]


def test_labels_are_those_of_the_items(backend_name: Any) -> None:
    named = tenfold.with_options(task_run_name="number {xs}")
    run = flow(backend=backend_name)(lambda: named.map([4, 5])).run()
    assert [item.label for item in run.nodes["tenfold"].items] == ["number 4", "number 5"]


def test_a_map_over_a_batched_map_takes_items_as_they_end(run_body: Any) -> None:
    @task
    def inc(x: int) -> int:
        return x + 1

    assert run_body(lambda: inc.map(tenfold.map(inc.map(range(50))))) == [10 * (x + 1) + 1 for x in range(50)]


def test_concurrency_is_not_for_batched_tasks() -> None:
    with pytest.raises(TaskOptionError, match="a batched task gets many items in one call"):

        @task(batched=True, concurrency=3)
        async def work(xs: list[int]) -> list[int]:
            return xs


# -- items that take too long, or their worker with them ----------------------------------------------------


def test_the_item_that_takes_too_long_times_out_alone(backend_name: Any) -> None:
    @task(batched=True, timeout_seconds=0.2)
    def work(xs: list[int]) -> list[int]:
        while 5 in xs:
            pass
        return xs

    run = flow(backend=backend_name)(lambda: work.map(range(8))).run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "TimedOut" if i == 5 else "Completed" for i in range(8)
    ]


@pytest.mark.parametrize("on", ["threads", "processes"])
def test_an_item_that_never_yields_is_found_by_halving(on: str, request: pytest.FixtureRequest) -> None:
    backend = "threads:1" if on == "threads" else request.getfixturevalue("shared_processes")

    @task(batched=True, timeout_seconds=0.1, batch_size=4)
    def work(xs: list[int]) -> list[int]:
        if 2 in xs:
            time.sleep(6 if on == "threads" else 600)
        return xs

    run = flow(backend=backend)(lambda: work.map(range(8))).run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "TimedOut" if i == 2 else "Completed" for i in range(8)
    ]


@pytest.mark.timeout(300)  # each of several workers has to die and to come back
@pytest.mark.parametrize("is_async", [False, True])
def test_an_item_that_kills_its_worker_is_found_by_halving(shared_processes: Any, is_async: bool) -> None:
    def kill(xs: list[int]) -> list[int]:
        if 2 in xs:
            os._exit(9)
        return xs

    async def kill_alone(x: int) -> int:
        # All items of the batch are under way.
        await asyncio.sleep(0.05)
        return kill([x])[0]

    work = task(name="work")(kill_alone) if is_async else task(batched=True, name="work")(kill)

    run = flow(backend=shared_processes)(lambda: work.map(range(4))).run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "Crashed" if i == 2 else "Completed" for i in range(4)
    ]
