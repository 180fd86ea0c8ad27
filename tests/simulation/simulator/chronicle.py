"""The journal of a simulated run as somebody reads it who knows nothing of the engine: what is durable, and may be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.core import events as ev
from graphflow.model.records import NO_NODE, Dispatch, Dispatches, Ended, Kind, NodeEntry, Record, Transition
from graphflow.model.reports import Stored
from graphflow.model.states import FINAL_CODES, GOOD_CODES, Code
from graphflow.ports import ResultStore
from graphflow.records.codec import decode
from graphflow.records.items import ItemsBody
from graphflow.records.joined import Joined
from graphflow.results.packs import packs
from simulator.ledger import Violation

__all__ = ["Chronicle", "Outcome"]

_VALUED = frozenset((Code.COMPLETED, Code.CACHED))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item ended: in commit `seq`, after so many attempts, with its value at `position` of `stored`."""

    code: int
    seq: int
    attempts: int = 0
    stored: Stored | None = None
    position: int = 0


class Chronicle:
    """What was committed, record by record, by node id (the key of a simulated node) and index.

    Parameters
    ----------
    store
        Where packs must be before anything refers to them.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._read: dict[Record, Any] = {}
        self.epoch = 0
        self.seq = 0
        self.ids: dict[int, int] = {}
        """Node ids by their number in the history."""
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        """Items that ended."""
        self.attempts: dict[tuple[int, int], int] = {}
        """Attempts that were committed of items that have not ended."""
        self.codes: dict[int, int] = {}
        self.failed_whole: set[int] = set()
        self.dispatched: dict[tuple[int, int], Dispatch] = {}
        """By epoch and batch."""
        self.run_code: int = Code.PENDING
        self.repeatable: set[tuple[int, int]] = set()
        """Items that ended and may end once more: their values are gone, or something before them runs anew."""
        self.aliases: dict[tuple[int, int], int] = {}
        self.children: dict[tuple[int, int], set[int]] = {}
        """Nodes that were recorded in the place of an item."""

    def read(self, record: Record, *, seq: int | None = None) -> Any:
        """What a record tells; each is decoded once, however many launches replay it."""
        if record not in self._read:
            self._read[record] = decode(record, seq=seq)
        return self._read[record]

    def committed(self, epoch: int, records: Sequence[Record]) -> None:
        """A commit is durable."""
        if epoch < self.epoch:
            raise Violation(f"a driver of epoch {epoch} wrote after one of epoch {self.epoch}")
        self.epoch = epoch
        self.seq += 1
        for record in records:
            if record.kind != Kind.DIGEST:
                self._take(epoch, record)

    def _take(self, epoch: int, record: Record) -> None:
        value = self.read(record)
        if isinstance(value, NodeEntry):
            id_ = int(value.key)
            if self.ids.setdefault(record.node, id_) != id_:
                raise Violation(f"number {record.node} stands for nodes {self.ids[record.node]} and {id_}")
            if value.parent is not None:
                self.children.setdefault((self.ids[value.parent[0]], value.parent[1]), set()).add(id_)
        elif isinstance(value, Dispatch | Dispatches):
            for each in [value] if isinstance(value, Dispatch) else value.each:
                self.dispatched[epoch, each.batch] = each
        elif isinstance(value, ItemsBody | Joined):
            for body in [value] if isinstance(value, ItemsBody) else value.bodies:
                self._items(self.ids[record.node], body)
        elif isinstance(value, Ended):
            for index in value.indices:
                self._end((self.ids[value.node], index), Outcome(value.code, self.seq))
        elif isinstance(value, Transition):
            if record.node == NO_NODE:
                self.run_code = value.code
            else:
                id_ = self.ids[record.node]
                self.codes[id_] = value.code
                if value.code == Code.FAILED and value.message:
                    self.failed_whole.add(id_)
        elif record.kind == Kind.ALIAS:
            self.aliases[self.ids[value.node], value.index] = self.ids[value.root]

    def _items(self, id_: int, body: ItemsBody) -> None:
        stored = body.step.stored
        if stored is not None and not packs.verify(self._store, stored):
            raise Violation(f"a batch of node {id_} was committed before its pack was published")
        for position, index in enumerate(body.indices):
            code, attempts = body.step.states[position], body.step.attempts[position]
            self.attempts[id_, index] = attempts
            self._end((id_, index), Outcome(code, self.seq, attempts, stored, position))

    def _end(self, place: tuple[int, int], outcome: Outcome) -> None:
        """An item moved; one that ended well does so once, unless it was taken back."""
        before = self.outcomes.get(place)
        code = outcome.code
        if before is not None and before.code == code == Code.SKIPPED and not outcome.attempts:
            return
        if (
            before is not None
            and before.code in GOOD_CODES
            and code != Code.PENDING
            and place not in self.repeatable
        ):
            raise Violation(
                f"item {place[1]} of node {place[0]} ended {Code(before.code).name} in commit {before.seq}, and became "
                f"{Code(code).name} in commit {outcome.seq}"
            )
        if code in FINAL_CODES:
            self.outcomes[place] = outcome
            self.repeatable.discard(place)
        elif before is not None and (code == Code.PENDING or before.code not in GOOD_CODES):
            del self.outcomes[place]
            if code == Code.PENDING:
                self.attempts.pop(place, None)

    # -- what may be told -------------------------------------------------------------------------------

    def check_told(self, epoch: int, command: ev.Command) -> None:
        """Whatever is told is durable by then."""
        match command:
            case ev.SubmitBatch():
                self.check_sent(epoch, command)
            case ev.CommitReport():
                for step in command.report.steps:
                    for position, index in enumerate(command.indices):
                        self._check_durable(step.node, index, step.states[position], step.attempts[position])
            case ev.ItemsEnded():
                for index in command.indices:
                    self._check_durable(command.node, index, command.code)
            case ev.NodeChanged():
                if command.code in FINAL_CODES and self.codes.get(command.node) != command.code:
                    raise Violation(f"{command} was told before it was durable")

    def check_sent(self, epoch: int, command: ev.SubmitBatch) -> None:
        """A batch is sent: that is durable by then, so that its attempts count."""
        known = self.dispatched.get((epoch, command.batch))
        if known is None or (
            len(known.nodes) != len(command.nodes)
            if command.is_bundle
            else [*known.indices] != [*command.indices]
        ):
            raise Violation(f"batch {command.batch} was sent before that was durable")

    def _check_durable(self, node: int, index: int, code: int, attempts: int | None = None) -> None:
        outcome = self.outcomes.get((node, index))
        if code in FINAL_CODES:
            is_durable = outcome is not None and outcome.code == code
        else:
            is_durable = attempts is None or self.attempts.get((node, index), 0) >= attempts
        if not is_durable:
            raise Violation(
                f"item {index} of node {node} was told to be {Code(code).name} before that was durable"
            )

    def is_finished(self, place: tuple[int, int]) -> bool:
        """Whether all that was recorded in an item's place has ended well."""
        return all(
            self.codes.get(child) in GOOD_CODES
            and all(
                outcome.code in GOOD_CODES and self.is_finished(each)
                for each, outcome in self.outcomes.items()
                if each[0] == child
            )
            for child in self.children.get(place, ())
        )

    def is_valued(self, node: int, index: int) -> bool:
        """Whether the value of an item that ended is there, whole, or none is needed."""
        outcome = self.outcomes.get((node, index))
        if outcome is None:
            return False
        if outcome.code not in _VALUED:
            return True
        root = self.aliases.get((node, index))
        if root is not None:
            return self.is_valued(root, 0)
        stored = outcome.stored
        return (
            stored is not None
            and outcome.position not in stored.missing
            and packs.verify(self._store, stored)
        )
