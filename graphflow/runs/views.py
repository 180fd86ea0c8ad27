"""What a run shows of its nodes and items, while it goes on and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from graphflow.driver.values import node_exception
from graphflow.graph.graph import Node
from graphflow.model.states import FAILED_CODES, Code, Counts, State
from graphflow.records.errors import DistinctErrors
from graphflow.runs.failures import Failures
from graphflow.runs.item import Item, moment

if TYPE_CHECKING:
    from graphflow.runs.run import RunRecorder

__all__ = ["Item", "NodeView", "Nodes"]


class _Items(Sequence[Item]):
    """A node's items, made as they are asked for."""

    def __init__(self, view: NodeView) -> None:
        self._view = view

    def __len__(self) -> int:
        book = self._view._book()
        if book is None:
            return 0
        return len(book.states) if book.width is None else book.width

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"{self._view.name} has {size} items; there is no item {index}")
        return Item(self._view._recorder.driver, self._view._node, index % size)

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


class NodeView:
    """One node of a run: name, state, width, counts and items."""

    def __init__(self, recorder: RunRecorder, node: Node) -> None:
        self._recorder = recorder
        self._node = node

    def _book(self) -> Any:
        if not self._recorder.has_driver:
            return None
        return self._recorder.driver.core.books.get(self._node.id)

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.state.name}>"

    @property
    def id(self) -> int:
        """Its number in this run."""
        return self._node.id

    @property
    def key(self) -> str:
        """The key that finds it again in another process."""
        return self._node.key

    @property
    def name(self) -> str:
        """Its name, unique in the run."""
        return self._node.name

    @property
    def task_name(self) -> str:
        """Its task's name."""
        return self._node.task_name

    @property
    def group(self) -> str:
        """The path of flows called inside the flow, empty for the flow itself."""
        return self._node.group

    @property
    def is_mapped(self) -> bool:
        """Whether it expands over a sequence."""
        return self._node.is_mapped

    @property
    def is_builtin(self) -> bool:
        """Whether it is one of the engine's own (an element of a future, a collection)."""
        return self._node.is_builtin

    @property
    def state(self) -> State:
        """Where it stands; for a mapped node, derived from its items."""
        if not self._recorder.has_driver:
            return State.of(self._recorder.idle_code)
        driver = self._recorder.driver
        code = driver.code_of(self._node.id)
        transitions = driver.history.node(self._node.id).transitions
        message = ""
        book = driver.core.books.get(self._node.id)
        if code in FAILED_CODES and (not self.is_mapped or (book is not None and book.failed_whole)):
            error = driver.exception_of(self._node.id, None if self.is_mapped else 0)
            message = f"{type(error).__name__}: {error}"
        return State.of(code, at=transitions[-1].at if transitions else None, message=message)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first."""
        if not self._recorder.has_driver:
            return []
        transitions = self._recorder.driver.history.node(self._node.id).transitions
        return [State.of(Code(each.code), at=each.at) for each in transitions]

    @property
    def width(self) -> int | None:
        """The number of items of a mapped node; None while unknown, and where it is not mapped."""
        if not self._node.is_mapped:
            return None
        book = self._book()
        return book.width if book is not None else self._recorder.known_width(self._node)

    @property
    def counts(self) -> Counts:
        """Items by state name; a node that is not mapped counts one."""
        book = self._book()
        return book.state_counts() if book is not None else Counts()

    @property
    def items(self) -> Sequence[Item]:
        """Its items in index order; one, of index None, where it is not mapped."""
        return _Items(self)

    @property
    def started(self) -> datetime | None:
        """When its first item began, None if none did."""
        if not self._recorder.has_driver:
            return None
        history = self._recorder.driver.history.node(self._node.id)
        running = [each.at for each in history.transitions if each.code == Code.RUNNING]
        first = [segment.started for segment in history.ranges[:1]]
        return moment(min([*running, *first])) if running or first else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        if not self._recorder.has_driver or not self._recorder.driver.is_final(self._node.id):
            return None
        return moment(self._recorder.driver.history.node(self._node.id).transitions[-1].at)

    @property
    def rate(self) -> float | None:
        """Items ended per second so far, None before any."""
        started = self.started
        if started is None:
            return None
        end = self.ended or datetime.now(UTC)
        seconds = (end - started).total_seconds()
        return self.counts.finished / seconds if seconds > 0 else None

    @property
    def retries(self) -> int:
        """How many attempts beyond each item's first were made."""
        book = self._book()
        if book is None:
            return 0
        extra: int = sum(book.attempts) - (len(book.attempts) - book.attempts.count(0))
        return extra

    @property
    def exception(self) -> BaseException | None:
        """The failure of the node: an item's exception, or one group for a mapped node's failures."""
        book = self._book()
        if book is None or not (book.failed_count() or book.broke_off or book.final in FAILED_CODES):
            return None
        return node_exception(self._recorder.driver, self._node)

    @property
    def errors(self) -> DistinctErrors:
        """The distinct exceptions that its items failed with, most frequent first, with the items' indices.

        Equal type, text and line are one. Items that failed because of an upstream are not counted here.
        O(items that failed since it was asked last).
        """
        if self._book() is None:
            return DistinctErrors((), 0)
        return self._recorder.driver.history.node(self._node.id).errors()

    def failures(self) -> Failures:
        """Its failed items, as data. Does not count as having handled them (ask the future for that)."""
        if self._book() is None:
            return Failures(None, self._node, b"")
        return Failures.of(self._recorder.driver, self._node)


class Nodes(Sequence[NodeView]):
    """A run's nodes, by place or by name."""

    def __init__(self, recorder: RunRecorder) -> None:
        self._recorder = recorder

    def _views(self) -> list[NodeView]:
        return [NodeView(self._recorder, node) for node in list(self._recorder.by_id.values())]

    def __len__(self) -> int:
        return len(self._recorder.by_id)

    @overload
    def __getitem__(self, which: int | str) -> NodeView: ...
    @overload
    def __getitem__(self, which: slice) -> list[NodeView]: ...
    def __getitem__(self, which: int | str | slice) -> NodeView | list[NodeView]:
        views = self._views()
        if isinstance(which, str):
            for view in views:
                if view.name == which:
                    return view
            raise KeyError(
                f"no node {which!r} in this run; it has {', '.join(view.name for view in views) or 'none'}"
            )
        return views[which]

    def __iter__(self) -> Iterator[NodeView]:
        return iter(self._views())

    def __contains__(self, which: object) -> bool:
        return any(view.name == which or view is which for view in self._views())

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self._views()))}]"
