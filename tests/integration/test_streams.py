"""Maps over iterators, sync and async, that are read while they run: back-pressure both ways, and a clean end."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from graphflow import flow, task
from graphflow.errors import ValueUnavailable


@task
def square(x: int) -> int:
    return x * x


@task
def total(values: list[int]) -> int:
    return sum(values)


class Source:
    """Counts from 0, for ever or up to a length; remembers how far it was asked, and whether it was closed."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length
        self.given = 0
        self.is_closed = False

    def items(self) -> Iterator[int]:
        try:
            for x in itertools.count():
                if x == self.length:
                    return
                self.given = x + 1
                yield x
        finally:
            self.is_closed = True

    async def items_later(self) -> AsyncIterator[int]:
        for x in self.items():
            await asyncio.sleep(0)
            yield x


def test_an_endless_iterator_is_read_in_order_until_the_loop_is_left(backend_name: Any) -> None:
    source = Source()

    @flow(backend=backend_name)
    def body() -> int:
        found = 0
        for number, future in enumerate(square.map(source.items())):
            assert future.result() == number * number
            found += 1
            if number == 2_000:
                break
        return found

    run = body.run()
    assert run.state == "Completed", run.exception
    assert run.value == 2_001
    assert source.is_closed
    assert source.given < 2_000_000
    node = run.nodes["square"]
    assert node.state.is_final()
    assert node.counts["Completed"] >= 2_001
    assert sum(node.counts.values()) == node.width


def test_a_slow_reader_pauses_the_iterator(local_name: str) -> None:
    source = Source()
    ahead = []

    @flow(backend=local_name)
    def body() -> None:
        for number, future in enumerate(square.map(source.items())):
            future.result()
            ahead.append(source.given - number)
            if number == 1_500:
                return

    body()
    # It never waits for long, so that it is never far behind either.
    assert max(ahead) <= 8_192


def test_an_iterator_that_ends_is_read_to_its_end(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> list[int]:
        return [future.result() for future in square.map(x for x in range(700))]

    assert body() == [x * x for x in range(700)]


def test_all_futures_of_a_finite_iterator_can_be_kept(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        futures = list(square.map(x for x in range(700)))
        return [future.result() for future in futures], len(futures)

    assert body() == ([x * x for x in range(700)], 700)


def test_items_are_read_as_they_end(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> list[int]:
        return [future.result() for future in square.map(x for x in range(700)).as_completed(timeout=60)]

    assert sorted(body()) == [x * x for x in range(700)]


def test_a_chain_over_an_iterator_is_read_at_its_end(backend_name: Any) -> None:
    source = Source()

    @flow(backend=backend_name)
    def body() -> int:
        fourth = square.map(square.map(source.items()))
        return next(f.result() for f in fourth if f.result() > 1_000)

    run = body.run()
    assert run.value == 6**4
    assert source.is_closed


def test_an_async_iterator_is_mapped(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return total(square.map(Source(300).items_later()))

    assert body() == sum(x * x for x in range(300))


def test_an_endless_async_iterator_is_closed_when_the_loop_is_left(local_name: str) -> None:
    source = Source()

    @flow(backend=local_name)
    def body() -> int:
        return next(f.result() for f in square.map(source.items_later()) if f.result() > 500)

    assert body() == 529
    assert source.given < 1_000_000


def test_an_async_flow_reads_without_blocking_its_loop() -> None:
    source = Source()

    @flow(backend="threads:2")
    async def body() -> int:
        found = 0
        async for future in square.map(source.items()):
            found += await future
            if found > 1_000:
                break
        return found

    assert asyncio.run(body()) == 1_015
    assert source.is_closed


def test_an_iterator_that_raises_fails_the_map_after_its_items(backend_name: Any) -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise OSError("the disk is gone")

    @flow(backend=backend_name)
    def body() -> Any:
        return total(square.map(items()))

    run = body.run()
    assert run.state == "Failed"
    node = run.nodes["square"]
    assert node.counts == {"Completed": 50}
    assert node.state == "Failed"
    assert isinstance(node.exception, OSError)


def test_a_reader_does_not_hold_up_who_needs_all(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        squares = square.map(x for x in range(3_000))
        first = next(iter(squares)).result()
        return first, total(squares).result(), len(squares.result())

    assert body() == (0, sum(x * x for x in range(3_000)), 3_000)


def test_a_task_may_take_single_items_of_a_map_that_is_read(backend_name: Any) -> None:
    source = Source()

    @flow(backend=backend_name)
    def body() -> Any:
        kept = []
        for number, future in enumerate(square.map(source.items())):
            if number % 100 == 0:
                kept.append(square(future))
            if number == 1_000:
                break
        return kept

    assert body() == [x**4 for x in range(0, 1_001, 100)]


def test_outside_a_flow_a_loop_that_is_left_lets_go_of_everything(wait_until: Callable[..., None]) -> None:
    source = Source()

    def body() -> None:
        for future in square.map(source.items()):
            if future.result() > 100:
                break

    # In a thread of its own: calls outside flows share a recording with all others of their thread.
    thread = threading.Thread(target=body)
    thread.start()
    thread.join(60)
    wait_until(lambda: source.is_closed)


@pytest.mark.parametrize("is_kept", [False, True])
def test_values_that_were_read_are_let_go_once_they_are_many(is_kept: bool) -> None:
    @task(persist_result=is_kept)
    def large(x: int) -> bytes:
        return bytes(1_000_000)

    @flow(backend="threads:2")
    def body() -> int:
        count = 0
        for future in large.map(x for x in range(200)):
            assert len(future.result()) == 1_000_000
            count += 1
        return count

    run = body.run()
    assert run.value == 200
    items = run.nodes["large"].items
    assert {item.state.name for item in items} == {"Completed"}
    if is_kept:
        assert items[0].value == bytes(1_000_000)
        return
    with pytest.raises(ValueUnavailable):
        _ = items[0].value


def test_a_map_whose_values_were_let_go_says_so_when_all_are_asked_for(
    local_name: str, wait_until: Callable[..., None]
) -> None:
    @task(batch_size=10, persist_result=False)
    def large(x: int) -> bytes:
        return bytes(1_000_000)

    def are_gone(found: Any) -> bool:
        try:
            found.result()
        except ValueUnavailable as error:
            return "no longer stored" in str(error)
        return False

    @flow(backend=local_name)
    def body() -> int:
        found = large.map(x for x in range(200))
        for future in found:
            future.result()
        del future
        # The driver lets go of them when it comes to it.
        wait_until(lambda: are_gone(found))
        return found[199].result().count(0)

    assert body() == 1_000_000
