"""Backends in this process: the calling thread, and a pool of threads. They import nothing heavy."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from graphflow.backends.kept import KeptColumns
from graphflow.errors import BackendError
from graphflow.graph.mapping import element_nbytes
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.reports import Report
from graphflow.ports import BackendEvent, BatchDone, BatchLost, Capacity
from graphflow.results.packs.growing import GrowingPacks
from graphflow.runner.columns import load_column
from graphflow.runner.host import Packed, SerializationFailure
from graphflow.runner.run import run_batch

__all__ = ["InlineBackend", "ThreadsBackend"]

logger = logging.getLogger("graphflow.backends")
results_logger = logging.getLogger("graphflow.results")
Deliver = Callable[[BackendEvent], None]


def check_slots(maker: str, slots: Any) -> None:
    """Check that `slots` is an integer, 1 or more, or None."""
    if slots is not None and (isinstance(slots, bool) or not isinstance(slots, int) or slots < 1):
        raise BackendError(f"{maker}(slots=...) takes an integer, 1 or more, not {slots!r}")


def refuse_placement(name: str, options: TaskOptions) -> None:
    """Raise if a task asks for a place on a cluster, which this backend is not."""
    asked = [
        f"{what}={value!r}"
        for what, value in (("resources", dict(options.resources)), ("workers", options.workers))
        if value
    ]
    if asked:
        raise BackendError(
            f"task {options.name!r} asks for {', '.join(asked)}, which backend {name} does not have; run the flow on "
            "a Dask cluster whose workers have it: backend=graphflow.backends.dask(address=...)"
        )


def _in_context(order: BatchOrder, host: LocalHost) -> Report | None:
    """Run a batch with the context variables of the code that called its first task; what items set ends with it."""
    if order.context is None:
        return run_batch(order, host)
    # One that several threads enter at the same time must be a copy.
    return order.context.copy().run(run_batch, order, host)


class LocalHost:
    """The process of a local backend, as a batch sees it: values stay the objects that they are."""

    is_local = True
    tell = None

    def __init__(
        self,
        worker: str,
        backend: _LocalBackend,
        give_up: Callable[[Report], None],
        progress: Callable[[Report], None] | None = None,
    ) -> None:
        self.worker = worker
        self.growing = backend.growing
        self.load = backend.load
        self.not_stored = backend.not_stored
        self.takes_progress = progress is not None
        self.is_recalled = False
        """Whether the batch is to hand back what it has not begun."""
        self.is_interrupted = False
        """Whether Ctrl-C was pressed: no further item is begun."""
        self._stopped = backend.stopped
        self._limits = backend.limits
        self._give_up = give_up
        self._progress = progress

    def store(
        self, columns: Sequence[list[Any]], *, travels: bool = False, packed: Sequence[Packed | None] = ()
    ) -> list[Ref | SerializationFailure]:
        """Keep the lists as they are."""
        return [
            Ref(kind="local", id="", count=len(each), nbytes=len(each) * element_nbytes(each), data=each)
            for each in columns
        ]

    def note(self, batch: int, index: int) -> None:
        """Do nothing: a crash would end the driver too."""

    def is_stopped(self, run_id: str) -> bool:
        """Return whether the run asked its batches to stop."""
        return self.is_interrupted or self.is_recalled or run_id in self._stopped

    def limit_of(self, run_id: str, node: int) -> float | None:
        """Return the limit of a node's items, if the backend has one."""
        return self._limits.get((run_id, node))

    def progress(self, report: Report) -> None:
        """Deliver a partial report of a running batch."""
        if self._progress is not None:
            self._progress(report)

    def ending(self) -> None:
        """Do nothing: lists outlive the thread."""

    def give_up(self, report: Report) -> None:
        """Deliver the report of a batch whose thread is stuck, and replace the thread."""
        self._give_up(report)


class _LocalBackend(ABC):
    """What both local backends have in common."""

    is_local = True

    def __init__(self, load: Callable[[Ref], list[Any]] | None = None) -> None:
        self._runs: dict[str, Deliver] = {}
        self.stopped: dict[str, bool] = {}
        self.load = load or KeptColumns().load
        """Gives the values of a column for a batch."""
        self.growing = GrowingPacks()
        self._said: set[tuple[str, int]] = set()
        self.limits: dict[tuple[str, int], float] = {}
        """Timeouts that became known while items execute, by run and node."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Shut down what was started."""

    def check(self, options: TaskOptions) -> None:
        """Refuse what only a cluster has."""
        refuse_placement(self.name, options)

    @property
    @abstractmethod
    def name(self) -> str:
        """How logs and errors name it."""

    def start(self) -> None:
        """Do nothing."""

    def open_run(self, run_id: str, deliver: Deliver) -> None:
        self._runs[run_id] = deliver

    def fetch(self, refs: Sequence[Ref]) -> list[list[Any]]:
        return [load_column(ref, "a result") for ref in refs]

    def free(self, refs: Iterable[Ref]) -> None:
        """Do nothing: a list exists as long as something refers to it."""

    def recall(self, run_id: str, batches: Sequence[int]) -> None:
        """Do nothing: a batch that runs in its caller has the caller's thread."""

    def limit(self, run_id: str, node: int, seconds: float) -> None:
        self.limits[run_id, node] = seconds

    def not_stored(self, run_id: str, node: int, text: str) -> None:
        """Warn that a value cannot go to the result store, once per task."""
        if (run_id, node) not in self._said:
            self._said.add((run_id, node))
            results_logger.warning("run %s: %s", run_id, text)

    def close_run(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        self.stopped[run_id] = True
        for place in [place for place in self.limits if place[0] == run_id]:
            del self.limits[place]
        self._said = {place for place in self._said if place[0] != run_id}
        self.growing.close(run_id)

    def _deliver(self, run_id: str, event: BackendEvent) -> None:
        deliver = self._runs.get(run_id)
        if deliver is not None:
            deliver(event)


@contextmanager
def _noticing_interrupts(host: LocalHost) -> Iterator[None]:
    """Notice Ctrl-C and let it end the running item: a task that raises KeyboardInterrupt is only a failed item."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupted(number: int, frame: object) -> None:
        host.is_interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class InlineBackend(_LocalBackend):
    """Batches run in the thread that waits for them: a debugger works, and so do thread-bound resources."""

    runs_in_caller = True

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, deque[BatchOrder]] = {}

    @property
    def name(self) -> str:
        return "inline()"

    def capacity(self) -> Capacity:
        """Return one batch at a time, none waiting."""
        return Capacity(slots=1, queue=0, tells=False)

    def submit(self, order: BatchOrder) -> None:
        """Keep a batch for the next `step`."""
        self._waiting.setdefault(order.run_id, deque()).append(order.arrived(time.perf_counter()))

    def step(self, run_id: str) -> bool:
        waiting = self._waiting.get(run_id)
        if not waiting:
            return False
        order = waiting.popleft()

        def give_up(report: Report) -> None:
            self._deliver(run_id, BatchDone(report))
            if report.held:
                self._deliver(run_id, BatchLost(batch=order.id, had_started=True))

        host = LocalHost("inline", self, give_up)
        with _noticing_interrupts(host):
            report = run_batch(order, host)
        if report is not None:
            self._deliver(run_id, BatchDone(report))
        if host.is_interrupted:
            raise KeyboardInterrupt
        return True

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Waiting batches are withdrawn; the caller's thread itself cannot be stopped."""
        self.stopped[run_id] = True
        for order in self._waiting.pop(run_id, ()):
            self._deliver(run_id, BatchLost(batch=order.id, had_started=False))

    def close_run(self, run_id: str) -> None:
        super().close_run(run_id)
        self._waiting.pop(run_id, None)

    def close(self) -> None:
        """Do nothing."""


class _Sent:
    """A batch that the pool has; `host` is set when it begins."""

    __slots__ = ("host", "is_recalled", "order")

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.host: LocalHost | None = None
        self.is_recalled = False


class ThreadsBackend(_LocalBackend):
    """A pool of threads in this process; it starts in milliseconds.

    Parameters
    ----------
    slots
        How many batches run at once; by default the number of cores plus four, at most 32.
    load
        Gives the values of columns for a batch, where this process alone does not have them all.
    """

    runs_in_caller = False

    def __init__(self, slots: int | None = None, *, load: Callable[[Ref], list[Any]] | None = None) -> None:
        super().__init__(load)
        check_slots("threads", slots)
        self._slots = slots or min(32, (os.cpu_count() or 1) + 4)
        self._orders: queue.SimpleQueue[BatchOrder | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._names = 0
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def name(self) -> str:
        return f"threads({self._slots})"

    def capacity(self) -> Capacity:
        """Return as many slots as threads."""
        return Capacity(slots=self._slots, queue=1)

    def submit(self, order: BatchOrder) -> None:
        """Queue a batch; threads are started as they are needed."""
        order = order.arrived(time.perf_counter())
        with self._lock:
            if self._is_closed:
                raise BackendError(f"{self.name} is closed")
            self._sent[(order.run_id, order.id)] = _Sent(order)
            if len(self._threads) < self._slots:
                self._add_thread()
        self._orders.put(order)

    def _add_thread(self) -> None:
        self._names += 1
        # No `Service`: it blocks on the queue of batches, and is given up with an item that is stuck.
        thread = threading.Thread(target=self._work, name=f"graphflow-worker-{self._names}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        thread = threading.current_thread()
        while True:
            order = self._orders.get()
            if order is None:
                return
            order_now = order

            def give_up(report: Report, order: BatchOrder = order_now) -> None:
                self._replace(thread)
                if report.held:
                    self._go_on(order, report)
                    self._end(order, BatchLost(batch=order.id, had_started=True))
                else:
                    self._end(order, BatchDone(report))

            progress = partial(self._go_on, order)
            host = LocalHost(thread.name, self, give_up, progress)
            with self._lock:
                flight = self._sent.get((order.run_id, order.id))
                # What was stopped or taken back stays in the queue.
                if flight is None or flight.order is not order or flight.host is not None:
                    continue
                host.is_recalled = flight.is_recalled
                flight.host = host
            try:
                report = _in_context(order, host)
            except BaseException as error:
                logger.debug("batch %s failed outside its items", order.id, exc_info=True)
                self._end(order, BatchLost(batch=order.id, reason=f"{type(error).__name__}: {error}"))
                continue
            if report is None:
                return
            self._end(order, BatchDone(report))
            del order, host, report, give_up, order_now, progress, flight
            if thread not in self._threads:
                return

    def take_back(self, run_id: str, batches: Iterable[int]) -> list[BatchOrder]:
        """Take back waiting batches; running ones hand back what they have not started.

        A batch without a time slice, of a fixed size, runs to its end.
        """
        taken: list[BatchOrder] = []
        with self._lock:
            for batch in batches:
                flight = self._sent.get((run_id, batch))
                if flight is None:
                    continue
                if flight.host is None:
                    del self._sent[(run_id, batch)]
                    taken.append(flight.order)
                elif flight.order.slice_seconds is not None:
                    flight.host.is_recalled = True
        return taken

    def recall(self, run_id: str, batches: Sequence[int]) -> None:
        """Let batches hand back what they have not begun, those that wait as soon as a thread takes them."""
        with self._lock:
            for batch in batches:
                flight = self._sent.get((run_id, batch))
                if flight is not None:
                    flight.is_recalled = True
                    if flight.host is not None:
                        flight.host.is_recalled = True

    def _end(self, order: BatchOrder, event: BackendEvent) -> None:
        with self._lock:
            if self._sent.pop((order.run_id, order.id), None) is None:
                return
        self._deliver(order.run_id, event)

    def _go_on(self, order: BatchOrder, report: Report) -> None:
        """Deliver a report of a batch that has not ended."""
        with self._lock:
            if (order.run_id, order.id) not in self._sent:
                return
        self._deliver(order.run_id, BatchDone(report))

    def _replace(self, thread: threading.Thread) -> None:
        with self._lock:
            if thread in self._threads:
                self._threads.remove(thread)
                if not self._is_closed:
                    self._add_thread()

    def step(self, run_id: str) -> bool:
        """Return False: batches do not run in the caller."""
        return False

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Stop batches between items; `hard` also abandons the threads that still run one."""
        self.stopped[run_id] = True
        if not hard:
            return
        with self._lock:
            lost = [key for key in self._sent if key[0] == run_id]
            for key in lost:
                del self._sent[key]
            old, self._threads = self._threads, []
            for _ in old:
                self._orders.put(None)
            self._orders, stale = queue.SimpleQueue(), self._orders
            waiting: list[BatchOrder] = []
            while not stale.empty():
                order = stale.get()
                if order is not None and order.run_id != run_id:
                    waiting.append(order)
            for _ in old:
                stale.put(None)
            for order in waiting:
                self._add_thread()
                self._orders.put(order)
        for _, batch in lost:
            self._deliver(run_id, BatchLost(batch=batch, had_started=False))

    def close(self) -> None:
        """Stop the threads; one that is stuck ends with the process."""
        with self._lock:
            self._is_closed = True
            for _ in self._threads:
                self._orders.put(None)
            self._threads.clear()
