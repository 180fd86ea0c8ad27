"""Reading a map over an iterator while it runs: in order or as items end, in bounded memory.

The reader sets the iterator's pace: it is read a window ahead of the reader, which grows while the reader
has to wait and shrinks while items wait for the reader.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from itertools import compress
from typing import TYPE_CHECKING, Any

from graphflow.model.states import Code

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["Reader"]

FIRST_WINDOW = 256
LAST_WINDOW = 1 << 18
BLOCK = 4_096
_HAS_VALUE = bytes(code in (Code.COMPLETED, Code.CACHED) for code in range(256))


class Reader:
    """A loop over a map whose width is not known yet.

    Parameters
    ----------
    driver
        The run's.
    node
        The map.
    """

    def __init__(self, driver: Driver, node: int) -> None:
        self._driver = driver
        self._node = node
        self._window = FIRST_WINDOW
        self._position = 0
        self._told = 0
        self._low = 0
        self._live: set[int] = set()
        self._values: list[Any] = []
        self._values_from = 0
        self._tell()

    def _tell(self) -> None:
        """Tell the core what was read; items whose futures are still referenced are not released."""
        while self._low < self._position and self._low not in self._live:
            self._low += 1
        self._told = self._position
        self._driver.read(self._node, read=self._low, limit=self._position + self._window)

    def holds(self, index: int) -> None:
        """Record that the reader has the future of an item."""
        self._live.add(index)

    def dropped(self, index: int) -> None:
        """Record that the future of an item is gone."""
        self._live.discard(index)

    # -- what is there ----------------------------------------------------------------------------------

    def _states(self) -> bytearray:
        book = self._driver.core.books.get(self._node)
        return book.states if book is not None else bytearray()

    def _count(self) -> int | None:
        """Return the number of items, None while it is not known."""
        book = self._driver.core.books.get(self._node)
        if book is None:
            return None
        if book.width is None and book.is_final:
            return len(book.states)
        return book.width

    def has(self, index: int) -> bool | None:
        """Return whether there is an item with this index; None while that is not known."""
        if index < len(self._states()):
            return True
        count = self._count()
        return None if count is None else index < count

    # -- in order ---------------------------------------------------------------------------------------

    def ask(self, index: int) -> Callable[[], bool] | None:
        """Request an item for the reader, which is done with all before it.

        Returns what to wait for until `has` knows whether there is such an item, or None if it already does. A reader that has to
        wait is in a hurry: from then on more items are requested ahead of it.
        """
        self._position = index
        if index - self._told >= self._window // 4:
            book = self._driver.core.books.get(self._node)
            if book is not None and book.ended - index > self._window // 2:
                self._window = max(FIRST_WINDOW, self._window // 2)
            self._tell()
        if self.has(index) is not None:
            return None
        self._hurry()
        return lambda: self.has(index) is not None

    def _hurry(self) -> None:
        self._window = min(LAST_WINDOW, self._window * 2)
        self._tell()

    def value(self, index: int) -> tuple[Any] | None:
        """Return the value of an item if it is available; the values after it are read along with it."""
        at = index - self._values_from
        if not 0 <= at < len(self._values):
            self._load(index)
            at = 0
            if not self._values:
                return None
        value = self._values[at]
        # Nothing but the reader may keep it alive.
        self._values[at] = None
        return (value,)

    def _load(self, index: int) -> None:
        with self._driver.settled:
            mask = bytes(self._states()[index : index + BLOCK]).translate(_HAS_VALUE)
        count = mask.find(0)
        count = len(mask) if count < 0 else count
        self._values_from = index
        self._values = self._driver.values_of(self._node, range(index, index + count)) if count else []

    # -- as they end ------------------------------------------------------------------------------------

    def ended(
        self, timeout: float | None, wait: Callable[[Callable[[], bool], float | None], bool]
    ) -> Iterator[int]:
        """Yield the indices of items as they end.

        Raises
        ------
        TimeoutError
            After `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        given = set[int]()
        while True:
            ended = compress(itertools.count(self._position), self._ended())
            found = [index for index in ended if index not in given]
            for index in found:
                given.add(index)
                yield index
            while self._position in given:
                given.discard(self._position)
                self._position += 1
            if found:
                self._tell()
                continue
            if self._count() == self._position + len(given):
                return
            self._hurry()
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not wait(lambda: self._is_news(given), left):
                raise TimeoutError(f"no more items of the map ended within {timeout:g} s")

    def _ended(self) -> bytes:
        """Return one byte per item from the reader's position on, 1 if it has ended."""
        low = self._position
        return self._driver.ended_mask(self._node, low, low + 2 * LAST_WINDOW)

    def _is_news(self, given: set[int]) -> bool:
        count = self._count()
        if count is not None and self._position + len(given) >= count:
            return True
        return self._ended().count(1) > len(given)
