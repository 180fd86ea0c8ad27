"""Associative reduces: items are combined where they are, part by part, and the parts at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphflow.errors import GraphflowError
from graphflow.graph.context import task_context

__all__ = ["ABSORBED", "NOT_GIVEN", "Combine", "Fold", "Folded"]


class _NotGiven:
    def __repr__(self) -> str:
        return "NOT_GIVEN"

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


class _Absorbed:
    """In place of an item's value: it went into that of an earlier item."""

    def __repr__(self) -> str:
        return "<combined with an earlier item>"

    def __reduce__(self) -> str:
        return "ABSORBED"


NOT_GIVEN = _NotGiven()
ABSORBED = _Absorbed()


class Folded:
    """The combined value of neighbouring items."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"<combined: {self.value!r}>"


class Fold:
    """The first half of a reduce, a batched task: combines items that are neighbours in the map, in their order."""

    def __init__(self, combine: Callable[[Any, Any], Any]) -> None:
        self._combine = combine

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Return one result per value: `Folded` for the first of each run of neighbours, `ABSORBED` for the others."""
        indices = task_context().map_indices or range(len(values))
        results: list[Any] = [ABSORBED] * len(values)
        combine = self._combine
        first, before = 0, None
        total: Any = None
        for place, (index, value) in enumerate(zip(indices, values, strict=True)):
            if before is not None and index == before + 1:
                total = combine(total, value)
            else:
                if before is not None:
                    results[first] = Folded(total)
                first, total = place, value
            before = index
        if before is not None:
            results[first] = Folded(total)
        return results


class Combine:
    """The second half of a reduce: combines the parts, in the order of the map."""

    def __init__(self, combine: Callable[[Any, Any], Any], initial: Any = NOT_GIVEN) -> None:
        self._combine = combine
        self._initial = initial

    def __call__(self, parts: Sequence[Any]) -> Any:
        """Return the value of the reduce.

        Raises
        ------
        GraphflowError
            If there is nothing to combine, and no initial value.
        """
        total: Any = self._initial
        for part in parts:
            if type(part) is Folded:
                total = part.value if total is NOT_GIVEN else self._combine(total, part.value)
        if total is NOT_GIVEN:
            raise GraphflowError(
                "reduce(...) of a map without any values has no result; pass initial=..., such as 0 for a sum"
            )
        return total
