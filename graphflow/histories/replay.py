"""A run as its history tells it: records are added one by one, and what they say can be asked for.

A replay is what resume starts from and what every reader shows. A watcher adds what was committed since it looked last.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphflow.anomalies import ErrorRecord
from graphflow.errors import HistoryDamaged
from graphflow.histories.codec import decode
from graphflow.histories.errors import BatchErrors, ErrorBook
from graphflow.histories.facts import Change, LogLines
from graphflow.histories.items import DIGEST_NBYTES, ItemsBody
from graphflow.histories.memory import MemoryHistory, NodeHistory, Segment
from graphflow.histories.texts import TextVariants
from graphflow.ports import ResultStore
from graphflow.records import (
    NO_NODE,
    Alias,
    Answer,
    Dispatch,
    Ended,
    Entry,
    Kind,
    Life,
    Lost,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.reports import Stored, ValueInfo, stored_ref
from graphflow.states import FINAL_CODES, FINAL_TABLE, Code, Counts

__all__ = ["Moved", "Replay", "ReplayedNode"]

_NO_DIGEST = bytes(DIGEST_NBYTES)


@dataclass(frozen=True, slots=True)
class Moved:
    """A node, or the run, moved to a state; `at` is seconds since the epoch."""

    code: int
    at: float
    message: str = ""
    width: int | None = None


@dataclass(slots=True)
class _Flight:
    nodes: Sequence[int]
    indices: Sequence[int]
    out: Sequence[int]
    """The indices that nothing was reported of."""


@dataclass(slots=True)
class ReplayedNode:
    """Where a node and each of its items stand. A node that is not mapped has one item, of index 0.

    `states` and `attempts` have one byte per item, as far as anything is known; they do not tell of items that are under
    way: `code_of` and `counts` do.
    """

    entry: NodeEntry
    history: NodeHistory
    states: bytearray = field(default_factory=bytearray)
    attempts: bytearray = field(default_factory=bytearray)
    width: int | None = None
    code: int = Code.PENDING
    transitions: list[Moved] = field(default_factory=list)
    info: ValueInfo | None = None
    aliases: dict[int, int] = field(default_factory=dict)
    """The number of the node that an item's value is that of, by index."""
    changes: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """Knobs and policies that were changed, and when."""
    flights: dict[int, _Flight] = field(default_factory=dict)
    """Batches under way, by number."""
    _lost: list[Sequence[int]] = field(default_factory=list)
    _blamed: dict[int, int] = field(default_factory=dict)
    _digests: bytearray = field(default_factory=bytearray)
    _new_digests: list[tuple[Sequence[int], bytes]] = field(default_factory=list)

    @property
    def number(self) -> int:
        """Its number in this history."""
        return self.entry.number

    @property
    def is_final(self) -> bool:
        """Whether the node as a whole has ended."""
        return self.code in FINAL_CODES

    @property
    def has_started(self) -> bool:
        """Whether a batch of it was sent in any life."""
        return any(moved.code == Code.RUNNING for moved in self.transitions)

    def code_of(self, index: int) -> Code:
        """The state of an item; of one that is under way, `RUNNING` or `RETRYING`."""
        code = self.states[index] if index < len(self.states) else Code.PENDING
        if code not in FINAL_CODES and any(index in flight.out for flight in self.flights.values()):
            tried = self.attempts[index] if index < len(self.attempts) else 0
            return Code.RETRYING if tried else Code.RUNNING
        return Code(code)

    def codes(self, lo: int, hi: int) -> bytes:
        """The states of a range of items, one byte each. O(items + items under way)."""
        size = max(0, hi - lo)
        codes = bytearray(self.states[lo:hi])
        codes.extend(bytes(size - len(codes)))
        for index in self.in_flight():
            if lo <= index < hi:
                codes[index - lo] = self.code_of(index)
        return bytes(codes)

    def in_flight(self) -> Iterator[int]:
        """The items that were sent and not reported yet, and have not ended otherwise."""
        states = self.states
        for flight in self.flights.values():
            for index in flight.out:
                if index >= len(states) or states[index] not in FINAL_CODES:
                    yield index

    def counts(self) -> Counts:
        """Items by state name; those of which nothing is known count as Pending. O(items / 10^10 + under way)."""
        tallied = [0] * 256
        for code in Code:
            tallied[code] = self.states.count(code)
        for flight in self.flights.values():
            self._tally_flight(flight.out, tallied)
        counts = Counts()
        for code in Code:
            if tallied[code] and code not in (Code.PENDING, Code.SCHEDULED):
                counts[code.state_name] += tallied[code]
        known = len(self.states) if self.width is None else self.width
        pending = known - sum(counts.values())
        if pending > 0:
            counts["Pending"] += pending
        return counts

    def _tally_flight(self, out: Sequence[int], tallied: list[int]) -> None:
        if isinstance(out, range) and len(out):
            part = self.states[out.start : out.stop]
            if not any(part) and not any(self.attempts[out.start : out.stop]):
                tallied[Code.RUNNING] += len(out)
                return
        states, attempts, size = self.states, self.attempts, len(self.states)
        for index in out:
            if index >= size:
                tallied[Code.RUNNING] += 1
            elif states[index] not in FINAL_CODES:
                tallied[states[index]] -= 1
                tallied[Code.RETRYING if attempts[index] else Code.RUNNING] += 1

    def label(self, index: int) -> str:
        """The task run name of an item."""
        found = self.history.find(index)
        if found is not None and found[0].step.labels is not None:
            label = found[0].step.labels.data[found[1]]
            if label is not None:
                return str(label)
        return f"{self.entry.name}[{index}]" if self.entry.is_mapped else self.entry.name

    def deaths(self, index: int) -> int:
        """How often an item was under way when its driver died, or executing when its worker did."""
        return self._blamed.get(index, 0) + sum(index in lost for lost in self._lost)

    def first_open(self) -> int:
        """The first item that has not ended, as far as is known."""
        found = self.states.translate(FINAL_TABLE).find(0)
        return len(self.states) if found < 0 else found

    # -- digests ----------------------------------------------------------------------------------------

    def digest_of(self, index: int) -> bytes | None:
        """What an item was mapped over, as 8 bytes; None where that was not told."""
        found = self.digests(index, index + 1)
        return None if found == _NO_DIGEST else found

    def digests(self, lo: int, hi: int) -> bytes:
        """The same for a range: 8 bytes each, zeros where it was not told."""
        self._take_digests()
        size = max(0, hi - lo) * DIGEST_NBYTES
        return bytes(self._digests[lo * DIGEST_NBYTES : hi * DIGEST_NBYTES]).ljust(size, b"\0")

    def _take_digests(self) -> None:
        for indices, digests in self._new_digests:
            stop = (indices.stop if isinstance(indices, range) else max(indices) + 1) * DIGEST_NBYTES
            self._digests.extend(bytes(max(0, stop - len(self._digests))))
            if isinstance(indices, range):
                self._digests[indices.start * DIGEST_NBYTES : stop] = digests
                continue
            for place, index in enumerate(indices):
                at = index * DIGEST_NBYTES
                self._digests[at : at + DIGEST_NBYTES] = digests[
                    place * DIGEST_NBYTES : (place + 1) * DIGEST_NBYTES
                ]
        self._new_digests.clear()

    # -- what records say -------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        missing = size - len(self.states)
        if missing > 0:
            self.states.extend(bytes(missing))
            self.attempts.extend(bytes(missing))

    def write(self, indices: Sequence[int], states: bytes, attempts: bytes | None = None) -> None:
        """Items are in these states now, after so many attempts."""
        if not len(indices):
            return
        if isinstance(indices, range):
            self.grow(indices.stop)
            self.states[indices.start : indices.stop] = states
            if attempts is not None:
                self.attempts[indices.start : indices.stop] = attempts
            return
        self.grow(max(indices) + 1)
        for place, index in enumerate(indices):
            self.states[index] = states[place]
            if attempts is not None:
                self.attempts[index] = attempts[place]

    def take(self, body: ItemsBody, errors: BatchErrors | None) -> None:
        """A report told of items."""
        step = body.step
        if len(step.states) != len(body.indices):
            raise HistoryDamaged(f"{self.entry.name}: {len(step.states)} states of {len(body.indices)} items")
        self.write(body.indices, step.states, step.attempts)
        if step.info is not None:
            self.info = step.info
        if step.digests and len(body.indices):
            self._new_digests.append((body.indices, step.digests))
        self.history.inputs_kept += len(step.faults.inputs)
        self.history.add(Segment(body.indices, step, body.started, body.worker, errors))

    def fly(self, batch: int, flight: _Flight) -> None:
        """A batch of it is sent."""
        self.flights[batch] = flight

    def lose(self, flight: _Flight, executing: int | None) -> None:
        """A batch is lost while an item was executing: that counts as an attempt where it was of this node alone."""
        if executing is None:
            return
        self._blamed[executing] = self._blamed.get(executing, 0) + 1
        if len(flight.nodes) == 1:
            self.grow(executing + 1)
            self.attempts[executing] = min(255, self.attempts[executing] + 1)

    def begin_again(self) -> None:
        """The flow is tried again as a whole: what was before is kept to look at, and counts for nothing."""
        self.states = bytearray(len(self.states))
        self.attempts = bytearray(len(self.attempts))
        self.code = Code.PENDING
        self._lost.clear()
        self._blamed.clear()

    def forget_width(self) -> None:
        """Items of it were taken back, so how many it will have is open again; or it ended and never had any."""
        if self.entry.is_mapped:
            self.width = None
            size = len(self.states.rstrip(b"\0"))
            del self.states[size:], self.attempts[size:]

    def suspects(self, deaths: int) -> set[int]:
        """Items that are, or were, under way when so many drivers died, and never ended."""
        tallied = Counter[int]()
        for lost in (*self._lost, *(flight.out for flight in self.flights.values())):
            tallied.update(lost)
        return {
            index
            for index, count in tallied.items()
            if count >= deaths and self.states[index : index + 1].translate(FINAL_TABLE) != b"\1"
        }

    def missing(self, *, is_whole: bool = True) -> set[int]:
        """Items whose values could not be stored; if not `is_whole`, those whose values nothing outside their batch needed."""
        found: set[int] = set()
        for segment in self.history.segments():
            stored = segment.step.stored
            if stored is None or not stored.missing or stored.is_whole is not is_whole:
                continue
            for position in stored.missing:
                newest = self.history.find(segment.indices[position])
                if newest is not None and newest[0] is segment:
                    found.add(segment.indices[position])
        return found

    def driver_died(self) -> None:
        """What was under way is lost with its driver."""
        for flight in self.flights.values():
            if len(flight.out):
                self._lost.append(flight.out)
        self.flights.clear()


class Replay:
    """What a run's records say.

    Attributes
    ----------
    lives
        The drivers that the run had, with the time when each took it.
    nodes
        By their numbers in this history, which do not change over lives.
    history
        Items, errors and the log, found as in a run that goes on.
    transitions
        States of the run, oldest first.
    seq
        The last commit that was added.

    Parameters
    ----------
    store
        Where the values are; None where nobody asks for any.
    """

    def __init__(self, store: ResultStore | None = None) -> None:
        self.store = store
        self.lives: list[Life] = []
        self.begun: list[float] = []
        """When each life began, in seconds since the epoch."""
        self.nodes: dict[int, ReplayedNode] = {}
        self.history = MemoryHistory()
        self.transitions: list[Moved] = []
        self.answers: list[tuple[float, Answer]] = []
        self.run_changes: list[dict[str, Any]] = []
        """What was noted of the run as a whole."""
        self.errors: list[ErrorRecord] = []
        """All errors of the run in full, by number."""
        self.chunks = 0
        self.variants_nbytes = 0
        self.records = 0
        self.batches = 0
        """The last number that a batch had."""
        self.seq = 0
        self.last_at = 0.0
        self._variants: dict[int, TextVariants] = {}
        self._batch_errors: tuple[bytes, int | None, BatchErrors] | None = None
        self._book = ErrorBook()
        self._flights: dict[int, _Flight] = {}
        self._takers: dict[int, Callable[[Record, Any], None]] = {
            Kind.LIFE: self._life,
            Kind.NODE: self._node,
            Kind.DISPATCH: self._dispatch,
            Kind.ITEMS: self._items,
            Kind.ENDED: self._ended,
            Kind.ERRORS: self._new_errors,
            Kind.VARIANTS: self._new_variants,
            Kind.STATE: self._state,
            Kind.LOG: self._log,
            Kind.LOST: self._lost,
            Kind.ALIAS: self._alias,
            Kind.ANSWER: self._answer,
            Kind.CHANGE: self._change,
        }

    @property
    def code(self) -> Code:
        """The run's state, as its last driver told."""
        return Code(self.transitions[-1].code) if self.transitions else Code.PENDING

    @property
    def flights(self) -> Sequence[int]:
        """The batches under way."""
        return list(self._flights)

    def stored(self) -> Iterator[Stored]:
        """All columns of values in the result store."""
        for node in self.nodes.values():
            for segment in node.history.segments():
                if segment.step.stored is not None:
                    yield segment.step.stored

    def by_key(self) -> dict[str, ReplayedNode]:
        """The nodes by their keys."""
        return {node.entry.key: node for node in self.nodes.values()}

    def add(self, entry: Entry) -> None:
        """Take a record; they come in the order in which they were committed.

        Raises
        ------
        HistoryDamaged
            If it cannot be read, or does not fit what was before it.
        HistoryTooNew
            If a later graphflow wrote it.
        """
        record = entry.record
        value = decode(record, seq=entry.seq)
        try:
            self._takers[record.kind](record, value)
        except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
            raise HistoryDamaged(
                f"a record {Kind(record.kind).name} of commit {entry.seq} does not fit the records before it: "
                f"{type(error).__name__}: {error}"
            ) from error
        self.records += 1
        self.seq = entry.seq
        self.last_at = record.at

    # -- each kind --------------------------------------------------------------------------------------

    def _life(self, record: Record, life: Life) -> None:
        for node in self.nodes.values():
            node.driver_died()
            if life.reason == "attempt":
                node.begin_again()
        self._flights.clear()
        self.lives.append(life)
        self.begun.append(record.at)

    def _node(self, record: Record, entry: NodeEntry) -> None:
        known = self.nodes.get(entry.number)
        if known is not None:
            # Told again by a later life, perhaps with other options.
            known.entry = entry
            return
        node = self.nodes[entry.number] = ReplayedNode(entry, self.history.node(entry.number))
        if not entry.is_mapped:
            node.width = 1
            node.grow(1)
        elif entry.width is not None:
            node.width = entry.width
            node.grow(entry.width)

    def _dispatch(self, record: Record, dispatch: Dispatch) -> None:
        flight = _Flight(dispatch.nodes, dispatch.indices, dispatch.indices)
        self._flights[dispatch.batch] = flight
        self.batches = max(self.batches, dispatch.batch)
        for number in dispatch.nodes:
            self.nodes[number].fly(dispatch.batch, flight)

    def _land(self, batch: int) -> _Flight | None:
        flight = self._flights.pop(batch, None)
        if flight is not None:
            for number in flight.nodes:
                self.nodes[number].flights.pop(batch, None)
        return flight

    def _items(self, record: Record, body: ItemsBody) -> None:
        if body.held is not None:
            flight = self._flights.get(body.batch)
            if flight is not None and body.held:
                flight.out = array("Q", [flight.indices[position] for position in body.held])
            else:
                self._land(body.batch)
        step = body.step
        if step.stored is not None:
            body = replace(body, step=replace(step, values=stored_ref(step.stored, self.store)))
        self.nodes[record.node].take(body, self._errors_of(body))

    def _errors_of(self, body: ItemsBody) -> BatchErrors | None:
        """The errors of a report, the same object for all its steps."""
        if not len(body.errors):
            return None
        key = array("Q", body.errors).tobytes()
        last = self._batch_errors
        if last is None or last[0] != key or last[1] != body.variants:
            records = tuple(self.errors[number] for number in body.errors)
            variants = None if body.variants is None else self._variants[body.variants]
            last = self._batch_errors = (key, body.variants, BatchErrors(records, variants, self._book))
        return last[2]

    def _ended(self, record: Record, ended: Ended) -> None:
        node = self.nodes[ended.node]
        is_end = ended.code in FINAL_CODES
        # What is taken back begins with all its attempts.
        attempts = None if is_end else bytes(len(ended.indices))
        node.write(ended.indices, bytes([ended.code]) * len(ended.indices), attempts)
        self.history.ended(ended.node, ended.indices, record.at if is_end else 0.0)

    def _new_errors(self, record: Record, errors: list[ErrorRecord]) -> None:
        if record.lo != len(self.errors) or record.count != len(errors):
            raise ValueError(
                f"errors from number {record.lo} on, {len(errors)} of {record.count}, after {len(self.errors)}"
            )
        self.errors += errors

    def _new_variants(self, record: Record, variants: TextVariants) -> None:
        if record.lo != self.chunks or record.count != len(variants.records):
            raise ValueError(f"variants from chunk {record.lo} on, after {self.chunks}")
        self._variants[record.lo] = variants
        self.chunks += record.count
        self.variants_nbytes += variants.nbytes

    def _state(self, record: Record, told: Transition) -> None:
        code = Code(told.code)
        moved = Moved(code, record.at, told.message, told.width)
        if record.node == NO_NODE:
            self.transitions.append(moved)
            self.history.run_changed(code, record.at)
            return
        node = self.nodes[record.node]
        node.code = code
        node.transitions.append(moved)
        if code == Code.PENDING or (code in FINAL_CODES and told.width is None):
            node.forget_width()
        if told.width is not None:
            node.width = told.width
            node.grow(told.width)
        self.history.node_changed(record.node, code, record.at)

    def _log(self, record: Record, told: LogLines) -> None:
        self.history.log(told.lines)
        self.history.logs_dropped += told.dropped

    def _lost(self, record: Record, lost: Lost) -> None:
        flight = self._land(lost.batch)
        if flight is not None:
            for number in flight.nodes:
                self.nodes[number].lose(flight, lost.executing)

    def _alias(self, record: Record, alias: Alias) -> None:
        self.nodes[alias.node].aliases[alias.index] = alias.root
        place = self.history.node(alias.root).place(0)
        if place is not None:
            self.history.node(alias.node).alias(alias.index, place)

    def _answer(self, record: Record, answer: Answer) -> None:
        self.answers.append((record.at, answer))

    def _change(self, record: Record, change: Change) -> None:
        if record.node == NO_NODE:
            self.run_changes.append(dict(change.values))
            return
        self.nodes[change.node].changes.append((record.at, dict(change.values)))
