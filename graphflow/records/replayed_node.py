"""A node of a run as its history tells it: where it and each of its items stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphflow.errors import HistoryDamaged
from graphflow.model.records import (
    NodeEntry,
)
from graphflow.model.reports import Stored, ValueInfo, stored_ref
from graphflow.model.states import FINAL_CODES, FINAL_TABLE, Code, Counts
from graphflow.ports import ResultStore
from graphflow.records.errors import BatchErrors
from graphflow.records.item_index import Moved, NodeHistory, Segment
from graphflow.records.items import DIGEST_NBYTES, ItemsBody

__all__ = ["Flight", "ReplayedNode"]

_VALUED = bytes(code in (Code.COMPLETED, Code.CACHED) for code in range(256))
_NO_DIGEST = bytes(DIGEST_NBYTES)


@dataclass(slots=True)
class Flight:
    """A batch under way; with `is_bundle`, its indices are places in `nodes`, of which it has the only item of each."""

    nodes: Sequence[int]
    indices: Sequence[int]
    out: Sequence[int]
    """The indices that nothing was reported of."""
    is_bundle: bool = False

    def of_nodes(self) -> Iterator[tuple[int, Flight]]:
        """Yield each node that is out, and what of the batch is its own."""
        if not self.is_bundle:
            yield from ((number, self) for number in self.nodes)
            return
        for place in self.out:
            number = self.nodes[place]
            yield number, Flight((number,), range(1), range(1))


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
    """Options and policies that were changed, and when."""
    flights: dict[int, Flight] = field(default_factory=dict)
    """Batches under way, by number."""
    _lost: list[Sequence[int]] = field(default_factory=list)
    _blamed: dict[int, int] = field(default_factory=dict)
    _digests: bytearray = field(default_factory=bytearray)
    _valued: bytearray = field(default_factory=bytearray)
    _new_digests: list[tuple[Sequence[int], bytes]] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.entry.number

    @property
    def key(self) -> str:
        return self.entry.key

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def task_name(self) -> str:
        return self.entry.task_name

    @property
    def group(self) -> str:
        return self.entry.group

    @property
    def is_mapped(self) -> bool:
        return self.entry.is_mapped

    @property
    def is_builtin(self) -> bool:
        return self.entry.is_builtin

    @property
    def options(self) -> Mapping[str, Any]:
        return self.entry.options

    @property
    def state_code(self) -> Code:
        return Code(self.code)

    @property
    def is_final(self) -> bool:
        return self.code in FINAL_CODES

    @property
    def has_started(self) -> bool:
        return any(moved.code == Code.RUNNING for moved in self.transitions)

    @property
    def failed_whole(self) -> bool:
        # Only what a node fails with beside its items is told with its state.
        return self.code == Code.FAILED and bool(self.transitions and self.transitions[-1].message)

    @property
    def broke_off(self) -> bool:
        lacks = self.code == Code.UPSTREAM_FAILED and Code.UPSTREAM_FAILED not in self.states
        return self.is_mapped and self.width is not None and (lacks or self.failed_whole)

    @property
    def size(self) -> int:
        return len(self.states)

    def attempts_of(self, index: int) -> int:
        return self.attempts[index] if index < len(self.attempts) else 0

    def retries(self) -> int:
        return sum(self.attempts) - (len(self.attempts) - self.attempts.count(0))

    def code_of(self, index: int) -> Code:
        """Return the state of an item; of one that is under way, `RUNNING` or `RETRYING`."""
        code = self.states[index] if index < len(self.states) else Code.PENDING
        if code not in FINAL_CODES and any(index in flight.out for flight in self.flights.values()):
            tried = self.attempts[index] if index < len(self.attempts) else 0
            return Code.RETRYING if tried else Code.RUNNING
        return Code(code)

    def codes(self, lo: int, hi: int) -> bytes:
        """Return the states of a range of items, one byte each. O(items + items under way)."""
        size = max(0, hi - lo)
        codes = bytearray(self.states[lo:hi])
        codes.extend(bytes(size - len(codes)))
        for index in self.in_flight():
            if lo <= index < hi:
                codes[index - lo] = self.code_of(index)
        return bytes(codes)

    def in_flight(self) -> Iterator[int]:
        """Yield the items that were sent and not reported yet, and have not ended otherwise."""
        states = self.states
        for flight in self.flights.values():
            for index in flight.out:
                if index >= len(states) or states[index] not in FINAL_CODES:
                    yield index

    def counts(self) -> Counts:
        """Return items by state name; those of which nothing is known count as Pending. O(items / 10^10 + under way).

        Of a node that ended, only the items that it had in the end: one that failed beside its items has none.
        """
        tallied = [0] * 256
        size = (self.width or 0) if self.is_final else len(self.states)
        for code in Code:
            tallied[code] = self.states.count(code, 0, size)
        for flight in () if self.is_final else self.flights.values():
            self._tally_flight(flight.out, tallied)
        counts = Counts()
        for code in Code:
            if tallied[code] and code not in (Code.PENDING, Code.SCHEDULED):
                counts[code.state_name] += tallied[code]
        known = size if self.width is None else self.width
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
        """Return the task run name of an item."""
        found = self.history.find(index)
        if found is not None and found[0].step.labels is not None:
            label = found[0].step.labels.data[found[1]]
            if label is not None:
                return str(label)
        return f"{self.entry.name}[{index}]" if self.entry.is_mapped else self.entry.name

    def deaths(self, index: int) -> int:
        """Return how often an item was under way when its driver died, or executing when its worker did."""
        return self._blamed.get(index, 0) + sum(index in lost for lost in self._lost)

    def died(self) -> dict[int, int]:
        """Return how often, for all items of which `deaths` is not 0."""
        found = Counter(self._blamed)
        for lost in self._lost:
            found.update(lost)
        return dict(found)

    def first_open(self) -> int:
        """Return the first item that has not ended, as far as is known."""
        found = self.states.translate(FINAL_TABLE).find(0)
        return len(self.states) if found < 0 else found

    # -- values -----------------------------------------------------------------------------------------

    def valued(self, lo: int, hi: int) -> bytes:
        """Return one byte per item of a range: 1 where its newest value is in the result store, as far as history knows."""
        found = bytearray(self._valued[lo:hi].ljust(max(0, hi - lo), b"\0"))
        for index in self.aliases:
            if lo <= index < hi:
                found[index - lo] = self.history.place(index) is not None
        return bytes(found)

    def _mark_valued(self, indices: Sequence[int], stored: Stored | None, states: bytes) -> None:
        """Mark which values of items were stored; an item that did not complete has none."""
        if not len(indices):
            return
        size = indices.stop if isinstance(indices, range) else max(indices) + 1
        self._valued.extend(bytes(max(0, size - len(self._valued))))
        flags = bytearray(len(indices)) if stored is None else bytearray(states.translate(_VALUED))
        for position in stored.missing if stored is not None else ():
            flags[position] = 0
        if isinstance(indices, range):
            self._valued[indices.start : indices.stop] = flags
            return
        for place, index in enumerate(indices):
            self._valued[index] = flags[place]

    # -- digests ----------------------------------------------------------------------------------------

    def told(self) -> int:
        """Return all items below this one were once told of with what they are mapped over, whatever became of them."""
        self._take_digests()
        return len(self._digests) // DIGEST_NBYTES

    def digest_of(self, index: int) -> bytes | None:
        """Return what an item was mapped over, as 8 bytes; None where that was not told."""
        found = self.digests(index, index + 1)
        return None if found == _NO_DIGEST else found

    def digests(self, lo: int, hi: int) -> bytes:
        """Return the same for a range: 8 bytes each, zeros where it was not told."""
        self._take_digests()
        size = max(0, hi - lo) * DIGEST_NBYTES
        return bytes(self._digests[lo * DIGEST_NBYTES : hi * DIGEST_NBYTES]).ljust(size, b"\0")

    def _take_digests(self) -> None:
        whole = self.history.whole()
        if whole is not self.history and not self._digests:
            told = [segment for segment in whole.segments() if segment.step.digests]
            self._new_digests += [(segment.indices, segment.step.digests) for segment in told]
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

    def marks(self) -> tuple[bytearray, Sequence[Sequence[int]], Mapping[int, int]]:
        """Return which values are stored, which items were under way when a driver died, and how often others were when a worker did."""
        return self._valued, self._lost, self._blamed

    def mark(self, valued: bytearray, lost: list[Sequence[int]], blamed: dict[int, int]) -> None:
        """Take what `marks` gave."""
        self._valued, self._lost, self._blamed = valued, lost, blamed

    # -- what records say -------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        missing = size - len(self.states)
        if missing > 0:
            self.states.extend(bytes(missing))
            self.attempts.extend(bytes(missing))

    def write(self, indices: Sequence[int], states: bytes, attempts: bytes | None = None) -> None:
        """Write the current states and attempts of items."""
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

    def count(self, body: ItemsBody) -> None:
        """Apply what a report of items says of their states."""
        step = body.step
        if len(step.states) != len(body.indices):
            raise HistoryDamaged(f"{self.entry.name}: {len(step.states)} states of {len(body.indices)} items")
        self.write(body.indices, step.states, step.attempts)
        if step.info is not None:
            self.info = step.info
        self.history.inputs_kept += len(step.faults.inputs)
        self._mark_valued(body.indices, step.stored, step.states)

    def take(self, body: ItemsBody, errors: BatchErrors | None, store: ResultStore | None) -> None:
        """Apply a report of items, and keep it."""
        self.count(body)
        step = body.step
        if step.digests and len(body.indices):
            self._new_digests.append((body.indices, step.digests))
        if step.stored is not None:
            step = replace(step, values=stored_ref(step.stored, store))
        self.history.add(Segment(body.indices, step, body.started, body.worker, errors))

    def fly(self, batch: int, flight: Flight) -> None:
        """Apply that a batch of it was sent."""
        indices = flight.indices
        if len(indices):
            self.grow(indices.stop if isinstance(indices, range) else max(indices) + 1)
        self.flights[batch] = flight

    def lose(self, flight: Flight, executing: int | None) -> None:
        """Apply the loss of a batch while an item was running: an attempt, if it was of this node alone."""
        if executing is None:
            return
        self._blamed[executing] = self._blamed.get(executing, 0) + 1
        if len(flight.nodes) == 1:
            self.grow(executing + 1)
            self.attempts[executing] = min(255, self.attempts[executing] + 1)

    def begin_again(self) -> None:
        """Begin another attempt of the whole flow: earlier outcomes are kept for inspection, but do not count."""
        self.states = bytearray(len(self.states))
        self.attempts = bytearray(len(self.attempts))
        self.code = Code.PENDING
        self._lost.clear()
        self._blamed.clear()

    def forget_width(self) -> None:
        """Forget the width: items were reset, so it is open again; or the node ended and never had any."""
        if self.entry.is_mapped:
            self.width = None
            size = len(self.states.rstrip(b"\0"))
            del self.states[size:], self.attempts[size:]

    def suspects(self, deaths: int, pieces: int) -> list[list[int]]:
        """Return items that are, or were, under way when so many drivers died, and never ended.

        In parts, each at most the `pieces`-th part of a batch that was lost: one item that kills drivers is alone after a few
        launches, and the many that were near it cost little.
        """
        lost = [*self._lost, *(flight.out for flight in self.flights.values())]
        tallied = Counter[int]()
        for indices in lost:
            tallied.update(indices)
        suspects = {
            index
            for index, count in tallied.items()
            if count >= deaths and self.states[index : index + 1].translate(FINAL_TABLE) != b"\1"
        }
        parts: list[list[int]] = []
        for indices in reversed(lost):
            members = [index for index in indices if index in suspects]
            suspects.difference_update(members)
            size = -(-len(indices) // pieces)
            parts += [members[at : at + size] for at in range(0, len(members), size)]
        return parts

    def missing(self, *, is_whole: bool = True) -> set[int]:
        """Return items whose values could not be stored; if not `is_whole`, those whose values nothing outside their batch needed."""
        found: set[int] = set()
        history = self.history.whole()
        for segment in history.segments():
            stored = segment.step.stored
            if stored is None or not stored.missing or stored.is_whole is not is_whole:
                continue
            for position in stored.missing:
                newest = history.find(segment.indices[position])
                if newest is not None and newest[0] is segment:
                    found.add(segment.indices[position])
        return found

    def driver_died(self) -> None:
        """Mark running items as lost with their driver."""
        for flight in self.flights.values():
            if len(flight.out):
                self._lost.append(flight.out)
        self.flights.clear()
