"""Values that nobody else changes: items of generators that refill one object, and copies of containers."""

from __future__ import annotations

import array
import collections
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from graphflow.errors import GraphflowError
from graphflow.graph.owning import Taker, copied, is_mutable, listed


@dataclass
class Record:
    x: Any


class Pair(NamedTuple):
    x: Any
    y: Any


class Plain:
    x = 0


def fill(target: Any, number: int) -> None:
    if isinstance(target, Record | Plain):
        target.x = number
    elif isinstance(target, tuple):
        fill(target[-1], number)
    elif isinstance(target, dict):
        target["x"] = number
    elif isinstance(target, set):
        target.clear()
        target.add(number)
    elif isinstance(target, pd.DataFrame):
        target.iloc[0, 0] = number
    elif isinstance(target[0], list):
        target[0][0] = number
    else:
        target[0] = number


BUFFERS: dict[str, Callable[[], Any]] = {
    "list": lambda: [0],
    "dict": lambda: {"x": 0},
    "set": lambda: {0},
    "ordered": lambda: collections.OrderedDict(x=0),
    "counter": lambda: collections.Counter(x=0),
    "deque": lambda: collections.deque([0]),
    "bytearray": lambda: bytearray(1),
    "array": lambda: array.array("i", [0]),
    "memoryview": lambda: memoryview(bytearray(1)),
    "numpy": lambda: np.zeros(1),
    "frame": lambda: pd.DataFrame({"x": [0]}),
    "nested list": lambda: [[0]],
    "in a tuple": lambda: (1, [0]),
    "named tuple": lambda: Pair(1, {"x": 0}),
    "dataclass": lambda: Record(0),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_items_of_one_object_that_is_filled_again_are_as_they_were(kind: str) -> None:
    def refilled() -> Iterator[Any]:
        buffer = BUFFERS[kind]()
        for number in range(4):
            fill(buffer, number)
            yield buffer

    wanted = []
    for each in refilled():
        wanted.append(repr(each.tolist() if isinstance(each, memoryview) else each))
    found = listed(refilled())
    assert [repr(each.tolist() if isinstance(each, memoryview) else each) for each in found] == wanted
    assert {type(each) for each in found} == {type(BUFFERS[kind]())}


def test_views_of_a_buffer_and_an_object_within_new_ones_are_as_they_were() -> None:
    def views() -> Iterator[Any]:
        buffer = np.zeros(3)
        for number in range(3):
            buffer[:] = number
            yield buffer[:2]

    def wrapped() -> Iterator[Any]:
        buffer = [0]
        for number in range(3):
            buffer[0] = number
            yield {"in": (number, buffer)}

    assert [each.tolist() for each in listed(views())] == [[0, 0], [1, 1], [2, 2]]
    assert listed(wrapped()) == [{"in": (n, [n])} for n in range(3)]


def test_what_nobody_else_refers_to_is_not_copied() -> None:
    seen: list[int] = []

    class Told(list[Any]):
        pass

    def fresh() -> Iterator[Any]:
        for number in range(3):
            yield [number, {"a": [number]}, (number, [number]), np.zeros(2)]

    source, taker = fresh(), Taker()
    while True:
        try:
            value = next(source)
        except StopIteration:
            break
        seen.append(taker.take(value, 1) is value)
        del value
    assert seen == [True] * 3
    plain = Told([1])
    assert Taker().take(plain) is plain


def test_an_object_of_another_type_that_is_changed_and_yielded_again_is_refused() -> None:
    def refilled() -> Iterator[Any]:
        record = Plain()
        for number in range(3):
            record.x = number
            yield record

    def repeated() -> Iterator[Any]:
        record = Plain()
        record.x = 1
        for _ in range(3):
            yield record

    with pytest.raises(GraphflowError, match="yielded one Plain object again after it had changed its 'x'"):
        listed(refilled())
    one, two, three = listed(repeated())
    assert one is two is three


def test_a_copy_shares_nothing_that_can_be_changed_but_objects() -> None:
    leaf, shared = Plain(), [1]
    value = {
        "a": [leaf, shared, shared],
        "t": (1, [2]),
        "p": Pair(1, {2}),
        "d": collections.deque([[1]], maxlen=3),
    }
    before = copy.deepcopy([value["a"][1], value["t"], value["p"], value["d"]])
    made = copied(value)
    assert made == value and made["a"][0] is leaf and made["a"][1] is made["a"][2]
    assert type(made["p"]) is Pair and made["d"].maxlen == 3
    made["a"][1].append(2)
    made["t"][1].append(3)
    made["p"].y.add(3)
    made["d"][0].append(2)
    assert [value["a"][1], value["t"], value["p"], value["d"]] == before
    circle: list[Any] = [[1]]
    circle.append(circle)
    again = copied(circle)
    assert again[1] is again and again[0] is not circle[0]


def test_what_cannot_be_changed_is_not_copied() -> None:
    for value in (1, "a", (1, (2, "x")), frozenset({1}), Plain(), range(3), None, Pair(1, 2)):
        assert copied(value) is value and not is_mutable(value)
    for value in ([], {}, (1, []), bytearray(1), Pair(1, [])):
        assert is_mutable(value)
