"""Timeouts in two steps: an exception raised in the item's thread, then, after a grace time, by force.

An item that sleeps in C code does not see the exception; its guard's `on_stuck` then decides what force is.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

__all__ = ["GRACE_SECONDS", "Abandoned", "Guard", "ItemTimeout", "Watchdog", "watchdog"]

GRACE_SECONDS = float(os.environ.get("GRAPHFLOW_TIMEOUT_GRACE_SECONDS", "1.0"))
_SET_ASYNC_EXC = ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
_raise_in = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(_SET_ASYNC_EXC)
# The same function with a null pointer, which takes back what was not raised yet; None would not be one.
_take_back = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(_SET_ASYNC_EXC)


class ItemTimeout(BaseException):
    """Raised in an item's thread when its time is up; users see `ItemTimedOut`."""


class Abandoned(BaseException):
    """The item was stuck and given up: its thread has nothing more to report."""


class Guard:
    """Watches one thread that runs items, one at a time.

    Without `on_stuck` nobody gives an item up: the thread has it until it yields.
    """

    def __init__(self, dog: Watchdog, on_stuck: Callable[[], None] | None) -> None:
        self._dog = dog
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._has_fired = False
        self._is_stuck = False
        self.on_stuck = on_stuck

    def arm(self, seconds: float) -> None:
        """Start the time of an item."""
        with self._lock:
            self._deadline = time.monotonic() + seconds
            self._has_fired = False
        self._dog.watch(self, self._deadline)

    def disarm(self) -> bool:
        """End the time of an item; True if it was up. A late exception does not reach the next item.

        Raises
        ------
        Abandoned
            If the item was given up in the meantime.
        """
        with self._lock:
            self._deadline = None
            if self._is_stuck:
                raise Abandoned
            fired = self._has_fired
            if fired:
                _take_back(self._thread, None)
                self._has_fired = False
        return fired

    def close(self) -> None:
        """The thread runs no more items."""
        self._dog.forget(self)

    def check(self, now: float) -> float | None:
        """Act if the time is up; gives the next time to look, or None."""
        with self._lock:
            if self._deadline is None or self._is_stuck:
                return None
            if now < self._deadline:
                return self._deadline
            if not self._has_fired:
                self._has_fired = True
                self._deadline = now + GRACE_SECONDS
                _raise_in(self._thread, ItemTimeout)
                return self._deadline
            if self.on_stuck is None:
                return None
            self._is_stuck = True
        self.on_stuck()
        return None


class Watchdog:
    """One thread that watches all guards of a process; it is started at the first timeout."""

    def __init__(self) -> None:
        self._guards: set[Guard] = set()
        self._condition = threading.Condition()
        self._wake_at = float("inf")
        self._thread: threading.Thread | None = None

    def guard(self, on_stuck: Callable[[], None] | None) -> Guard:
        """A guard for the calling thread."""
        guard = Guard(self, on_stuck)
        with self._condition:
            self._guards.add(guard)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="graphflow-watchdog", daemon=True)
                self._thread.start()
        return guard

    def watch(self, guard: Guard, deadline: float) -> None:
        """Look at a guard at `deadline` (of the monotonic clock) or earlier."""
        if deadline < self._wake_at:
            with self._condition:
                self._condition.notify()

    def forget(self, guard: Guard) -> None:
        """Watch a guard no longer."""
        with self._condition:
            self._guards.discard(guard)

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            with self._condition:
                guards = list(self._guards)
            next_times = [due for guard in guards if (due := guard.check(now)) is not None]
            with self._condition:
                # A guard armed between the check and this wait is looked at within 50 ms.
                self._wake_at = min([*next_times, now + (0.05 if self._guards else 3600.0)])
                self._condition.wait(max(0.0, self._wake_at - time.monotonic()))
                self._wake_at = 0.0


_DOG = Watchdog()


def watchdog() -> Watchdog:
    """The watchdog of this process."""
    return _DOG
