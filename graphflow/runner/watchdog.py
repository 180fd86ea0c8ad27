"""One thread that watches all batches of a process: the time of their items, and whether they have something to tell.

Timeouts come in two steps: an exception raised in the item's thread, then, after a grace time, force. An item that
sleeps in C code does not see the exception; its guard's `on_stuck` then decides what force is.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["GRACE_SECONDS", "Abandoned", "Guard", "ItemTimeout", "Watchdog", "Watched", "watchdog"]

logger = logging.getLogger("graphflow.runner")
GRACE_SECONDS = float(os.environ.get("GRAPHFLOW_TIMEOUT_GRACE_SECONDS", "1.0"))
LOOK_SECONDS = 0.05
_SET_ASYNC_EXC = ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
_raise_in = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(_SET_ASYNC_EXC)
# The same function with a null pointer, which takes back what was not raised yet; None would not be one.
_take_back = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(_SET_ASYNC_EXC)


class ItemTimeout(BaseException):
    """Raised in an item's thread when its time is up; users see `ItemTimedOut`."""


class Abandoned(BaseException):
    """The item was stuck and given up: its thread has nothing more to report."""


class Watched(Protocol):
    """Something that the watchdog looks at, every 50 ms or when it is due."""

    def check(self, now: float) -> float | None:
        """Act if it is time; return the next time to check (of the monotonic clock), or None."""
        ...


class _Armed:
    """The time of one item; `due` is None until its limit is known."""

    __slots__ = ("begun", "due", "learn")

    def __init__(self, begun: float, due: float | None, learn: Callable[[], float | None] | None) -> None:
        self.begun = begun
        self.due = due
        self.learn = learn


class Guard:
    """Watches one thread that runs items, one at a time.

    Without `on_stuck` no item is given up: the thread has it until it yields.

    Where nothing happens, an item costs no lock: its end is the store of `_armed`, then a look at `_is_acting`; the
    watchdog sets the latter, then looks at the former. So at least one of them sees the other.
    """

    def __init__(self, dog: Watchdog, on_stuck: Callable[[], None] | None) -> None:
        self._dog = dog
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._armed: _Armed | None = None
        self._is_acting = False
        self._has_fired = False
        self._is_stuck = False
        self.on_stuck = on_stuck

    def arm(self, seconds: float | None, learn: Callable[[], float | None] | None = None) -> None:
        """Start the time of an item. Where it has no limit yet, `learn` is asked for one while it runs."""
        begun = time.monotonic()
        if seconds is None:
            self._armed = _Armed(begun, None, learn)
            return
        due = begun + seconds
        self._armed = _Armed(begun, due, None)
        if due < self._dog.wake_at:
            self._dog.look_at(due)

    def disarm(self) -> bool:
        """End the time of an item; True if it was up. A late exception does not reach the next item.

        Raises
        ------
        Abandoned
            If the item was given up in the meantime.
        """
        self._armed = None
        if not self._is_acting:
            return False
        with self._lock:
            if self._is_stuck:
                raise Abandoned
            fired = self._has_fired
            if fired:
                _take_back(self._thread, None)
            self._has_fired = self._is_acting = False
        return fired

    def close(self) -> None:
        """Close the watch of a thread that runs no more items."""
        self._dog.forget(self)

    def check(self, now: float) -> float | None:
        """Act if the time is up; return the next time to check, or None."""
        armed = self._armed
        if armed is None:
            return None
        if armed.due is None:
            seconds = armed.learn() if armed.learn is not None else None
            if seconds is None:
                return None
            armed.due = armed.begun + seconds
        if now < armed.due:
            return armed.due
        with self._lock:
            if self._is_stuck:
                return None
            self._is_acting = True
            if self._armed is not armed:
                self._is_acting = self._has_fired
                return None
            if not self._has_fired:
                self._has_fired = True
                armed.due = now + GRACE_SECONDS
                _raise_in(self._thread, ItemTimeout)
                return armed.due
            if self.on_stuck is None:
                return None
            self._is_stuck = True
        self.on_stuck()
        return None


class Watchdog:
    """One thread that looks at all that is watched in a process; it is started at the first."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._condition = threading.Condition()
        self.wake_at = float("inf")
        self._thread: threading.Thread | None = None

    def guard(self, on_stuck: Callable[[], None] | None) -> Guard:
        """Return a guard for the calling thread."""
        guard = Guard(self, on_stuck)
        self.watch(guard)
        return guard

    def watch(self, watched: Watched) -> None:
        """Look at something from now on."""
        with self._condition:
            self._watched.add(watched)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="graphflow-watchdog", daemon=True)
                self._thread.start()
            elif self.wake_at > time.monotonic() + LOOK_SECONDS:
                self._condition.notify()

    def look_at(self, due: float) -> None:
        """Look at everything at `due` (of the monotonic clock) or earlier."""
        if due < self.wake_at:
            with self._condition:
                self._condition.notify()

    def forget(self, watched: Watched) -> None:
        """Watch something no longer."""
        with self._condition:
            self._watched.discard(watched)

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            with self._condition:
                watched = list(self._watched)
            next_times = [due for each in watched if (due := _look(each, now)) is not None]
            with self._condition:
                # What is armed between the check and this wait is looked at within 50 ms.
                self.wake_at = min([*next_times, now + (LOOK_SECONDS if self._watched else 3600.0)])
                self._condition.wait(max(0.0, self.wake_at - time.monotonic()))
                self.wake_at = 0.0


def _look(watched: Watched, now: float) -> float | None:
    try:
        return watched.check(now)
    except Exception:
        # One thing that is watched does not leave the others without a watch.
        logger.exception("the watchdog of a batch failed")
        return None


_DOG = Watchdog()


def watchdog() -> Watchdog:
    """Return the watchdog of this process."""
    return _DOG
