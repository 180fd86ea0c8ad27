"""The local backend: threads of this process, and worker processes once there is work that is worth them.

Work starts at once on threads. When more than about two seconds of CPU work are left and the threads are measured
to hold each other up at the interpreter's lock, a local Dask cluster comes up in the background, and takes over the
tasks that compute. What waits for something else stays on threads, and so does what cannot be pickled.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphflow.backends.automatic.candidates import KNOWN, Candidate, Thresholds, hindrance
from graphflow.backends.automatic.gauge import Gauge
from graphflow.backends.automatic.shared_cluster import SharedCluster
from graphflow.backends.kept import KeptColumns
from graphflow.backends.local import Deliver, ThreadsBackend, check_slots, refuse_placement
from graphflow.backends.moving import Carrier
from graphflow.errors import BackendError, SerializationError
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.reports import Report
from graphflow.ports import BackendEvent, BackendFailed, BatchDone, BatchLost, Capacity, CapacityChanged
from graphflow.runner.columns import load_column

if TYPE_CHECKING:
    from graphflow.backends.dask.cluster import DaskBackend

__all__ = ["LocalBackend", "cores"]

logger = logging.getLogger("graphflow.backends")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_daemon() -> bool:
    """Return whether this is a process, such as a worker of Dask, that may not start processes of its own."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and bool(multiprocessing.current_process().daemon)


@dataclass(slots=True, weakref_slot=True)
class _Run:
    """A run, and its batches on both sides."""

    id: str
    deliver: Deliver
    capacity: Capacity
    tasks: dict[tuple[int, ...], Candidate] = field(default_factory=dict)
    here: dict[int, Candidate] = field(default_factory=dict)
    away: dict[int, tuple[BatchOrder, Candidate]] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    """Functions, by id, whose batches go to processes."""
    dangerous: set[int] = field(default_factory=set)
    """Functions that may have killed a worker process: they never come back to this one."""
    carrier: Carrier | None = None
    is_warming: bool = False
    has_just_moved: bool = False
    is_stopped: bool = False
    is_stopped_hard: bool = False

    def is_away(self, task: Candidate) -> bool:
        """Return whether batches of a task go to processes; so do parts of a chain that moved."""
        functions = [id(fn) for fn in task.functions]
        if not self.dangerous.isdisjoint(functions):
            return True
        return not task.is_pinned and self.moved.issuperset(functions)


class LocalBackend:
    """Batches run on threads at first, and on worker processes where that is worth it.

    Parameters
    ----------
    slots
        Threads and worker processes; by default the number of cores, and of threads four more.
    shared
        The cluster that it shares with others; without it, it has one of its own, closed with it.
    """

    runs_in_caller = False
    is_local = True

    def __init__(
        self,
        slots: int | None = None,
        *,
        shared: SharedCluster | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        check_slots("local", slots)
        self._slots = slots
        self._thresholds = thresholds or Thresholds()
        self._cores = self._thresholds.cores or cores()
        self._columns = KeptColumns(self._fetch)
        self._threads = ThreadsBackend(slots, load=self._columns.load)
        self._is_own = shared is None
        self._shared = shared or SharedCluster(slots or self._cores)
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._gauge = Gauge()
        self._cluster: DaskBackend | None = None
        self._has_asked = False
        self._is_closed = False
        self._up = threading.Event()
        is_alone = min(self._cores, self._shared.slots) < 2 or _is_daemon()
        self._can_move = self._thresholds.moves_all or not is_alone

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return f"local({self._slots})" if self._slots else "local()"

    def start(self) -> None:
        """Do nothing: processes start when there is work for them."""
        if self._is_closed:
            raise BackendError(f"{self.name} is closed")
        if self._thresholds.moves_all:
            self._bring_up()
            self._up.wait()

    def capacity(self) -> Capacity:
        return self._threads.capacity()

    def check(self, options: TaskOptions) -> None:
        """Refuse what only a cluster has."""
        refuse_placement(self.name, options)

    # -- runs -------------------------------------------------------------------------------------------

    def open_run(self, run_id: str, deliver: Deliver) -> None:
        run = _Run(run_id, deliver, self.capacity())
        with self._lock:
            self._runs[run_id] = run
        self._threads.open_run(run_id, lambda event: self._from_threads(run, event))

    def submit(self, order: BatchOrder) -> None:
        """Send a batch where its task is at home."""
        run = self._runs.get(order.run_id)
        if run is None:
            raise BackendError(f"{self.name} is closed, or run {order.run_id} is not open on this backend")
        task = self._task_of(run, order)
        if run.is_away(task) and not run.is_stopped and self._send_away(run, order, task):
            self._adjust(run)
        else:
            self._keep(run, order, task)

    def _keep(self, run: _Run, order: BatchOrder, task: Candidate) -> None:
        """Run a batch on threads."""
        with self._lock:
            run.here[order.id] = task
            self._measure()
        self._threads.submit(order)

    def _task_of(self, run: _Run, order: BatchOrder) -> Candidate:
        key = tuple(id(step.program.fn) for step in order.steps)
        task = run.tasks.get(key)
        if task is None:
            task = run.tasks[key] = Candidate(order)
            if self._thresholds.moves_all:
                run.moved.update(key)
            elif self._can_move and self._shared.backend is not None and not task.is_pinned:
                # Another run of this process measured it, and the cluster is warm.
                seconds = KNOWN.seconds_per_item(task.functions) * (order.width or 0)
                if seconds and seconds >= self._thresholds.work_seconds:
                    task.wants_away = True
                    self._bring_up()
        return task

    def _measure(self) -> None:
        running = min(sum(len(run.here) for run in self._runs.values()), self._threads.capacity().slots)
        self._gauge.change(running, now=time.monotonic(), process_cpu=time.process_time())

    # -- what comes back --------------------------------------------------------------------------------

    def _from_threads(self, run: _Run, event: BackendEvent) -> None:
        if isinstance(event, BatchDone):
            report = event.report
            with self._lock:
                task = run.here.get(report.batch) if report.held else run.here.pop(report.batch, None)
                self._measure()
                if task is not None and report.reached and not report.held:
                    task.here.add(cpu=report.cpu_seconds, elapsed=report.elapsed, items=report.reached)
                    task.sample = [step.values.data for step in report.steps if step.values is not None]
        elif isinstance(event, BatchLost):
            with self._lock:
                run.here.pop(event.batch, None)
                self._measure()
        run.deliver(event)

    def _from_processes(self, run: _Run, event: BackendEvent) -> None:
        if isinstance(event, CapacityChanged):
            self._adjust(run)
            return
        if isinstance(event, BatchDone) and not event.report.held:
            order, task = run.away.pop(event.report.batch, (None, None))
            if order is not None and task is not None:
                if event.report.is_refused and run.dangerous.isdisjoint(map(id, task.functions)):
                    self._pin(task, "a worker process could not read it")
                    self._keep(run, order, task)
                    return
                self._judge(task, event.report)
        elif isinstance(event, BatchLost):
            _, task = run.away.pop(event.batch, (None, None))
            if task is not None and event.had_started is not False:
                run.dangerous.update(map(id, task.functions))
        elif isinstance(event, BackendFailed):
            self._cluster = None
            if not run.away:
                return
        run.deliver(event)

    def _judge(self, task: Candidate, report: Report) -> None:
        """Move tasks that compute little in processes back: they mostly wait, for which many threads are better."""
        if not report.reached or task.is_pinned:
            return
        task.away.add(cpu=report.cpu_seconds, elapsed=report.elapsed, items=report.reached)
        task.away_seconds += report.elapsed
        if task.away_seconds < self._thresholds.returns_after_seconds:
            return
        if task.away.share * self._shared.slots < self._thresholds.returns_below * task.cpu_rate:
            self._pin(task, "it waits longer than it computes")
        else:
            KNOWN.keep(task.functions, task.away)

    def _pin(self, task: Candidate, reason: object) -> None:
        task.is_pinned, task.wants_away = True, False
        KNOWN.forget(task.functions)
        logger.debug("%s stays on threads: %s", task.name, reason)

    # -- moving -----------------------------------------------------------------------------------------

    def forecast(self, run_id: str, seconds: float) -> None:
        """Decide whether tasks of a run move, now that about so much work is left of it."""
        run = self._runs.get(run_id)
        if run is None:
            return
        if self._can_move and not self._is_closed:
            self._consider(run, seconds)
        run.has_just_moved = False
        self._adjust(run)

    def _consider(self, run: _Run, seconds: float) -> None:
        thresholds = self._thresholds
        with self._lock:
            reading = self._gauge.reading()
        if (
            reading.seconds < thresholds.measured_seconds
            or not thresholds.low <= reading.cpu_rate <= thresholds.high
            or reading.running < thresholds.least_running
        ):
            return
        works = [task.here for task in run.tasks.values() if task.here.elapsed]
        elapsed = sum(work.elapsed for work in works)
        share = sum(work.cpu for work in works) / elapsed if elapsed else 0.0
        if seconds * share < thresholds.work_seconds:
            return
        wanting: list[Candidate] = []
        for task in list(run.tasks.values()):
            if task.is_pinned or task.wants_away or run.is_away(task):
                continue
            # Of n threads that compute, each gets about one n-th of a core.
            cpu_rate = task.here.share * reading.running
            if cpu_rate < thresholds.least_cpu_rate:
                continue
            error = hindrance(task)
            if error is not None:
                self._pin(task, error)
                continue
            task.wants_away, task.cpu_rate = True, min(cpu_rate, 1.0)
            wanting.append(task)
        if wanting:
            run.is_warming = True
            self._adjust(run)
            for task in wanting:
                self._withdraw(run, task)
            self._bring_up()

    def _withdraw(self, run: _Run, task: Candidate) -> None:
        """Hand back batches that wait for a thread, and what running batches have not started."""
        with self._lock:
            batches = [batch for batch, owner in run.here.items() if owner is task]
        for order in self._threads.take_back(run.id, batches):
            with self._lock:
                run.here.pop(order.id, None)
                self._measure()
            run.deliver(BatchLost(batch=order.id, had_started=False))

    def _bring_up(self) -> None:
        """Request the cluster, once; tasks move when it is ready."""
        with self._lock:
            is_first, self._has_asked = not self._has_asked, True
        if is_first:
            logger.debug("%s: worker processes are wanted", self.name)
            self._shared.acquire(self._cluster_is_up)
        elif self._up.is_set():
            self._move_all()

    def _cluster_is_up(self, cluster: DaskBackend | None) -> None:
        """Receive the shared cluster, in any thread; None if no cluster could be started."""
        with self._lock:
            self._cluster = cluster
            self._can_move = self._can_move and cluster is not None
        self._up.set()
        self._move_all()

    def _move_all(self) -> None:
        for run in list(self._runs.values()):
            self._move(run)

    def _move(self, run: _Run) -> None:
        """Send batches of the tasks that want it to processes from now on; running ones hand back their rest."""
        run.is_warming = False
        tasks = [task for task in list(run.tasks.values()) if task.wants_away]
        for task in tasks:
            task.wants_away = False
            if self._cluster is None:
                task.is_pinned = True
            else:
                logger.debug("run %s: %s goes to worker processes", run.id, task.name)
                run.moved.update(map(id, task.functions))
                run.has_just_moved = True
        self._adjust(run)
        for task in tasks:
            self._withdraw(run, task)

    def _send_away(self, run: _Run, order: BatchOrder, task: Candidate) -> bool:
        """Send a batch to a worker process; False if it has to stay."""
        cluster = self._cluster
        if cluster is None:
            return False
        try:
            if run.carrier is None:
                with self._lock:
                    if run.id not in self._runs:
                        return False
                    if run.carrier is None:
                        cluster.open_run(
                            run.id,
                            lambda event: self._from_processes(run, event),
                            owner=getattr(run.deliver, "__self__", run),
                        )
                        run.carrier = Carrier(lambda: cluster.folder_of(run.id))
            carried = run.carrier.order(order)
            run.away[order.id] = (order, task)
            cluster.offer(carried)
        except SerializationError as error:
            run.away.pop(order.id, None)
            self._pin(task, error)
            return False
        except BackendError:
            run.away.pop(order.id, None)
            if not run.dangerous.isdisjoint(map(id, task.functions)):
                raise
            self._pin(task, "the worker processes are gone")
            return False
        if run.is_stopped:
            cluster.stop(run.id, hard=run.is_stopped_hard)
        return True

    def _adjust(self, run: _Run) -> None:
        """Report the capacity to the run, if it changed."""
        with self._lock:
            capacity = self._capacity_of(run)
            if capacity == run.capacity or run.id not in self._runs:
                return
            run.capacity = capacity
        run.deliver(CapacityChanged(capacity))

    def _capacity_of(self, run: _Run) -> Capacity:
        threads, cluster = self._threads.capacity(), self._cluster
        waits = any(task.here.elapsed and task.here.share < 0.3 / self._cores for task in run.here.values())
        if (run.away or run.has_just_moved) and cluster is not None:
            processes = cluster.capacity()
            if not waits:
                return processes
            return Capacity(
                slots=processes.slots + threads.slots, queue=1, batch_seconds=processes.batch_seconds
            )
        if run.is_warming and not waits:
            # More threads would only fight for the interpreter's lock, with the one that starts the cluster too.
            return Capacity(slots=1, queue=0)
        return threads

    # -- values -----------------------------------------------------------------------------------------

    def step(self, run_id: str) -> bool:
        """Return False: batches do not run in the caller."""
        return False

    def fetch(self, refs: Sequence[Ref]) -> list[list[Any]]:
        return [self._fetch(ref) for ref in refs]

    def _fetch(self, ref: Ref) -> list[Any]:
        if ref.kind == "remote" and self._cluster is not None:
            return self._cluster.fetch([ref])[0]
        return load_column(ref, "a result")

    def free(self, refs: Iterable[Ref]) -> None:
        gone = list(refs)
        self._columns.forget(gone)
        with self._lock:
            for run in self._runs.values():
                if run.carrier is not None:
                    run.carrier.forget(gone)
        if self._cluster is not None:
            self._cluster.free(gone)

    def recall(self, run_id: str, batches: Sequence[int]) -> None:
        """Let batches hand back what they have not begun, wherever they run."""
        self._threads.recall(run_id, batches)
        if self._cluster is not None:
            self._cluster.recall(run_id, batches)

    def limit(self, run_id: str, node: int, seconds: float) -> None:
        self._threads.limit(run_id, node, seconds)
        if self._cluster is not None:
            self._cluster.limit(run_id, node, seconds)

    # -- ending -----------------------------------------------------------------------------------------

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Stop batches between items; `hard` also abandons threads and ends worker processes that run an item."""
        run = self._runs.get(run_id)
        if run is not None:
            run.is_stopped, run.is_stopped_hard = True, hard or run.is_stopped_hard
        self._threads.stop(run_id, hard=hard)
        if run is not None and run.carrier is not None and self._cluster is not None:
            self._cluster.stop(run_id, hard=hard)

    def close_run(self, run_id: str) -> None:
        with self._lock:
            run = self._runs.pop(run_id, None)
        self._threads.close_run(run_id)
        if run is not None and run.carrier is not None and self._cluster is not None:
            self._cluster.close_run(run_id)

    def close(self) -> None:
        """Release threads and the cluster; a shared cluster stays warm for other runs."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._threads.close()
        if self._is_own:
            self._shared.close()
        elif self._has_asked:
            self._shared.release()
