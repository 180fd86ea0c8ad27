"""Timeouts of tasks: the item ends, its siblings keep their results."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from graphflow import flow, task, task_context
from graphflow.errors import ItemTimedOut, MapFailed


def test_an_item_that_computes_too_long_times_out_alone(backend_name: str) -> None:
    @task(timeout_seconds=0.2)
    def work(x: int) -> int:
        while x == 1:
            pass
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(4))

    run = body.run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "Completed",
        "TimedOut",
        "Completed",
        "Completed",
    ]
    error = run.nodes["work"].items[1].exception
    assert isinstance(error, ItemTimedOut) and isinstance(error, TimeoutError)
    assert str(error) == "work[1] ran longer than timeout_seconds=0.2"
    assert isinstance(run.exception, MapFailed)
    assert run.nodes["work"].state == "Failed"


def test_a_single_task_that_sleeps_in_c_times_out(backend_name: str) -> None:
    @task(timeout_seconds=timedelta(milliseconds=100))
    def work() -> None:
        time.sleep(0.5)  # in C, and longer than its timeout

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    run = body.run()
    assert run.nodes["work"].state == "TimedOut"
    assert run.state == "Failed"
    assert isinstance(run.exception, ItemTimedOut)


def test_an_item_that_never_yields_is_given_up_and_its_siblings_finish() -> None:
    release = threading.Event()

    @task(timeout_seconds=0.1, batch_size=3)
    def work(x: int) -> int:
        if x == 1:
            release.wait(60)
        return x

    @flow(backend="threads:1")
    def body() -> Any:
        return work.map(range(6))

    begun = time.monotonic()
    run = body.run()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "Completed",
        "TimedOut",
        *["Completed"] * 4,
    ]
    assert time.monotonic() - begun < 60
    release.set()


def test_a_user_that_catches_everything_still_times_out(backend_name: str) -> None:
    @task(timeout_seconds=0.1)
    def work() -> str:
        try:
            while True:
                pass
        except BaseException:
            return "caught"

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    assert isinstance(body.run().exception, ItemTimedOut)


def test_a_late_timeout_does_not_reach_the_next_item(backend_name: str) -> None:
    @task(timeout_seconds=0.03)
    def work(x: int) -> int:
        end = time.perf_counter() + 0.029 + 0.0002 * x
        while time.perf_counter() < end:
            pass
        return x

    @task
    def plain(x: int) -> int:
        for _ in range(20_000):
            pass
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        slow = work.map(range(10))
        return plain.map(range(10)), slow.result(raise_on_failure=False)

    run = body.run()
    assert run.state == "Completed"
    assert {str(item.state) for item in run.nodes["work"].items} <= {"Completed", "TimedOut"}


def test_a_timed_out_attempt_is_retried(backend_name: str) -> None:
    @task(timeout_seconds=0.2, retries=2)
    def work() -> int:
        while task_context().attempt < 3:
            pass
        return task_context().attempt

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    run = body.run()
    assert run.value == 3
    assert run.nodes["work"].items[0].attempts == 3


def test_retry_on_sees_the_timeout(backend_name: str) -> None:
    @task(timeout_seconds=0.1, retries=2, retry_on=(ValueError,))
    def work() -> None:
        while True:
            pass

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    assert body.run().nodes["work"].items[0].attempts == 1


def test_an_async_item_times_out_alone(backend_name: str) -> None:
    @task(timeout_seconds=0.2)
    async def work(x: int) -> int:
        if x == 1:
            await asyncio.sleep(30)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(3))

    run = body.run()
    assert [str(item.state) for item in run.nodes["work"].items] == ["Completed", "TimedOut", "Completed"]
    assert str(run.nodes["work"].items[1].exception) == "work[1] ran longer than timeout_seconds=0.2"


def test_a_timeout_error_of_the_users_own_is_a_failure_like_any_other(backend_name: str) -> None:
    @task(timeout_seconds=30)
    async def work() -> None:
        raise TimeoutError("mine")

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    run = body.run()
    assert run.nodes["work"].state == "Failed"
    assert str(run.exception) == "mine"


@pytest.mark.parametrize("blocks", ["computes", "sleeps"])
def test_an_async_item_that_blocks_the_loop_times_out(blocks: str) -> None:
    release = threading.Event()

    @task(timeout_seconds=0.2)
    async def work(x: int) -> int:
        if x == 1:
            while blocks == "computes":
                pass
            release.wait(60)
        await asyncio.sleep(0)
        return x

    @flow(backend="threads:2")
    def body() -> Any:
        return work.map(range(4))

    run = body.run()
    release.set()
    assert [str(item.state) for item in run.nodes["work"].items] == [
        "Completed",
        "TimedOut",
        "Completed",
        "Completed",
    ]


def test_a_generator_that_takes_too_long_times_out(backend_name: str) -> None:
    @task(timeout_seconds=0.2)
    def work() -> Any:
        while True:
            yield 1
            time.sleep(0.01)  # else its list would fill the memory first

    @flow(backend=backend_name)
    def body() -> Any:
        return work()

    assert isinstance(body.run().exception, ItemTimedOut)
