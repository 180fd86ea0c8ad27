"""Tasks that return futures: fragments that take the place of an item."""

from __future__ import annotations

from typing import Any

import pytest

from graphflow import allow_failure, flow, task, task_context
from graphflow.errors import ForcingError, MapFailed, UpstreamFailed


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


@task
def countdown(n: int) -> Any:
    return countdown(n - 1) if n else "done"


@task
def fib(n: int) -> Any:
    return n if n < 2 else add(fib(n - 1), fib(n - 2))


def test_a_returned_future_takes_the_place_of_its_task(run_body: Any) -> None:
    @task
    def chosen(x: int) -> Any:
        return inc(x) if x else add(x, 100)

    assert run_body(lambda: [chosen(0), chosen(1), inc(chosen(1)), chosen.map([0, 1])]) == [
        100,
        2,
        3,
        [100, 2],
    ]


def test_recursion_a_thousand_deep(backend_name: Any) -> None:
    deep = 1_000 if isinstance(backend_name, str) else 200

    @flow(backend=backend_name)
    def body() -> Any:
        return countdown(deep)

    run = body.run()
    assert run.value == "done"
    assert len(run.nodes) == deep + 1


def test_a_failure_a_thousand_deep_names_its_root(backend_name: Any) -> None:
    deep = 1_000 if isinstance(backend_name, str) else 200

    @task
    def down(n: int) -> Any:
        return down(n - 1) if n else boom("at the bottom")

    @flow(backend=backend_name)
    def body() -> Any:
        return down(deep).result()

    with pytest.raises(UpstreamFailed, match="boom failed") as caught:
        body()
    assert caught.value.root == "boom"
    assert "ValueError: boom at the bottom" in str(caught.value)
    assert len(str(caught.value)) < 2_000


def test_fibonacci(run_body: Any) -> None:
    assert run_body(lambda: fib(10)) == 55


def test_mapped_tasks_may_return_futures_maps_and_structures(run_body: Any) -> None:
    @task
    def fan_out(n: int) -> Any:
        return inc.map(range(n))

    @task
    def structure(n: int) -> Any:
        return {"n": inc(n), "all": [inc.map(range(n)), "text"]}

    def body() -> Any:
        fanned = fan_out.map([2, 0, 1])
        return fanned, total.map(fanned), structure.map([1, 2]), total(fan_out(3)), inc.map(fan_out(2))

    assert run_body(body) == (
        [[1, 2], [], [1]],
        [3, 0, 1],
        [{"n": 2, "all": [[1], "text"]}, {"n": 3, "all": [[1, 2], "text"]}],
        6,
        [2, 3],
    )


def test_an_item_of_a_map_may_be_returned(run_body: Any) -> None:
    @task
    def last() -> Any:
        return inc.map([1, 2, 3])[-1]

    assert run_body(last) == 4


def test_calls_inside_a_task_whose_value_is_plain_run_too(backend_name: str, tally: Any) -> None:
    @task
    def count() -> None:
        tally.add()

    @task
    def outer() -> int:
        count()
        return 7

    @flow(backend=backend_name)
    def body() -> Any:
        return outer()

    assert body() == 7
    assert tally.count() == 1


def test_only_the_last_attempts_calls_run(backend_name: str, tally: Any) -> None:
    @task
    def count(attempt: int) -> int:
        tally.add(attempt)
        return attempt

    @task(retries=2)
    def outer() -> Any:
        attempt = task_context().attempt
        future = count(attempt)
        if attempt < 3:
            raise OSError
        return future

    @flow(backend=backend_name)
    def body() -> Any:
        return outer()

    assert body() == 3
    assert tally.all() == ["3"]


def test_async_tasks_may_return_futures(run_body: Any) -> None:
    @task
    async def outer(x: int) -> Any:
        return inc(inc(x))

    assert run_body(lambda: [outer(1), outer.map([1, 2])]) == [3, [3, 4]]


def test_generator_tasks_may_yield_futures(run_body: Any) -> None:
    @task
    def outer(n: int) -> Any:
        for i in range(n):
            yield inc(i)

    assert run_body(lambda: [outer(3), total(outer(2)), outer.map([1])]) == [[1, 2, 3], 3, [[1]]]


def test_a_failing_fragment_fails_its_item_and_names_the_root(backend_name: str) -> None:
    @task
    def outer(x: int) -> Any:
        return inc(boom(x)) if x % 2 else inc(x)

    @flow(backend=backend_name)
    def body() -> Any:
        return inc.map(outer.map(range(3)))

    run = body.run()
    assert [str(item.state) for item in run.nodes["outer"].items] == [
        "Completed",
        "UpstreamFailed",
        "Completed",
    ]
    error = run.nodes["outer"].items[1].exception
    assert isinstance(error, UpstreamFailed)
    assert "ValueError: boom 1" in str(error)
    assert run.state == "Failed"
    assert isinstance(run.exception, ValueError)


def test_a_failure_beside_the_value_of_a_fragment_does_not_pass_unseen(backend_name: str) -> None:
    @task
    def outer() -> int:
        boom("beside")
        return 7

    @flow(backend=backend_name)
    def body() -> Any:
        return outer()

    run = body.run()
    assert run.state == "Failed"
    assert "boom beside" in str(run.exception)


def test_a_fragments_failure_can_be_allowed_inside_and_outside(run_body: Any) -> None:
    @task
    def show(x: Any) -> str:
        return str(x)

    @task
    def inside() -> Any:
        return show(allow_failure(boom(1)))

    @task
    def fails() -> Any:
        return boom(2)

    first, second = run_body(lambda: (inside(), show(allow_failure(fails()))))
    assert first == "boom 1"
    assert "boom 2" in second


def test_a_caught_failure_of_a_graft_was_seen(backend_name: str) -> None:
    @task
    def fails() -> Any:
        return inc(boom(2))

    @flow(backend=backend_name)
    def body() -> str:
        fails().result(raise_on_failure=False)
        return "fine"

    assert body() == "fine"


def test_forcing_inside_a_task_is_refused_in_every_way(backend_name: str) -> None:
    ways: dict[str, Any] = {
        "result": lambda f: f.result(),
        "bool": bool,
        "len": len,
        "str": str,
        "format": lambda f: f"{f}",
        "wait": lambda f: f.wait(),
        "failures": lambda f: f.failures(),
        "unpack": list,
        "contains": lambda f: 1 in f,
    }

    @task
    def outer(way: str) -> Any:
        try:
            ways[way](inc(1))
        except ForcingError as error:
            return "inside a running task" in str(error)
        return False

    @flow(backend=backend_name)
    def body() -> Any:
        return outer.map(list(ways))

    run = body.run()
    assert dict(zip(ways, run.value, strict=True)) == dict.fromkeys(ways, True)


def test_a_map_of_unknown_width_cannot_be_measured_inside_a_task(backend_name: str) -> None:
    @task
    def outer() -> Any:
        known = len(inc.map([1, 2]))
        return known + len(inc.map(total([1])))

    with pytest.raises(ForcingError, match="inside a running task"):
        flow(backend=backend_name)(lambda: outer())()


def test_submit_inside_a_task_only_records(run_body: Any) -> None:
    @task
    def outer() -> Any:
        return inc.submit(1)

    assert run_body(outer) == 2


def test_unpacking_by_annotation_works_inside_a_task(run_body: Any) -> None:
    @task
    def two() -> tuple[int, int]:
        return 1, 2

    @task
    def outer() -> Any:
        a, b = two()
        return add(a, b)

    assert run_body(outer) == 3


def test_nested_fan_out_with_failures(backend_name: str) -> None:
    @task
    def odd_fails(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    @task
    def fan_out(n: int) -> Any:
        return odd_fails.map(range(n))

    @flow(backend=backend_name)
    def body() -> Any:
        return fan_out.map([1, 2, 1])

    run = body.run()
    assert [str(item.state) for item in run.nodes["fan_out"].items] == [
        "Completed",
        "UpstreamFailed",
        "Completed",
    ]
    assert run.value is None
    assert isinstance(run.exception, MapFailed | ValueError)


def test_grafted_items_have_their_whole_history(backend_name: str) -> None:
    @task
    def outer(x: int) -> Any:
        return inc(x)

    @flow(backend=backend_name)
    def body() -> Any:
        return outer(1)

    run = body.run()
    item = run.nodes["outer"].items[0]
    assert (item.value, item.attempts, str(item.state)) == (2, 1, "Completed")
    assert [str(state) for state in item.history] == ["Pending", "Running", "Completed"]
    assert run.nodes["outer"].state == "Completed"


def test_each_item_of_a_fragment_has_its_own_idempotency_key(run_body: Any) -> None:
    @task
    def key(x: int) -> str:
        return task_context().idempotency_key

    @task
    def outer(x: int) -> Any:
        return [key(x), key(x), key.map([1, 2])]

    values = run_body(lambda: outer.map([1, 2]))
    keys = [each for a, b, (c, d) in values for each in (a, b, c, d)]
    assert len(set(keys)) == 8
