"""The history of a run that keeps no items: what they add up to is there, and they are read again where they are asked for.

It is made while records are added, or from a digest. It costs a few bytes per item and, while a driver adds to it, nothing per
batch that has ended well.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from graphflow.errors import HistoryDamaged
from graphflow.model.anomalies import ErrorRecord, Faults
from graphflow.model.orders import Ref
from graphflow.model.records import Entry, Kind, Record
from graphflow.model.reports import LogRecord, StepReport, stored_ref
from graphflow.model.states import FINAL_CODES, Code
from graphflow.ports import ResultStore
from graphflow.records.codec import decode
from graphflow.records.errors import BatchErrors, DistinctErrors, ErrorBook
from graphflow.records.figures import Durations
from graphflow.records.item_index import MAX_LOG_LINES, MemoryHistory, NodeHistory, Place, Segment
from graphflow.records.items import ItemsBody
from graphflow.records.joined import Joined
from graphflow.records.packing import Packer, Unpacker
from graphflow.records.rows import Places, Rows
from graphflow.records.texts import TextVariants

__all__ = ["FaultColumns", "FoldedHistory", "FoldedNode", "ItemReader"]

PAGE = 16
"""Items that are looked up together."""
PAGES_KEPT = 1_024
ITEMS_KEPT = 200_000
"""Items of records that are kept decoded, where there is more than one."""

Read = Callable[[Iterable[int]], Iterable[Entry]]
"""Reads the records of some numbers."""


class ItemReader:
    """Reads records about items again, and what they refer to.

    Parameters
    ----------
    read
        Reads records by their numbers.
    store
        Where values are; None if none are needed.
    """

    def __init__(self, read: Read, store: ResultStore | None = None) -> None:
        self.fresh = Rows()
        """The records that were added, and those of digests once they were asked for."""
        self._told: list[bytes] = []
        self._read = read
        self._store = store
        self._places: dict[int, Places] = {}
        self._placed = 0
        self._bodies: dict[int, tuple[Record, Any]] = {}
        self._kept = 0
        self._errors: list[ErrorRecord] = []
        self._variants: dict[int, TextVariants] = {}
        self._errors_read = 0
        self._book = ErrorBook()

    @property
    def rows(self) -> Rows:
        """All records about items, errors and lines of the log."""
        if self._told:
            merged = Rows()
            for data in self._told:
                merged.extend(Rows.unpacked(data))
            merged.extend(self.fresh)
            self.fresh, self._told = merged, []
        return self.fresh

    def tell(self, packed: bytes) -> None:
        """Add the records of a digest, which are unpacked when something of them is asked for."""
        self._told.append(packed)

    def forget(self) -> None:
        """Forget which records there are."""
        self.fresh, self._told = Rows(), []

    def _places_of(self, node: int) -> Places:
        if self._placed != len(self.rows.items):
            self._places.clear()
            self._placed = len(self.rows.items)
        found = self._places.get(node)
        if found is None:
            found = self._places[node] = Places(self.rows.items, node)
        return found

    def page(self, node: int, lo: int, hi: int) -> NodeHistory:
        """Return what is known of a range of items of a node."""
        return self._made(self._places_of(node).of(lo, hi), keeps=True)

    def whole(self, node: int) -> NodeHistory:
        """Return what is known of all items of a node."""
        return self._made(self._places_of(node).numbers, keeps=False)

    def _made(self, numbers: Sequence[int], *, keeps: bool) -> NodeHistory:
        history = NodeHistory(self._store)
        for record, value in self._decoded(numbers, keeps=keeps):
            if isinstance(value, ItemsBody | Joined):
                for body in value.bodies if isinstance(value, Joined) else (value,):
                    history.add(self._segment(body))
            else:
                history.end(value.indices, record.at if value.code in FINAL_CODES else 0.0)
        return history

    def _decoded(self, numbers: Sequence[int], *, keeps: bool) -> Iterator[tuple[Record, Any]]:
        known = self._bodies
        missing = [number for number in numbers if number not in known]
        if not keeps and len(missing) == len(numbers):
            for entry in self._read(numbers):
                yield entry.record, decode(entry.record, seq=entry.seq)
            return
        for entry in self._read(missing) if missing else ():
            known[entry.number] = entry.record, decode(entry.record, seq=entry.seq)
            self._kept += entry.record.count
        yield from [known[number] for number in numbers]
        while self._kept > ITEMS_KEPT and len(known) > 1:
            record, _ = known.pop(next(iter(known)))
            self._kept -= record.count

    def _segment(self, body: ItemsBody) -> Segment:
        step = body.step
        if step.stored is not None:
            step = replace(step, values=stored_ref(step.stored, self._store))
        errors = self.errors_of(body.errors, body.variants)
        return Segment(body.indices, step, body.started, body.worker, errors)

    def errors_of(self, numbers: Sequence[int], variants: int | None) -> BatchErrors | None:
        """Return the errors of a report, by their numbers in the run."""
        if not len(numbers):
            return None
        fresh = self.rows.errors[self._errors_read :]
        self._errors_read += len(fresh)
        for entry in self._read(fresh) if fresh else ():
            value = decode(entry.record, seq=entry.seq)
            if entry.record.kind == Kind.ERRORS:
                self._errors += value
            else:
                self._variants[entry.record.lo] = value
        try:
            records = tuple(self._errors[number] for number in numbers)
            return BatchErrors(records, None if variants is None else self._variants[variants], self._book)
        except (IndexError, KeyError) as error:
            raise HistoryDamaged(f"errors {list(numbers)[:5]} of this history are missing") from error

    def logs(self) -> Iterator[LogRecord]:
        """Yield all lines of the log that are kept."""
        for entry in self._read(self.rows.logs):
            yield from decode(entry.record, seq=entry.seq).lines


def _nothing(numbers: Iterable[int]) -> Iterable[Entry]:
    raise HistoryDamaged("items were asked for where none are kept")


class FaultColumns:
    """The errors that ended items of a node, in columns: an entry per item, and a few numbers per report."""

    def __init__(self) -> None:
        self.indices = array("Q")
        self.numbers = array("i")
        self.states = bytearray()
        self.sizes = array("I")
        self.has_others = bytearray()
        self.errors = array("I")
        self.errors_sizes = array("I")
        self.variants = array("q")

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, body: ItemsBody) -> None:
        """Add the faults of a report."""
        faults, states, indices = body.step.faults, body.step.states, body.indices
        positions = faults.positions
        self.indices.extend(map(indices.__getitem__, positions))
        if isinstance(faults.errors, int):
            self.numbers.extend(array("i", [faults.errors]) * len(positions))
        else:
            self.numbers.extend(faults.errors)
        self.states.extend(map(states.__getitem__, positions))
        self.sizes.append(len(positions))
        self.has_others.append(bool(states.count(Code.SKIPPED) or states.count(Code.UPSTREAM_FAILED)))
        self.errors.extend(body.errors)
        self.errors_sizes.append(len(body.errors))
        self.variants.append(-1 if body.variants is None else body.variants)

    def segments(
        self, first: int, errors_of: Callable[[Sequence[int], int | None], BatchErrors | None]
    ) -> Iterator[Segment]:
        """Yield the reports from one on, as segments that have nothing but the items with errors."""
        at, error_at = sum(self.sizes[:first]), sum(self.errors_sizes[:first])
        for place in range(first, len(self.sizes)):
            stop, error_stop = at + self.sizes[place], error_at + self.errors_sizes[place]
            numbers, variants = self.numbers[at:stop], self.variants[place]
            # One state more, of no item, where the report had others that errors are told apart by.
            states = bytes(self.states[at:stop]) + bytes([Code.SKIPPED] * self.has_others[place])
            is_one = numbers.count(numbers[0]) == len(numbers)
            step = StepReport(
                node=0,
                states=states,
                attempts=b"",
                starts=array("f"),
                durations=array("f"),
                faults=Faults(positions=range(stop - at), errors=numbers[0] if is_one else numbers),
            )
            errors = errors_of(self.errors[error_at:error_stop], None if variants < 0 else variants)
            yield Segment(self.indices[at:stop], step, 0.0, "", errors)
            at, error_at = stop, error_stop

    def _columns(self) -> tuple[array[int], ...]:
        return self.indices, self.numbers, self.sizes, self.errors, self.errors_sizes, self.variants

    def extend(self, other: FaultColumns) -> None:
        """Add those that follow."""
        for mine, theirs in zip(self._columns(), other._columns(), strict=True):
            mine.extend(theirs)
        self.states += other.states
        self.has_others += other.has_others

    def pack(self, out: Packer) -> None:
        """Pack all."""
        for column in self._columns():
            out.number(len(column))
            out.words(column)
        out.column(bytes(self.states))
        out.column(bytes(self.has_others))

    @classmethod
    def unpack(cls, come: Unpacker) -> FaultColumns:
        """Return what was packed."""
        found = cls()
        for column in found._columns():
            column.extend(come.words(column.typecode, come.number()))
        found.states = bytearray(come.column(len(found.indices)))
        found.has_others = bytearray(come.column(len(found.sizes)))
        return found


class FoldedNode(NodeHistory):
    """What is known of the items of one node, without keeping them.

    Parameters
    ----------
    number
        The node's.
    items
        Reads them again.
    """

    def __init__(self, number: int, items: ItemReader) -> None:
        super().__init__()
        self._number = number
        self._items = items
        self.faults: FaultColumns | None = None
        """The errors that ended its items; None before the first."""
        self.durations = Durations()
        self._pages: dict[int, tuple[int, NodeHistory]] = {}
        self._all: tuple[int, NodeHistory] | None = None
        self._listed = 0

    def fold(self, body: ItemsBody) -> float:
        """Add what a report says; return the seconds of its items together."""
        if not len(body.indices):
            return 0.0
        if self.began is None or body.started < self.began:
            self.began = body.started
        if len(body.step.faults):
            if self.faults is None:
                self.faults = FaultColumns()
            self.faults.add(body)
        return self.durations.add(body.indices, body.step)

    def add_faults(self, faults: FaultColumns) -> None:
        """Add those that a digest tells of."""
        if self.faults is None:
            self.faults = faults
        else:
            self.faults.extend(faults)

    def _page(self, index: int) -> NodeHistory:
        place, size = index // PAGE, len(self._items.rows.items)
        found = self._pages.get(place)
        if found is None or found[0] != size:
            while len(self._pages) >= PAGES_KEPT:
                del self._pages[next(iter(self._pages))]
            found = size, self._items.page(self._number, place * PAGE, place * PAGE + PAGE)
            self._pages[place] = found
        return found[1]

    def whole(self) -> NodeHistory:
        size = len(self._items.rows.items)
        if self._all is None or self._all[0] != size:
            self._all = size, self._items.whole(self._number)
        return self._all[1]

    # -- items ------------------------------------------------------------------------------------------

    def add(self, segment: Segment) -> None:
        raise TypeError("a folded history takes records, not segments")

    def find(self, index: int) -> tuple[Segment, int] | None:
        return self._page(index).find(index)

    def _newest_first(self, index: int) -> Iterator[tuple[Segment, int]]:
        return self._page(index)._newest_first(index)

    def end(self, indices: Sequence[int], at: float) -> None:
        """Nothing is kept: the record tells it."""

    def ended_at(self, index: int) -> float | None:
        return self._page(index).ended_at(index)

    def place(self, index: int) -> Place | None:
        return self._page(index).place(index)

    def parts(self, indices: Sequence[int], filler: Ref) -> Iterator[tuple[Ref, Sequence[int]]]:
        return self.whole().parts(indices, filler)

    def steps(self) -> Iterator[StepReport]:
        return self.whole().steps()

    def segments(self) -> Iterator[Segment]:
        return self.whole().segments()

    def refs(self) -> Iterator[Ref]:
        return self.whole().refs()

    # -- errors -----------------------------------------------------------------------------------------

    def _list(self) -> None:
        if self.faults is not None:
            self._segments = [*self._segments, *self.faults.segments(self._listed, self._items.errors_of)]
            self._listed = len(self.faults)

    def errors(self) -> DistinctErrors:
        self._list()
        return super().errors()

    def first_errors(self, limit: int) -> list[tuple[int, ErrorRecord]]:
        self._list()
        return super().first_errors(limit)


class FoldedHistory(MemoryHistory):
    """The history of a run that keeps no items, nor lines of its log."""

    def __init__(self, items: ItemReader | None = None) -> None:
        self.items = ItemReader(_nothing) if items is None else items
        self.lines = 0
        """Lines of the log that are kept."""
        self._logs: tuple[int, list[LogRecord]] = (0, [])
        super().__init__()

    def node(self, node_id: int) -> FoldedNode:
        found = self.nodes.get(node_id)
        if found is None:
            found = self.nodes[node_id] = FoldedNode(node_id, self.items)
        assert isinstance(found, FoldedNode)
        return found

    @property
    def logs(self) -> list[LogRecord]:
        """All lines that are kept, read when they are asked for."""
        if self._logs[0] != self.lines:
            self._logs = self.lines, [*self.items.logs()]
        return self._logs[1]

    @logs.setter
    def logs(self, lines: list[LogRecord]) -> None:
        """Nothing is kept: the records tell them."""

    def log(self, records: Sequence[LogRecord]) -> None:
        """Count lines of the log."""
        room = MAX_LOG_LINES - self.lines
        self.lines += min(room, len(records))
        self.logs_dropped += max(0, len(records) - room)
