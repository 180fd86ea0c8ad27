"""What a task is given is its own: generators that refill one object, constants and items that tasks change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphflow import flow, task, task_context, unmapped


@task
def first(row: Any) -> int:
    return int(row["x"] if isinstance(row, dict) else row[0])


def refilled(kind: str, count: int) -> Any:
    row: Any = {"list": [0], "dict": {"x": 0}, "array": np.zeros(1, int), "bytes": bytearray(1)}[kind]
    for number in range(count):
        row["x" if kind == "dict" else 0] = number
        yield row


async def refilled_later(kind: str, count: int) -> Any:
    for row in refilled(kind, count):
        yield row


@task
def returned(kind: str) -> Any:
    return refilled(kind, 20)


@task(batched=True)
def batched(numbers: list[int]) -> Any:
    row = [0]
    for number in numbers:
        row[0] = number
        yield row


def test_a_generator_may_refill_one_object(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        kinds = ["list", "dict", "array", "bytes"]
        return (
            [first.map(refilled(kind, 200)) for kind in kinds],
            [first.map(refilled_later(kind, 50)) for kind in kinds],
            [first.map(returned(kind)) for kind in kinds],
            batched.map(range(20)),
        )

    sync, later, from_task, many = body()
    assert sync == [list(range(200))] * 4 and later == [list(range(50))] * 4
    assert from_task == [list(range(20))] * 4 and many == [[n] for n in range(20)]


@task
def add(x: int, box: Any) -> Any:
    box["seen"] = box.get("seen", 0) + 1
    box["all"].append(x)
    return box["seen"], box["all"]


@task
def rows() -> Any:
    return [[1], [2]]


@task
def spoil(row: Any) -> int:
    row.append(9)
    return sum(row)


@task
def keep(row: Any) -> int:
    return sum(row)


@task
def made(x: int) -> Any:
    return [x]


@task
def total(rows: Any, first: Any = None) -> int:
    count = sum(map(sum, rows))
    rows.clear()
    return count


@task
async def add_later(x: int, box: Any) -> Any:
    return add.fn(x, box)


@task(retries=2)
def again(row: Any) -> Any:
    row.append(1)
    if len(row) > 2 or task_context().attempt < 3:
        raise ValueError(f"{row}")
    return row


@task(batched=True)
def many(numbers: list[Any], box: Any) -> Any:
    box["seen"] += 1
    return [(each.append(0), len(each), box["seen"])[1:] for each in numbers]


def test_each_item_sees_its_arguments_as_they_were_given(backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        box = {"all": []}
        large = {"all": [], **{str(number): [number] for number in range(300)}}
        data = rows()
        spoiled = spoil.map(data)
        one = made.map([1, 2])
        changed = spoil.map(one)
        return {
            "constant": add.map(range(40), unmapped(box)),
            "later": add_later.map(range(3), unmapped(box)),
            "large": add.map(range(40), unmapped(large)),
            "list": spoil.map([[1]] * 40),
            "fork": (spoiled, keep.map(data, wait_for=[spoiled])),
            "lane": (changed, keep.map(one, wait_for=[changed]), one),
            "whole": [total(one), total(one, wait_for=[changed]), total([[1]])],
            "again": again.map([[], []]),
            "many": many.map([[1], [2], [3]], unmapped({"seen": 0})),
            "plain": [add(1, box), add(2, box)],
        }

    value = body()
    assert value["constant"] == [(1, [x]) for x in range(40)] == value["large"]
    assert value["later"] == [(1, [x]) for x in range(3)] and value["plain"] == [(1, [1]), (1, [2])]
    assert value["list"] == [10] * 40 and value["fork"] == ([10, 11], [1, 2])
    assert value["lane"] == ([10, 11], [1, 2], [[1], [2]]) and value["whole"] == [3, 3, 1]
    assert value["again"] == [[1], [1]] and value["many"] == [(2, 1)] * 3


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_make_no_difference_to_what_items_see(batch_size: int, backend_name: Any) -> None:
    @flow(backend=backend_name)
    def body() -> Any:
        large = {"all": [], **{str(number): number for number in range(300)}}
        sized = add.with_options(batch_size=batch_size)
        return sized.map(range(20), unmapped(large)), sized.map(range(20), unmapped({"all": []}))

    assert body() == ([(1, [x]) for x in range(20)],) * 2


class Settings:
    def __init__(self) -> None:
        self.seen = 0


@task
def change(x: int, thing: Any) -> None:
    if isinstance(thing, Settings):
        thing.seen += 1
    elif isinstance(thing, np.ndarray):
        thing += 1
    elif x > 20:
        thing["new"] = x


@pytest.mark.parametrize(
    "thing",
    [Settings(), np.zeros(100), {number: number for number in range(300)}],
    ids=["object", "array", "dict"],
)
def test_a_change_of_what_is_shared_is_logged(thing: Any, caplog: pytest.LogCaptureFixture) -> None:
    @flow(backend="inline")
    def body() -> Any:
        return change.map(range(40), unmapped(thing))

    body()
    (line,) = (each.message for each in caplog.records if each.name == "graphflow.runner")
    assert line.startswith("change changed its argument 'thing', which its items share")


def test_a_large_constant_is_shared_while_nothing_changes_it(caplog: pytest.LogCaptureFixture) -> None:
    seen: set[int] = set()

    @task
    def look(x: int, table: Any) -> int:
        seen.add(id(table))
        return int(table[x])

    @flow(backend="inline")
    def body() -> Any:
        table = {number: 2 * number for number in range(1_000)}
        return look.with_options(batch_size=10).map(range(200), unmapped(table))

    assert body() == [2 * x for x in range(200)]
    assert len(seen) <= 5 and not [each for each in caplog.records if each.name == "graphflow.runner"]
