"""Users' iterators: pulled as far as they are asked for, on a thread of their own, so that a slow one holds nobody up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graphflow.errors import MapTypeError
from graphflow.recording import Handle

__all__ = ["Pulled", "SourceReader", "pull_here"]

PULL_SECONDS = 0.05
"""How long a pull waits for more items once it has one."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull gave; `error` is what the iterator raised after these values."""

    values: list[Any]
    has_ended: bool = False
    error: BaseException | None = None


def _next_value(iterator: Iterator[Any]) -> Any:
    value = next(iterator)
    if isinstance(value, Handle):
        raise MapTypeError(
            f"an iterator that is mapped over gave a future, {value!r}; an iterator is pulled while the run goes on, when "
            "no call can be recorded: give a list of futures instead"
        )
    return value


def pull_here(iterator: Iterator[Any], count: int) -> Pulled:
    """Take up to `count` items in this thread, for as long as that is quick; at least one."""
    values: list[Any] = []
    until = time.monotonic() + PULL_SECONDS
    try:
        while len(values) < count and (not values or time.monotonic() < until):
            values.append(_next_value(iterator))
    except StopIteration:
        return Pulled(values, has_ended=True)
    except BaseException as error:
        return Pulled(values, error=error)
    return Pulled(values)


class SourceReader:
    """Reads one iterator ahead, as far as it was asked to, on a thread of its own."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._changed = threading.Condition()
        self._waiting: list[Any] = []
        self._wanted = 0
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def take(self, count: int) -> Pulled:
        """Wait for an item, then a moment for more, up to `count`."""
        with self._changed:
            self._wanted = count
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name="graphflow-source", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._is_over())
            self._changed.wait_for(lambda: len(self._waiting) >= count or self._is_over(), PULL_SECONDS)
            values, self._waiting = self._waiting[:count], self._waiting[count:]
            if self._waiting:
                return Pulled(values)
            return Pulled(values, has_ended=self._has_ended, error=self._error)

    def close(self) -> None:
        """Read no further."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._has_ended or self._error is not None or self._is_closed

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) < self._wanted or self._is_closed)
                if self._is_closed:
                    return
            value, ended, error = None, False, None
            try:
                value = _next_value(self._iterator)
            except StopIteration:
                ended = True
            except BaseException as raised:
                error = raised
            with self._changed:
                self._has_ended, self._error = ended, error
                if not ended and error is None:
                    self._waiting.append(value)
                self._changed.notify_all()
                if self._is_over():
                    return
