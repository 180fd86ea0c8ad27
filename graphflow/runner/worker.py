"""A worker process, as batches see it: loads programs and columns, stores results, remembers what it executes.

`run_payload` is all that a backend calls. Nothing that user code does when it is unpickled leaves it.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphflow.errors import SerializationError, ValueUnavailable
from graphflow.graph.context import TaskContext
from graphflow.model.orders import BatchOrder, Program, Ref
from graphflow.model.reports import Report, stored_ref
from graphflow.ports import ResultStore
from graphflow.results.packs.growing import GrowingPacks
from graphflow.runner.children import allow_children
from graphflow.runner.columns import MAX_INLINE, bytes_of, decode, encode, write_pack
from graphflow.runner.host import Packed, SerializationFailure
from graphflow.runner.journal import CrashJournal
from graphflow.runner.printing import Line, LineStream
from graphflow.runner.run import run_batch
from graphflow.runner.slots import Slot
from graphflow.runner.surroundings import Surroundings, apply
from graphflow.runner.wire import Header, decode_order, encode_report, refused_report, unbegun_report

__all__ = ["EXIT_STUCK", "Stored", "give_back", "run_payload", "set_limit", "set_recalled", "set_stopped"]

EXIT_STUCK = 77
"""The exit code of a worker that ended itself because an item did not yield after its timeout."""
LINES_SECONDS = 0.05
"""Printed lines are sent at most this often."""
MAX_PROGRAMS = 512
MAX_COLUMNS = 64
MAX_COLUMN_NBYTES = 256 << 20


Emit = Callable[..., None]
"""Sends bytes of a report to the driver before the batch has ended, or of another kind, which is its second argument."""


class _Process:
    """What batches of one process share: caches, and the runs that were asked to stop."""

    def __init__(self) -> None:
        self.stopped: set[str] = set()
        self.recalled: set[tuple[str, int]] = set()
        self.limits: dict[tuple[str, int], float] = {}
        self.programs: OrderedDict[str, Program] = OrderedDict()
        self.columns: OrderedDict[str, tuple[list[Any], int]] = OrderedDict()
        self.lock = threading.Lock()
        self.slot = Slot()
        self.growing = GrowingPacks()
        self.local = threading.local()

    def journal(self, folder: Path) -> CrashJournal:
        """Return the calling thread's journal."""
        kept: dict[Path, CrashJournal] | None = getattr(self.local, "journals", None)
        if kept is None:
            kept = self.local.journals = {}
        if folder not in kept:
            kept[folder] = CrashJournal(folder)
        return kept[folder]


_PROCESS = _Process()


def set_stopped(run_id: str) -> None:
    """Stop batches of this run between items from now on."""
    _PROCESS.stopped.add(run_id)


def set_recalled(run_id: str, batches: Sequence[int]) -> None:
    """Let batches hand back what they have not begun, here or wherever they are; those that are not here leave a number each."""
    _PROCESS.recalled.update((run_id, batch) for batch in batches)


def set_limit(run_id: str, node: int, seconds: float) -> None:
    """Set the timeout of running items of this task that have none yet."""
    _PROCESS.limits[run_id, node] = seconds


def give_back(run_id: str, batch: int) -> None:
    """Hand back a batch that only waits in this process, as another process is idle."""
    _PROCESS.slot.give_back((run_id, batch))


class Stored:
    """A batch's report and the columns that stay with it, where workers and driver share no disk."""

    __slots__ = ("columns", "report")

    def __init__(self, report: bytes, columns: dict[str, bytes]) -> None:
        self.report = report
        self.columns = columns

    def __sizeof__(self) -> int:
        return len(self.report) + sum(map(len, self.columns.values())) + 64

    def __reduce__(self) -> Any:
        return Stored, (self.report, self.columns)


class WorkerHost:
    """The host of one batch in a worker process.

    Parameters
    ----------
    folder
        Where results go, on a disk that the driver shares; None if there is none.
    blocks
        Columns that came along with the batch, by ref id.
    emit
        Sends a report to the driver before the batch has ended.
    """

    is_local = False
    takes_progress = True

    def __init__(
        self,
        *,
        worker: str,
        header: Header,
        folder: Path | None,
        blocks: Mapping[str, bytes],
        emit: Emit,
    ) -> None:
        self.worker = worker
        self.growing = _PROCESS.growing
        self.kept: dict[str, bytes] = {}
        self.results: ResultStore | None = None
        """Where the batch's values go that outlive the run."""
        self._header = header
        self._key = (header.run_id, header.batch)
        self._folder = folder
        self._blocks = blocks
        self._emit = emit
        self._is_ending = False
        self._lines: list[Line] = []
        self._telling = threading.Lock()
        self._told_at = 0.0
        self._journal = _PROCESS.journal(folder.parent / "journal") if folder is not None else None
        if self._journal is not None:
            self._journal.begin(header.run_id)
            self.note = self._journal.note  # type: ignore[method-assign]

    def load_bytes(self, ref: Ref) -> bytes:
        """Return the bytes behind a ref."""
        if ref.kind in ("inline", "file", "stored"):
            return bytes_of(ref)
        try:
            return self._blocks[ref.id]
        except KeyError:
            raise ValueUnavailable(f"a stored value ({ref.id}) did not reach the worker") from None

    def load_program(self, key: str, data: bytes | Ref) -> Program:
        """Return a program, unpickled once per process."""
        with _PROCESS.lock:
            known = _PROCESS.programs.get(key)
            if known is not None:
                _PROCESS.programs.move_to_end(key)
                return known
        raw = self.load_bytes(data) if isinstance(data, Ref) else data
        try:
            program: Program = pickle.loads(raw)
        except Exception as error:
            raise SerializationError(
                f"the task cannot be loaded on worker {self.worker}: {type(error).__name__}: {error}; "
                "is a module that it imports missing there?"
            ) from error
        with _PROCESS.lock:
            _PROCESS.programs[key] = program
            while len(_PROCESS.programs) > MAX_PROGRAMS:
                _PROCESS.programs.popitem(last=False)
        return program

    def load(self, ref: Ref) -> list[Any]:
        """Return the values of a column, kept for the next batch."""
        key = f"{self._header.run_id}/{ref.id}"
        if ref.kind != "inline":
            with _PROCESS.lock:
                known = _PROCESS.columns.get(key)
                if known is not None:
                    _PROCESS.columns.move_to_end(key)
                    return known[0]
        values = decode(self.load_bytes(ref), "an upstream result")
        if ref.kind != "inline":
            with _PROCESS.lock:
                columns = _PROCESS.columns
                columns[key] = (values, ref.nbytes)
                while len(columns) > 1 and (
                    len(columns) > MAX_COLUMNS
                    or sum(size for _, size in columns.values()) > MAX_COLUMN_NBYTES
                ):
                    columns.popitem(last=False)
        return values

    def store(
        self, columns: Sequence[list[Any]], *, travels: bool = False, packed: Sequence[Packed | None] = ()
    ) -> list[Ref | SerializationFailure]:
        """Return columns as bytes: inline where they are small, else where they are stored anyway, else as `_keep` finds a place."""
        known = packed or [None] * len(columns)
        encoded = [
            (each.data, each.errors) if each is not None else encode(column)
            for column, each in zip(columns, known, strict=True)
        ]
        name = f"{self._header.batch}-{uuid.uuid4().hex[:12]}"
        blocks = [data for data, _ in encoded]
        if sum(map(len, blocks)) <= MAX_INLINE:
            refs = _inline(name, blocks)
        else:
            places = [
                stored_ref(each.stored, self.results)
                if each is not None and each.stored is not None
                else None
                for each in known
            ]
            rest = iter(
                self._keep(
                    name, [data for data, place in zip(blocks, places, strict=True) if place is None], travels
                )
            )
            refs = [next(rest) if place is None else place for place in places]
        return [
            SerializationFailure(ref, dict(errors)) if errors else ref
            for ref, (_, errors) in zip(refs, encoded, strict=True)
        ]

    def _keep(self, name: str, blocks: Sequence[bytes], travels: bool) -> list[Ref]:
        """Return a place for columns: inline where they are small, else in one file, else on this worker."""
        is_small = sum(map(len, blocks)) <= MAX_INLINE
        # The batch's task in Dask, which would hold them, ends later or never where they travel.
        if is_small or (self._folder is None and (travels or self._is_ending)):
            return _inline(name, blocks)
        if self._folder is not None:
            return write_pack(self._folder, name, blocks)
        refs = []
        for i, data in enumerate(blocks):
            self.kept[f"{name}/{i}"] = data
            refs.append(Ref(kind="remote", id=f"{name}/{i}", count=0, nbytes=len(data)))
        return refs

    def not_stored(self, run_id: str, node: int, text: str) -> None:
        """Fail an item whose value cannot be serialized, with the reason."""

    def note(self, batch: int, index: int) -> None:
        """Do nothing: without a shared disk there is no journal."""

    def is_stopped(self, run_id: str) -> bool:
        """Return whether the run asked its batches to stop."""
        return run_id in _PROCESS.stopped or self._key in _PROCESS.recalled

    def limit_of(self, run_id: str, node: int) -> float | None:
        """Return the limit of a node's items, if this process has one."""
        return _PROCESS.limits.get((run_id, node))

    def progress(self, report: Report) -> None:
        """Send a partial report of a running batch."""
        self._emit(encode_report(report))

    def tell(self, line: Line) -> None:
        """Send a printed line to the run's process, with those of the next moment if there are many."""
        with self._telling:
            self._lines.append(line)
            is_first = len(self._lines) == 1
        if time.monotonic() - self._told_at >= LINES_SECONDS:
            self.tell_rest()
        elif is_first:
            # No `Service`: once, for the lines of a moment.
            timer = threading.Timer(LINES_SECONDS, self.tell_rest)
            timer.daemon = True
            timer.start()

    def tell_rest(self) -> None:
        """Send the lines that wait."""
        with self._telling:
            if self._lines:
                self._emit([tuple(line) for line in self._lines], "lines")
                self._lines.clear()
            self._told_at = time.monotonic()

    def give_up(self, report: Report) -> None:
        """Send what is done, then end this process: nothing else stops an item that does not yield."""
        self.tell_rest()
        self._emit(encode_report(report))
        time.sleep(0.25)
        os._exit(EXIT_STUCK)

    def ending(self) -> None:
        """Store further columns outside this process."""
        self._is_ending = True


def _inline(name: str, blocks: Sequence[bytes]) -> list[Ref]:
    return [
        Ref(kind="inline", id=f"{name}/{i}", count=0, nbytes=len(data), data=data)
        for i, data in enumerate(blocks)
    ]


def run_payload(
    payload: bytes,
    *,
    worker: str,
    folder: str | None,
    blocks: Mapping[str, bytes],
    emit: Emit,
    patience_seconds: float | None = None,
    surroundings: Surroundings | None = None,
) -> tuple[bytes, dict[str, bytes]]:
    """Run a batch given as bytes; return the report's bytes and the columns that stay on this worker.

    With `patience_seconds`, one batch runs at a time in this process; another waits for that long, with its inputs
    in memory, and gives itself back then. The process looks like `surroundings` while a batch runs in its turn.
    """
    arrived = time.perf_counter()
    header: Header = pickle.loads(payload)
    key = (header.run_id, header.batch)
    host = WorkerHost(
        worker=worker,
        header=header,
        folder=Path(folder) if folder is not None else None,
        blocks=blocks,
        emit=emit,
    )
    if patience_seconds is not None:
        _PROCESS.slot.arrive(key)
    try:
        order = decode_order(header, host.load_program, host.load_bytes).arrived(arrived)
        host.results = order.results
        if patience_seconds is not None:
            if not _PROCESS.slot.enter(key, patience_seconds):
                return encode_report(unbegun_report(header, worker=worker)), {}
            apply(surroundings)
    except Exception as error:
        return encode_report(refused_report(header, error, worker=worker)), {}
    finally:
        _PROCESS.slot.withdraw(key)
    if patience_seconds is None:
        return _run(order, host), host.kept
    try:
        return _run(order, host), host.kept
    finally:
        _PROCESS.slot.leave()


def _run(order: BatchOrder, host: WorkerHost) -> bytes:
    allow_children()
    _take_lines()
    report = run_batch(order, host)
    _PROCESS.recalled.discard((order.run_id, order.id))
    _finish_lines()
    host.tell_rest()
    if report is None:
        # The watchdog is ending this process; there is nothing left to return, and nothing else may begin.
        threading.Event().wait()
        raise AssertionError("unreachable")
    return encode_report(report)


def _take_lines() -> None:
    """Let lines that items print in this process go to their run's process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, LineStream):
            setattr(sys, name, LineStream(stream, _tell, is_error=name == "stderr"))


def _finish_lines() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LineStream):
            stream.end_line()


def _tell(line: Line, context: TaskContext | None) -> None:
    tell = context.sink.tell if context is not None and context.sink is not None else None
    if tell is not None:
        tell(line)
