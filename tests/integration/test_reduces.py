"""Associative reduces on every backend: in parts where the items are, in index order."""

from __future__ import annotations

import operator
from typing import Any

import pytest

from graphflow import Skip, flow, task
from graphflow.errors import GraphflowError, TaskOptionError


@task
def text(x: int) -> str:
    return f"{x},"


def joined(first: str, second: str) -> str:
    return first + second


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
def test_values_are_combined_in_index_order(backend_name: Any, batch_size: Any) -> None:
    @flow(backend=backend_name)
    def body(n: int) -> Any:
        return text.with_options(batch_size=batch_size).map(range(n)).reduce(joined)

    assert body(200) == "".join(f"{x}," for x in range(200))


def test_an_initial_value_comes_first_and_stands_for_nothing(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body(n: int) -> Any:
        return text.map(range(n)).reduce(operator.add, initial="numbers: ")

    assert body(3) == "numbers: 0,1,2,"
    assert body(0) == "numbers: "


def test_a_map_without_values_needs_an_initial_value(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return text.map([]).reduce(operator.add)

    with pytest.raises(GraphflowError, match="initial="):
        body()


def test_the_reduce_of_an_iterator_and_of_a_chain(backend_name: Any) -> None:
    @task
    def length(each: str) -> int:
        return len(each)

    @flow(backend=backend_name)
    def body() -> Any:
        return length.map(text.map(x for x in range(500))).reduce(max, name="longest")

    run = body.run()
    assert run.value == 4
    assert [node.name for node in run.nodes] == ["text", "length", "longest.parts", "longest"]


def test_skipped_and_tolerated_items_are_left_out(backend_name: Any) -> None:
    @task(tolerated_failure_count=10)
    def some(x: int) -> int:
        if x % 5 == 1:
            raise Skip
        if x % 5 == 2:
            raise ValueError(x)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return some.map(range(20)).reduce(operator.add)

    assert body() == sum(x for x in range(20) if x % 5 not in (1, 2))


def test_a_failed_item_fails_the_reduce(backend_name: Any) -> None:
    @task
    def some(x: int) -> int:
        return 1 // (x - 3)

    @flow(backend=backend_name)
    def body() -> Any:
        return some.map(range(6)).reduce(operator.add)

    run = body.run()
    assert run.state == "Failed"
    assert run.nodes["add"].state == "UpstreamFailed"


def test_a_function_that_raises_fails_the_reduce_with_its_error(backend_name: Any) -> None:
    def picky(first: int, second: int) -> int:
        if first + second > 100:
            raise ZeroDivisionError("more than a hundred")
        return first + second

    @task
    def same(x: int) -> int:
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return same.map(range(20)).reduce(picky)

    with pytest.raises(ZeroDivisionError, match="hundred"):
        body()


def test_a_task_combines_with_its_retries(backend_name: Any, tally: Any) -> None:
    @task(retries=3, name="sum-up")
    def add(first: int, second: int) -> int:
        if tally.add() < 3:
            raise OSError("not yet")
        return first + second

    @task
    def same(x: int) -> int:
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return same.map(range(20)).reduce(add)

    run = body.run()
    assert run.value == sum(range(20))
    assert run.nodes["sum-up"].state == "Completed"


def test_what_cannot_combine_is_refused() -> None:
    @task
    async def later(first: int, second: int) -> int:
        return first + second

    @flow
    def body(combine: Any) -> Any:
        return text.map(range(3)).reduce(combine)

    for wrong in (later, 3, None):
        with pytest.raises(TaskOptionError, match="reduce"):
            body.graph(wrong)


def test_values_stay_in_parts() -> None:
    """What the last step gathers is a part per batch, not a value per item."""

    @task
    def same(x: int) -> int:
        return x

    @flow(backend="threads:2")
    def body() -> Any:
        return same.map(range(50_000)).reduce(operator.add)

    run = body.run()
    assert run.value == sum(range(50_000))
    parts = run.nodes["add.parts"]
    assert parts.counts == {"Completed": 50_000}
