"""Batched tasks: one call for many items, the books of each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from graphflow import Fail, Retry, Skip, task_context
from graphflow.errors import BatchedResultError
from graphflow.graph.mapping import FailedInput, ProductSequence
from graphflow.model.orders import BatchOrder, Given, Hole, Literals, Spread, StepOrder
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.runner import chunks
from graphflow.testing.contracts.backends import program
from graphflow.testing.faults.hosts import RecordingHost, order_of

SECONDS = 30.0


def batched(fn: Callable[..., Any], values: Any, **options: Any) -> BatchOrder:
    return order_of(program(fn, batched=True, **options), Literals(values), size=len(values))


def run(order: BatchOrder) -> Report:
    host = RecordingHost()
    host.takes_progress = False
    report = host.run(order)
    assert report is not None
    return report


def values_of(report: Report) -> list[Any]:
    ref = report.steps[0].values
    assert ref is not None
    values: list[Any] = ref.data
    return values


def names_of(report: Report) -> list[str]:
    return [Code(code).name for code in report.steps[0].states]


def errors_of(report: Report) -> list[BaseException | None]:
    return [record.exception for record in report.errors]


def test_one_call_gives_all_results() -> None:
    calls = []

    def work(xs: list[int]) -> list[int]:
        calls.append((xs, task_context().map_index, list(task_context().map_indices), task_context().attempt))
        return [10 * x for x in xs]

    report = run(batched(work, [1, 2, 3]))
    assert calls == [([1, 2, 3], None, [0, 1, 2], 1)]
    assert values_of(report) == [10, 20, 30]
    assert names_of(report) == ["COMPLETED"] * 3
    assert report.steps[0].attempts == b"\x01\x01\x01"
    assert len(set(report.steps[0].durations)) == 1


@pytest.mark.parametrize(
    "shape",
    [list, tuple, iter, np.array, lambda rs: (r for r in rs), lambda rs: dict.fromkeys(rs).keys()],
    ids=["list", "tuple", "iterator", "array", "generator", "keys"],
)
def test_results_come_in_any_sequence(shape: Any) -> None:
    assert values_of(run(batched(lambda xs: shape([10 * x for x in xs]), [1, 2, 3]))) == [10, 20, 30]


def test_generator_and_async_functions_are_batched_too() -> None:
    def yields(xs: list[int]) -> Iterator[int]:
        for x in xs:
            yield 10 * x

    async def awaits(xs: list[int]) -> list[int]:
        return [10 * x for x in xs]

    async def ayields(xs: list[int]) -> Any:
        for x in xs:
            yield 10 * x

    for fn in (yields, awaits, ayields):
        assert values_of(run(batched(fn, [1, 2, 3]))) == [10, 20, 30]


def test_a_mapped_array_arrives_as_an_array_and_all_else_as_a_list() -> None:
    kinds = []

    def work(xs: Any) -> Any:
        kinds.append(type(xs))
        return xs

    for values in (np.arange(3), range(3), (0, 1, 2), ProductSequence([range(3)])):
        run(batched(work, values))
    assert kinds == [np.ndarray, list, list, list]


def test_an_array_that_a_task_changes_is_its_own() -> None:
    source = np.arange(4)

    def work(xs: Any) -> Any:
        xs *= 10
        if len(xs) > 1:
            raise ValueError
        return xs

    assert values_of(run(batched(work, source))) == [0, 10, 20, 30]
    assert list(source) == [0, 1, 2, 3]


def test_constants_stay_as_they_are_and_spread_inputs_become_a_list_each() -> None:
    given = []

    def work(*args: Any, **kwargs: Any) -> list[int]:
        given.append((args, kwargs))
        return [0, 0]

    constant = [1, 2]
    order = order_of(
        [
            StepOrder(
                node=0,
                program=program(work, Hole(0), Spread(1), constant, Spread(2), batched=True),
                slots=(0, 1, 2),
            )
        ],
        Given("c"),
        Literals([(1, 2), (3, 4)]),
        Literals([{"k": 5}, {"k": 6}]),
        size=2,
    )
    run(order)
    assert given == [(("c", [1, 3], [2, 4], constant), {"k": [5, 6]})]
    assert given[0][0][3] is not constant  # a list is the call's own


# -- results that cannot be told apart by item ----------------------------------------------------------------


@pytest.mark.parametrize(
    "returned, found",
    [
        ([1, 2], "was given 3 items and returned 2 results"),
        ([1, 2, 3, 4], "was given 3 items and returned 4 results"),
        (itertools.count(), "was given 3 items and returned more than 3 results"),
        (None, "was given 3 items and returned None"),
        ({1: 1}, "was given 3 items and returned a dict"),
        ("abc", "was given 3 items and returned a str"),
    ],
)
def test_a_wrong_result_fails_all_items_of_the_call_without_another(returned: Any, found: str) -> None:
    calls = []

    def work(xs: list[int]) -> Any:
        calls.append(xs)
        return returned

    report = run(batched(work, [1, 2, 3], retries=3))
    assert len(calls) == 1
    assert names_of(report) == ["FAILED"] * 3
    assert report.steps[0].attempts == b"\x01\x01\x01"
    (error,) = errors_of(report)
    assert isinstance(error, BatchedResultError)
    assert str(error).startswith(f"batched task 'work' {found}")


def test_coroutines_are_refused() -> None:
    async def other() -> None: ...

    for fn in (lambda xs: [other() for _ in xs], lambda xs: other()):
        report = run(batched(fn, [1, 2]))
        assert names_of(report) == ["FAILED"] * 2
        assert "async def" in str(errors_of(report)[0])


def test_iterators_among_the_results_become_lists() -> None:
    assert values_of(run(batched(lambda xs: [iter([x]) for x in xs], [1, 2]))) == [[1], [2]]


# -- halving --------------------------------------------------------------------------------------------------


def test_a_call_that_raises_is_halved_down_to_the_items_that_fail() -> None:
    calls: list[list[int]] = []

    def work(xs: list[int]) -> list[int]:
        calls.append(xs)
        if 5 in xs:
            raise ValueError(f"one of {xs}")
        return xs

    report = run(batched(work, list(range(8))))
    assert names_of(report) == [*["COMPLETED"] * 5, "FAILED", *["COMPLETED"] * 2]
    assert calls == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]
    assert report.steps[0].attempts == b"\x01" * 8
    assert [str(each) for each in errors_of(report)] == ["one of [5]"]
    assert list(report.steps[0].faults.positions) == [5]


@pytest.mark.parametrize("bad", [set(), {0}, {7}, {0, 3, 4}, set(range(11))])
def test_exactly_the_bad_items_fail(bad: set[int]) -> None:
    def work(xs: list[int]) -> list[int]:
        if bad.intersection(xs):
            raise ValueError
        return [10 * x for x in xs]

    report = run(batched(work, list(range(11))))
    assert {i for i, name in enumerate(names_of(report)) if name == "FAILED"} == bad
    assert values_of(report) == [None if i in bad else 10 * i for i in range(11)]


def test_a_generator_that_raises_midway_is_halved() -> None:
    def work(xs: list[int]) -> Iterator[int]:
        for x in xs:
            if x == 2:
                raise ValueError
            yield x

    assert names_of(run(batched(work, [1, 2, 3]))) == ["COMPLETED", "FAILED", "COMPLETED"]


def test_signals_are_halved_down_to_the_items_that_they_are_for() -> None:
    def work(xs: list[int]) -> list[int]:
        for x, signal in ((1, Skip()), (2, Fail()), (3, Retry(after_seconds=7))):
            if x in xs:
                raise signal
        return xs

    report = run(batched(work, list(range(5)), retries=2))
    assert names_of(report) == ["COMPLETED", "SKIPPED", "FAILED", "AWAITING_RETRY", "COMPLETED"]
    assert report.steps[0].attempts == b"\x01" * 5


def test_attempts_are_the_calls_that_decided_an_item() -> None:
    failures = {2: 2, 3: 9}

    def work(xs: list[int]) -> list[int]:
        for x in xs:
            if failures.get(x, 0) > 0:
                if len(xs) == 1:
                    failures[x] -= 1
                raise OSError
        return xs

    report = run(batched(work, list(range(5)), retries=2))
    assert list(report.steps[0].attempts) == [1, 1, 3, 3, 1]
    assert names_of(report) == ["COMPLETED"] * 3 + ["FAILED", "COMPLETED"]


def test_items_of_a_later_attempt_go_on_counting() -> None:
    attempts = []

    def work(xs: list[int]) -> list[int]:
        attempts.append((xs, task_context().attempt))
        return xs

    step = StepOrder(
        node=0, program=program(work, batched=True, retries=5), slots=(0,), tries=bytes([2, 0, 1])
    )
    report = run(order_of([step], Literals([1, 2, 3]), size=3, indices=[4, 7, 9]))
    assert attempts == [([1, 2, 3], 3)]
    assert list(report.steps[0].attempts) == [3, 1, 2]


def test_items_whose_input_failed_are_left_out_of_the_call() -> None:
    calls = []

    def work(xs: list[int]) -> list[int]:
        calls.append(xs)
        return xs

    report = run(batched(work, [1, FailedInput(ValueError("x"), "up[1]"), 3]))
    assert calls == [[1, 3]]
    assert names_of(report) == ["COMPLETED", "UPSTREAM_FAILED", "COMPLETED"]


def test_labels_are_made_per_item() -> None:
    report = run(batched(lambda xs: xs, ["a", "b"], task_run_name="{map_index}-{xs}"))
    assert report.steps[0].labels is not None and report.steps[0].labels.data == ["0-a", "1-b"]


# -- how many items a call takes --------------------------------------------------------------------------------


def test_a_fixed_batch_is_one_call() -> None:
    sizes = []

    def work(xs: list[int]) -> list[int]:
        sizes.append(len(xs))
        return xs

    run(batched(work, range(5_000)))
    assert sizes == [5_000]


def test_a_slice_begins_with_a_moderate_call() -> None:
    sizes = []

    def work(xs: list[int]) -> list[int]:
        sizes.append(len(xs))
        return xs

    order = order_of(program(work, batched=True), Literals(range(5_000)), size=5_000, slice_seconds=SECONDS)
    assert run(order).reached == 5_000
    assert sizes[0] == chunks.FIRST_CHUNK and sum(sizes) == 5_000 and len(sizes) == 2


def test_a_call_that_takes_longer_than_its_slice_holds_only_its_own_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "FIRST_CHUNK", 3)
    told = threading.Event()
    host = RecordingHost(lambda report: told.set())

    def work(xs: list[int]) -> list[int]:
        assert told.wait(SECONDS)
        return xs

    order = order_of(program(work, batched=True), Literals(range(8)), size=8, slice_seconds=0.02)
    last = host.run(order)
    assert last is not None
    assert (host.told[0].reached, list(host.told[0].held)) == (0, [0, 1, 2])
    assert last.reached == 3 and values_of(last) == [0, 1, 2]
