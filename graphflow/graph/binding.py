"""The arguments of one call: copied with holes where futures are, which become its dependencies."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from graphflow.common.wording import with_article
from graphflow.errors import MapTypeError
from graphflow.graph import mapping
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.graph.handles import CONTAINERS, Handle, Recording, contains_handle
from graphflow.graph.mapping import AllowFailure, SpreadOver, Unmapped, classify
from graphflow.graph.structured import fields_of, is_structured, without
from graphflow.graph.threadbound import read_where_made
from graphflow.model.orders import Built, Hole, Spread
from graphflow.model.policies import TaskOptions

__all__ = ["COLLECT", "Binder", "Callee", "bound_names", "builtin", "spread_by_signature"]


class _Caller(Recording, Protocol):
    """A recording that takes calls."""

    def check_ends(self, node: Node, owner: str) -> None: ...

    def call(
        self, callee: Callee, args: Sequence[Any], kwargs: Mapping[str, Any], *, owner: str | None = None
    ) -> Node: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """A task as the recorder needs it."""

    fn: Callable[..., Any]
    options: TaskOptions
    kind: str
    signature: inspect.Signature | None
    is_builtin: bool = False


_BUILTIN_OPTIONS = TaskOptions(name="builtin")


def builtin(name: str, fn: Callable[..., Any]) -> Callee:
    """Return one of the engine's own tasks (getitem, collect, flatten, ...)."""
    return Callee(
        fn=fn, options=replace(_BUILTIN_OPTIONS, name=name), kind="builtin", signature=None, is_builtin=True
    )


COLLECT = builtin("collect", mapping.identity)
_PARTIAL = builtin("collect", mapping.collected)


class Binder:
    """Collects the dependencies of one call while its arguments are copied with holes for futures."""

    def __init__(self, recorder: _Caller, owner: str) -> None:
        self.recorder = recorder
        self.owner = owner
        self.deps: list[Dep] = []
        self.sources: list[Source] = []
        self.slots = 0
        self.has_nested = False

    def slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def constant(self, value: Any, argument: str, *, allows: bool = False, deep: bool = False) -> Any:
        """Return the value with a hole for each future inside; what has no futures is kept as it is."""
        if isinstance(value, Unmapped):
            return self.constant(value.value, argument, allows=allows, deep=deep)
        if isinstance(value, AllowFailure):
            return self.constant(value.value, argument, allows=True, deep=deep)
        if isinstance(value, SpreadOver):
            raise MapTypeError(
                f"{self.owner}: starmap(...) and product(...) are for mapped arguments only ({argument})"
            )
        if isinstance(value, Handle):
            self.has_nested = self.has_nested or deep
            return Hole(self.depend(value, argument, allows=allows))
        if not contains_handle(value):
            if not deep:
                self._refuse_hidden(value, argument)
            return value
        if is_structured(type(value)):
            return self._structured(value, argument, allows)
        if isinstance(value, dict):
            return {
                self.constant(key, argument, allows=allows, deep=True): self.constant(
                    each, argument, allows=allows, deep=True
                )
                for key, each in value.items()
            }
        parts = [self.constant(each, argument, allows=allows, deep=True) for each in value]
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(parts)
        return type(value)(parts)

    def _refuse_hidden(self, value: Any, argument: str) -> None:
        """Refuse an object of another kind with a future for an attribute: the task would get the future itself."""
        try:
            attributes = vars(value)
        except TypeError:
            return
        if isinstance(value, type | types.ModuleType | types.FunctionType):
            return
        for name, each in attributes.items():
            if isinstance(each, Handle):
                raise MapTypeError(
                    f"{self.owner}: argument {argument!r}, {with_article(type(value).__qualname__)}, has a future for its attribute "
                    f"{name!r}; futures are looked for in lists, tuples, dicts, sets, named tuples, dataclasses, attrs objects and "
                    "pydantic models only: pass it as an argument of its own, or its value, future.result()"
                )

    def _structured(self, value: Any, argument: str, allows: bool) -> Built:
        parts = {
            name: self.constant(each, argument, allows=allows, deep=True)
            for name, each in fields_of(value).items()
            if contains_handle(each)
        }
        self.has_nested = True
        return Built(without(value, parts), parts)

    def depend(self, handle: Handle, argument: str, *, allows: bool) -> int:
        node = self.recorder.own(handle, self.owner)
        kind = DepKind.VALUE
        if handle._index is not None:
            kind = DepKind.PICK
        elif node.is_mapped:
            kind = DepKind.GATHER
            self.recorder.check_ends(node, self.owner)
        slot = self.slot()
        self.deps.append(
            Dep(
                upstream=node.id,
                kind=kind,
                slot=slot,
                index=handle._index,
                argument=argument,
                allows_failure=allows,
            )
        )
        return slot

    def mapped(self, value: Any, argument: str) -> Any:
        """Return an argument of `map`: a hole that is filled per item, or a constant."""
        if isinstance(value, Unmapped):
            return self.constant(value.value, argument)
        if isinstance(value, SpreadOver):
            inner = self.mapped(value.value, argument)
            if not isinstance(inner, Hole) or not self.is_lane(inner.slot):
                raise MapTypeError(
                    f"{self.owner}: starmap(...) takes a sequence of tuples, not {value.value!r}"
                )
            return Spread(inner.slot)
        allows = isinstance(value, AllowFailure)
        if isinstance(value, AllowFailure):
            value = value.value
        if isinstance(value, Handle):
            return Hole(self.map_over(value, argument, allows=allows))
        kind = classify(value)
        if kind == "refused":
            raise MapTypeError(f"{self.owner}: argument {argument!r}: {mapping.refusal(value)}")
        if kind == "constant":
            return self.constant(value, argument, allows=allows)
        if type(value) in CONTAINERS and contains_handle(value):
            node = self.recorder.call(_PARTIAL, (AllowFailure(value),), {}, owner="a list of futures")
            return Hole(self.map_over(Handle(self.recorder, node), argument, allows=allows))
        slot = self.slot()
        iterator = self._iterator_of(value, argument) if kind == "iterator" else None
        if iterator is not None and type(iterator) is not list:
            self.sources.append(Source(slot=slot, argument=argument, length=None, values=iterator))
        else:
            value = value if iterator is None else iterator
            kept = mapping.snapshot(value)
            self.sources.append(
                Source(
                    slot=slot,
                    argument=argument,
                    length=len(kept),
                    values=kept,
                    item_nbytes=mapping.element_nbytes(kept),
                )
            )
        return Hole(slot)

    def _iterator_of(self, value: Any, argument: str) -> Any:
        """Return the iterator of a source; a list of what can be read in this thread only."""
        try:
            return read_where_made(mapping.iterator_of(value))
        except MapTypeError as error:
            raise MapTypeError(f"{self.owner}: argument {argument!r}: {error}") from None

    def map_over(self, handle: Handle, argument: str, *, allows: bool) -> int:
        node = self.recorder.own(handle, self.owner)
        if handle._index is not None:
            node = self.recorder.call(COLLECT, (handle,), {}, owner="one item of a map")
            handle = Handle(self.recorder, node)
        slot = self.slot()
        kind = DepKind.ITEMS if node.is_mapped else DepKind.ELEMENTS
        self.deps.append(
            Dep(upstream=node.id, kind=kind, slot=slot, argument=argument, allows_failure=allows)
        )
        return slot

    def is_lane(self, slot: int) -> bool:
        return any(source.slot == slot for source in self.sources) or any(
            dep.slot == slot and dep.kind in (DepKind.ELEMENTS, DepKind.ITEMS) for dep in self.deps
        )

    def order(self, wait_for: Any, *, allows: bool = False) -> None:
        """Dependencies of order only, on the futures in a value; what is no future has ended already."""
        if isinstance(wait_for, AllowFailure):
            self.order(wait_for.value, allows=True)
        elif isinstance(wait_for, Handle):
            node = self.recorder.own(wait_for, self.owner)
            kind = DepKind.ORDER if wait_for._index is None else DepKind.PICK
            self.deps.append(Dep(upstream=node.id, kind=kind, index=wait_for._index, allows_failure=allows))
        elif contains_handle(wait_for):
            for each in [*wait_for, *wait_for.values()] if isinstance(wait_for, dict) else wait_for:
                self.order(each, allows=allows)


def bound_names(callee: Callee, args: Sequence[Any], kwargs: Mapping[str, Any], owner: str) -> list[str]:
    """Return the parameter name of each positional argument; a call that cannot fit the signature is refused."""
    if callee.signature is None:
        return ["" for _ in args]
    try:
        bound = callee.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{owner}{callee.signature}: {error}") from None
    names: list[str] = []
    for name, parameter in callee.signature.parameters.items():
        if name not in bound.arguments:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(len(bound.arguments[name]))]
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            names.append(name)
    names += [f"argument {i}" for i in range(len(names), len(args))]
    return names


def spread_by_signature(callee: Callee, arg: Any, given: int) -> Any:
    """Return whether a product's tuples are spread: where the task can take its parts as arguments of their own."""
    if not isinstance(arg, SpreadOver) or not arg.prefers_pair:
        return arg
    if arg.names or callee.signature is None or arg.arity is None:
        return SpreadOver(arg.value)
    try:
        callee.signature.bind(*([None] * (arg.arity + given - 1)))
    except TypeError:
        return arg.value
    return SpreadOver(arg.value)
