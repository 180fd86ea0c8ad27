"""Hooks of tasks and flows."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from graphflow import flow, task, task_context


def recorder_of(seen: list[Any]) -> Any:
    def hook(task: Any, run: Any, state: Any) -> None:
        seen.append((task.name, run.name, str(state), state.is_final()))

    return hook


def test_hooks_of_a_task_get_task_run_and_state(backend_name: str) -> None:
    seen: list[Any] = []
    hook = recorder_of(seen)

    @task(on_running=[hook], on_completion=hook, on_failure=[hook], task_run_name="run-{x}")
    def work(x: int) -> int:
        if x < 0:
            raise ValueError(x)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        work(1)
        work(-1).result(raise_on_failure=False)

    body()
    assert {(name, state, is_final) for name, _, state, is_final in seen} == {
        ("work", "Running", False),
        ("work", "Completed", True),
        ("work", "Failed", True),
    }
    assert {run for _, run, state, _ in seen if state in ("Completed", "Failed")} == {"run-1", "run--1"}


def test_hooks_see_value_and_exception_of_the_run(backend_name: str) -> None:
    seen: list[Any] = []

    @task(
        on_completion=[lambda task, run, state: seen.append(run.value)],
        on_failure=[lambda task, run, state: seen.append(str(run.exception))],
    )
    def work(x: int) -> int:
        if x == 2:
            raise ValueError("two")
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map([1, 2, 3]).result(raise_on_failure=False)

    body()
    assert sorted(map(str, seen)) == ["1", "3", "two"]


def test_each_item_of_a_map_calls_its_hooks_once(backend_name: str) -> None:
    seen: list[Any] = []

    @task(
        retries=1,
        on_running=[lambda t, r, s: seen.append((r.index, str(s)))],
        on_completion=[lambda t, r, s: seen.append((r.index, str(s)))],
    )
    def work(x: int) -> int:
        if x == 1 and task_context().attempt == 1:
            raise OSError
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return work.map(range(3))

    body()
    assert sorted(seen) == sorted((i, state) for i in range(3) for state in ("Running", "Completed"))


def test_hooks_are_called_before_the_flow_returns_and_in_order(backend_name: str) -> None:
    seen: list[str] = []

    @task(on_completion=[lambda *_: seen.append("a"), lambda *_: seen.append("b")])
    def work() -> int:
        return 1

    @flow(
        backend=backend_name,
        on_running=[lambda *_: seen.append("flow runs")],
        on_completion=[lambda *_: seen.append("flow done")],
    )
    def body() -> Any:
        return work()

    body()
    assert seen == ["flow runs", "a", "b", "flow done"]


def test_hooks_may_be_added_by_decorators(backend_name: str) -> None:
    seen: list[str] = []

    @task
    def work(fails: bool) -> None:
        if fails:
            raise ValueError

    @work.on_completion
    def completed(task: Any, run: Any, state: Any) -> None:
        seen.append(f"{task.name} {state}")

    @work.on_failure
    async def failed(task: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        seen.append(f"{task.name} {state}")

    @flow(backend=backend_name)
    def body(fails: bool) -> Any:
        return work(fails)

    @body.on_completion
    def flow_completed(flow: Any, run: Any, state: Any) -> None:
        seen.append(f"{flow.name} {state}")

    @body.on_failure
    async def flow_failed(flow: Any, run: Any, state: Any) -> None:
        seen.append(f"{flow.name} {state}")

    body.run(False)
    body.run(True)
    assert seen == ["work Completed", "body Completed", "work Failed", "body Failed"]
    assert completed.__name__ == "completed"


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(3), asyncio.CancelledError()])
def test_a_hook_that_raises_changes_nothing_and_is_logged(
    backend_name: str, error: BaseException, caplog: Any
) -> None:
    def raises(*_: Any) -> None:
        raise error

    @task(on_completion=[raises])
    def work() -> int:
        return 1

    @flow(backend=backend_name, on_completion=[raises])
    def body() -> Any:
        return work()

    assert body() == 1
    assert caplog.text.count("failed; the run continues") == 2


def test_upstream_failures_call_on_failure(backend_name: str) -> None:
    seen: list[str] = []

    @task
    def boom() -> None:
        raise ValueError

    @task(on_failure=[lambda t, r, s: seen.append(str(s))])
    def work(x: Any) -> None: ...

    flow(backend=backend_name)(lambda: [work(boom()), work.map([boom()])]).run()
    assert seen == ["UpstreamFailed"] * 2


@pytest.mark.parametrize("is_async", [False, True])
def test_every_end_of_a_flow_has_its_hook(backend_name: str, is_async: bool) -> None:
    seen: list[str] = []

    def hook(name: str) -> Any:
        return lambda flow, run, state: seen.append(f"{name}: {state}")

    def act(how: str) -> None:
        if how == "fails":
            raise ValueError
        if how == "exits":
            raise SystemExit

    async def act_async(how: str) -> None:
        act(how)

    body = flow(
        act_async if is_async else act,  # type: ignore[call-overload]
        backend=backend_name,
        on_running=[hook("on_running")],
        on_completion=[hook("on_completion")],
        on_failure=[hook("on_failure")],
        on_crashed=[hook("on_crashed")],
        on_cancellation=[hook("on_cancellation")],
    )
    for how in ("works", "fails", "exits"):
        with contextlib.suppress(SystemExit):
            asyncio.run(body.run(how)) if is_async else body.run(how)
    assert seen == [
        *("on_running: Running", "on_completion: Completed"),
        *("on_running: Running", "on_failure: Failed"),
        *("on_running: Running", "on_crashed: Crashed"),
    ]


def test_a_hook_may_ask_the_run_for_its_result(backend_name: str) -> None:
    seen: list[Any] = []

    @flow(
        backend=backend_name,
        on_completion=[lambda flow, run, state: seen.append((run.result(), run.wait(5), run.ended))],
    )
    def body() -> int:
        return 3

    body()
    assert seen[0][:2] == (3, True)
    assert seen[0][2] is not None


def test_a_started_run_ends_after_its_hooks(backend_name: str) -> None:
    seen: list[str] = []
    gate = threading.Event()

    @flow(backend=backend_name, on_completion=[lambda *_: gate.wait(30), lambda *_: seen.append("called")])
    def body() -> int:
        return 3

    run = body.start()
    assert not run.wait(0.01)
    gate.set()
    assert run.wait(30)
    assert seen == ["called"]
