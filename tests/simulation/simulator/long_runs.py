"""Long runs in virtual time: the core, the books, the orders and a history on disk as they are; workers and clock are not.

An item takes its seconds of virtual time, and its worker reports as a real one does: within a grown slice in step with all
others, and at the end of the batch. So a run of hours takes minutes, and what a driver keeps and costs per item can be measured.
"""

from __future__ import annotations

import heapq
import os
import random
import resource
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.dispatch import Dispatcher, Persistence
from graphflow.driver.turns import Turns
from graphflow.graph.graph import Node, Source
from graphflow.histories.sqlite import SqliteHistory
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.orders import Program, Ref
from graphflow.model.policies import TaskOptions
from graphflow.model.records import Kind, Launch, RunHeader
from graphflow.model.reports import Report, StepReport, Stored
from graphflow.model.states import Code
from graphflow.ports import BatchLost, Capacity, History
from graphflow.records.codec import RecordWriter
from graphflow.records.item_index import MemoryHistory
from graphflow.results.stores.local import LocalStore

__all__ = ["Shape", "Violated", "run"]

GROUP_SECONDS = 0.02
RENEW_SECONDS = 1.0
PAUSE_SECONDS = 30.0
POOL = 4_096
BLOCKS = 2_000
DONE = Code.COMPLETED


@dataclass(frozen=True)
class Shape:
    """What is run: so many items of so many seconds each, with this spread, on so many slots."""

    items: int
    slots: int
    seconds: float
    spread: float = 0.05
    batch_seconds: float = 0.0006
    losses: float = 0.0
    """The share of batches whose worker dies in the middle."""
    pause_at: float | None = None
    """When the run is paused, for `PAUSE_SECONDS`."""
    seed: int = 1


class Violated(AssertionError):
    """The run did what it must not."""


@dataclass(slots=True)
class Running:
    """A batch on a slot: when each of its items ends, from the virtual beginning, and what was told."""

    command: ev.SubmitBatch
    worker: str
    began: float
    ends: array[float]
    told: int = 0
    is_over: bool = False
    dies_at: float | None = None

    def begun(self, now: float) -> int:
        """Return how many items have begun."""
        return min(len(self.ends), bisect_right(self.ends, now - self.began) + 1)


@dataclass(slots=True)
class Figures:
    """What is counted while the run goes on."""

    batches: int = 0
    reports: int = 0
    max_batch: int = 0
    max_slice_seconds: float = 0.0
    max_ahead: int = 0
    """At most so many later items had begun before an item."""
    begun: int = 0
    blocks: array[int] = field(default_factory=lambda: array("q", [0]))
    """Items that have begun, by blocks of the index space."""
    width: int = 1
    losses: int = 0
    max_repeated_seconds: float = 0.0
    """The most work, in seconds, that one death of a worker cost."""
    late_begins: int = 0
    """Items that began although the run was paused."""


class Workers:
    """Slots in virtual time that run batches in turn, from one queue."""

    def __init__(self, shape: Shape, figures: Figures) -> None:
        self._shape = shape
        self._figures = figures
        self._free = list(range(shape.slots))
        self._waiting: deque[ev.SubmitBatch] = deque()
        self._events: list[tuple[float, int, Running | None]] = []
        self._count = 0
        self._running: dict[int, Running] = {}
        self.paused_since: float | None = None
        random_ = self._random = random.Random(shape.seed)
        self._durations = array(
            "f",
            (shape.seconds * (1 + shape.spread * (2 * random_.random() - 1)) for _ in range(POOL)),
        )
        self._offset = 0
        self._store_offset = 0

    def submit(self, command: ev.SubmitBatch, now: float) -> None:
        """Take a batch; it begins when a slot is free."""
        self._waiting.append(command)
        self._begin(now)

    def _begin(self, now: float) -> None:
        while self._free and self._waiting:
            slot, command = self._free.pop(), self._waiting.popleft()
            size = len(command.indices)
            durations = self._take(size)
            ends, at = array("d"), 0.0
            limit = command.slice_seconds
            for duration in durations:
                if limit is not None and at >= limit:
                    break
                at += duration
                ends.append(at)
            running = self._running[command.batch] = Running(command, f"slot-{slot}", now, ends)
            # An item that two deaths hit would be Crashed.
            if size > 1 and self._random.random() < self._shape.losses:
                running.dies_at = now + self._random.random() * at
                self._at(running.dies_at, running)
            if self.paused_since is not None:
                self._cut(running, now)
                at = running.ends[-1] if running.ends else 0.0
            if command.tell_seconds is not None:
                every = command.tell_seconds
                self._at((now // every + 1) * every, running)
            self._at(now + at, running)

    def recall(self, batches: Sequence[int], now: float) -> None:
        """Let batches hand back what they have not begun."""
        for batch in batches:
            running = self._running.get(batch)
            if running is not None:
                self._cut(running, now)
                self._at(running.began + running.ends[-1], running)

    def _cut(self, running: Running, now: float) -> None:
        del running.ends[0 if running.began == now else running.begun(now) :]

    def _take(self, size: int) -> array[float]:
        found = array("f")
        while len(found) < size:
            part = self._durations[self._offset : self._offset + size - len(found)]
            self._offset = (self._offset + len(part)) % POOL
            found.extend(part)
        return found

    def _note(self, indices: Sequence[int]) -> None:
        """Note how many later items had begun before these did, as far as reports told."""
        figures = self._figures
        block = indices[0] // figures.width
        later = figures.begun - sum(figures.blocks[: block + 1])
        figures.max_ahead = max(figures.max_ahead, later)
        figures.begun += len(indices)
        figures.blocks[block] += len(indices)

    def _at(self, when: float, running: Running) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, running))

    @property
    def next(self) -> float | None:
        """When something happens next."""
        return self._events[0][0] if self._events else None

    def happen(self, until: float) -> list[Report | BatchLost]:
        """Return what is reported, or lost, up to a time."""
        found: list[Report | BatchLost] = []
        while self._events and self._events[0][0] <= until:
            when, _, running = heapq.heappop(self._events)
            if running is None or running.is_over:
                continue
            if running.dies_at is not None and when >= running.dies_at:
                found.append(self._die(running, when))
                continue
            is_end = not running.ends or when >= running.began + running.ends[-1] - 1e-9
            report = self._report(running, when, is_end=is_end)
            if report is not None:
                found.append(report)
            if is_end:
                self._leave(running, when)
            elif running.command.tell_seconds is not None:
                every = running.command.tell_seconds
                self._at((when // every + 1) * every, running)
        return found

    def _leave(self, running: Running, now: float) -> None:
        running.is_over = True
        del self._running[running.command.batch]
        self._free.append(int(running.worker[5:]))
        self._begin(now)

    def _die(self, running: Running, now: float) -> BatchLost:
        at = running.begun(now) - 1
        since = running.began + (running.ends[running.told - 1] if running.told else 0.0)
        figures = self._figures
        figures.losses += 1
        figures.max_repeated_seconds = max(figures.max_repeated_seconds, now - since)
        self._leave(running, now)
        return BatchLost(batch=running.command.batch, executing=running.command.indices[at], had_started=True)

    def _report(self, running: Running, now: float, *, is_end: bool) -> Report | None:
        ends, told = running.ends, running.told
        reached = len(ends) if is_end else bisect_left(ends, now - running.began)
        if reached == told and not is_end:
            return None
        count = reached - told
        starts = array("f", [ends[told - 1] if told else 0.0])
        starts.extend(array("f", ends[told : reached - 1]))
        durations = array("f", (end - start for end, start in zip(ends[told:reached], starts, strict=False)))
        data = bytes(3 * count + 20)
        self._store_offset += len(data)
        stored = Stored(
            name=f"e1-grown-{int(running.worker[5:]) // 64:012d}.pack",
            offset=self._store_offset,
            nbytes=len(data),
            digest=os.urandom(16),
            count=count,
        )
        size = len(running.command.indices)
        running.told = reached
        if count:
            self._note(running.command.indices[told:reached])
        self._figures.reports += 1
        if self.paused_since is not None and count:
            # An item may end after the pause, but not begin.
            self._figures.late_begins += sum(
                running.began + start > self.paused_since + 1e-6 for start in starts[:count]
            )
        return Report(
            batch=running.command.batch,
            worker=running.worker,
            started=1e9 + running.began,
            elapsed=now - running.began,
            reached=count,
            steps=(
                StepReport(
                    node=0,
                    states=bytes([DONE]) * count,
                    attempts=b"\1" * count,
                    starts=starts[:count],
                    durations=durations,
                    values=Ref(kind="inline", id=f"{running.command.batch}-{told}", count=count, data=data),
                    stored=stored,
                ),
            ),
            positions=range(told, reached) if told or not is_end else None,
            held=() if is_end else range(reached, size),
            is_packed=True,
        )


def run(shape: Shape, folder: Path, *, on_disk: bool = True) -> dict[str, Any]:
    """Run a map in virtual time, and return the figures."""
    history: History = SqliteHistory(folder) if on_disk else VolatileHistory()
    header = RunHeader(id="01HZZZZZZZZZZZZZZZZZZZZZZZ", name="long", flow_name="long")
    journal = history.create(header)
    virtual = [0.0]
    books = Bookkeeper(journal, RecordWriter(), wall=lambda: 1e9 + virtual[0])
    books.begin(
        Launch(epoch=1, reason="start", host="here", pid=1, boot_id="b", flow_name="long", run_name="long")
    )
    core = Core(capacity=Capacity(slots=shape.slots, batch_seconds=shape.batch_seconds))
    store = LocalStore(folder / "results", key=bytes(32))
    memory = MemoryHistory(store)
    turns = Turns(core, memory, column=lambda ref: [], books=books, wall=lambda: 1e9 + virtual[0])
    filler = Ref(kind="inline", id="none", count=1, data=b"N.")
    dispatcher = Dispatcher(
        run_id=header.id,
        core=core,
        history=memory,
        filler=filler,
        failure=lambda node, index: RuntimeError("failed"),
        persistence=Persistence(store=store),
    )
    width = -(-shape.items // BLOCKS)
    figures = Figures(blocks=array("q", bytes(8 * BLOCKS)), width=width)
    workers = Workers(shape, figures)
    program = Program(
        id="work",
        fn=time.sleep,
        kind="sync",
        args=(),
        kwargs={},
        has_nested=False,
        options=TaskOptions(name="work"),
        node_name="work",
        node_key="work",
        flow_name="long",
        is_mapped=True,
    )
    source = Source(slot=0, argument="x", length=shape.items, values=range(shape.items))
    node = Node(
        id=0, key="work", name="work", task_name="work", is_mapped=True, sources=(source,), program=program
    )

    def perform() -> None:
        for command in turns.commit():
            if isinstance(command, ev.SubmitBatch):
                dispatcher.order(command)
                figures.batches += 1
                figures.max_batch = max(figures.max_batch, len(command.indices))
                if command.tell_seconds is not None:
                    figures.max_slice_seconds = max(figures.max_slice_seconds, command.slice_seconds or 0.0)
                workers.submit(command, virtual[0])
            elif isinstance(command, ev.RecallBatches):
                workers.recall(command.batches, virtual[0])

    before = resident_nbytes()
    cpu, wall = time.process_time(), time.perf_counter()
    turns.handle(ev.NodesRecorded([node], turns.recorded([node])), 0.0)
    turns.handle(ev.RecordingClosed(frozenset({0})), 0.0)
    perform()
    renewed, pause_at = 0.0, shape.pause_at
    while not core.is_finished:
        following = workers.next
        if workers.paused_since is not None and (
            following is None or following > workers.paused_since + PAUSE_SECONDS
        ):
            virtual[0] = workers.paused_since + PAUSE_SECONDS
            workers.paused_since = None
            turns.handle(ev.PauseRequested(is_paused=False), virtual[0])
            perform()
            continue
        if following is None:
            raise Violated("nothing is under way, and the run has not ended")
        if pause_at is not None and following >= pause_at:
            virtual[0], workers.paused_since, pause_at = pause_at, pause_at, None
            turns.handle(ev.PauseRequested(), virtual[0])
            perform()
            continue
        virtual[0] = max(virtual[0], following)
        for told in workers.happen(virtual[0] + GROUP_SECONDS):
            if isinstance(told, BatchLost):
                turns.lost(told, virtual[0])
            else:
                turns.handle(ev.BatchReported(told), virtual[0])
        perform()
        if virtual[0] - renewed >= RENEW_SECONDS:
            renewed = virtual[0]
            journal.renew()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = resident_nbytes()
    records = sum(1 for _ in history.read(header.id))
    joined = sum(1 for _ in history.read(header.id, kinds={Kind.JOINED}))
    counts = core.books[0].counts
    if counts[Code.COMPLETED] != shape.items:
        raise Violated(f"{counts[Code.COMPLETED]:,} of {shape.items:,} items completed")
    journal.close()
    if isinstance(history, SqliteHistory):
        history.close()
    size = (folder / "runs" / header.id / "run.db").stat().st_size if on_disk else 0
    ideal = shape.items * shape.seconds / shape.slots
    return {
        "items": shape.items,
        "slots": shape.slots,
        "item_seconds": shape.seconds,
        "run_seconds": round(virtual[0], 1),
        "share_of_ideal": round(ideal / virtual[0], 4),
        "driver_cores": round(cpu / virtual[0], 4),
        "cpu_us_per_item": round(1e6 * cpu / shape.items, 2),
        "memory_bytes_per_item": round((after - before) / shape.items, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "history_bytes_per_item": round(size / shape.items, 2),
        "records": records,
        "joined": joined,
        "batches": figures.batches,
        "reports": figures.reports,
        "max_slice_seconds": round(figures.max_slice_seconds, 2),
        "max_batch": figures.max_batch,
        "begun_after_later_items": figures.max_ahead,
        "losses": figures.losses,
        "max_repeated_seconds": round(figures.max_repeated_seconds, 3),
        "began_while_paused": figures.late_begins,
        "wall_seconds": round(wall, 1),
    }


def resident_nbytes() -> int:
    """Return what this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
