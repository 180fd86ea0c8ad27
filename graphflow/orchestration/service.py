"""All loops of orchestration as one object with a life cycle: the clock, the keeper, the reactor, the sender, the sweeper and a worker."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from graphflow.orchestration.clock import ScheduleClock
from graphflow.orchestration.keeper import Keeper
from graphflow.orchestration.reactor import Reactor
from graphflow.orchestration.sender import Sender
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.sweeper import Sweeper
from graphflow.orchestration.worker import Worker, WorkerOptions

__all__ = ["Orchestration", "Signals"]


class Orchestration:
    """What one process runs; any number of processes may run one on the same home.

    Parameters
    ----------
    stores
        The home.
    has_clock
        Whether schedules and automations are fired here, notifications sent, and old rows deleted.
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
        self._sender = Sender(stores)
        self._reactor = Reactor(stores, self._acted)
        self._sweeper = Sweeper(stores)

    def start(self) -> None:
        """Begin; the worker first, so that what is due finds one."""
        if self.worker is not None:
            self.worker.start()
        self._keeper.service.start()
        if self._clock is not None:
            # The zone database may be another one than when the next times were computed.
            self._stores.plans.recompute()
            self._clock.service.start()
            self._clock.service.wake()
            for each in (self._sender, self._reactor, self._sweeper):
                each.service.start()
                each.service.wake()

    def stop(self) -> None:
        """End: no more fires, then the worker hands its runs over."""
        if self._clock is not None:
            self._clock.service.stop()
            for each in (self._reactor, self._sender, self._sweeper):
                each.service.stop()
        if self.worker is not None:
            self.worker.stop()
        self._keeper.service.stop()

    def stop_at_once(self) -> None:
        """Kill what is still going on; may be called while `stop` waits, also by a signal's handler."""
        if self.worker is not None:
            self.worker.kill()

    def _acted(self) -> None:
        self._sender.service.wake()
        self._made()

    def _made(self) -> None:
        if self.worker is not None:
            self.worker.wake()


class Signals:
    """SIGINT and SIGTERM ask a service to end, and each further one calls `again`; a context, in the main thread.

    Elsewhere no signal comes, and `wait` waits for ever.
    """

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again
        self._asked = threading.Event()
        self._numbers: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self) -> int:
        """Wait for the first signal, and return its number."""
        self._asked.wait()
        return self._numbers[0]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._numbers.append(number)
        if self._asked.is_set():
            self._again()
        self._asked.set()
