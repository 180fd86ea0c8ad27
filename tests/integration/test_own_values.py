"""What a task is given is its own: generators that refill one object, constants and items that tasks change."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphflow import flow, task


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
