"""Exceptions that are no `Exception`: what escapes from an item or a body is a failure, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from graphflow import flow, task
from graphflow.errors import FlowFailed, GraphflowError, MapFailed


class Escaped(BaseException):
    """One of the user's own."""


RETRIED: dict[str, Callable[[], BaseException]] = {
    "CancelledError": lambda: asyncio.CancelledError("scope"),
    "GeneratorExit": lambda: GeneratorExit("x"),
    "Escaped": lambda: Escaped("x"),
    "group": lambda: BaseExceptionGroup("g", [ValueError("v"), asyncio.CancelledError()]),
}
EXITS: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "group of an exit": lambda: BaseExceptionGroup("g", [KeyboardInterrupt()]),
}


def raiser(kind: str, style: str, retries: int) -> Any:
    """A task that raises for 1, in one of the ways that a task can be written."""
    made = {**RETRIED, **EXITS}[kind]

    def checked(x: Any) -> Any:
        if x == 1 or (isinstance(x, list) and 1 in x):
            raise made()
        return x

    async def awaited(x: Any) -> Any:
        await asyncio.sleep(0)
        return checked(x)

    return task(name="raiser", retries=retries, batched="batched" in style)(
        awaited if "async" in style else checked
    )


@pytest.mark.parametrize("style", ["plain", "async", "batched", "async batched"])
@pytest.mark.parametrize("kind", [*RETRIED, *EXITS])
def test_what_escapes_from_an_item_fails_it_and_is_retried_unless_it_asks_to_exit(
    backend_name: Any, kind: str, style: str
) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return raiser(kind, style, 2).map([0, 1, 2])

    attempts = 3 if kind in RETRIED else 1
    run = body.run()
    node = run.nodes["raiser"]
    assert run.state == "Failed"
    assert [str(item.state) for item in node.items] == ["Completed", "Failed", "Completed"]
    assert node.items[1].attempts == attempts
    again = body.resume(run.id)
    assert again.state == "Failed"
    assert isinstance(again.exception, MapFailed)


@pytest.mark.parametrize("style", ["plain", "async"])
@pytest.mark.parametrize("kind", ["CancelledError", "Escaped"])
def test_what_escapes_from_a_call_fails_the_run_with_it_as_the_cause(
    backend_name: Any, kind: str, style: str
) -> None:
    @flow(backend=backend_name)
    def body(forces: bool) -> Any:
        future = raiser(kind, style, 0)(1)
        return future.result() if forces else future

    for forces in (False, True):
        run = body.run(forces)
        assert run.state == "Failed"
        assert isinstance(run.exception, GraphflowError)
        assert type(run.exception.__cause__).__name__ == kind


async def cancels_itself(x: int) -> int:
    if x == 1:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)
    return x


async def cancels_itself_and_returns(x: int) -> int:
    current = asyncio.current_task()
    assert current is not None
    if x == 1 and not current.cancelling():
        current.cancel()
    return x


async def cancels_all(x: int) -> int:
    if x == 1:
        for each in asyncio.all_tasks():
            each.cancel()
    await asyncio.sleep(0)
    return x


async def awaits_what_was_cancelled(x: int) -> int:
    inner = asyncio.create_task(asyncio.sleep(0))
    if x == 1:
        inner.cancel()
    await inner
    return x


async def awaits_what_exits(x: int) -> int:
    async def leave() -> None:
        if x == 1:
            raise SystemExit(3)

    await asyncio.create_task(leave())
    return x


async def groups_what_exits(x: int) -> int:
    async def leave() -> None:
        if x == 1:
            raise KeyboardInterrupt

    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
    return x


@pytest.mark.parametrize(
    "fn", [cancels_itself, awaits_what_was_cancelled, awaits_what_exits, groups_what_exits]
)
def test_an_item_that_is_ended_within_its_loop_fails_alone(
    backend_name: Any, fn: Callable[[int], Any]
) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return task(fn, batch_size=3).map([0, 1, 2])

    run = body.run()
    assert run.state == "Failed"
    assert [str(item.state) for item in run.nodes[0].items] == ["Completed", "Failed", "Completed"]


def test_a_cancellation_ends_one_attempt_and_no_more(backend_name: Any, tally: Any) -> None:
    @task(retries=1, timeout_seconds=60)
    async def recovers(x: int) -> int:
        if tally.add() == 1:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            slept = group.create_task(asyncio.sleep(0, x))
        return slept.result()

    @task
    async def follows(x: int) -> int:
        return await asyncio.sleep(0, x + 1)

    @flow(backend=backend_name)
    def body() -> Any:
        passed = task(cancels_itself_and_returns).map([1])
        return follows.map(recovers.map([5])), follows.map(passed)

    assert body() == ([6], [2])


def test_a_loop_in_which_all_tasks_are_cancelled_ends_and_tells_of_them(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return task(cancels_all, batch_size=3).map([0, 1, 2])

    run = body.run()
    assert run.state == "Failed"
    assert run.nodes[0].counts["Failed"] and not run.nodes[0].counts["Cancelled"]


@pytest.mark.parametrize("kind", RETRIED)
def test_what_escapes_from_a_body_that_nobody_cancelled_fails_its_run(backend_name: Any, kind: str) -> None:
    @flow(backend=backend_name)
    def plain() -> None:
        raise RETRIED[kind]()

    @flow(backend=backend_name)
    async def awaited() -> None:
        await asyncio.sleep(0)
        raise RETRIED[kind]()

    @flow(backend=backend_name)
    def outer() -> None:
        plain()

    for each in (plain, outer):
        assert each.run().state == "Failed"
    with pytest.raises(GraphflowError, match=r"the flow raised .*, which ends only its run"):
        plain()
    with pytest.raises((GraphflowError, FlowFailed), match="the flow raised"):
        asyncio.run(awaited())
