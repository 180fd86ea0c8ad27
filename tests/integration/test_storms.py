"""Storms of failures: each item is accounted for, and nothing is kept per item that need not be."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable
from typing import Any

import pytest

from graphflow import flow, task, task_context
from graphflow.errors import MapFailed, RemoteError, UpstreamFailed
from graphflow.runs.nodes import Item


class Coded(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Unpicklable(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.handle = (each for each in ())


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task
def alike(x: int) -> int:
    raise ValueError("bad item")


@task
def apart(x: int) -> int:
    raise ValueError(f"bad item {x}")


@task
def coded(x: int) -> int:
    raise Coded(f"code {x}", x)


@task
def missing_file(x: int) -> int:
    raise FileNotFoundError(2, "No such file or directory", f"/nowhere/{x}")


@task
def unpicklable(x: int) -> int:
    raise Unpicklable(f"odd {x}")


@task
def huge(x: int) -> int:
    raise ValueError(f"{x}:" + "x" * 100_000)


@task
def mute(x: int) -> int:
    raise Mute


@task
def chained(x: int) -> int:
    try:
        int(f"no number {x}")
    except ValueError as error:
        raise LookupError(f"cannot read {x}") from error
    return x


def stormed(body: Any, backend: Any, count: int) -> Any:
    @flow(backend=backend)
    def storm() -> None:
        body.map(range(count))

    run = storm.run()
    return run, run.nodes[body.name]


COUNT = 3_000


def test_equal_failures_are_one_exception_with_a_count_and_a_range(backend_name: Any) -> None:
    run, node = stormed(alike, backend_name, COUNT)
    assert run.state == "Failed" and node.counts == {"Failed": COUNT}
    (error,) = node.errors
    assert (error.type_name, error.message, error.count) == ("ValueError", "bad item", COUNT)
    assert error.indices == [range(COUNT)] and node.errors.left_out == 0
    assert "in alike" in error.traceback and "graphflow/runner" not in error.traceback
    assert isinstance(run.exception, MapFailed)
    assert (run.exception.failed, run.exception.width) == (COUNT, COUNT)
    assert len(run.exception.exceptions) == 1 and len(run.exception.indices) == 100


def test_each_failure_keeps_its_own_text(backend_name: Any) -> None:
    _, node = stormed(apart, backend_name, COUNT)
    failures = node.failures()
    for index in (0, 1, 99, 1_500, COUNT - 1):
        failure = failures[index]
        assert type(failure.exception) is ValueError and str(failure.exception) == f"bad item {index}"
        assert failure.traceback.rstrip().endswith(f"ValueError: bad item {index}")
        assert (failure.index, failure.label, failure.attempts) == (index, f"apart[{index}]", 1)
        assert failure.inputs == f"x={index}" and failure.state == "Failed"
    assert len(node.errors) == 1_000 and node.errors.left_out == COUNT - 1_000
    assert node.errors[0].count == 1
    assert len(node.exception.exceptions) == 100
    assert str(node.exception).startswith(
        f"{COUNT} of {COUNT} items of apart failed (first: apart[0], apart[1]"
    )


def test_failures_are_paged_through_without_being_made(backend_name: Any) -> None:
    @task
    def odd_fails(x: int) -> int:
        if x % 2:
            raise ValueError("odd")
        return x

    _, node = stormed(odd_fails, backend_name, COUNT)
    failures = node.failures()
    assert len(failures) == COUNT // 2
    assert [each.index for each in failures[10:13]] == [21, 23, 25]
    assert failures[-1].index == COUNT - 1 and failures[700].index == 1_401
    assert [each.index for each in failures[::500]] == [1, 1_001, 2_001]
    assert [each.index for each in failures] == list(range(1, COUNT, 2))
    assert [each.index for each in failures.where(index=7)] == [7]
    with pytest.raises(IndexError):
        failures[COUNT]
    assert failures.where(index=8) == [] and failures.where(index=COUNT) == []
    assert [each.index for each in failures.where(index=(5, 6, 7), start=6)] == [7]
    assert [each.index for each in failures.where(states="Failed", start=3, stop=8)] == [3, 5, 7]
    assert len(repr(failures)) < 400
    (error,) = node.errors
    assert error.count == COUNT // 2 and len(error.indices) == COUNT // 2 and len(repr(error)) < 200


def test_exceptions_with_plain_attributes_come_back_whole(backend_name: Any) -> None:
    _, node = stormed(coded, backend_name, 500)
    for index in (0, 250, 499):
        error = node.failures()[index].exception
        assert type(error).__name__ == "Coded" and str(error) == f"code {index}"
        assert error.code == index  # type: ignore[attr-defined]


def test_exceptions_made_of_several_arguments_come_back_whole(backend_name: Any) -> None:
    _, node = stormed(missing_file, backend_name, 500)
    error = node.failures()[499].exception
    assert isinstance(error, FileNotFoundError) and error.filename == "/nowhere/499" and error.errno == 2


def test_exceptions_that_cannot_be_carried_are_told_by_their_text(backend_name: Any) -> None:
    _, node = stormed(unpicklable, backend_name, 500)
    for index in (0, 50, 499):
        error = node.failures()[index].exception
        assert f"odd {index}" in str(error)
        assert isinstance(error, RemoteError | Unpicklable)


def test_huge_texts_are_cut_and_told_apart(backend_name: Any) -> None:
    _, node = stormed(huge, backend_name, 300)
    assert "299:xxx" in str(node.failures()[299].exception)
    assert len(node.errors) == 300
    assert all(len(each.message) < 2_100 and len(each.traceback) < 7_000 for each in node.errors)


def test_exceptions_that_cannot_be_shown_are_shown_all_the_same(backend_name: Any) -> None:
    run, node = stormed(mute, backend_name, 300)
    assert "cannot be shown" in str(node.failures()[299].exception)
    (error,) = node.errors
    assert error.count == 300 and error.type_name.endswith("Mute")
    assert "300 of 300" in str(run.exception) and "cannot be shown" in str(node.items[0].state.message)


def test_the_chain_of_an_exception_is_in_its_traceback(backend_name: Any) -> None:
    _, node = stormed(chained, backend_name, 300)
    text = node.failures()[0].traceback
    assert "invalid literal for int()" in text and "direct cause" in text and "LookupError" in text
    last = node.failures()[299]
    assert isinstance(last.exception, LookupError) and last.traceback.rstrip().endswith("cannot read 299")


def test_failures_of_several_batches_and_kinds_add_up(backend_name: Any) -> None:
    @task(batch_size=7)
    def mixed(x: int) -> int:
        if x % 3 == 0:
            raise ValueError("three")
        if x % 3 == 1:
            raise KeyError("one")
        return x

    _, node = stormed(mixed, backend_name, 100)
    assert [(each.type_name, each.count) for each in node.errors] == [("ValueError", 34), ("KeyError", 33)]
    assert node.errors[0].indices == [range(i, i + 1) for i in range(0, 100, 3)]


def test_items_after_a_failure_name_its_text(backend_name: Any) -> None:
    @task
    def after(x: int) -> int:
        return x

    def chain(priority: int) -> Any:
        @flow(backend=backend_name)
        def body() -> None:
            after.with_options(priority=priority).map(apart.map(range(500)))

        return body.run()

    for priority in (0, 1):
        node = chain(priority).nodes["after"]
        assert node.counts == {"UpstreamFailed": 500}
        failure = node.failures()[400]
        assert isinstance(failure.exception, UpstreamFailed) and "bad item 400" in str(failure.exception)
        assert failure.attempts == 0 and failure.inputs == "" and len(node.errors) == 0
        assert len(node.exception.exceptions) == 100


def test_inputs_are_made_again_for_failures_beyond_the_first(backend_name: Any) -> None:
    @task
    def made(x: int) -> str:
        return f"value {x}"

    @task
    def refuses(text: str, why: str) -> str:
        raise ValueError("no")

    @flow(backend=backend_name)
    def body() -> None:
        refuses.map(made.map(range(400)), "because")

    failures = body.run().nodes["refuses"].failures()
    assert failures[0].inputs == "text='value 0', why='because'"
    assert failures[399].inputs == "text='value 399', why='because'"


def test_inputs_that_are_gone_are_empty(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> None:
        alike.with_options(batch_size=200).map(x for x in range(400))

    failures = body.run().nodes["alike"].failures()
    assert failures[0].inputs == "x=0"
    assert all(each.inputs in ("", f"x={each.index}") for each in failures)


@pytest.mark.parametrize("delay", [0, 0.01])
def test_a_storm_of_retries_is_accounted_for_item_by_item(backend_name: Any, delay: float) -> None:
    @task(retries=2, retry_delay_seconds=delay)
    def flaky(x: int) -> int:
        if task_context().attempt <= 1 + (x % 50 == 0):
            raise ValueError(f"attempt {task_context().attempt} of {x}")
        return x

    @flow(backend=backend_name)
    def body() -> Any:
        return flaky.map(range(COUNT))

    run = body.run()
    assert run.value == list(range(COUNT))
    node = run.nodes["flaky"]
    assert node.retries == COUNT + COUNT // 50 and len(node.failures()) == 0 and len(node.errors) == 0
    for index in (0, 1, 50, COUNT - 1):
        item = node.items[index]
        assert item.attempts == 2 + (index % 50 == 0)
        told = [each.message for each in item.history if each.name == "AwaitingRetry"]
        assert told == [f"ValueError: attempt {k + 1} of {index}" for k in range(item.attempts - 1)]


def test_items_that_fail_after_retries_keep_the_last_error(backend_name: Any) -> None:
    @task(retries=1)
    def hopeless(x: int) -> int:
        raise ValueError(f"attempt {task_context().attempt}")

    _, node = stormed(hopeless, backend_name, 500)
    assert str(node.failures()[499].exception) == "attempt 2" and node.failures()[499].attempts == 2
    (error,) = node.errors
    assert error.message == "attempt 2" and error.indices == [range(500)]


def test_a_storm_keeps_few_exceptions_and_frames_alive(local_name: str) -> None:
    def alive() -> tuple[int, int]:
        gc.collect()
        objects = gc.get_objects()
        frames = sum(isinstance(each, types.FrameType) for each in objects)
        return sum(type(each) is Marked for each in objects), frames

    class Marked(Exception):
        pass

    @task
    def marked(x: int) -> int:
        raise Marked(f"bad item {x}")

    before = alive()
    _, node = stormed(marked, local_name, 20_000)
    assert len(node.failures()) == 20_000 and str(node.failures()[15_000].exception) == "bad item 15000"
    after = alive()
    batches = 80
    assert after[0] - before[0] <= 10 * batches and after[1] - before[1] <= 12 * batches


def test_a_storm_does_not_keep_its_batches_alive(local_name: str) -> None:
    from graphflow.runner.batch import Batch

    run, _ = stormed(apart.with_options(batch_size=100), local_name, 5_000)
    gc.collect()
    # Of fifty: each thread may still be on its way out of its last one, with the one that it took before.
    alive = [each for each in gc.get_objects() if type(each) is Batch and each.order.run_id == run.id]
    assert len(alive) <= 6
    assert run.state == "Failed"


def test_whoever_asks_a_future_for_failures_has_handled_them(
    run_body: Callable[[Callable[[], Any]], Any],
) -> None:
    def body() -> Any:
        failures = apart.map(range(200)).failures()
        assert all(isinstance(each, Item) for each in failures[:3])
        return (
            len(failures),
            str(failures[-1].exception),
            [f.index for f in apart.map([7])[0].failures()],
        )

    assert run_body(body) == (200, "bad item 199", [0])
