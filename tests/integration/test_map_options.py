"""The options of maps on every backend: how many at once, at what rate, how many may fail, and changes while it runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from graphflow import allow_failure, flow, some_failed, task
from graphflow.errors import GraphflowError, ItemTimedOut, MapFailed, TaskOptionError
from graphflow.testing.waiting import eventually


@task
def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@task
def double(x: int) -> int:
    return 2 * x


@task
def total(values: list[int]) -> int:
    return sum(values)


# -- tolerance ------------------------------------------------------------------------------------------


def test_tolerated_failures_drop_out_of_gathers_and_fail_nothing(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body(**options: Any) -> Any:
        found = odd_fails.with_options(**options).map(range(10))
        return total(found), double.map(found)

    for options in ({"tolerated_failure_count": 5}, {"tolerated_failure_percentage": 50}):
        run = body.run(**options)
        assert run.state == "Completed", run.exception
        assert run.value == (20, [0, 4, 8, 12, 16])
        assert run.nodes["odd_fails"].state == "Completed"
        assert run.nodes["odd_fails"].counts == {"Completed": 5, "Failed": 5}
        assert run.nodes["double"].counts == {"Completed": 5, "Skipped": 5}
        assert [failure.index for failure in run.nodes["odd_fails"].failures()] == [1, 3, 5, 7, 9]


def test_a_failure_too_many_fails_the_map_and_ends_it(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        found = odd_fails.with_options(tolerated_failure_count=2, batch_size=1).map(range(1_000))
        return total(found)

    run = body.run()
    assert run.state == "Failed"
    assert isinstance(run.exception, MapFailed)
    counts = run.nodes["odd_fails"].counts
    assert 3 <= counts["Failed"] < 500
    assert counts["Cancelled"] > 0
    assert sum(counts.values()) == 1_000
    assert run.nodes["odd_fails"].state == "Failed"
    assert run.nodes["total"].state == "UpstreamFailed"


def test_fail_fast_ends_the_map_at_its_first_failure(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return double.map(odd_fails.with_options(fail_fast=True, batch_size=1).map(range(1_000)))

    run = body.run()
    assert run.state == "Failed"
    counts = run.nodes["odd_fails"].counts
    assert counts["Failed"] >= 1
    assert counts["Cancelled"] > 500
    after = run.nodes["double"].counts
    assert after["Completed"] <= counts["Completed"]
    assert sum(after.values()) == 1_000


def test_tolerance_is_seen_by_whoever_asks_for_failures(backend_name: Any) -> None:
    @task
    def kinds(values: list[Any]) -> list[str]:
        return [type(each).__name__ for each in values]

    @task(trigger=some_failed(at_least=0.5))
    def report(values: list[Any]) -> int:
        return len(values)

    @flow(backend=backend_name)
    def body() -> Any:
        found = odd_fails.with_options(tolerated_failure_count=9).map(range(4))
        return kinds(allow_failure(found)), report(found)

    assert body() == (["int", "ValueError", "int", "ValueError"], 4)


def test_retries_come_before_tolerance(backend_name: Any, tally: Any) -> None:
    @task(retries=1, tolerated_failure_count=0)
    def second_time(x: int, tally: Any) -> int:
        if tally.add(x) == 1:
            raise ValueError(x)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return second_time.map(range(5), tally=tally)

    assert body() == [0, 1, 2, 3, 4]


def test_fail_fast_on_an_endless_iterator_stops_pulling(local_name: str) -> None:
    pulled = []

    def numbers() -> Any:
        x = 0
        while True:
            pulled.append(x)
            yield x
            x += 1

    @flow(backend=local_name)
    def body() -> Any:
        return odd_fails.with_options(fail_fast=True).map(numbers())

    run = body.run()
    assert run.state == "Failed"
    assert run.nodes["odd_fails"].state == "Failed"
    assert len(pulled) < 200_000


# -- concurrency and rate ---------------------------------------------------------------------------------


def test_max_concurrency_holds_over_all_slots() -> None:
    lock, running, most = threading.Lock(), [0], [0]

    @task
    def slow(x: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002)  # so that items overlap if they may
        with lock:
            running[0] -= 1
        return x

    @flow(backend="threads:6")
    def body() -> Any:
        return total(slow.with_options(max_concurrency=2).map(range(60)))

    assert body() == sum(range(60))
    assert most[0] <= 2


def test_max_concurrency_of_async_items_counts_items(local_name: str) -> None:
    running, most = [0], [0]

    @task(max_concurrency=5)
    async def slow(x: int) -> int:
        import asyncio

        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.002)
        running[0] -= 1
        return x

    @flow(backend=local_name)
    def body() -> Any:
        return total(slow.map(range(60)))

    assert body() == sum(range(60))
    assert most[0] <= 5


def test_a_rate_is_never_exceeded(backend_name: Any) -> None:
    @task(rate_limit="200/s")
    def moment(x: int) -> float:
        return time.time()

    @flow(backend=backend_name)
    def body() -> Any:
        return moment.map(range(60))

    found = sorted(body())
    # Slots may be lost on a busy machine, never gained: at most one item more than the rate gives, and what the
    # starts of two processes may differ by.
    assert len(found) - 1 <= 200 * (found[-1] - found[0] + 0.03)


def test_retries_count_against_the_rate(local_name: str) -> None:
    moments = []

    @task(rate_limit="100/s", retries=2)
    def shaky(x: int) -> int:
        moments.append(time.monotonic())
        if len(moments) % 3:
            raise ValueError(x)
        return x

    @flow(backend=local_name)
    def body() -> Any:
        return shaky.with_options(retries=250).map(range(5))

    assert body() == [0, 1, 2, 3, 4]
    moments.sort()
    assert len(moments) >= 15
    assert len(moments) - 1 <= 100 * (moments[-1] - moments[0] + 0.03)


# -- relative timeouts ---------------------------------------------------------------------------------------


def test_a_timeout_may_be_relative_to_the_median(tmp_path: Path) -> None:
    release = threading.Event()

    @task(timeout="1000%")
    def mostly_quick(x: int) -> int:
        if x == 0:
            # Between two waits an exception comes through.
            while not release.wait(0.001):
                pass
        return x

    @flow(backend="threads:4")
    def body() -> Any:
        return mostly_quick.map(range(200))

    run = body.run()
    release.set()
    assert run.nodes["mostly_quick"].counts == {"Completed": 199, "TimedOut": 1}
    (failure,) = run.nodes["mostly_quick"].failures()
    assert failure.index == 0
    assert isinstance(failure.exception, ItemTimedOut)
    assert "median" in str(failure.exception)


# -- changes while it runs -----------------------------------------------------------------------------------


def test_knobs_can_be_changed_while_a_map_runs() -> None:
    gate, lock, running, most = threading.Event(), threading.Lock(), [0], [0]
    begun = threading.Semaphore(0)

    @task(max_concurrency=1, batch_size=1)
    def gated(x: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        begun.release()
        gate.wait(30)
        with lock:
            running[0] -= 1
        return x

    @flow(backend="threads:4")
    def body() -> Any:
        return total(gated.map(range(20)))

    run = body.start()
    assert begun.acquire(timeout=30)
    assert running[0] == 1
    run.update("gated", max_concurrency=3)
    for _ in range(2):
        assert begun.acquire(timeout=30)
    assert running[0] == 3
    gate.set()
    assert run.result(timeout=60) == sum(range(20))
    assert most[0] == 3


def test_tolerance_can_be_changed_while_a_map_runs() -> None:
    gate, failed = threading.Event(), threading.Semaphore(0)

    @task(batch_size=1, tolerated_failure_count=0)
    def fails(x: int) -> int:
        if x:
            gate.wait(30)
        failed.release()
        raise ValueError(x)

    @flow(backend="threads:2")
    def body() -> Any:
        return fails.with_options(tolerated_failure_count=100).map(range(50))

    run = body.start()
    assert failed.acquire(timeout=30)
    run.update("fails", tolerated_failure_count=3)
    gate.set()
    assert run.wait(60)
    assert run.state == "Failed"
    counts = run.nodes["fails"].counts
    assert 4 <= counts["Failed"] < 20
    assert counts["Cancelled"] > 20


# With `inline` nothing runs beside the thread that waits.
@pytest.mark.parametrize("backend_name", ["threads", "processes"], indirect=True)
def test_a_policy_can_be_changed_while_a_map_runs(
    backend_name: Any, tally: Any, wait_until: Any, tmp_path: Path
) -> None:
    gate, log = str(tmp_path / "open"), tally

    @task(batch_size=1)
    def unsteady(x: int) -> int:
        tries = log.add(x)
        if x < 2:
            eventually(Path(gate).exists)
        # Of a map that is wider than what is sent ahead.
        if x >= 270 and tries == 1:
            raise ValueError(x)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return total(unsteady.map(range(280)))

    run = body.start()
    wait_until(lambda: len(tally.all()) >= 2)
    run.update("unsteady", retries=1)
    Path(gate).touch()
    assert run.result(timeout=60) == sum(range(280))
    assert tally.count(269) == 1 and tally.count(270) == tally.count(279) == 2


def test_what_cannot_be_updated_is_refused() -> None:
    gate, begun = threading.Event(), threading.Event()

    @task
    def gated(x: int) -> int:
        begun.set()
        gate.wait(30)
        return x

    @flow(backend="threads:2")
    def body() -> Any:
        return total(gated.map(range(4)))

    run = body.start()
    assert begun.wait(30)
    try:
        with pytest.raises(TaskOptionError, match="did you mean max_concurrency"):
            run.update("gated", max_concurency=3)
        with pytest.raises(TaskOptionError, match="rate_limit"):
            run.update("gated", rate_limit="fast")
        with pytest.raises(TaskOptionError, match="nothing to change; pass an option"):
            run.update("gated")
        with pytest.raises(TaskOptionError, match="percentage of the median"):
            run.update("gated", timeout=3)
        with pytest.raises(KeyError, match="no node 'gatd'"):
            run.update("gatd", max_concurrency=3)
        with pytest.raises(GraphflowError, match="not a map"):
            run.update("total", max_concurrency=3)
    finally:
        gate.set()
    assert run.result(timeout=60) == 6
    with pytest.raises(GraphflowError, match="has already ended"):
        run.update("gated", max_concurrency=3)
