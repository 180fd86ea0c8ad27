"""Users' iterators: read on demand, on their own thread, so that a slow one blocks nothing else."""

from __future__ import annotations

import threading
import time
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.driver.dispatch import Dispatcher
from graphflow.errors import GraphflowError, MapTypeError
from graphflow.graph.graph import Node
from graphflow.graph.handles import Handle
from graphflow.graph.owning import PLAIN, Taker
from graphflow.records.item_index import MemoryHistory

__all__ = ["SourceReader", "Sources", "close_source", "pull_here"]

PULL_SECONDS = 0.05
"""How long a pull waits for more items once it has one."""
CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull gave; `error` is what the iterator raised after these values."""

    values: list[Any]
    has_ended: bool = False
    error: BaseException | None = None


def _check(value: Any) -> None:
    if isinstance(value, Handle):
        raise MapTypeError(
            f"an iterator that is mapped over yielded a future, {value!r}; iterators are read during the run, when "
            "no call can be recorded; use a list of futures instead"
        )


def _failure(error: BaseException) -> Exception:
    """Return what an iterator raised, as the failure of its map: no `SystemExit` of it ends the program."""
    if isinstance(error, Exception):
        return error
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    failure = GraphflowError(f"the iterator raised {text}, which ends only the map over it")
    failure.__cause__ = error
    return failure


def close_source(iterator: Any) -> None:
    """Close a generator; any other iterator is closed by its owner."""
    if isinstance(iterator, types.GeneratorType):
        try:
            iterator.close()
        except Exception:
            # It is being thrown away: what its clean-up raised concerns nobody's items.
            return


class _Stepped(Iterator[Any]):
    """An async iterator, one step at a time, in an event loop of the thread that reads it."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        import asyncio

        self._source = source
        self._loop = asyncio.new_event_loop()

    def __next__(self) -> Any:
        try:
            return self._loop.run_until_complete(self._source.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Close an async generator, and end the loop."""
        try:
            if isinstance(self._source, types.AsyncGeneratorType):
                self._loop.run_until_complete(self._source.aclose())
        except Exception:
            return
        finally:
            self._loop.close()


def pull_here(iterator: Iterator[Any], count: int, taker: Taker) -> Pulled:
    """Read up to `count` items in this thread, for as long as that is quick; at least one."""
    values: list[Any] = []
    until = time.monotonic() + PULL_SECONDS
    try:
        while len(values) < count and (not values or time.monotonic() < until):
            value = next(iterator)
            if type(value) not in PLAIN:
                _check(value)
                value = taker.take(value, 1)
            values.append(value)
    except StopIteration:
        return Pulled(values, has_ended=True)
    except KeyboardInterrupt as interrupt:
        # In this thread that is Ctrl-C.
        return Pulled(values, error=interrupt)
    except BaseException as error:
        return Pulled(values, error=_failure(error))
    return Pulled(values)


class SourceReader:
    """Reads one iterator ahead, as far as it was asked to, on a thread of its own.

    The iterator may be an async one: it is then stepped in an event loop of that thread.
    """

    def __init__(self, iterator: Iterator[Any] | AsyncIterator[Any]) -> None:
        self._iterator = iterator
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._wanted = 0
        self._is_awaited = False
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def take(self, count: int) -> Pulled:
        """Wait for an item, then a moment for more, up to `count`."""
        waiting = self._waiting
        with self._changed:
            self._wanted = count
            if self._thread is None:
                # No `Service`: it blocks in the user's iterator, and ends with it.
                self._thread = threading.Thread(target=self._read, name="graphflow-source", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            # Set before looking, so that what the reader adds in between is told.
            self._is_awaited = True
            self._changed.wait_for(lambda: waiting or self._is_over())
            self._changed.wait_for(lambda: len(waiting) >= count or self._is_over(), PULL_SECONDS)
            self._is_awaited = False
            # Nothing is read that nobody asked for: how far the iterator is ahead is the core's to say.
            self._wanted = 0
            values = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            if waiting:
                return Pulled(values)
            return Pulled(values, has_ended=self._has_ended, error=self._error)

    def close(self) -> None:
        """Read no further; the iterator cleans up on the thread that read it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is None:
            close_source(self._iterator)
        elif self._thread is not threading.current_thread():
            # One that is stuck in the user's code is not waited for.
            self._thread.join(CLOSE_SECONDS)

    def _is_over(self) -> bool:
        return self._has_ended or self._error is not None or self._is_closed

    def _read(self) -> None:
        iterator: Any = self._iterator
        if hasattr(iterator, "__anext__"):
            iterator = _Stepped(iterator)
        waiting, take = self._waiting, Taker().take
        try:
            while self._may_read():
                # What waits for one item is woken at once, what waits for many when they are all there.
                while len(waiting) < self._wanted and not self._is_closed:
                    value = next(iterator)
                    if type(value) not in PLAIN:
                        _check(value)
                        value = take(value, 1)
                    waiting.append(value)
                    if self._is_awaited and (len(waiting) == 1 or len(waiting) >= self._wanted):
                        with self._changed:
                            self._changed.notify_all()
        except StopIteration:
            self._has_ended = True
        except BaseException as raised:
            self._error = _failure(raised)
        with self._changed:
            self._changed.notify_all()
        if isinstance(iterator, _Stepped):
            iterator.close()
        elif self._is_closed:
            close_source(iterator)

    def _may_read(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._wanted or self._is_closed)
            return not self._is_closed


class Sources:
    """The iterators of one run that are mapped over; used by its driver's thread alone.

    Parameters
    ----------
    core, history, dispatcher
        Those of the run's driver.
    check
        Refuses items that differ from those of earlier launches, as `Turns.check_source` does.
    handle, call
        Hand an event to the core; run something on the driver's thread.
    """

    def __init__(
        self,
        core: Core,
        history: MemoryHistory,
        dispatcher: Dispatcher,
        *,
        check: Callable[..., None],
        handle: Callable[[ev.Event], None],
        call: Callable[[Callable[[], None]], None],
    ) -> None:
        self._core = core
        self._history = history
        self._dispatcher = dispatcher
        self._check = check
        self._handle = handle
        self._call = call
        self._readers: dict[tuple[int, int], SourceReader] = {}
        self._inline: dict[tuple[int, int], Any] = {}
        self._takers: dict[tuple[int, int], Taker] = {}
        self._raised_after: dict[int, int] = {}
        """The items that the iterator of a node gave before it raised."""

    def pull(self, command: ev.PullSource, *, in_caller: bool) -> None:
        """Pull items; the driver is told of them when they are there.

        Parameters
        ----------
        in_caller
            Whether the run has no thread of its own: then a plain iterator is read in the thread that waits.
        """
        book = self._core.books[command.node]
        source = next(each for each in book.node.sources if each.slot == command.slot)
        place = (command.node, command.slot)
        start = book.stage.pulled[command.slot]

        def deliver(pulled: Pulled) -> None:
            self._deliver(book.node, command.slot, start, pulled)

        if in_caller and not hasattr(source.values, "__anext__"):
            self._inline[place] = source.values
            taker = self._takers.setdefault(place, Taker())
            self._call(lambda: deliver(pull_here(source.values, command.count, taker)))
            return
        reader = self._readers.get(place)
        if reader is None:
            reader = self._readers[place] = SourceReader(source.values)

        def take(reader: SourceReader = reader) -> None:
            pulled = reader.take(command.count)
            self._call(lambda: deliver(pulled))

        # No `Service`: one pull, which blocks in the reader.
        threading.Thread(target=take, name="graphflow-pull", daemon=True).start()

    def _deliver(self, node: Node, slot: int, start: int, pulled: Pulled) -> None:
        buffer = self._dispatcher.buffers.setdefault((node.id, slot), {})
        buffer.update(enumerate(pulled.values, start))
        failpoint("driver.pull.after")
        self._check(node, slot, start, pulled.values, has_ended=pulled.has_ended)
        after = start + len(pulled.values)
        if pulled.error is not None and after < self._raised_after.get(node.id, after + 1):
            # Of several iterators, the one that gave the fewest items ends the map.
            self._raised_after[node.id] = after
            self._history.errors[node.id] = pulled.error
        self._handle(
            ev.SourceAdvanced(
                node=node.id,
                slot=slot,
                count=len(pulled.values),
                ended=pulled.has_ended,
                failed=pulled.error is not None,
            )
        )

    def close(self, node: int, slot: int) -> None:
        """Read an iterator no further, and let it clean up."""
        reader = self._readers.pop((node, slot), None)
        if reader is not None:
            reader.close()
        close_source(self._inline.pop((node, slot), None))

    def close_all(self) -> None:
        """Read no iterator any further."""
        for node, slot in [*self._readers, *self._inline]:
            self.close(node, slot)
