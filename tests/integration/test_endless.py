"""What takes all of a map is refused where the map has no last item, and where a loop behind it could not be fed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from graphflow import flatten, flow, task
from graphflow.errors import ForcingError


@task
def twice(x: int) -> int:
    return 2 * x


@task
def pair(x: int) -> list[int]:
    return [x, x]


@task
def total(xs: list[int]) -> int:
    return sum(xs)


def numbers(n: int | None = None) -> Iterator[int]:
    yield from itertools.count() if n is None else range(n)


def first(values: Any) -> Any:
    return next(iter(values)).result()


@pytest.mark.parametrize(
    "read",
    [
        lambda source: first(twice.map(source).filter(lambda x: x > 10)),
        lambda source: first(flatten(pair.map(source))),
        lambda source: first(twice.map(flatten(pair.map(source)))),
        lambda source: first(twice.map(twice.map(source).filter(lambda x: x > 10))),
        lambda source: next(twice.map(flatten(pair.map(source))).as_completed()),
    ],
)
def test_a_loop_behind_filter_or_flatten_over_an_iterator_is_refused(
    local_name: str, read: Callable[[Any], Any]
) -> None:
    seen: list[int] = []

    def source() -> Iterator[int]:
        for n in numbers():
            seen.append(n)
            yield n

    run = flow(backend=local_name)(lambda: read(source())).run()
    assert isinstance(run.exception, ForcingError)
    assert "cannot be read item by item" in str(run.exception)
    assert len(seen) < 1_000


@pytest.mark.parametrize(
    "take",
    [
        total,
        lambda xs: xs.result(),
        lambda xs: xs.filter(lambda x: x > 10),
        lambda xs: flatten(xs),
        lambda xs: total(twice.map(xs)),
    ],
)
@pytest.mark.parametrize(
    "source", [itertools.count, lambda: itertools.cycle([1]), lambda: itertools.repeat(1)]
)
def test_what_takes_all_of_an_endless_map_is_refused(
    take: Callable[[Any], Any], source: Callable[[], Any]
) -> None:
    run = flow(backend="inline")(lambda: take(twice.map(source()))).run()
    assert isinstance(run.exception, ForcingError)
    assert "an iterator without an end" in str(run.exception)


def test_what_ends_is_taken(local_name: str) -> None:
    @flow(backend=local_name)
    def main() -> Any:
        return (
            total(twice.map(numbers(5)).filter(lambda x: x > 2)),
            flatten(pair.map(numbers(2))).result(),
            total(twice.map(itertools.islice(itertools.count(), 3))),
            total(twice.map(itertools.repeat(1, 3))),
            [each.result() for each in twice.map(flatten(pair.map([1, 2])))],
        )

    assert main() == (18, [0, 0, 1, 1], 6, 6, [2, 2, 4, 4])
