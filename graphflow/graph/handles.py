"""What futures are to recordings, and where they are in values."""

from __future__ import annotations

from typing import Any, Protocol

from graphflow.common.wording import with_article
from graphflow.errors import CycleError
from graphflow.graph.graph import Node
from graphflow.graph.mapping import AllowFailure

__all__ = ["CONTAINERS", "Handle", "Recording", "contains_handle", "handle_types"]

CONTAINERS = (list, tuple, dict, set, frozenset)
_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})


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


def contains_handle(value: Any, _above: tuple[int, ...] = ()) -> bool:
    """Return whether a future is in the value, looking into plain containers only."""
    if isinstance(value, Handle | AllowFailure):
        return True
    kind = type(value)
    if kind not in CONTAINERS and not (isinstance(value, tuple) and hasattr(value, "_fields")):
        return False
    each = [*value, *value.values()] if isinstance(value, dict) else value
    if not set(map(type, each)) - _ATOMS:
        return False
    if id(value) in _above:
        raise CycleError(
            f"{with_article(kind.__name__)} passed as an argument contains itself; pass a copy without the cycle"
        )
    return any(contains_handle(one, (*_above, id(value))) for one in each)
