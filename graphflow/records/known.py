"""What is known of a run: by its driver while it runs, by its history afterwards and elsewhere.

Whatever shows runs reads these two protocols, so that a live run and a recorded one are shown by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from graphflow.model.states import Code, Counts
from graphflow.records.item_index import MemoryHistory, Moved, NodeHistory
from graphflow.records.spans import Span

__all__ = ["KnownNode", "KnownRun"]


class KnownNode(Protocol):
    """Where a node and each of its items stand. A node that is not mapped has one item, of index 0."""

    @property
    def number(self) -> int:
        """Its number in the run."""

    @property
    def key(self) -> str:
        """The key that identifies it in another process."""

    @property
    def name(self) -> str:
        """Its name, unique in the run."""

    @property
    def task_name(self) -> str:
        """The name of its task."""

    @property
    def group(self) -> str:
        """The path of flows called inside the flow, empty for the flow itself."""

    @property
    def is_mapped(self) -> bool:
        """Whether it expands over a sequence."""

    @property
    def is_builtin(self) -> bool:
        """Whether it is one of the engine's own (an element of a future, a collection)."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of its task that are not the default."""

    @property
    def history(self) -> NodeHistory:
        """What its batches reported, by index."""

    @property
    def transitions(self) -> Sequence[Moved]:
        """Its states, oldest first."""

    @property
    def state_code(self) -> Code:
        """Where it stands as a whole."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""

    @property
    def has_started(self) -> bool:
        """Whether anything of it was ever sent."""

    @property
    def failed_whole(self) -> bool:
        """Whether it failed beside its items: no width, widths that differ, an iterator that raised."""

    @property
    def broke_off(self) -> bool:
        """Whether its items are not all that there should have been: it failed beside them, or a map before it did."""

    @property
    def width(self) -> int | None:
        """The number of items of a mapped node, None while unknown."""

    @property
    def size(self) -> int:
        """The number of items of which anything is known."""

    def code_of(self, index: int) -> Code:
        """Return the state of an item."""

    def codes(self, lo: int, hi: int) -> bytes:
        """Return the states of a range of items, one byte each."""

    def attempts_of(self, index: int) -> int:
        """Return how often an item was tried."""

    def retries(self) -> int:
        """Return how many attempts beyond each item's first were made."""

    def counts(self) -> Counts:
        """Return items by the names of their states."""

    def label(self, index: int) -> str:
        """Return the task run name of an item."""


class KnownRun(Protocol):
    """A run's nodes, and what is known of the run as a whole."""

    @property
    def history(self) -> MemoryHistory:
        """What was reported of all nodes, and the log."""

    @property
    def created(self) -> float:
        """When it was created, in seconds since the epoch."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and has no driver."""

    @property
    def spans(self) -> Sequence[Span]:
        """From when to when its launches lasted."""

    def numbers(self) -> Sequence[int]:
        """Return the numbers of its nodes, in the order of their calls."""

    def known(self, number: int) -> KnownNode:
        """Return one of its nodes."""

    def whole_error(self, number: int) -> BaseException | None:
        """Return what a node failed with beside its items, None if it did not."""

    def root_of(self, number: int, index: int | None) -> tuple[int, int | None, Sequence[int]]:
        """Return where an upstream failure comes from: the node, its item, and the nodes on the way from the failure to it."""

    def value(self, number: int, index: int) -> Any:
        """Return the value of an item that ended well.

        Raises
        ------
        ValueUnavailable
            If it is not kept.
        ResultDamaged
            If it differs from what was written.
        """

    def values(self, number: int) -> list[Any]:
        """Return the values of all items of a map that ended well, in index order; errors as for `value`."""

    def inputs(self, number: int, index: int) -> str:
        """Return a short summary of a failed item's arguments; empty where it never ran, or where they are gone."""
