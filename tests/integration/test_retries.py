"""Retries: how often, after how long, of what."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from typing import Any

import pytest

from graphflow import exponential_backoff, flow, task, task_context
from graphflow.errors import GraphflowError


def attempts_of(backend_name: str, work: Any, *args: Any) -> tuple[Any, int, list[str]]:
    @flow(backend=backend_name)
    def body() -> Any:
        return work(*args)

    run = body.run()
    item = run.nodes[0].items[0]
    return (
        run.value if run.exception is None else run.exception,
        item.attempts,
        [str(each) for each in item.history],
    )


def fails_until(attempt: int, error: type[BaseException] = OSError) -> Any:
    def work() -> int:
        if task_context().attempt < attempt:
            raise error(f"attempt {task_context().attempt}")
        return task_context().attempt

    return work


def test_an_item_is_tried_again_as_often_as_asked(backend_name: str) -> None:
    value, attempts, history = attempts_of(backend_name, task(retries=2)(fails_until(3)))
    assert (value, attempts) == (3, 3)
    assert history == [
        "Pending",
        "Running",
        "AwaitingRetry",
        "Retrying",
        "AwaitingRetry",
        "Retrying",
        "Completed",
    ]
    error, attempts, history = attempts_of(backend_name, task(retries=2)(fails_until(9)))
    assert (str(error), attempts) == ("attempt 3", 3)
    assert history[-2:] == ["Retrying", "Failed"]


@pytest.mark.parametrize("delay", [0, 0.01, [0.01, 0], exponential_backoff(0.01), lambda n: [0.01] * n])
def test_delays_of_every_form_give_the_same_value(backend_name: str, delay: Any) -> None:
    value, attempts, _ = attempts_of(backend_name, task(retries=3, retry_delay_seconds=delay)(fails_until(4)))
    assert (value, attempts) == (4, 4)


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (5, [5, 5, 5]),
        ([1, 2], [1, 2, 2]),
        (exponential_backoff(10), [10, 20, 40]),
        (lambda n: [n] * n, [3, 3, 3]),
        (lambda n: n / 2, [1.5, 1.5, 1.5]),
        (None, [0, 0, 0]),
        ([], [0, 0, 0]),
    ],
)
def test_delays_are_what_was_asked_for(delay: Any, expected: list[float]) -> None:
    policy = task(retries=3, retry_delay_seconds=delay)(lambda: None).options.retry
    assert [policy.delay(n) for n in (1, 2, 3)] == expected


def test_a_waiting_retry_holds_no_slot() -> None:
    other_ran = threading.Event()

    @task(retries=1, retry_delay_seconds=0.2)
    def first() -> bool:
        if task_context().attempt == 1:
            raise OSError
        return other_ran.is_set()

    @task
    def other() -> None:
        other_ran.set()

    @flow(backend="threads:1")
    def body() -> Any:
        waiting = first()
        other()
        return waiting

    assert body() is True


def test_jitter_is_really_applied(local_name: str) -> None:
    @task(retries=1, retry_delay_seconds=0.01, retry_jitter_factor=3.0)
    def flaky(i: int) -> int:
        if task_context().attempt == 1:
            raise OSError(i)
        return i

    @flow(backend=local_name)
    def body() -> Any:
        return flaky.map(range(40))

    run = body.run()
    assert run.value == list(range(40))
    history = run._record.recorder.driver.history.node(0)  # type: ignore[union-attr]
    delays = [history.anomalies_of(index)[0][0].delay for index in range(40)]
    assert len(delays) == 40
    assert all(0.01 <= delay <= 0.04 for delay in delays)
    assert max(delays) - min(delays) > 0.005


@pytest.mark.parametrize(
    ("retry_on", "expected"),
    [(OSError, 2), ((KeyError, OSError), 2), ([KeyError], 1), (Exception, 2), (ConnectionError, 1)],
)
def test_only_the_given_exceptions_are_retried(backend_name: str, retry_on: Any, expected: int) -> None:
    _, attempts, _ = attempts_of(backend_name, task(retries=1, retry_on=retry_on)(fails_until(2)))
    assert attempts == expected


class Condition:
    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __call__(self, task: Any, task_run: Any, state: Any) -> bool:
        return self.answer


async def async_condition(task: Any, task_run: Any, state: Any) -> bool:
    await asyncio.sleep(0)
    return task_run.run_count < 3


def plain_condition(answer: bool, task: Any, task_run: Any, state: Any) -> bool:
    assert isinstance(state.data, OSError) and state.is_failed()
    assert task.name == "work" and task.retries == 5 and task_run.name == "work"
    with pytest.raises(OSError):
        state.result()
    return answer


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (functools.partial(plain_condition, True), 6),
        (functools.partial(plain_condition, False), 1),
        (Condition(True), 6),
        (Condition(False), 1),
        (async_condition, 3),
        (lambda task, task_run, state: task_run.run_count < 2, 2),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_condition_may_be_any_callable(
    backend_name: str, condition: Any, expected: int, is_async: bool
) -> None:
    fails = fails_until(99)

    async def async_work() -> Any:
        return fails()

    make = task(name="work", retries=5, retry_condition_fn=condition)
    _, attempts, _ = attempts_of(backend_name, make(async_work if is_async else fails))
    assert attempts == expected


def test_a_condition_that_raises_means_no_retry_and_says_so(backend_name: str) -> None:
    error, attempts, _ = attempts_of(
        backend_name, task(retries=5, retry_condition_fn=lambda *_: 1 / 0)(fails_until(99))
    )
    assert attempts == 1
    assert (
        "its retry_condition_fn raised ZeroDivisionError: division by zero; so it was not retried"
        in error.__notes__
    )


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_is_not_retried(backend_name: str, kind: Any) -> None:
    error, attempts, _ = attempts_of(backend_name, task(retries=3)(fails_until(99, kind)))
    assert attempts == 1
    assert isinstance(error, GraphflowError)


@pytest.mark.parametrize("delay", [0, 0.01])
def test_items_of_a_map_are_retried_on_their_own(backend_name: str, delay: float) -> None:
    @task(retries=2, retry_delay_seconds=delay)
    def flaky(x: int) -> int:
        if x % 3 == 1 and task_context().attempt < 3:
            raise OSError(x)
        return x

    @task
    def double(x: int) -> int:
        return 2 * x

    @flow(backend=backend_name)
    def body() -> Any:
        return double.map(flaky.map(range(30)))

    run = body.run()
    assert run.value == [2 * x for x in range(30)]
    assert [item.attempts for item in run.nodes["flaky"].items] == [3 if x % 3 == 1 else 1 for x in range(30)]
    assert run.nodes["flaky"].retries == 20
    assert all(item.attempts == 1 for item in run.nodes["double"].items)


def test_the_idempotency_key_is_the_same_for_all_attempts(backend_name: str, tally: Any) -> None:
    @task(retries=2)
    def work(x: int) -> None:
        tally.add(task_context().idempotency_key)
        if task_context().attempt < 3:
            raise OSError

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map([1, 2])

    body()
    keys = tally.all()
    assert len(keys) == 6 and len(set(keys)) == 2


def test_branches_of_one_lane_that_retry_apart_hand_their_values_on(backend_name: str) -> None:
    """Each runs again in a batch of its own, and what joins them in another: large values must still be there then."""

    @task
    def spread(i: int) -> list[int]:
        return [i] * 2_000

    @task(retries=2, retry_delay_seconds=0.1)
    def left(values: list[int]) -> list[int]:
        if task_context().attempt <= 2:
            raise OSError("left")
        return values

    @task(retries=1, retry_delay_seconds=0.05)
    def right(values: list[int]) -> list[int]:
        if task_context().attempt <= 1:
            raise OSError("right")
        return [value + 1 for value in values]

    @task
    def join(first: list[int], second: list[int]) -> tuple[int, int]:
        return first[0], second[0]

    @flow(backend=backend_name)
    def body() -> Any:
        spreads = spread.map(range(5))
        return join.map(left.map(spreads), right.map(spreads))

    assert body() == [(i, i + 1) for i in range(5)]


def test_an_attempt_knows_nothing_of_the_one_before(backend_name: str) -> None:
    @task(retries=2)
    def fails(x: int) -> None:
        seen = sys.exc_info()[1]
        raise ValueError(f"{x} after {seen!r}")

    @flow(backend=backend_name)
    def body() -> Any:
        return fails.map([1, 2])

    run = body.run()
    for failure in run.nodes["fails"].failures():
        assert str(failure.exception) == f"{failure.index + 1} after None"
        assert failure.exception.__context__ is None
        assert failure.attempts == 3
