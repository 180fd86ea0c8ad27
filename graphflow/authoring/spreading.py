"""Helpers for the arguments of maps: `product`, `starmap`, `flatten`, `items` and `rows`."""

from __future__ import annotations

from typing import Any

from graphflow.authoring.futures import Future
from graphflow.errors import TaskOptionError
from graphflow.graph.mapping import (
    SpreadOver,
    classify,
    flattened,
    item_pairs,
    product_of,
    refusal,
    table_rows,
)
from graphflow.graph.recording import Handle, Recorder

__all__ = ["flatten", "items", "product", "rows", "starmap"]


def _recorder_of(*values: Any) -> Recorder | None:
    for value in values:
        if isinstance(value, Handle):
            return value._recorder
        if isinstance(value, list | tuple):
            found = _recorder_of(*value)
            if found is not None:
                return found
    return None


def flatten(values: Any) -> Any:
    """Remove one level of nesting: of a mapped future or a future of lists (as a future), or of plain lists."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.flatten(values))
    if classify(values) == "iterator":
        return (each for part in values for each in part)
    return list(flattened(values))


def items(values: Any) -> Any:
    """Return the (key, value) pairs of a dict, or the sorted elements of a set, to map over; accepts futures too."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.helper("items", values))
    return item_pairs(values)


def rows(values: Any) -> Any:
    """Return the rows of a DataFrame as dicts, to map over; accepts futures too."""
    recorder = _recorder_of(values)
    if recorder is not None:
        return Future(recorder, recorder.helper("rows", values))
    return table_rows(values)


def product(*pools: Any, **named: Any) -> Any:
    """Return the Cartesian product of sequences, to map over: `add.map(product(xs, ys))`.

    The elements are spread over the task's arguments (by name with `product(lr=..., depth=...)`); a task
    that takes one argument gets the tuple. The last sequence varies fastest.
    """
    if not pools and not named:
        raise TaskOptionError("product(...) needs at least one sequence")
    recorder = _recorder_of(*pools, *named.values())
    value: Any = (
        Future(recorder, recorder.product(pools, named))
        if recorder is not None
        else product_of(*pools, **named)
    )
    return SpreadOver(value, arity=len(pools), names=tuple(named), prefers_pair=True)


def starmap(values: Any, arguments: Any = None) -> Any:
    """Spread each element of a sequence over the task's arguments: `add.map(starmap([(1, 2), (3, 4)]))`.

    Tuples are spread by position, mappings by name. `starmap(task, values)` is short for
    `task.map(starmap(values))`.
    """
    if arguments is not None:
        return values.map(starmap(arguments))
    if isinstance(values, SpreadOver):
        return SpreadOver(values.value)
    if not isinstance(values, Handle) and classify(values) == "refused":
        raise TaskOptionError(f"starmap(...): {refusal(values)}")
    return SpreadOver(values)
