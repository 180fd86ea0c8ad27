"""Waiting for several futures: `as_completed` and `wait`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from graphflow.authoring.futures import Future
from graphflow.common.waiting import check_timeout
from graphflow.errors import TaskOptionError

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["DoneAndNotDone", "as_completed", "wait"]

R = TypeVar("R")


class DoneAndNotDone(NamedTuple):
    """The result of `wait`: futures that ended, and futures that did not."""

    done: list[Future[Any]]
    not_done: list[Future[Any]]


def _as_futures(futures: Any) -> list[Future[Any]]:
    """Return each future once, in order."""
    if isinstance(futures, Future):
        return futures._each()
    chosen = list(futures)
    for each in chosen:
        if not isinstance(each, Future):
            raise TaskOptionError(f"a list of futures was expected, but it holds {each!r}")
    return list(dict.fromkeys(chosen))


def as_completed(futures: Iterable[Future[R]], *, timeout: float | None = None) -> Iterator[Future[R]]:
    """Yield futures as they end, in any state, each once; start what is recorded.

    Raises
    ------
    TimeoutError
        If some have not ended after `timeout` seconds.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    watched = _Watched(_as_futures(futures))
    while watched.open_count:
        ended = watched.take_ended()
        if not ended:
            watched.wait(None if deadline is None else deadline - time.monotonic(), timeout)
        yield from ended


def wait(futures: Iterable[Future[Any]], timeout: float | None = None) -> DoneAndNotDone:
    """Wait for futures to end; return those that did within `timeout` seconds, and those that did not."""
    check_timeout(timeout)
    chosen = _as_futures(futures)
    deadline = None if timeout is None else time.monotonic() + timeout
    for each in chosen:
        if not each.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            break
    done = [each for each in chosen if each._is_done(each._started())]
    ended = set(done)
    return DoneAndNotDone(done, [each for each in chosen if each not in ended])


class _Watched:
    """Futures of which some have not ended yet."""

    def __init__(self, futures: Sequence[Future[Any]]) -> None:
        self.total = self.open_count = len(futures)
        self._singles: list[tuple[Driver, Future[Any]]] = []
        self._maps: dict[tuple[int, int], _WatchedMap] = {}
        self._drivers: dict[int, Driver] = {}
        for each in futures:
            driver = self._drivers.setdefault(id(each._recorder), each._started())
            if each._index is None:
                self._singles.append((driver, each))
            else:
                place = id(each._recorder), each._node.id
                self._maps.setdefault(place, _WatchedMap(driver, each._node.id)).add(each)

    def take_ended(self) -> list[Future[Any]]:
        """Return the futures that ended and were not returned yet."""
        ended = [each for driver, each in self._singles if each._is_done(driver)]
        if ended:
            self._singles = [(driver, each) for driver, each in self._singles if each not in set(ended)]
        for each in self._maps.values():
            ended += each.take_ended()
        self.open_count -= len(ended)
        return ended

    def _has_ended(self) -> bool:
        return any(each._is_done(driver) for driver, each in self._singles) or any(
            each.has_ended() for each in self._maps.values()
        )

    def wait(self, seconds: float | None, timeout: float | None) -> None:
        """Wait until another future has ended."""
        drivers = list(self._drivers.values())
        while seconds is None or seconds >= 0:
            # Futures of several runs are rare: their drivers are asked in turn.
            share = seconds if len(drivers) == 1 else min(0.05, 0.05 if seconds is None else seconds)
            if drivers[0].wait(self._has_ended, share):
                return
            drivers.append(drivers.pop(0))
            seconds = None if seconds is None else seconds - (share or 0.0)
            if len(drivers) == 1:
                break
        raise TimeoutError(f"{self.open_count} of {self.total} futures did not end within {timeout:g} s")


class _WatchedMap:
    """Some items of one map; they are checked block by block, so that checking many is cheap."""

    BLOCK = 1024

    def __init__(self, driver: Driver, node: int) -> None:
        self._driver = driver
        self._node = node
        self._open: dict[int, Future[Any]] = {}
        self._seen: dict[int, bytes] = {}

    def add(self, future: Future[Any]) -> None:
        """Watch another future."""
        assert future._index is not None
        self._open[future._index] = future

    def _changed_blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield (first index, a byte per item that is 1 if it has ended) of the blocks in which an item ended."""
        ended = self._driver.ended_mask(self._node)
        for start in range(0, len(ended), self.BLOCK):
            block = ended[start : start + self.BLOCK]
            if self._seen.get(start, b"").ljust(len(block), b"\0") != block:
                yield start, block

    def has_ended(self) -> bool:
        """Return whether any watched item ended since the last check."""
        if not self._open:
            return False
        if self._driver.is_final(self._node):
            return True
        return any(
            block[index] and start + index in self._open
            for start, block in self._changed_blocks()
            for index in range(len(block))
        )

    def take_ended(self) -> list[Future[Any]]:
        """Return the futures that ended since the last call."""
        if self._open and self._driver.is_final(self._node):
            rest, self._open = list(self._open.values()), {}
            return rest
        taken = []
        for start, block in list(self._changed_blocks()):
            self._seen[start] = block
            for index in range(start, start + len(block)):
                if block[index - start] and index in self._open:
                    taken.append(self._open.pop(index))
        return taken
