"""Triggers and signals: what runs after failures and skips."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import graphflow as gf
from graphflow import Fail, Pause, Retry, Skip, allow_failure, flow, task, task_context
from graphflow.errors import TaskOptionError


@task
def ok(x: Any = 1) -> Any:
    return x


@task
def boom(x: Any = None) -> Any:
    raise ValueError(f"boom {x}")


@task
def skip(x: Any = None) -> Any:
    raise Skip("not today")


@task
def seen(*xs: Any) -> Any:
    return [type(x).__name__ for x in xs]


UPSTREAMS = {"ok": ok, "boom": boom, "skip": skip}


def state_with(backend_name: str, trigger: Any, upstreams: str) -> str:
    @flow(backend=backend_name)
    def body() -> Any:
        return seen.with_options(trigger=trigger)(*[UPSTREAMS[each]() for each in upstreams.split()])

    return str(body.run().nodes["seen"].state)


RAN, SKIPPED, FAILED = "Completed", "Skipped", "UpstreamFailed"


@pytest.mark.parametrize(
    ("trigger", "upstreams", "expected"),
    [
        (gf.all_successful, "ok ok", RAN),
        (gf.all_successful, "ok boom", FAILED),
        (gf.all_successful, "ok skip", SKIPPED),
        (gf.all_successful, "boom skip", FAILED),
        (gf.all_failed, "boom boom", RAN),
        (gf.all_failed, "boom ok", FAILED),
        (gf.all_failed, "ok ok", SKIPPED),
        (gf.any_successful, "boom ok", RAN),
        (gf.any_successful, "boom boom", FAILED),
        (gf.any_failed, "boom ok", RAN),
        (gf.any_failed, "ok ok", SKIPPED),
        (gf.all_finished, "boom skip", RAN),
        (gf.not_all_skipped, "ok skip", RAN),
        (gf.not_all_skipped, "skip skip", SKIPPED),
        (gf.not_all_skipped, "boom ok", FAILED),
        (gf.some_failed(at_least=2), "boom boom ok", RAN),
        (gf.some_failed(at_least=2), "boom ok ok", FAILED),
        (gf.some_failed(at_least=0.5), "boom ok", RAN),
        (gf.some_failed(at_most=0.5), "boom ok", RAN),
        (gf.some_failed(at_most=1), "boom boom", FAILED),
        (gf.some_successful(at_least=0.3, at_most=0.7), "boom ok", RAN),
        (gf.some_successful(at_least=1.0), "ok boom", FAILED),
        (lambda counts: counts["Failed"] == 1 and counts.skipped == 1, "boom skip", RAN),
    ],
)
def test_triggers_decide_from_the_upstream_states(
    backend_name: str, trigger: Any, upstreams: str, expected: str
) -> None:
    assert state_with(backend_name, trigger, upstreams) == expected


def test_a_trigger_that_raises_fails_its_task_with_a_clear_error(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return seen.with_options(trigger=lambda counts: 1 / 0)(ok())

    run = body.run()
    assert run.nodes["seen"].state == "Failed"
    assert "the trigger <lambda> of seen raised an exception" in str(run.exception)


def test_a_task_that_runs_after_failures_gets_the_exceptions(run_body: Any) -> None:
    value = run_body(lambda: seen.with_options(trigger=gf.all_finished)(ok(), boom(), skip(), boom.map([1])))
    assert value == ["int", "ValueError", "NoneType", "list"]


def test_a_mapped_upstream_counts_each_item(run_body: Any) -> None:
    @task
    def odd_fails(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    def body() -> Any:
        mapped = odd_fails.map(range(4))
        return [
            seen.with_options(trigger=gf.some_failed(at_least=2, at_most=2))(mapped),
            seen.with_options(trigger=gf.some_successful(at_least=0.5))(mapped),
            seen.with_options(trigger=gf.any_failed)(wait_for=[mapped]),
        ]

    assert run_body(body) == [["list"], ["list"], []]


def test_a_mapped_task_with_a_trigger_decides_item_by_item(backend_name: str) -> None:
    @task
    def odd_fails(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return seen.with_options(trigger=gf.any_failed).map(odd_fails.map(range(4)))

    run = body.run()
    assert [str(item.state) for item in run.nodes["seen"].items] == [SKIPPED, RAN, SKIPPED, RAN]
    assert run.value == [["ValueError"], ["ValueError"]]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: gf.some_failed(at_least=1.5),
            "a float is a fraction from 0.0 to 1.0 and an int a number of tasks",
        ),
        (lambda: gf.some_failed(at_least=-1), "a float is a fraction"),
        (lambda: gf.some_successful(at_most="x"), r"some_successful\(at_most=...\) takes an int"),
        (lambda: gf.some_failed(at_least=True), "takes an int"),
        (lambda: gf.some_failed(at_least=3, at_most=2), "can never hold: at_least is above at_most"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(make: Any, text: str) -> None:
    with pytest.raises(TaskOptionError, match=text):
        make()


# -- signals -------------------------------------------------------------------------------------------


def test_skip_skips_what_needs_the_value_and_is_no_failure(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        skipped = skip()
        return ok(ok(skipped)), skipped, ok(2, wait_for=[skipped])

    run = body.run()
    assert run.value == (None, None, 2)
    assert [str(node.state) for node in run.nodes] == [SKIPPED, SKIPPED, SKIPPED, RAN]
    item = run.nodes["skip"].items[0]
    assert (item.exception, item.attempts) == (None, 1)
    assert [str(state) for state in item.history] == ["Pending", "Running", "Skipped"]


def test_failure_beats_skip(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return seen(skip(), boom(), skip())

    assert body.run().nodes["seen"].state == FAILED


def test_skipped_items_drop_out_of_gathers_and_skip_their_lanes(backend_name: str) -> None:
    @task
    def evens(x: int) -> int:
        if x % 2:
            raise Skip
        return x

    @task
    def total(xs: list[int]) -> Any:
        return xs

    @flow(backend=backend_name)
    def body() -> Any:
        mapped = evens.map(range(5))
        return total(mapped), ok.map(mapped), mapped, mapped[1]

    run = body.run()
    assert run.value == ([0, 2, 4], [0, 2, 4], [0, 2, 4], None)
    assert dict(run.nodes["ok"].counts) == {"Completed": 3, "Skipped": 2}
    assert run.nodes["evens"].state == "Completed"


def test_a_map_of_which_all_items_were_skipped_is_skipped(backend_name: str) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        return skip.map([1, 2])

    run = body.run()
    assert run.nodes["skip"].state == SKIPPED
    assert run.value == []


def test_fail_ends_an_item_whatever_retries_are_left(backend_name: str) -> None:
    @task(retries=5)
    def give_up() -> None:
        raise Fail("no use")

    @flow(backend=backend_name)
    def body() -> Any:
        return give_up()

    run = body.run()
    assert (run.nodes["give_up"].items[0].attempts, str(run.exception)) == (1, "no use")
    assert isinstance(run.exception, Fail)


@pytest.mark.parametrize("after", [0, 0.02])
def test_retry_tries_again_beyond_the_retries(backend_name: str, after: float) -> None:
    @task
    def later() -> int:
        attempt = task_context().attempt
        if attempt < 4:
            raise Retry("not ready", after_seconds=after)
        return attempt

    @flow(backend=backend_name)
    def body() -> Any:
        return later()

    run = body.run()
    item = run.nodes["later"].items[0]
    assert (run.value, item.attempts) == (4, 4)
    assert [str(state) for state in item.history].count("AwaitingRetry") == 3


def test_a_negative_wait_is_refused() -> None:
    with pytest.raises(TaskOptionError, match="after_seconds must be a number of seconds, 0 or more"):
        Retry(after_seconds=-1)


def test_pause_parks_an_item_until_the_run_is_resumed() -> None:
    may_go = threading.Event()
    paused = threading.Event()

    @task
    def gated(x: int) -> int:
        if x == 1 and not may_go.is_set():
            raise Pause("asking a person")
        return x

    @flow(backend="threads")
    def body() -> Any:
        return ok.map(gated.map(range(3)))

    run = body.start()
    run.subscribe(lambda event: paused.set() if event.kind == "items" else None)
    while run.state != "Running" or not any(
        item.state == "Paused" for node in run.nodes for item in node.items
    ):
        paused.wait(0.01)
        paused.clear()
    item = run.nodes["gated"].items[1]
    assert item.state == "Paused" and not item.state.is_final()
    assert not run.wait(0.01)
    may_go.set()
    run.resume()
    assert run.result(timeout=30) == [0, 1, 2]
    names = [str(state) for state in item.history]
    assert names[:3] == ["Pending", "Running", "Paused"] and names[-1] == "Completed"


def test_a_paused_run_can_be_cancelled() -> None:
    begun = threading.Event()

    @task
    def gated() -> int:
        begun.set()
        raise Pause

    @flow(backend="threads")
    def body() -> Any:
        return gated()

    run = body.start()
    assert begun.wait(30)
    run.cancel(force=True)
    assert run.wait(30)
    assert run.state == "Cancelled"


def test_an_allowed_failure_of_a_map_runs_each_lane(run_body: Any) -> None:
    assert run_body(lambda: seen.map(allow_failure(boom.map([1, 2])), [3, 4])) == [["ValueError", "int"]] * 2
