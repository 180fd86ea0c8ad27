"""The inputs of a batch, made ready: each slot becomes a constant or a list with one entry per position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from graphflow.errors import ResultDamaged, ValueUnavailable
from graphflow.graph.folding import Folded
from graphflow.graph.mapping import FailedInput, PartialList, elements_of, is_indexed, snapshot
from graphflow.graph.owning import PLAIN, copied
from graphflow.graph.structured import rebuilt
from graphflow.identity.hashing import source_digests
from graphflow.model.orders import (
    GONE_TEXT,
    BatchOrder,
    Built,
    Column,
    Elements,
    Gathered,
    Given,
    Hole,
    Input,
    Literals,
    Program,
    Ref,
    Spread,
    StepOrder,
    Whole,
)

__all__ = [
    "Constant",
    "Loader",
    "MixedColumn",
    "Ready",
    "digested",
    "failed_input",
    "filled",
    "joined",
    "make_call",
    "make_chunk_call",
    "ready_inputs",
]

Loader = Callable[[Ref], list[Any]]


class Constant:
    """A slot with the same value for each item."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class MixedColumn(list[Any]):
    """One value per position, some of which are `FailedInput`."""


Ready = Constant | Sequence[Any]


def ready_inputs(order: BatchOrder, load: Loader) -> list[Ready]:
    """Load what the batch's inputs refer to."""
    return [_ready(each, order, load) for each in order.inputs]


def _ready(source: Input, order: BatchOrder, load: Loader) -> Ready:
    if isinstance(source, Given):
        return Constant(source.value)
    if isinstance(source, Literals):
        return _checked(source.values)
    if isinstance(source, Whole | Elements) and source.ref.kind == "gone":
        raise ValueUnavailable(GONE_TEXT)
    if isinstance(source, Whole):
        return Constant(load(source.ref)[source.position])
    if isinstance(source, Column):
        try:
            column = joined(source.parts, load)
        except ResultDamaged:
            column = MixedColumn(_undamaged(source.parts, load))
        if not source.overrides:
            return column
        column = list(column)
        for position, value in source.overrides.items():
            column[position] = value
        return _checked(column)
    if isinstance(source, Gathered) and source.is_folded:
        # Failed items never get here: what is left out has no place that anything could name.
        return Constant(
            [value for part in source.parts for value in joined((part,), load) if type(value) is Folded]
        )
    if isinstance(source, Gathered):
        values = list(joined(source.parts, load))
        for place, value in source.overrides.items():
            values[place] = value
        if source.dropped:
            gone = set(source.dropped)
            values = [value for place, value in enumerate(values) if place not in gone]
        return Constant(values)
    assert isinstance(source, Elements)
    sequence = load(source.ref)[source.position]
    return _checked(elements_of(sequence if is_indexed(sequence) else snapshot(sequence), order.indices))


def digested(step: StepOrder, order: BatchOrder) -> bytes:
    """Return the digests of what a step's items are mapped over: of the user's own sequences, in the order of the slots.

    Empty where there are none, or ranges alone: their values follow from the indices.
    """
    sources = [order.inputs[slot] for slot in step.slots if isinstance(slot, int)]
    return source_digests([each.values for each in sources if isinstance(each, Literals)])


def _undamaged(parts: Sequence[tuple[Ref, Sequence[int]]], load: Loader) -> Iterator[Any]:
    """Yield the entries of the parts; where a part is damaged, its items fail, and no others."""
    for part in parts:
        try:
            yield from joined((part,), load)
        except ResultDamaged as error:
            yield from [FailedInput(error)] * len(part[1])


def _checked(values: Sequence[Any]) -> Sequence[Any]:
    """Return the values, marked if there are failures among them."""
    return MixedColumn(values) if isinstance(values, list) and FailedInput in map(type, values) else values


def joined(parts: Sequence[tuple[Ref, Sequence[int]]], load: Loader) -> list[Any]:
    """Return the entries of the parts, one part after the other; a column that is taken whole is given itself.

    Raises
    ------
    ValueUnavailable
        If a column was let go.
    """
    values: list[Any] = []
    for ref, positions in parts:
        if ref.kind == "gone":
            raise ValueUnavailable(GONE_TEXT)
        column = load(ref)
        if isinstance(positions, range) and positions.step == 1:
            if len(parts) == 1 and positions.start == 0 and positions.stop == len(column):
                return column
            values += column[positions.start : positions.stop]
        else:
            values += [column[position] for position in positions]
    return values


def failed_input(value: Any) -> FailedInput | None:
    """Return the failure that a value stands for, or holds in place of an element."""
    if type(value) is FailedInput:
        return value
    if type(value) is PartialList:
        return value.first_failure()
    return None


def filled(template: Any, values: Sequence[Any]) -> Any:
    """Return a template with the values of its slots in place of its holes."""
    kind = type(template)
    if kind is Hole:
        return values[template.slot]
    if kind is list or kind is set or kind is frozenset:
        return kind(filled(each, values) for each in template)
    if kind is dict:
        return {filled(key, values): filled(each, values) for key, each in template.items()}
    if isinstance(template, tuple):
        parts = [filled(each, values) for each in template]
        return template._make(parts) if hasattr(template, "_make") else tuple(parts)
    if kind is Built:
        return rebuilt(template.value, {name: filled(each, values) for name, each in template.parts.items()})
    return template


def make_call(
    program: Program, slots: Sequence[Ready], *, copies: bool = False
) -> Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function that gives the arguments of the call at a position.

    Parameters
    ----------
    copies
        Whether its only input is copied where a task could change it.
    """
    constants = [each.value if isinstance(each, Constant) else None for each in slots]
    lanes = [(number, each) for number, each in enumerate(slots) if not isinstance(each, Constant)]
    nested = program.has_nested
    args, kwargs = program.args, program.kwargs
    spreads = any(type(each) is Spread for each in (*args, *kwargs.values()))

    if not spreads and not nested and not kwargs and len(args) == 1 and type(args[0]) is Hole and lanes:
        column = lanes[0][1]
        if copies:

            def own(position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
                value = column[position]
                return (value if type(value) in PLAIN else copied(value),), {}

            return own

        def single(position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (column[position],), {}

        return single

    def general(position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = list(constants)
        for number, lane in lanes:
            values[number] = lane[position]
        if not spreads:
            if nested:
                return tuple(filled(each, values) for each in args), {
                    k: filled(v, values) for k, v in kwargs.items()
                }
            return (
                tuple(values[each.slot] if type(each) is Hole else each for each in args),
                {key: values[each.slot] if type(each) is Hole else each for key, each in kwargs.items()},
            )
        new_args: list[Any] = []
        new_kwargs: dict[str, Any] = {}
        for each in args:
            if type(each) is Spread:
                value: Any = values[each.slot]
                if isinstance(value, Mapping):
                    new_kwargs.update(value)
                else:
                    new_args.extend(value)
            else:
                new_args.append(filled(each, values))
        for key, each in kwargs.items():
            new_kwargs[key] = filled(each, values)
        return tuple(new_args), new_kwargs

    return general


def make_chunk_call(
    program: Program, slots: Sequence[Ready]
) -> Callable[[Sequence[int]], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function that gives the arguments of one call for several positions: a list, or part of an array, per input.

    Constants are the same for all; a spread input becomes one list per place or name.
    """

    def call(positions: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = [
            each.value if isinstance(each, Constant) else elements_of(each, positions) for each in slots
        ]
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for each in program.args:
            if type(each) is not Spread:
                args.append(filled(each, values) if program.has_nested or type(each) is Hole else each)
            elif isinstance(values[each.slot][0], Mapping):
                names = list(values[each.slot][0])
                kwargs.update({name: [row[name] for row in values[each.slot]] for name in names})
            else:
                args += [list(column) for column in zip(*values[each.slot], strict=True)]
        for key, each in program.kwargs.items():
            kwargs[key] = filled(each, values) if program.has_nested or type(each) is Hole else each
        return tuple(args), kwargs

    return call
