"""A loop in the background, with one life cycle for all of them."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

__all__ = ["Service"]

logger = logging.getLogger("graphflow.service")
STOP_SECONDS = 5.0
ERROR_SECONDS = 1.0
"""The pause where the interval itself cannot be told."""


class Service:
    """Call `tick` again and again in a daemon thread, after each interval, from `start` to `stop`.

    A fork of the process has none of its threads: there, `start` begins another loop.

    Parameters
    ----------
    tick
        One turn. What it returns, if anything, is the seconds until the next one, in place of `interval`.
    name
        The thread's.
    interval
        Seconds before a turn, or what is asked for them each time.
    on_error
        Called with what a turn raised; by default it is logged. The loop goes on, unless this stops it.
    """

    def __init__(
        self,
        tick: Callable[[], float | None],
        *,
        name: str,
        interval: float | Callable[[], float],
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._tick = tick
        self._name = name
        self._interval = interval
        self._on_error = on_error or self._log
        self._thread: threading.Thread | None = None
        self._forget_thread()
        _services.add(self)

    @property
    def is_running(self) -> bool:
        """Whether the loop goes on in this process."""
        return self._thread is not None and self._thread.is_alive() and not self._over.is_set()

    def start(self) -> None:
        """Begin; does nothing while the loop is running."""
        with self._lock:
            if not self.is_running:
                # Another pair: an earlier loop may still be in its last turn.
                self._wake, self._over = threading.Event(), threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake, self._over), name=self._name, daemon=True
                )
                self._thread.start()

    def wake(self) -> None:
        """Let the next turn come at once, after the one that is going on."""
        self._wake.set()

    def stop(self, timeout: float = STOP_SECONDS) -> bool:
        """Begin no more turns, and wait for the one that is going on; False if that takes longer than `timeout`.

        A turn that stops its own loop goes on to its end.
        """
        self._over.set()
        self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, wake: threading.Event, over: threading.Event) -> None:
        seconds: float | None = None
        while True:
            wake.wait(min(self._pause() if seconds is None else seconds, threading.TIMEOUT_MAX))
            wake.clear()
            if over.is_set():
                return
            try:
                seconds = self._tick()
            except Exception as error:
                seconds = None
                self._report(error)

    def _pause(self) -> float:
        if not callable(self._interval):
            return self._interval
        try:
            return self._interval()
        except Exception as error:
            self._report(error)
            return ERROR_SECONDS

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception as another:
            self._log(another)

    def _log(self, error: Exception) -> None:
        logger.error("%s failed; it goes on", self._name, exc_info=error)

    def _forget_thread(self) -> None:
        self._lock = threading.Lock()
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = None


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def _begin_anew() -> None:
    # Locks may have been held by threads that a fork does not have.
    for service in list(_services):
        service._forget_thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
