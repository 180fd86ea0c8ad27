"""What is written into a history, and read from it: values as records, and records as values again.

No body holds a pickle. The first byte of each is the version of its layout: a later version is refused as too new, not
guessed at.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from graphflow.errors import GraphflowError, HistoryDamaged, HistoryTooNew
from graphflow.model.anomalies import ErrorRecord
from graphflow.model.orders import Ref
from graphflow.model.records import (
    NO_NODE,
    Alias,
    Answer,
    Dispatch,
    Dispatches,
    Ended,
    Kind,
    Launch,
    Lost,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.model.reports import LogRecord, Report, StepReport
from graphflow.records import facts, items, joined, texts
from graphflow.records.errors import MAX_NBYTES, MAX_RECORDS
from graphflow.records.facts import (
    Change,
    LogLines,
    encode_dispatches,
    encode_fact,
    encode_log,
    encode_ranged,
    fact_of,
)
from graphflow.records.item_index import MAX_INPUTS, MAX_LOG_LINES, MemoryHistory
from graphflow.records.items import ItemsBody, encode_items
from graphflow.records.texts import encode_errors, encode_variants

__all__ = ["RecordWriter", "Reported", "Written", "decode", "join"]

MAX_MOVES = 256
_VERSIONS: Mapping[int, int] = {
    Kind.ITEMS: items.VERSION,
    Kind.JOINED: joined.VERSION,
    Kind.ERRORS: texts.VERSION,
    Kind.VARIANTS: texts.VERSION,
}
_BROKEN = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    zlib.error,
)


def decode(record: Record, *, seq: int | None = None) -> Any:
    """Return what a record tells: a value of `graphflow.model.records`, `ItemsBody`, `Joined`, `LogLines`, `Change`, errors or variants.

    Raises
    ------
    HistoryTooNew
        If the body's layout is of a later graphflow.
    HistoryDamaged
        If it cannot be read.
    """
    version = record.body[0] if record.body else 0
    known = _VERSIONS.get(record.kind, facts.VERSION)
    if record.kind not in Kind.__members__.values() or version > known:
        raise HistoryTooNew(
            f"{_where(record, seq)} was written by a newer graphflow; upgrade graphflow to read this run"
        )
    if not version:
        raise HistoryDamaged(f"{_where(record, seq)} is damaged: it has no content")
    try:
        if record.kind == Kind.ITEMS:
            return items.decode_items(record.body, node=record.node, lo=record.lo, count=record.count)
        if record.kind == Kind.JOINED:
            return joined.decode_joined(record.body, node=record.node)
        if record.kind == Kind.ERRORS:
            return texts.decode_errors(record.body)
        if record.kind == Kind.VARIANTS:
            return texts.decode_variants(record.body)
        return facts.decode_fact(record)
    except _BROKEN as error:
        raise HistoryDamaged(
            f"{_where(record, seq)} is damaged: {type(error).__name__}: {error}; `graphflow fsck` lists all damage"
        ) from error


def _where(record: Record, seq: int | None) -> str:
    try:
        kind = Kind(record.kind).name
    except ValueError:
        kind = f"kind {record.kind}"
    return f"a record {kind}" + (f" of commit {seq}" if seq is not None else "") + " of this history"


@dataclass(frozen=True, slots=True)
class Reported:
    """What one report says of one node, before it is a record."""

    node: int
    at: float
    part: joined.Part

    @property
    def can_join(self) -> bool:
        """Whether it may be told in one record with others."""
        return joined.can_join(self.part.body)

    def record(self) -> Record:
        """Return it as a record of its own."""
        indices = self.part.body.indices
        return Record(
            kind=Kind.ITEMS,
            at=self.at,
            body=encode_items(self.part.body, self.part.labels),
            node=self.node,
            lo=_first(indices),
            count=len(indices),
            value=self.part.body,
        )


def join(reported: Sequence[Reported]) -> Record:
    """Return one record of what several reports say of one node."""
    if len(reported) == 1:
        return reported[0].record()
    lo, hi = _span([each.part.body.indices for each in reported])
    body = joined.encode_joined([each.part for each in reported])
    return Record(
        kind=Kind.JOINED,
        at=reported[-1].at,
        body=body,
        node=reported[0].node,
        lo=lo,
        count=hi - lo,
        value=joined.Joined(tuple(each.part.body for each in reported)),
    )


class Written(Protocol):
    """What a run's history already has, for the writer that continues it."""

    errors: list[ErrorRecord]
    chunks: int
    variants_nbytes: int
    history: MemoryHistory


class RecordWriter:
    """Makes the records of one run, and numbers its errors.

    Errors are written once each; beyond 10,000 different ones, or 64 MiB of texts, they are written without traceback
    or text. Log lines beyond 100,000 are counted, not kept.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str, bytes], int] = {}
        self._errors = 0
        self._chunks = 0
        self._nbytes = 0
        self._inputs: dict[int, int] = {}
        self._lines = 0
        self._moves: dict[tuple[int, int | None], bytes] = {}
        """Bodies of transitions without a message."""

    @classmethod
    def continuing(cls, written: Written) -> RecordWriter:
        """Return a writer for the next launch of a run."""
        writer = cls()
        for number, record in enumerate(written.errors):
            writer._nbytes += len(record.message) + len(record.traceback)
            if len(writer._known) < MAX_RECORDS:
                writer._known.setdefault(record.identity, number)
        writer._errors = len(written.errors)
        writer._chunks = written.chunks
        writer._nbytes += written.variants_nbytes
        writer._inputs = {number: node.inputs_kept for number, node in written.history.nodes.items()}
        writer._lines = len(written.history.logs)
        return writer

    # -- small facts ------------------------------------------------------------------------------------

    def launch(self, launch: Launch, at: float) -> Record:
        """Return the record of a driver's launch."""
        return Record(kind=Kind.LAUNCH, at=at, body=encode_fact(fact_of(launch)), value=launch)

    def node(self, entry: NodeEntry, at: float) -> Record:
        """Return a task was placed in the graph."""
        body = encode_fact(fact_of(entry))
        return Record(kind=Kind.NODE, at=at, body=body, node=entry.number, value=entry)

    def dispatch(self, dispatch: Dispatch, at: float) -> Record:
        """Return a batch is about to be sent."""
        node = dispatch.nodes[0] if dispatch.nodes else NO_NODE
        return _ranged(Kind.DISPATCH, dispatch, dispatch.indices, node, at)

    def dispatches(self, dispatches: Sequence[Dispatch], at: float) -> Record:
        """Return the record of batches of the same nodes that are about to be sent."""
        if len(dispatches) == 1:
            return self.dispatch(dispatches[0], at)
        nodes = dispatches[0].nodes
        lo, hi = _span([each.indices for each in dispatches])
        return Record(
            kind=Kind.DISPATCHES,
            at=at,
            body=encode_dispatches(dispatches),
            node=nodes[0] if nodes else NO_NODE,
            lo=lo,
            count=hi - lo,
            value=Dispatches(tuple(dispatches)),
        )

    def ended(self, ended: Ended, at: float) -> Record:
        """Return items ended without running; with a code that is not final, they were reset to it."""
        return _ranged(Kind.ENDED, ended, ended.indices, ended.node, at)

    def state(self, node_number: int | None, transition: Transition, at: float) -> Record:
        """Return a node, or the run, moved to a state."""
        node = NO_NODE if node_number is None else node_number
        if transition.message:
            body = encode_fact(fact_of(transition))
        else:
            # Very many nodes move alike.
            place = (transition.code, transition.width)
            body = self._moves.get(place) or encode_fact(fact_of(transition))
            if len(self._moves) < MAX_MOVES:
                self._moves[place] = body
        return Record(kind=Kind.STATE, at=at, body=body, node=node, value=transition)

    def lost(self, lost: Lost, at: float) -> Record:
        """Return the record of a lost batch."""
        return Record(kind=Kind.LOST, at=at, body=encode_fact(fact_of(lost)), value=lost)

    def alias(self, alias: Alias, at: float) -> Record:
        """Return the value of an item is another node's."""
        body = encode_fact(fact_of(alias))
        return Record(
            kind=Kind.ALIAS, at=at, body=body, node=alias.node, lo=alias.index, count=1, value=alias
        )

    def answer(self, answer: Answer, at: float) -> Record:
        """Return a request was acted on, or refused."""
        return Record(kind=Kind.ANSWER, at=at, body=encode_fact(fact_of(answer)), value=answer)

    def change(self, node_number: int | None, values: Mapping[str, Any], at: float) -> Record:
        """Return options or policies of a node were changed, or something of the run as a whole was noted (None)."""
        node = NO_NODE if node_number is None else node_number
        value = Change(node=node, values=dict(values))
        return Record(kind=Kind.CHANGE, at=at, body=encode_fact(dict(values)), node=node, value=value)

    def log(self, lines: Sequence[LogRecord], dropped: int, at: float) -> Record | None:
        """Return lines of the log, as far as there is room for them; None where there is nothing to say."""
        room = max(0, MAX_LOG_LINES - self._lines)
        kept = lines[:room]
        dropped += len(lines) - len(kept)
        self._lines += len(kept)
        if not kept and not dropped:
            return None
        value = LogLines(lines=kept, dropped=dropped)
        return Record(kind=Kind.LOG, at=at, body=encode_log(kept, dropped), count=len(kept), value=value)

    # -- reports ----------------------------------------------------------------------------------------

    def report(
        self,
        report: Report,
        indices: Sequence[int],
        *,
        number: Callable[[int], int],
        load: Callable[[Ref], Sequence[Any]],
        at: float,
    ) -> list[Record]:
        """Return the records of what a batch reported of `indices`; parameters as for `reported`."""
        told = self.reported(report, indices, number=number, load=load, at=at)
        return [each if isinstance(each, Record) else each.record() for each in told]

    def reported(
        self,
        report: Report,
        indices: Sequence[int],
        *,
        number: Callable[[int], int],
        load: Callable[[Ref], Sequence[Any]],
        at: float,
    ) -> list[Record | Reported]:
        """Return what a batch reported of `indices`: records, and what may be joined with other reports first.

        Parameters
        ----------
        number
            Gives the number of a node in this history.
        load
            Reads a column of labels.
        """
        records: list[Record | Reported] = []
        errors, variants = self._take_errors(report, records, at)
        for place, step in enumerate(report.steps):
            if place and not len(indices):
                break
            has_errors = bool(len(step.faults) or len(step.anomalies))
            body = ItemsBody(
                batch=report.batch,
                worker=report.worker,
                started=report.started,
                indices=indices,
                step=self._bounded(step, number(step.node)),
                errors=errors if has_errors else (),
                variants=variants if has_errors else None,
                held=report.held if not place else None,
            )
            records.append(Reported(number(step.node), at, joined.Part(body, _labels(step, load))))
        line = self.log(report.logs, report.logs_dropped, at)
        if line is not None:
            records.append(line)
        return records

    def _take_errors(
        self, report: Report, records: list[Record | Reported], at: float
    ) -> tuple[Sequence[int], int | None]:
        """Return the numbers in the run of a report's errors, and of its first chunk of variants; adds what is new."""
        if not report.errors:
            return (), None
        numbers = array("I")
        new: list[ErrorRecord] = []
        first = self._errors
        for error in report.errors:
            known = self._known.get(error.identity)
            if known is None:
                known = self._errors
                self._errors += 1
                new.append(self._kept(error, known))
            numbers.append(known)
        if new:
            body = encode_errors(new)
            records.append(Record(kind=Kind.ERRORS, at=at, body=body, lo=first, count=len(new), value=new))
        variants = report.variants
        if variants is None:
            return numbers, None
        base, count = self._chunks, len(variants.records)
        body = encode_variants(variants, keeps_texts=self._nbytes < MAX_NBYTES)
        self._chunks += count
        self._nbytes += len(body)
        records.append(Record(kind=Kind.VARIANTS, at=at, body=body, lo=base, count=count, value=variants))
        return numbers, base

    def _kept(self, error: ErrorRecord, number: int) -> ErrorRecord:
        weight = len(error.message) + len(error.traceback)
        if len(self._known) >= MAX_RECORDS or self._nbytes + weight > MAX_NBYTES:
            return replace(error, traceback="")
        self._nbytes += weight
        self._known[error.identity] = number
        return error

    def _bounded(self, step: StepReport, number: int) -> StepReport:
        """Return a step whose failed items' arguments are recorded only if the node has few of them."""
        if not step.faults.inputs:
            return step
        kept = self._inputs[number] = self._inputs.get(number, 0) + len(step.faults.inputs)
        return replace(step, faults=step.faults.without_inputs()) if kept > MAX_INPUTS else step


def _first(indices: Sequence[int]) -> int:
    if isinstance(indices, range):
        return indices.start
    return min(indices) if len(indices) else 0


def _span(several: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the range that all these indices are in, of which there may be none."""
    there = [indices for indices in several if len(indices)]
    if not there:
        return 0, 0
    return min(map(_first, there)), max(map(max, there)) + 1


def _ranged(kind: Kind, value: Dispatch | Ended, indices: Sequence[int], node: int, at: float) -> Record:
    body = encode_ranged(value)
    lo, count = _first(indices), len(indices)
    return Record(kind=kind, at=at, body=body, node=node, lo=lo, count=count, value=value)


def _labels(step: StepReport, load: Callable[[Ref], Sequence[Any]]) -> Sequence[str | None] | None:
    """Return the labels of a step; None where there are none, or where they were lost with their worker."""
    if step.labels is None:
        return None
    try:
        texts = load(step.labels)
    except GraphflowError:
        return None
    return [None if each is None else str(each) for each in texts]
