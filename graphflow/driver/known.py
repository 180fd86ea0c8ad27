"""What a run's driver knows of it, as whatever shows runs asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Protocol

from graphflow.core.core import Core
from graphflow.core.events import SubmitBatch
from graphflow.core.nodes import NodeBook
from graphflow.driver.bookkeeping import shown_options
from graphflow.driver.dispatch import Dispatcher
from graphflow.driver.outcomes import Outcomes
from graphflow.errors import ValueUnavailable
from graphflow.graph.graph import Node
from graphflow.model.orders import Ref
from graphflow.model.states import FINAL_CODES, Code, Counts
from graphflow.ports import Backend
from graphflow.records.item_index import MemoryHistory, Moved, NodeHistory
from graphflow.records.spans import Span
from graphflow.runner.faults import summarize
from graphflow.runner.inputs import make_call, ready_inputs
from graphflow.runner.labels import default_label

__all__ = ["DriverNode", "DriverRun"]

_COLUMNS_KEPT = 4


class _Driver(Protocol):
    """A driver, as far as what it knows is concerned."""

    core: Core
    history: MemoryHistory
    backend: Backend
    dispatcher: Dispatcher
    is_finished: bool

    @property
    def outcomes(self) -> Outcomes: ...


class DriverRun:
    """A run as its driver knows it; nothing is seen before it is durable.

    Parameters
    ----------
    driver
        Gives the driver, None before there is one.
    node
        Gives a node by its id.
    numbers
        Gives the ids of all nodes.
    width
        Tells the width of a node that the driver does not know yet.
    idle_code
        Returns the state of nodes while there is no driver.
    """

    def __init__(
        self,
        driver: Callable[[], _Driver | None],
        node: Callable[[int], Node],
        *,
        numbers: Callable[[], Sequence[int]],
        width: Callable[[Node], int | None] = lambda node: None,
        idle_code: Callable[[], Code] = lambda: Code.PENDING,
        created: float = 0.0,
        spans: Callable[[], Sequence[Span]] = lambda: [(0.0, inf)],
    ) -> None:
        self._driver = driver
        self._node = node
        self.numbers = numbers
        self.unknown_width = width
        self.idle_code = idle_code
        self.created = created
        self._spans = spans
        self._columns: dict[int, tuple[Ref, list[Any]]] = {}

    @property
    def driver(self) -> _Driver | None:
        """The driver, None before there is one."""
        return self._driver()

    def _there(self) -> _Driver:
        driver = self._driver()
        if driver is None:
            raise ValueUnavailable("nothing in this run has started yet")
        return driver

    @property
    def history(self) -> MemoryHistory:
        driver = self._driver()
        return MemoryHistory() if driver is None else driver.history

    @property
    def is_over(self) -> bool:
        driver = self._driver()
        return driver is not None and driver.is_finished

    def known(self, number: int) -> DriverNode:
        return DriverNode(self, self._node(number))

    def whole_error(self, number: int) -> BaseException | None:
        return self.history.errors.get(number)

    @property
    def spans(self) -> Sequence[Span]:
        return self._spans()

    def root_of(self, number: int, index: int | None) -> tuple[int, int | None, Sequence[int]]:
        is_mapped = self._node(number).is_mapped
        return self._there().core.root_of(number, index if is_mapped else None)

    def value(self, number: int, index: int) -> Any:
        driver = self._there()
        place = driver.history.node(number).place(index)
        if place is None:
            raise ValueUnavailable(f"the value of {self.known(number).label(index)} was not stored")
        return driver.outcomes.fetch([place])[0]

    def values(self, number: int) -> list[Any]:
        return self._there().outcomes.gathered(number)

    def column(self, ref: Ref) -> list[Any]:
        """Return the values of a column; the last few are kept for access item by item."""
        known = self._columns.pop(id(ref), None)
        if known is None:
            known = ref, self._there().backend.fetch([ref])[0]
        self._columns[id(ref)] = known
        while len(self._columns) > _COLUMNS_KEPT:
            del self._columns[next(iter(self._columns))]
        return known[1]

    def inputs(self, number: int, index: int) -> str:
        node, driver = self.known(number), self._there()
        noted = node.history.inputs_of(index)
        book = node.book
        if noted or book is None or not node.attempts_of(index) or book.node.program is None:
            return noted
        width = book.width if node.is_mapped else None
        command = SubmitBatch(
            batch=0, nodes=(number,), indices=(index,), width=width, tries=(None,), slice_seconds=None
        )
        try:
            order = driver.dispatcher.order(command)
            ready = ready_inputs(order, self.column)
            slots = [ready[slot] for slot in order.steps[0].slots if isinstance(slot, int)]
            args, kwargs = make_call(book.node.program, slots)(0)
            return summarize(book.node.program.parameter_names, args, kwargs)
        except Exception:
            # Its inputs are gone, or cannot be shown.
            return ""


class DriverNode:
    """A node as its driver knows it."""

    __slots__ = ("_node", "_run")

    def __init__(self, run: DriverRun, node: Node) -> None:
        self._run = run
        self._node = node

    @property
    def book(self) -> NodeBook | None:
        """The core's book of it, None before the core knows it."""
        driver = self._run.driver
        return None if driver is None else driver.core.books.get(self._node.id)

    @property
    def number(self) -> int:
        return self._node.id

    @property
    def key(self) -> str:
        return self._node.key

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def task_name(self) -> str:
        return self._node.task_name

    @property
    def group(self) -> str:
        return self._node.group

    @property
    def is_mapped(self) -> bool:
        return self._node.is_mapped

    @property
    def is_builtin(self) -> bool:
        return self._node.is_builtin

    @property
    def options(self) -> Mapping[str, Any]:
        book = self.book
        program = self._node.program if book is None else book.node.program
        return {} if program is None else shown_options(program.options)

    @property
    def history(self) -> NodeHistory:
        return self._run.history.node(self._node.id)

    @property
    def transitions(self) -> Sequence[Moved]:
        return self.history.transitions

    @property
    def state_code(self) -> Code:
        driver = self._run.driver
        return self._run.idle_code() if driver is None else driver.outcomes.code_of(self._node.id)

    @property
    def is_final(self) -> bool:
        driver = self._run.driver
        return driver is not None and driver.outcomes.is_final(self._node.id)

    @property
    def has_started(self) -> bool:
        book = self.book
        return book is not None and book.has_started

    @property
    def failed_whole(self) -> bool:
        book = self.book
        return book is not None and book.failed_whole

    @property
    def broke_off(self) -> bool:
        book = self.book
        return book is not None and book.broke_off

    @property
    def width(self) -> int | None:
        book = self.book
        return self._run.unknown_width(self._node) if book is None else book.width

    @property
    def size(self) -> int:
        book = self.book
        return 0 if book is None else len(book.states)

    def code_of(self, index: int) -> Code:
        driver = self._run.driver
        return self._run.idle_code() if driver is None else driver.outcomes.code_of(self._node.id, index)

    def codes(self, lo: int, hi: int) -> bytes:
        driver, book = self._run.driver, self.book
        if driver is None or book is None:
            return bytes(max(0, hi - lo))
        with driver.outcomes.settled:
            codes = bytes(book.states[lo:hi])
            # Items of a map that ended as a whole may not be booked one by one.
            rest = bytes([book.final]) if book.final in FINAL_CODES else b"\0"
        return codes.ljust(max(0, hi - lo), rest)

    def attempts_of(self, index: int) -> int:
        book = self.book
        return book.attempts[index] if book is not None and index < len(book.attempts) else 0

    def retries(self) -> int:
        book = self.book
        return 0 if book is None else sum(book.attempts) - (len(book.attempts) - book.attempts.count(0))

    def counts(self) -> Counts:
        book = self.book
        return Counts() if book is None else book.state_counts()

    def label(self, index: int) -> str:
        found = self.history.find(index)
        if found is not None and found[0].step.labels is not None:
            label = self._run.column(found[0].step.labels)[found[1]]
            if label is not None:
                return str(label)
        return default_label(self._node.name, index if self._node.is_mapped else None)
