"""Columns of this process on their way to another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from graphflow.backends.moving import Carrier, can_travel
from graphflow.errors import SerializationError
from graphflow.model.orders import BatchOrder, Column, Elements, Gathered, Given, Ref, Whole
from graphflow.runner.columns import load_column


def local(values: list[Any]) -> Ref:
    return Ref(kind="local", id="", count=len(values), data=values)


def order(*inputs: Any) -> BatchOrder:
    return BatchOrder(
        id=1, run_id="r", steps=(), indices=range(1), width=1, inputs=inputs, slice_seconds=None
    )


def test_each_column_is_encoded_once_and_reads_as_it_was(tmp_path: Path) -> None:
    carrier = Carrier(lambda: tmp_path)
    small, large = local([1, 2]), local([bytes(100_000)])
    first = carrier.order(order(Whole(small, 1), Elements(small, 0), Column(((small, (0,)), (large, (0,))))))
    second = carrier.order(order(Gathered("g", ((large, (0,)),)), Given(7)))
    whole, elements, column = first.inputs
    assert whole.ref is elements.ref is column.parts[0][0]  # type: ignore[union-attr]
    gathered, given = second.inputs
    assert gathered.parts[0][0] is column.parts[1][0]  # type: ignore[union-attr]
    assert given == Given(7)
    assert (whole.ref.kind, column.parts[1][0].kind) == ("inline", "file")  # type: ignore[union-attr]
    assert load_column(whole.ref, "a value") == [1, 2]  # type: ignore[union-attr]
    assert load_column(column.parts[1][0], "a value") == [bytes(100_000)]  # type: ignore[union-attr]
    assert len(list(tmp_path.iterdir())) == 1


def test_columns_of_other_processes_pass_as_they_are() -> None:
    ref = Ref(kind="file", id="x", count=1, path="/somewhere")
    given = order(Whole(ref, 0), Column(((ref, (0,)),)))
    assert Carrier(lambda: None).order(given).inputs == given.inputs


def test_a_value_that_cannot_be_pickled_is_named_each_time() -> None:
    carrier = Carrier(lambda: None)
    ref = local([1, threading.Lock()])
    for _ in range(2):
        with pytest.raises(SerializationError, match="a lock cannot be sent"):
            carrier.order(order(Whole(ref, 0)))


def test_a_sample_tells_whether_results_can_travel() -> None:
    assert can_travel([]) is None
    assert can_travel([1, "two", [3.0]]) is None
    assert can_travel([1] * 100 + [threading.Lock()]) is not None
    # Of something large, only the beginning is looked at.
    assert can_travel([bytes(64 << 20), threading.Lock()]) is None
