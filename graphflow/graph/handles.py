"""What futures are to recordings, and where they are in values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, Protocol

from graphflow.common.wording import with_article
from graphflow.errors import CycleError
from graphflow.graph.graph import Node
from graphflow.graph.mapping import AllowFailure
from graphflow.graph.structured import is_structured, kinds_within

__all__ = ["CONTAINERS", "Handle", "Recording", "contains_handle", "handle_types"]

CONTAINERS = (list, tuple, dict, set, frozenset)
_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
MAX_DEPTH = 50
"""Deeper containers may contain themselves."""
FIRST_LEVELS = 2
"""Objects that are arguments, or elements of them, are all looked into."""
MAX_OBJECTS = 10_000
"""Of more objects below these, the others are not looked into."""


class Recording(Protocol):
    """What made a handle; `recording.Recorder` is one."""

    flow_name: str

    def own(self, handle: Handle, owner: str) -> Node:
        """The node of a handle, which must be of this recording."""


class Handle:
    """What a future is to the recorder: a node of a recording, or one item of a mapped node."""

    __slots__ = ("__weakref__", "_index", "_node", "_recorder")

    def __init__(self, recorder: Recording, node: Node, index: int | None = None) -> None:
        self._recorder = recorder
        self._node = node
        self._index = index


def handle_types() -> frozenset[type]:
    """Return all classes of futures."""
    found, todo = {Handle}, [Handle]
    while todo:
        subclasses = todo.pop().__subclasses__()
        found.update(subclasses)
        todo += subclasses
    return frozenset(found)


def contains_handle(value: Any) -> bool:
    """Return whether a future is in the value, looking into plain containers, dataclasses, attrs objects and pydantic models only.

    Of many elements of one type, their types are looked at together: some 0.1 µs each.
    """
    if type(value) in _ATOMS:
        return False
    if isinstance(value, Handle | AllowFailure):
        return True
    level: list[Any] = [value] if _may_hold(type(value)) else []
    seen: set[int] = set()
    depth = 0
    while level:
        depth += 1
        if depth % MAX_DEPTH == 0:
            _refuse_cycle(value, ())
        following: list[Any] = []
        for kind in set(map(type, level)):
            owners: list[Any] = [each for each in level if type(each) is kind]
            get: Callable[[Any], Iterable[Any]] = _elements
            if not _is_container(kind):
                # Objects may refer to each other in circles, and to very many others.
                owners = _unseen(owners, seen) if depth > FIRST_LEVELS else owners
                kinds, get = kinds_within(kind, owners)
            elif issubclass(kind, dict):
                kinds = {type(each) for each in chain.from_iterable(map(_elements, owners))}
            else:
                kinds, get = set(map(type, chain.from_iterable(owners))), iter
            held = {each for each in kinds if each not in _ATOMS and _may_hold(each)}
            if any(issubclass(each, Handle | AllowFailure) for each in held):
                return True
            if held:
                following += [each for each in chain.from_iterable(map(get, owners)) if type(each) in held]
        level = following
    return False


def _may_hold(kind: Any) -> bool:
    return issubclass(kind, Handle | AllowFailure) or _is_container(kind) or is_structured(kind)


def _is_container(kind: Any) -> bool:
    return kind in CONTAINERS or (issubclass(kind, tuple) and hasattr(kind, "_fields"))


def _elements(value: Any) -> Iterable[Any]:
    return chain(value, value.values()) if isinstance(value, dict) else value


def _unseen(owners: list[Any], seen: set[int]) -> list[Any]:
    found = []
    for each in owners:
        if len(seen) >= MAX_OBJECTS:
            break
        if id(each) not in seen:
            seen.add(id(each))
            found.append(each)
    return found


def _refuse_cycle(value: Any, above: tuple[int, ...]) -> None:
    if not _is_container(type(value)):
        return
    if id(value) in above:
        raise CycleError(
            f"{with_article(type(value).__name__)} passed as an argument contains itself; pass a copy without the cycle"
        )
    for each in _elements(value):
        _refuse_cycle(each, (*above, id(value)))
