"""A run rebuilt from its history: records are added one by one, and can be queried.

A replay is what resume starts from and what every reader shows. A watcher adds what was committed since it looked last.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.errors import HistoryDamaged
from graphflow.model.anomalies import ErrorRecord
from graphflow.model.records import (
    NO_NODE,
    Alias,
    Answer,
    Dispatch,
    Dispatches,
    Ended,
    Entry,
    Kind,
    Launch,
    Lost,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.model.reports import Stored
from graphflow.model.states import FINAL_CODES, Code
from graphflow.ports import ResultStore
from graphflow.records.codec import decode
from graphflow.records.errors import BatchErrors, ErrorBook
from graphflow.records.facts import Change, LogLines
from graphflow.records.figures import Timeline
from graphflow.records.folded import FoldedHistory
from graphflow.records.item_index import MemoryHistory, Moved
from graphflow.records.items import ItemsBody
from graphflow.records.joined import Joined
from graphflow.records.replayed_node import Flight, ReplayedNode
from graphflow.records.spans import Span
from graphflow.records.texts import TextVariants

__all__ = ["Replay", "ReplayedNode"]


class Replay:
    """What a run's records say.

    Attributes
    ----------
    launches
        The drivers that the run had, with the time when each took it.
    nodes
        By their numbers in this history, which do not change over launches.
    history
        Items, errors and the log, with the same queries as an active run.
    transitions
        States of the run, oldest first.
    seq
        The last commit that was added.

    Parameters
    ----------
    store
        Where the values are; None if none are needed.
    read
        Reads a record's body.
    folded
        What adds up what is told of items, and does not keep it; by default all is kept.
    """

    def __init__(
        self,
        store: ResultStore | None = None,
        *,
        read: Callable[..., Any] = decode,
        folded: FoldedHistory | None = None,
    ) -> None:
        self.store = store
        self._read = read
        self.folded = folded
        self.launches: list[Launch] = []
        self.lasts: list[float] = []
        """By launch, when it recorded something for the last time."""
        self.nodes: dict[int, ReplayedNode] = {}
        self.history = MemoryHistory() if folded is None else folded
        self.timelines: list[Timeline] = []
        """By launch, when its workers were busy; only where items are folded."""
        self.transitions: list[Moved] = []
        self.answers: list[tuple[float, Answer]] = []
        self.run_changes: list[dict[str, Any]] = []
        """What was noted of the run as a whole."""
        self.errors: list[ErrorRecord] = []
        """All errors of the run in full, by number; none where items are folded."""
        self.error_count = 0
        self.chunks = 0
        self.variants_nbytes = 0
        self.records = 0
        self.batches = 0
        """The last number that a batch had."""
        self.seq = 0
        self._variants: dict[int, TextVariants] = {}
        self._batch_errors: tuple[bytes, int | None, BatchErrors] | None = None
        self._book = ErrorBook()
        self._flights: dict[int, Flight] = {}
        self._standing: dict[int, dict[tuple[int, int], None]] = {}
        """By node: the items whose value it gives."""
        self._takers: dict[int, Callable[[Record, Any], None]] = {
            Kind.LAUNCH: self._launch,
            Kind.NODE: self._node,
            Kind.DISPATCH: self._dispatch,
            Kind.DISPATCHES: self._dispatches,
            Kind.ITEMS: self._items,
            Kind.JOINED: self._joined,
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
    def spans(self) -> list[Span]:
        """From when to when the launches lasted, as far as it is recorded."""
        return [(launch.began, last) for launch, last in zip(self.launches, self.lasts, strict=True)]

    def noted(self, name: str) -> Any:
        """Return what was last noted of the run as a whole under a name, None if nothing was."""
        return next((change[name] for change in reversed(self.run_changes) if name in change), None)

    @property
    def value(self) -> Mapping[str, Any] | None:
        """Where the value of the run is, None if it has none."""
        found: Mapping[str, Any] | None = self.noted("value")
        return found

    @property
    def code(self) -> Code:
        """The run's state, as its last driver told."""
        return Code(self.transitions[-1].code) if self.transitions else Code.PENDING

    @property
    def flights(self) -> Sequence[int]:
        """The batches under way."""
        return list(self._flights)

    def stored(self) -> Iterator[Stored]:
        """Yield all columns of values in the result store."""
        for node in self.nodes.values():
            for segment in node.history.segments():
                if segment.step.stored is not None:
                    yield segment.step.stored

    def add(self, entry: Entry) -> None:
        """Add a record; records arrive in the order of their commits.

        Raises
        ------
        HistoryDamaged
            If it cannot be read, or does not fit what was before it.
        HistoryTooNew
            If a later graphflow wrote it.
        """
        record = entry.record
        if record.kind == Kind.DIGEST:
            return
        value = self._read(record, seq=entry.seq)
        try:
            self._takers[record.kind](record, value)
        except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
            raise HistoryDamaged(
                f"a record {Kind(record.kind).name} of commit {entry.seq} does not fit the records before it: "
                f"{type(error).__name__}: {error}"
            ) from error
        if self.folded is not None:
            self.folded.items.fresh.add(record.kind, entry.number, record.node, value)
        self.records += 1
        self.seq = entry.seq
        if self.lasts and record.at > self.lasts[-1]:
            self.lasts[-1] = record.at

    def flying(self) -> Mapping[int, Flight]:
        """Return the batches under way, by number."""
        return self._flights

    def put_flying(self, batch: int, flight: Flight) -> None:
        """Put a batch under way that a digest tells of; its nodes' items are known."""
        self._flights[batch] = flight
        for number, own in flight.of_nodes():
            self.nodes[number].flights[batch] = own

    def settle(self) -> None:
        """Settle a run without a driver: items that were running are lost with it."""
        for node in self.nodes.values():
            node.driver_died()
        self._flights.clear()

    # -- each kind --------------------------------------------------------------------------------------

    def _launch(self, record: Record, launch: Launch) -> None:
        self.settle()
        if launch.reason == "attempt":
            for node in self.nodes.values():
                node.begin_again()
        self.launches.append(launch if launch.began else replace(launch, began=record.at))
        self.lasts.append(record.at)
        if self.folded is not None:
            self.timelines.append(Timeline(self.launches[-1].began))

    def _node(self, record: Record, entry: NodeEntry) -> None:
        known = self.nodes.get(entry.number)
        if known is not None:
            # Told again by a later launch, perhaps with other options.
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
        self.batches = max(self.batches, dispatch.batch)
        indices = range(len(dispatch.nodes)) if dispatch.is_bundle else dispatch.indices
        flight = Flight(dispatch.nodes, indices, indices, dispatch.is_bundle)
        self._flights[dispatch.batch] = flight
        for number, own in flight.of_nodes():
            self.nodes[number].fly(dispatch.batch, own)

    def _dispatches(self, record: Record, dispatches: Dispatches) -> None:
        for each in dispatches.each:
            self._dispatch(record, each)

    def _land(self, batch: int) -> Flight | None:
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
                if flight.is_bundle:
                    for position in set(flight.indices).difference(flight.out):
                        self.nodes[flight.nodes[position]].flights.pop(body.batch, None)
            else:
                self._land(body.batch)
        node = self.nodes[record.node]
        if self.folded is None:
            node.take(body, self._errors_of(body), self.store)
            self._value_moved(record.node)
            return
        node.count(body)
        seconds = self.folded.node(record.node).fold(body)
        if self.timelines:
            self.timelines[-1].add(body.worker, body.started, body.step, seconds)

    def _joined(self, record: Record, joined: Joined) -> None:
        for body in joined.bodies:
            self._items(record, body)

    def _errors_of(self, body: ItemsBody) -> BatchErrors | None:
        """Return the errors of a report, the same object for all its steps."""
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
        if record.lo != self.error_count or record.count != len(errors):
            raise ValueError(
                f"errors from number {record.lo} on, {len(errors)} of {record.count}, after {self.error_count}"
            )
        self.error_count += len(errors)
        if self.folded is None:
            self.errors += errors

    def _new_variants(self, record: Record, variants: TextVariants) -> None:
        if record.lo != self.chunks or record.count != len(variants.records):
            raise ValueError(f"variants from chunk {record.lo} on, after {self.chunks}")
        if self.folded is None:
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
        if flight is None:
            return
        if not flight.is_bundle:
            for number in flight.nodes:
                self.nodes[number].lose(flight, lost.executing)
        elif lost.executing is not None:
            number = flight.nodes[lost.executing]
            self.nodes[number].lose(replace(flight, nodes=(number,)), 0)

    def _alias(self, record: Record, alias: Alias) -> None:
        self.nodes[alias.node].aliases[alias.index] = alias.root
        if self.folded is not None:
            return
        self._standing.setdefault(alias.root, {})[alias.node, alias.index] = None
        self._value_moved(alias.root)

    def _value_moved(self, root: int) -> None:
        """Apply a node's new value, perhaps of a later launch, to the items that it stands in for."""
        standing = self._standing.get(root)
        place = self.history.node(root).place(0) if standing else None
        if standing and place is not None:
            for node, index in standing:
                if self.nodes[node].aliases.get(index) == root:
                    self.history.node(node).alias(index, place)
                    self._value_moved(node)

    def _answer(self, record: Record, answer: Answer) -> None:
        self.answers.append((record.at, answer))

    def _change(self, record: Record, change: Change) -> None:
        if record.node == NO_NODE:
            self.run_changes.append(dict(change.values))
            return
        self.nodes[change.node].changes.append((record.at, dict(change.values)))
