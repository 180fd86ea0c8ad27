"""Running a flow interactively: progress while it runs, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from graphflow.common.service import Service
from graphflow.display.meter import Meter, rows_of
from graphflow.display.progress import Progress
from graphflow.display.scripts import shown_elsewhere

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.ports import Backend
    from graphflow.runs.run import Run

__all__ = ["Begin", "Interrupts", "run_flow"]

Begin = Callable[["Flow[Any, Any]", Mapping[str, Any]], "Run"]
"""Starts a run of a flow with parameters, and returns it at once."""

_REFRESH_SECONDS = 0.1


class Interrupts:
    """Ctrl-C during a run: the first drains it, the second cancels it, a third ends the program; SIGTERM likewise.

    The signal handler only counts; the watching thread acts, as the interrupted thread may hold a lock.
    Before there is a run to stop, and from the third time on, Ctrl-C is Python's `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_armed = False
        self.is_terminated = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Count a signal; the handler of SIGINT and SIGTERM."""
        self.count += 1
        self.is_terminated |= signum == signal.SIGTERM
        if not self.is_armed or self.count > 2:
            raise KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; do nothing outside the main thread, as only that one gets signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self.handle), signal.signal(signal.SIGTERM, self.handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])


class Watcher:
    """Shows progress and passes interrupts on, some times a second."""

    def __init__(self, run: Run, progress: Progress, interrupts: Interrupts) -> None:
        self._run = run
        self._progress = progress
        self._interrupts = interrupts
        self._meter = Meter()
        self._acted = 0
        self._service = Service(self._turn, name="graphflow-progress", interval=_REFRESH_SECONDS)

    def __enter__(self) -> Watcher:
        self._progress.start()
        self._service.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._service.stop()
        self._progress.stop(rows_of(self._run, self._meter), now=time.time())

    def _turn(self) -> None:
        self._act()
        self._show()

    def _show(self) -> None:
        self._progress.show(rows_of(self._run, self._meter), now=time.time())

    def _act(self) -> None:
        count = self._interrupts.count
        if count >= 1 and self._acted == 0:
            self._acted = 1
            self._run.cancel()
            self._progress.say(
                "interrupted: finishing the running items, starting no new ones; press Ctrl-C again to cancel"
            )
        if count >= 2 and self._acted == 1:
            self._acted = 2
            self._progress.say("cancelling: stopping the running items")
            self._run.cancel(force=True)


def run_flow(
    flow: Flow[Any, Any],
    parameters: Mapping[str, Any],
    *,
    backend: Backend | None = None,
    progress: Progress,
    interrupts: Interrupts | None = None,
    begin: Begin | None = None,
) -> Run:
    """Run a flow to its end, whatever its final state, and return the run.

    Raises
    ------
    ParameterError
        If the parameters do not match the flow's; nothing ran.
    BackendError
        If the backend cannot be started or reached.
    """
    interrupts = interrupts or Interrupts()
    chosen = flow if backend is None else flow.with_options(backend=backend)
    with interrupts.installed():
        with shown_elsewhere():
            run = chosen.start(**parameters) if begin is None else begin(chosen, parameters)
        interrupts.is_armed = True
        with Watcher(run, progress, interrupts):
            run.wait()
    return run
