"""Calls made for their effect keep their order, on every backend, in tasks, flows in flows, and after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow import Skip, all_finished, allow_failure, any_failed, flow, task
from graphflow.errors import TaskOptionError, UpstreamFailed

Run = Callable[[Callable[[], Any]], Any]


@task
def save(path: Path, text: str) -> None:
    path.write_text(text)


@task
def load(path: Path) -> str:
    return path.read_text()


@task
def fails() -> None:
    raise ValueError("no")


@task
def skips() -> None:
    raise Skip("nothing to do")


@task
def save_and_load(path: Path) -> Any:
    save(path, "in a task")
    return load(path)


@task(trigger=all_finished)
def anyway(x: Any) -> Any:
    return x


@task(trigger=any_failed)
def alert(x: Any) -> str:
    return "alert"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "content"
    found.write_text("old")
    return found


def test_what_is_recorded_after_an_effect_sees_it(run_body: Run, path: Path) -> None:
    def body() -> Any:
        save(path, "new")
        return load(path)

    assert run_body(body) == "new"


def test_effects_run_in_their_order(run_body: Run, path: Path) -> None:
    def body() -> Any:
        for text in "abc":
            save(path, text)
        return load(path)

    assert run_body(body) == "c"


def test_a_map_waits_as_well(run_body: Run, path: Path) -> None:
    def body() -> Any:
        save(path, "new")
        return load.map([path] * 3)

    assert run_body(body) == ["new"] * 3


def test_effects_of_tasks_and_inner_flows(run_body: Run, path: Path) -> None:
    @flow
    def inner() -> None:
        save(path, "in a flow")

    def body() -> Any:
        in_task = save_and_load(path).result()
        inner()
        return in_task, load(path)

    assert run_body(body) == ("in a task", "in a flow")


def test_after_an_effect_that_failed_nothing_runs(backend_name: Any, path: Path) -> None:
    @flow(backend=backend_name)
    def main() -> Any:
        fails()
        return load(path), anyway(1), load(allow_failure(path))

    run = main.run()
    assert run.state == "Failed"
    assert {node.name: str(node.state) for node in run.nodes} == {
        "fails": "Failed",
        "load": "UpstreamFailed",
        "anyway": "Completed",
        "load-1": "UpstreamFailed",
    }
    cause = run.nodes["load"].exception
    assert isinstance(cause, UpstreamFailed)
    assert "fails" in str(cause)


def test_an_effect_that_was_skipped_skips_nothing(run_body: Run, path: Path) -> None:
    def body() -> Any:
        skips()
        return load(path)

    assert run_body(body) == "old"


def test_a_trigger_is_not_asked_about_effects(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def main() -> Any:
        fails()
        return alert(anyway(1))

    run = main.run()
    # That the trigger's task waited for the effect does not hand it the failure.
    assert run.state == "Failed"
    assert run.nodes["alert"].state == "Skipped"


def test_a_failure_that_the_body_caught_stops_nothing(run_body: Run, path: Path) -> None:
    def body() -> Any:
        try:
            fails().result()
        except ValueError:
            pass
        return load(path)

    assert run_body(body) == "old"


# -- order that is asked for ------------------------------------------------------------------------------------


def test_wait_for_takes_values_and_structures_beside_futures(run_body: Run, path: Path) -> None:
    def body() -> Any:
        first, second = save(path, "a"), save.submit(path, "b", wait_for=[1, None])
        third = save(path, "c", wait_for={"both": [first, second], "no": "future"})
        return load(path, wait_for=[third, 3])

    assert run_body(body) == "c"


def test_all_that_an_inner_flow_records_waits_for_what_its_call_waits_for(run_body: Run, path: Path) -> None:
    @flow
    def innermost() -> Any:
        return load(path)

    @flow
    def inner() -> Any:
        return innermost(), load.map([path])

    def body() -> Any:
        written = save(path, "new")
        return inner(wait_for=[written])

    assert run_body(body) == ("new", ["new"])


@pytest.mark.parametrize("is_async", [False, True])
def test_the_values_of_a_body_that_yields_are_the_flows_value(is_async: bool, path: Path) -> None:
    if is_async:

        @flow(backend="inline")
        async def main() -> Any:
            yield load(path)
            yield await load(path)

        assert asyncio.run(main()) == ["old", "old"]
        return

    @flow(backend="inline")
    def inner() -> Any:
        yield load(path)

    @flow(backend="inline")
    def outer() -> Any:
        yield 1
        yield from inner()

    assert outer() == [1, "old"]


def test_a_try_that_cannot_catch_is_told(caplog: pytest.LogCaptureFixture) -> None:
    @flow(backend="inline")
    def main() -> Any:
        try:
            return fails()
        except ValueError:
            return "never"

    run = main.run()
    assert run.state == "Failed"
    assert "cannot catch what fails raises" in caplog.text
    assert any("cannot catch" in line.message for line in run.logs)


def test_a_try_that_asks_for_the_value_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    @flow(backend="inline")
    def main() -> Any:
        try:
            return fails().result()
        except KeyError:
            return "never"

    assert main.run().state == "Failed"
    assert "cannot catch" not in caplog.text


@pytest.mark.parametrize("decorator", [flow, task])
def test_a_name_in_place_of_a_function_is_refused(decorator: Any) -> None:
    with pytest.raises(TaskOptionError, match=r"\(name='etl'\) above a function"):
        decorator("etl")


# -- after a crash ----------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_the_order_and_repeats_no_effect(local_name: str, tally: Any, path: Path) -> None:
    @task
    def write() -> None:
        tally.add("write")
        path.write_text("new")

    @task
    def read() -> str:
        tally.add("read")
        if tally.count("read") == 1:
            raise ValueError("not yet")
        return path.read_text()

    @flow(backend=local_name)
    def main() -> Any:
        write()
        return read()

    run = main.run()
    assert run.state == "Failed"
    assert main.resume(run.id).value == "new"
    assert tally.all() == ["write", "read", "read"]
