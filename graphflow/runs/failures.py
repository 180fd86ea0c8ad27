"""Failed items as data: a sequence of them, however many there are."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import overload

from graphflow.driver.driver import Driver
from graphflow.driver.values import ColumnReader, inputs_of, item_label
from graphflow.graph.graph import Node
from graphflow.model.reports import LogRecord
from graphflow.model.states import FAILED_CODES, State
from graphflow.runner.faults import user_traceback
from graphflow.runs.item import Item

__all__ = ["Failure", "Failures"]

_BLOCK = 1_024


class Failure:
    """One failed item: what failed, with what, how, and how often. Each is found as it is asked for.

    Of a map that failed beside its items (its iterator raised, or it had no width), one more stands for the map
    itself: it has no index, no inputs and no attempts.
    """

    __slots__ = ("_driver", "_exception", "_node", "_place", "_read")

    def __init__(self, driver: Driver, node: Node, place: int | None, read: ColumnReader) -> None:
        self._driver = driver
        self._node = node
        self._place = place
        self._read = read
        self._exception: BaseException | None = None

    @property
    def index(self) -> int | None:
        """The map index, None where the node is not mapped."""
        return self._place if self._node.is_mapped else None

    @property
    def label(self) -> str:
        """The item's task run name."""
        if self._place is None:
            return self._node.name
        return item_label(self._driver, self._node, self._place, self._read)

    @property
    def state(self) -> State:
        """How it ended."""
        if self._place is None:
            error = self.exception
            code = self._driver.code_of(self._node.id)
            return State.of(code, message=f"{type(error).__name__}: {error}", data=error)
        return Item(self._driver, self._node, self._place).state

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        return 0 if self._place is None else Item(self._driver, self._node, self._place).attempts

    @property
    def exception(self) -> BaseException:
        """What it failed with."""
        if self._exception is None:
            self._exception = self._driver.exception_of(self._node.id, self._place)
        return self._exception

    @property
    def traceback(self) -> str:
        """The traceback as text, user frames only; of equal errors, that of one."""
        if self._place is None:
            return user_traceback(self.exception)
        record = self._driver.history.last_error(self._node.id, self._place)
        return record.traceback if record is not None else ""

    @property
    def inputs(self) -> str:
        """A short summary of the arguments; empty where it never ran, or where they are gone."""
        if self._place is None:
            return ""
        return inputs_of(self._driver, self._node, self._place, self._read)

    @property
    def log(self) -> list[LogRecord]:
        """The item's log."""
        return [] if self._place is None else self._driver.history.log_of(self._node.name, self.index)

    def __repr__(self) -> str:
        return f"<Failure {self.label}: {type(self.exception).__name__}: {self.exception}>"


class Failures(Sequence[Failure]):
    """The failed items of a node by ascending index, made as they are asked for; then the node itself, if it failed
    beside its items.

    Takes one byte per item of the node. A slice is as lazy as the whole.
    """

    def __init__(
        self,
        driver: Driver | None,
        node: Node,
        mask: bytes,
        ranks: range | None = None,
        *,
        has_whole: bool = False,
    ) -> None:
        self._driver = driver
        self._node = node
        self._mask = mask
        self._before = list(
            itertools.accumulate(
                (mask.count(1, lo, lo + _BLOCK) for lo in range(0, len(mask), _BLOCK)), initial=0
            )
        )
        """How many items failed before each block."""
        self._has_whole = has_whole
        self._ranks = range(self._before[-1] + has_whole) if ranks is None else ranks
        self._read = ColumnReader(driver) if driver is not None else None

    @classmethod
    def of(cls, driver: Driver, node: Node, index: int | None = None) -> Failures:
        """The failures of a node, or of one item of it."""
        mask, book = driver.failed_mask(node.id), driver.core.books[node.id]
        has_whole = node.is_mapped and (
            book.broke_off or (book.width is None and book.final in FAILED_CODES and not mask.count(1))
        )
        if index is not None:
            has_whole = has_whole and index >= len(mask)
            mask = bytes(index) + mask[index : index + 1]
        return cls(driver, node, mask, has_whole=has_whole)

    def _make(self, place: int | None) -> Failure:
        assert self._driver is not None and self._read is not None
        return Failure(self._driver, self._node, place, self._read)

    def _place(self, rank: int) -> int | None:
        """The index of the failed item of a rank; None for the node itself."""
        if rank == self._before[-1]:
            return None
        block = bisect.bisect_right(self._before, rank) - 1
        at = block * _BLOCK - 1
        left = rank - self._before[block]
        if self._before[block + 1] - self._before[block] == min(_BLOCK, len(self._mask) - at - 1):
            return at + 1 + left
        for _ in range(left + 1):
            at = self._mask.find(1, at + 1)
        return at

    def at(self, index: int) -> Failure:
        """The failure of an item by its map index; 0 where the node is not mapped.

        Raises
        ------
        KeyError
            If that item did not fail.
        """
        if not 0 <= index < len(self._mask) or not self._mask[index]:
            raise KeyError(f"item {index} of {self._node.name} did not fail")
        return self._make(index)

    def __len__(self) -> int:
        return len(self._ranks)

    @overload
    def __getitem__(self, which: int) -> Failure: ...
    @overload
    def __getitem__(self, which: slice) -> Failures: ...
    def __getitem__(self, which: int | slice) -> Failure | Failures:
        if isinstance(which, slice):
            return Failures(
                self._driver, self._node, self._mask, self._ranks[which], has_whole=self._has_whole
            )
        return self._make(self._place(self._ranks[which]))

    def __iter__(self) -> Iterator[Failure]:
        if self._ranks.step != 1:
            yield from (self[rank] for rank in range(len(self)))
            return
        at = self._place(self._ranks[0]) if self._ranks else None
        for _ in self._ranks:
            yield self._make(at)
            at = None if at is None else self._mask.find(1, at + 1)
            at = None if at == -1 else at

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self):,} failures of {self._node.name}{': ' if shown else ''}{shown}{', ...' if len(self) > 3 else ''}>"
