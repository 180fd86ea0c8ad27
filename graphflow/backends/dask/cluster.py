"""The Dask backend: a local cluster of processes, or any cluster that Dask can reach.

Dask sees a bootstrap that is pickled by value, and bytes. A report comes back as one event on the worker's
stream, sent before its task ends; the task's own result is kept only as a fallback. Retries, timeouts and
crashes are graphflow's business: Dask's re-runs are not relied on.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.backends.dask.bootstrap import bootstrap, installed_boot
from graphflow.backends.dask.columns import ColumnsOnWorkers
from graphflow.backends.dask.connecting import Way
from graphflow.backends.dask.places import Batch, Places
from graphflow.backends.dask.sent import OpenRun, Sent
from graphflow.backends.dask.silence import Silence, end_process, remove
from graphflow.backends.dask.workers import Workers, tell_soon
from graphflow.backends.local import Deliver
from graphflow.backends.moving import Sender
from graphflow.errors import BackendError, ResultStoreError, SerializationError
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.policies import TaskOptions
from graphflow.ports import BackendFailed, BatchDone, BatchLost, Capacity, CapacityChanged
from graphflow.runner.journal import SEVERAL, executing
from graphflow.runner.printing import print_lines
from graphflow.runner.surroundings import Watch
from graphflow.runner.wire import OrderEncoder, decode_report, refused_report
from graphflow.runner.worker import give_back, set_limit, set_recalled, set_stopped

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskBackend"]

logger = logging.getLogger("graphflow.backends.dask")
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 1.0
PATIENCE_SLICES = 1.6
"""A batch waits in a worker process for about two slices, then it gives itself back; a grown slice has an overrun in it."""
BALANCE_SECONDS = 0.03
FALLBACK_SECONDS = 1.0
STRANDED_SECONDS = 1.5
"""A batch is given up this long after its worker was seen to be gone, if it does not execute on another one."""
LOST_SCHEDULER_SECONDS = 10.0
STOP_SECONDS = 1.0


class DaskBackend:
    """Batches run on a Dask cluster; made by `graphflow.backends.processes` and `graphflow.backends.dask`."""

    runs_in_caller = False
    is_local = False

    def __init__(self, way: Way) -> None:
        self._way = way
        self._client: Client | None = None
        self._cluster: Any = None
        self._workers: Workers | None = None
        self._base: Path | None = None
        self._sweep: Callable[[], None] | None = None
        self._shares_disk = False
        self._runs: dict[str, OpenRun] = {}
        self._columns = ColumnsOnWorkers()
        self._sender = Sender(self._share, self._columns.unshare)
        self._boot = bootstrap() if way.slots is None else installed_boot
        self._encoder: OrderEncoder | None = None
        self._capacity = Capacity(slots=1)
        self._outgoing: list[tuple[OpenRun, Sent]] = []
        """Batches that are submitted together, as soon as the client's loop has its turn."""
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._poller: threading.Thread | None = None
        self._is_failed = False
        self._threads: dict[str, int] = {}
        self._places = Places() if way.slots is not None else None
        self._is_balancing = False
        self._silence: Silence | None = None
        self._surroundings: Watch | None = None
        """What has changed around this process since it started workers of its own."""
        self._pid = os.getpid()

    def __enter__(self) -> DaskBackend:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        if self._way.slots is None and self._client is not None and self._client.scheduler is not None:
            return f"dask({self._client.scheduler.address})"
        return str(self._way)

    @property
    def is_failed(self) -> bool:
        """Whether the cluster is gone for good."""
        return self._is_failed or self._closing.is_set()

    @property
    def dashboard_link(self) -> str | None:
        """The address of Dask's own dashboard, where there is one."""
        return self._client.dashboard_link if self._client is not None else None

    # -- starting ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start or reach the cluster; calling it again does nothing.

        Raises
        ------
        BackendUnreachable
            If no scheduler answers at the address.
        BackendError
            If the cluster cannot be started, or its workers do not fit this process.
        """
        with self._lock:
            if self._client is not None:
                return
            if self._closing.is_set():
                raise BackendError(f"{self.name} is closed")
            try:
                if self._way.slots is not None:
                    self._surroundings = Watch()
                self._client, self._cluster = self._way.connect()
                self._base = Path(tempfile.mkdtemp(prefix="graphflow-"))
                # Registered before `close`, so that it is called after it when the interpreter ends.
                self._sweep = partial(_sweep, self._base, self._pid)
                atexit.register(self._sweep)
                self._workers = Workers(self._way, self._client, self._cluster, name=self.name)
                self._workers.wait()
                self._shares_disk = self._workers.share_disk(self._base)
            except BaseException:
                self._shut_down()
                raise
            self._silence = Silence(
                name=self.name, timeout=self._way.worker_timeout_seconds, batches=self._running_on
            )
            self._columns.open(self._client)
            self._encoder = OrderEncoder(share=self._share, by_value=self._way.slots is None)
            self._capacity = self._measure()
            self._client.subscribe_topic("all", self._on_cluster_event)
            # No `Service`: it ends itself where the scheduler is gone, and closing must not wait for its turn.
            self._poller = threading.Thread(target=self._poll, name="graphflow-dask", daemon=True)
            self._poller.start()
            atexit.register(self.close)

    def check_there(self) -> None:
        """Reach a cluster that is not made here, before a run needs it; check the class of one that will be made.

        Raises
        ------
        BackendUnreachable, BackendError
            As `start` does.
        """
        if self._way.is_own:
            self._way.check_class()
        else:
            self.start()

    def _measure(self) -> Capacity:
        assert self._workers is not None
        found = self._workers.threads()
        self._threads.update(found)
        slots = sum(found.values())
        if self._places is not None:
            slots = len(found)
            self._send_all(lambda places: places.set_workers(found))
        return self._workers.capacity(slots)

    def capacity(self) -> Capacity:
        """Return one slot per thread of all workers; of an own cluster, one per process."""
        return self._capacity

    def check(self, options: TaskOptions) -> None:
        """Refuse a task whose resources or workers no worker has."""
        if self._client is not None and self._workers is not None:
            self._workers.check(options)

    # -- runs -------------------------------------------------------------------------------------------

    def open_run(self, run_id: str, deliver: Deliver, *, owner: object | None = None) -> None:
        """Begin a run. Its files live as long as `owner`, by default the object that `deliver` belongs to."""
        assert self._client is not None and self._base is not None
        if self._is_failed:
            raise BackendError(f"{self.name} failed in an earlier run; create a new backend")
        folder: Path | None = None
        if self._shares_disk:
            folder = self._base / f"run-{run_id}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = owner if owner is not None else getattr(deliver, "__self__", None)
            weakref.finalize(owner if owner is not None else self, shutil.rmtree, folder, ignore_errors=True)
        topic = f"graphflow-{run_id}-{uuid.uuid4().hex[:8]}"
        state = OpenRun(deliver, folder, topic)
        with self._lock:
            self._runs[run_id] = state
        self._client.subscribe_topic(topic, lambda event: self._on_report(run_id, event[1]))

    def folder_of(self, run_id: str) -> Path | None:
        """Return where an open run keeps the values that workers share with this process."""
        state = self._runs.get(run_id)
        return state.folder if state is not None else None

    def submit(self, order: BatchOrder) -> None:
        """Send a batch to the scheduler; one that cannot be pickled, or lacks inputs, comes back with its items failed."""
        try:
            self.offer(order, is_strict=False)
        except (SerializationError, ResultStoreError) as error:
            state = self._runs[order.run_id]
            with self._lock:
                state.sent[order.id] = Sent(order)
            self._end(state, order.id, BatchDone(refused_report(order, error, worker="driver")))

    def offer(self, order: BatchOrder, *, is_strict: bool = True) -> None:
        """Send a batch to the scheduler, if it can be pickled.

        Raises
        ------
        SerializationError
            If it cannot; `is_strict` says whether single items of its inputs matter, which otherwise fail alone.
        """
        state = self._runs.get(order.run_id)
        if state is None or self._client is None or self._encoder is None:
            raise BackendError(f"{self.name} is closed, or run {order.run_id} is not open on this backend")
        order = self._sender.order(order) if not self._shares_disk else self._sender.within_reach(order)
        sent = Sent(order, self._encoder.encode(order, is_strict=is_strict))
        options = order.steps[0].program.options
        with self._lock:
            state.sent[order.id] = sent
        if self._places is None or options.workers or options.resources:
            self._send(state, sent, None)
        else:
            self._send_all(lambda places: places.put((order.run_id, order.id)))

    def _send_all(self, change: Callable[[Places], list[tuple[Batch, str]]]) -> None:
        """Change what is where on an own cluster, and send what has a place then."""
        if self._places is None:
            return
        with self._lock:
            found = change(self._places)
        for (run_id, batch), worker in found:
            state = self._runs.get(run_id)
            sent = state.sent.get(batch) if state is not None else None
            if state is not None and sent is not None:
                self._send(state, sent, worker)

    def _send(self, state: OpenRun, sent: Sent, worker: str | None) -> None:
        """Submit a batch to Dask, for a certain worker if needed; others go together with those of the same moment."""
        client, order = self._client, sent.order
        if client is None:
            return
        sent.worker = worker
        options = order.steps[0].program.options
        if worker is None and not options.workers and not options.resources:
            with self._lock:
                self._outgoing.append((state, sent))
                is_first = len(self._outgoing) == 1
            if is_first:
                client.loop.add_callback(self._send_outgoing)
            return
        call, key = self._call_of(state, sent)
        try:
            sent.future = client.submit(
                self._boot,
                *call,
                key=key,
                pure=False,
                retries=0,
                priority=options.priority,
                resources=dict(options.resources) or None,
                workers=[worker] if worker is not None else list(options.workers) or None,
                # A worker may have died just now.
                allow_other_workers=worker is not None,
            )
        except Exception as error:
            self._end(state, order.id, BatchLost(batch=order.id, had_started=False))
            self._broken(error)

    def _call_of(self, state: OpenRun, sent: Sent) -> tuple[tuple[Any, ...], str]:
        """Return what the bootstrap is called with for a batch, and the key of its task in Dask."""
        order, payload = sent.order, sent.payload
        sent.payload = b""
        name = re.sub(r"[^\w.]+", "_", order.label) or "task"
        call = (
            payload,
            str(state.folder) if state.folder is not None else None,
            state.topic,
            self._columns.needed(order, payload),
            _patience_seconds(order) if self._places is not None else None,
            None if self._surroundings is None else self._surroundings.now(),
        )
        return call, f"{name}-{order.run_id[-6:]}-{order.id}-{uuid.uuid4().hex[:6]}"

    def _send_outgoing(self) -> None:
        """Submit all batches that wait for it in one call: alone, each would cost a millisecond more. On the client's loop."""
        with self._lock:
            outgoing, self._outgoing = self._outgoing, []
            # What was stopped meanwhile is not sent any more.
            there = [each for each in outgoing if each[0].sent.get(each[1].order.id) is each[1]]
        groups: dict[int, list[tuple[OpenRun, Sent]]] = {}
        for each in there:
            groups.setdefault(each[1].order.steps[0].program.options.priority, []).append(each)
        for priority, group in groups.items():
            client = self._client
            if client is None:
                return
            calls = [self._call_of(state, sent) for state, sent in group]
            try:
                futures = client.map(
                    self._boot,
                    *zip(*(call for call, _ in calls), strict=True),
                    key=[key for _, key in calls],
                    pure=False,
                    retries=0,
                    priority=priority,
                )
            except Exception as error:
                for state, sent in group:
                    self._end(state, sent.order.id, BatchLost(batch=sent.order.id, had_started=False))
                self._broken(error)
                return
            for (_, sent), future in zip(group, futures, strict=True):
                sent.future = future

    def _share(self, data: bytes) -> Ref:
        assert self._base is not None
        return self._columns.share(data, self._base / "shared" if self._shares_disk else None)

    # -- what comes back --------------------------------------------------------------------------------

    def _end(self, state: OpenRun, batch: int, event: BatchDone | BatchLost) -> None:
        """Deliver the end of a batch, once, and what it tells before its end."""
        goes_on = isinstance(event, BatchDone) and bool(event.report.held)
        with self._lock:
            sent = state.sent.get(batch) if goes_on else state.sent.pop(batch, None)
            if sent is None or state.is_closed:
                return
            if isinstance(event, BatchDone) and not goes_on and sent.future is not None:
                self._columns.stayed(event.report, sent.future)
        key = (sent.order.run_id, batch)
        state.deliver(event)
        if isinstance(event, BatchDone) and event.report.held:
            if len(event.report.held) == 1 and self._places is not None:
                # What waits behind its last item waits for as long as that takes.
                with self._lock:
                    behind = self._places.is_held_up(key)
                self._take_back(behind)
            return
        was_begun = not (isinstance(event, BatchDone) and event.report.reached == 0)
        self._send_all(lambda places: places.ended(key, was_begun=was_begun))
        self._balance_soon()

    def _balance_soon(self) -> None:
        """Look, in a moment, whether a worker has nothing to do while a batch waits on another."""
        client = self._client
        if self._places is None or client is None or self._is_balancing or not self._places.is_uneven:
            return
        self._is_balancing = True
        client.loop.add_callback(client.loop.call_later, BALANCE_SECONDS, self._balance)

    def _balance(self) -> None:
        self._is_balancing = False
        client = self._client
        if self._places is None or client is None:
            return
        with self._lock:
            found = self._places.to_take_back()
        self._take_back(found)

    def _take_back(self, batches: list[tuple[Batch, str]]) -> None:
        """Take back batches that only wait on workers."""
        client = self._client
        for (run_id, batch), worker in batches if client is not None else []:
            tell_soon("balance", client, give_back, run_id, batch, workers=[worker])

    def _on_report(self, run_id: str, message: Mapping[str, Any]) -> None:
        state = self._runs.get(run_id)
        if state is None:
            return
        if "lines" in message:
            print_lines(message["lines"])
            return
        try:
            report = decode_report(message["report"])
        except Exception as error:
            logger.exception("a report of run %s is unreadable", run_id)
            self._broken(error)
            return
        self._end(state, report.batch, BatchDone(report))

    def _look_after(self) -> None:
        """See to batches whose task Dask ended without a report; a callback of Dask's costs each batch more."""
        now = time.monotonic()
        with self._lock:
            under_way = [
                (state, run_id, batch, sent)
                for run_id, state in self._runs.items()
                for batch, sent in state.sent.items()
            ]
        for state, run_id, batch, sent in under_way:
            future = sent.future
            status = future.status if future is not None else "pending"
            if future is None or status == "pending":
                self._look_for_stranded(state, run_id, batch, sent, now)
                continue
            if status == "error":
                self._on_error(state, run_id, batch, future)
            elif sent.done_at is None:
                sent.done_at = now
            elif now - sent.done_at < FALLBACK_SECONDS:
                continue
            elif status == "finished":
                self._fall_back(run_id, batch, future)
            else:
                self._end(state, batch, self._lost(run_id, batch, "Dask released it"))

    def _look_for_stranded(self, state: OpenRun, run_id: str, batch: int, sent: Sent, now: float) -> None:
        """Take back a batch whose worker died just as it was sent there.

        If no other worker was there at that moment, Dask never gives its task to one that comes later.
        """
        if self._places is None or sent.worker is None or sent.worker in self._places.workers:
            sent.stranded_at = None
            return
        if sent.stranded_at is None:
            sent.stranded_at = now
        elif now - sent.stranded_at >= STRANDED_SECONDS and not self._lost(run_id, batch, "").had_started:
            self._cancel(sent)
            self._end(state, batch, BatchLost(batch=batch, had_started=False))

    def _cancel(self, sent: Sent) -> None:
        """Release a batch in Dask; may be called in the client's own thread, so nothing may block."""
        client, future = self._client, sent.future
        if client is not None and future is not None:
            client.loop.add_callback(lambda: client.cancel([future], asynchronous=True))

    def _fall_back(self, run_id: str, batch: int, future: Future) -> None:
        """Take a report from the task's result, as the event with it did not arrive."""
        state = self._runs.get(run_id)
        if state is None or batch not in state.sent:
            return
        try:
            stored = future.result(timeout=30)
            self._on_report(run_id, {"report": stored.report})
        except Exception as error:
            self._end(state, batch, self._lost(run_id, batch, f"{type(error).__name__}: {error}"))

    def _on_error(self, state: OpenRun, run_id: str, batch: int, future: Future) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            self._end(state, batch, self._lost(run_id, batch, "its worker died"))
            return
        sent = state.sent.get(batch)
        if sent is None:
            return
        problem = BackendError(
            f"{self.name} could not run a batch of {sent.order.label}: {type(error).__name__}: {error}"
        )
        self._end(state, batch, BatchDone(refused_report(sent.order, problem, worker="driver")))

    def _lost(self, run_id: str, batch: int, reason: str) -> BatchLost:
        if self._base is None or not self._shares_disk:
            return BatchLost(batch=batch, reason=reason)
        index = executing(self._base / "journal", run_id, batch)
        if index == SEVERAL:
            return BatchLost(batch=batch, had_started=True, reason=reason)
        return BatchLost(
            batch=batch,
            executing=index,
            had_started=index is not None,
            reason=reason if index is not None else "",
        )

    def _on_cluster_event(self, event: tuple[float, Mapping[str, Any]]) -> None:
        message: Any = event[1]
        if not isinstance(message, dict):
            return
        if self._places is not None and message.get("action") in ("add-worker", "remove-worker"):
            address = {str(message.get("worker"))}
            is_there = message["action"] == "add-worker"
            self._send_all(
                lambda places: places.set_workers(
                    places.workers | address if is_there else places.workers - address
                )
            )
        if message.get("action") != "remove-worker" or message.get("expected"):
            return
        keys = set(message.get("processing-tasks") or ())
        with self._lock:
            gone = [
                (state, run_id, batch, sent)
                for run_id, state in self._runs.items()
                for batch, sent in state.sent.items()
                if sent.future is not None and sent.future.key in keys
            ]
        # A worker begins batches in the order in which they were sent: the later ones only waited there.
        gone.sort(key=lambda each: each[2])
        threads = self._threads.get(str(message.get("worker")), 1)
        for place, (state, run_id, batch, sent) in enumerate(gone):
            lost = self._lost(run_id, batch, f"worker {message.get('worker')} died")
            if lost.had_started is None and place >= threads:
                lost = BatchLost(batch=batch, had_started=False)
            # Before Dask runs it again by itself.
            self._cancel(sent)
            self._end(state, batch, lost)

    def _broken(self, error: BaseException) -> None:
        """Report to all runs, once, that the cluster is gone."""
        with self._lock:
            if self._is_failed or self._closing.is_set():
                return
            self._is_failed = True
            states = [state for state in self._runs.values() if not state.is_closed]
        for state in states:
            state.deliver(BackendFailed(error))

    def _poll(self) -> None:
        """Watch the number of workers, and whether the scheduler still answers."""
        gone_since: float | None = None
        idle_since: float | None = None
        while not self._closing.wait(POLL_SECONDS):
            client = self._client
            if client is None:
                return
            if client.status == "running":
                gone_since = None
                self._look_after()
                try:
                    measured = self._measure()
                except Exception:
                    continue
                self._look_for_silent(client)
                if self._way.slots is not None and len(self._cluster.workers) < self._way.slots:
                    # Dask gives a worker's place up if it is away 15 s after an earlier loss of it.
                    self._cluster.scale(self._way.slots)
                if measured.slots or measured.is_elastic:
                    idle_since = None
                else:
                    idle_since = idle_since or time.monotonic()
                    error = self._patience(time.monotonic() - idle_since)
                    if error is not None:
                        self._broken(error)
                        return
                if measured != self._capacity:
                    self._capacity = measured
                    for state in list(self._runs.values()):
                        if not state.is_closed:
                            state.deliver(CapacityChanged(measured))
                continue
            gone_since = gone_since or time.monotonic()
            if client.status == "closed" or time.monotonic() - gone_since > LOST_SCHEDULER_SECONDS:
                self._broken(
                    BackendError(
                        f"{self.name}: the connection to the Dask scheduler is lost; batches under way are lost with it"
                    )
                )
                return

    def _patience(self, waited: float) -> BackendError | None:
        """Say what is waited for where there are no workers; return the error once that took too long."""
        if self._workers is None or not any(state.sent for state in self._runs.values()):
            return None
        try:
            self._workers.be_patient(waited)
        except BackendError as error:
            return error
        return None

    def _running_on(self, address: str) -> list[str]:
        """Return what runs on a worker, as labels."""
        client = self._client
        with self._lock:
            under_way = [sent for state in self._runs.values() for sent in state.sent.values()]
        if self._places is None and client is not None:
            try:
                keys = set(client.processing(workers=[address]).get(address, ()))
            except Exception:
                return []
            under_way = [sent for sent in under_way if sent.future is not None and sent.future.key in keys]
        else:
            under_way = [sent for sent in under_way if sent.worker == address]
        return [sent.order.label for sent in under_way]

    def _look_for_silent(self, client: Client) -> None:
        """Take workers that say nothing for lost."""
        if self._silence is None or self._workers is None:
            return
        pids = self._workers.pids()
        for address in self._silence.look(self._workers.seen, pids):
            if address in pids:
                end_process(pids[address])
            else:
                remove(client, address)

    # -- values -----------------------------------------------------------------------------------------

    def step(self, run_id: str) -> bool:
        """Return False: batches do not run in the caller."""
        return False

    def fetch(self, refs: Sequence[Ref]) -> list[list[Any]]:
        """Return the values of columns, each fetched once."""
        return [self._columns.fetch(ref) for ref in refs]

    def free(self, refs: Iterable[Ref]) -> None:
        self._columns.free(refs)

    def recall(self, run_id: str, batches: Sequence[int]) -> None:
        """Let batches hand back what they have not begun, on whichever worker they are or will be."""
        client = self._client
        if client is not None:
            tell_soon("recall", client, set_recalled, run_id, tuple(batches))

    def limit(self, run_id: str, node: int, seconds: float) -> None:
        """Send all workers a timeout that became known while items run."""
        client = self._client
        if client is not None:
            tell_soon("limit", client, set_limit, run_id, node, seconds)

    # -- ending -----------------------------------------------------------------------------------------

    def stop(self, run_id: str, *, hard: bool = False) -> None:
        """Stop batches between items; `hard` also ends the workers of its own cluster that run an item."""
        client, state = self._client, self._runs.get(run_id)
        if client is None or state is None:
            return
        telling = tell_soon("stop", client, set_stopped, run_id)
        # A worker that holds its interpreter's lock answers late: it is not waited for much longer.
        telling.join(STOP_SECONDS)
        if not hard:
            return
        with self._lock:
            under_way = list(state.sent.items())
        for batch, sent in under_way:
            if sent.future is not None:
                sent.future.cancel()
            self._end(state, batch, BatchLost(batch=batch, had_started=False))
        if under_way and self._way.slots is not None and len(self._runs) == 1:
            # A cancelled task runs on in Dask; only its process can be ended. Nannies start new ones.
            tell_soon("stop", client, os._exit, 78)

    def close_run(self, run_id: str) -> None:
        with self._lock:
            state = self._runs.pop(run_id, None)
        if state is None:
            return
        state.is_closed = True
        for batch in list(state.sent):
            self._send_all(lambda places, batch=batch: places.ended((run_id, batch)))  # type: ignore[misc]
        if self._encoder is not None:
            self._encoder.forget(run_id)
        if self._client is not None and self._client.status == "running":
            try:
                self._client.unsubscribe_topic(state.topic)
            except Exception:
                logger.debug("unsubscribing failed", exc_info=True)

    def close(self) -> None:
        """Close what this backend started; given clients and clusters stay open."""
        with self._lock:
            # A fork has a copy of this object, but the cluster is its parent's.
            if self._closing.is_set() or self._pid != os.getpid():
                return
            self._closing.set()
        atexit.unregister(self.close)
        self._shut_down()

    def _shut_down(self) -> None:
        client, cluster = self._client, self._cluster
        self._client = None
        self._columns.close()
        self._way.disconnect(client, cluster)
        if self._base is not None:
            for name in ("journal", "shared"):
                shutil.rmtree(self._base / name, ignore_errors=True)
            (self._base / "token").unlink(missing_ok=True)
            # Columns of runs that somebody still holds stay, until the interpreter ends.
            with suppress(OSError):
                self._base.rmdir()
            if self._sweep is not None and not self._base.exists():
                atexit.unregister(self._sweep)


def _patience_seconds(order: BatchOrder) -> float:
    return max(PATIENCE_SECONDS, PATIENCE_SLICES * (order.slice_seconds or 0.0))


def _sweep(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
