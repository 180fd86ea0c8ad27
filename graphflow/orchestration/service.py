"""All loops of orchestration as one object with a life cycle: the clock, the keeper and a worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from graphflow.orchestration.clock import ScheduleClock
from graphflow.orchestration.keeper import Keeper
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.worker import Worker, WorkerOptions

__all__ = ["Orchestration", "wait_for_signal"]


class Orchestration:
    """What one process runs; any number of processes may run one on the same home.

    Parameters
    ----------
    stores
        The home.
    has_clock
        Whether schedules are fired here.
    worker
        The options of a worker; None for none.
    """

    def __init__(
        self, stores: Stores, *, has_clock: bool = True, worker: WorkerOptions | None = None
    ) -> None:
        self.worker = None if worker is None else Worker(stores, worker)
        self._stores = stores
        self._clock = ScheduleClock(stores, self._made) if has_clock else None
        self._keeper = Keeper(stores)

    def start(self) -> None:
        """Begin; the worker first, so that what is due finds one."""
        if self.worker is not None:
            self.worker.start()
        self._keeper.service.start()
        if self._clock is not None:
            # The zone database may be another one than when the next times were computed.
            self._stores.plans.recompute()
            self._clock.service.start()

    def stop(self) -> None:
        """End: no more fires, then the worker hands its runs over."""
        if self._clock is not None:
            self._clock.service.stop()
        if self.worker is not None:
            self.worker.stop()
        self._keeper.service.stop()

    def stop_at_once(self) -> None:
        """Kill what is still going on; may be called while `stop` waits, also by a signal's handler."""
        if self.worker is not None:
            self.worker.kill()

    def _made(self) -> None:
        if self.worker is not None:
            self.worker.wake()


def wait_for_signal(again: Callable[[], None]) -> int:
    """Wait for SIGINT or SIGTERM, and return its number; each further one calls `again`.

    Only in the main thread; elsewhere this waits for ever.
    """
    asked = threading.Event()
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        if asked.is_set():
            again()
        asked.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, note)
    asked.wait()
    return numbers[0]
