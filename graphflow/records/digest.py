"""Digests: what all records of a history before a place say together, as the body of one record.

A digest has where each node and item stands, which adds up, and the numbers of the records since the digest before it, which
is named. So of a run of any length a reader reads the digests, the few records that are facts, and what came
after; what it is asked of single items, it finds by their records' numbers. A digest of another layout is passed over.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.errors import HistoryDamaged, HistoryTooNew
from graphflow.model.records import Entry, Kind, Record
from graphflow.ports import ResultStore
from graphflow.records.codec import decode
from graphflow.records.figures import BINS, TIMES, Durations, Lane, Timeline
from graphflow.records.folded import FaultColumns, FoldedHistory, FoldedNode, ItemReader, Read
from graphflow.records.items import info_of, info_row
from graphflow.records.packing import Packer, Unpacker
from graphflow.records.replay import Replay
from graphflow.records.replayed_node import Flight, ReplayedNode

__all__ = ["DigestUnusable", "digest_record", "forget_told", "replay_of"]

VERSION = 1
_BROKEN = (ValueError, KeyError, IndexError, TypeError, OverflowError, zlib.error, struct.error)


class DigestUnusable(Exception):
    """A digest cannot be used: it is damaged, of another layout, or at another place than it was written for."""


# -- writing -----------------------------------------------------------------------------------------------


def digest_record(replay: Replay, *, number: int, previous: int, at: float) -> Record:
    """Return the record of what a folded replay knows; it forgets the numbers of records that this one has.

    Parameters
    ----------
    number
        The number that this record will have.
    previous
        The number of the digest before, 0 if there is none.
    """
    folded = replay.folded
    if folded is None:
        raise TypeError("only a replay that folds its items can be written as a digest")
    out = Packer(VERSION)
    out.number(number)
    out.number(previous)
    out.number(replay.seq)
    for count in (
        replay.records,
        replay.batches,
        replay.chunks,
        replay.error_count,
        folded.lines,
        folded.logs_dropped,
    ):
        out.number(count)
    _pack_doubles(out, replay.lasts)
    rows = folded.items.fresh
    _pack_numbers(out, rows.facts)
    out.blob(rows.packed())
    _pack_faults(out, folded)
    out.number(len(replay.nodes))
    for node in replay.nodes.values():
        _pack_node(out, node)
    flights = replay.flying()
    out.number(len(flights))
    for batch, flight in flights.items():
        out.number(2 * batch + flight.is_bundle)
        for numbers in (flight.nodes, flight.indices, flight.out):
            _pack_numbers(out, numbers)
    out.number(len(replay.timelines))
    for timeline in replay.timelines:
        _pack_timeline(out, timeline)
    forget_told(replay)
    return Record(kind=Kind.DIGEST, at=at, body=out.data(), count=replay.records)


def forget_told(replay: Replay) -> None:
    """Forget what is in digests that were written: which record tells what, and the errors of items."""
    folded = replay.folded
    assert folded is not None
    folded.items.forget()
    for _, history in _faulty(folded):
        history.faults = None


def _faulty(folded: FoldedHistory) -> list[tuple[int, FoldedNode]]:
    return [
        (number, history)
        for number, history in folded.nodes.items()
        if isinstance(history, FoldedNode) and history.faults is not None
    ]


def _pack_faults(out: Packer, folded: FoldedHistory) -> None:
    faulty = _faulty(folded)
    out.number(len(faulty))
    for number, history in faulty:
        out.number(number)
        assert history.faults is not None
        history.faults.pack(out)


def _pack_numbers(out: Packer, numbers: Sequence[int]) -> None:
    out.number(len(numbers))
    out.ints(numbers)


def _pack_doubles(out: Packer, values: Sequence[float]) -> None:
    out.number(len(values))
    out.words(array("d", values))


def _pack_node(out: Packer, node: ReplayedNode) -> None:
    history = node.history
    assert isinstance(history, FoldedNode)
    out.number(node.number)
    out.number(len(node.states))
    out.column(bytes(node.states))
    out.column(bytes(node.attempts))
    valued, lost, blamed = node.marks()
    out.number(len(valued))
    out.column(bytes(valued))
    out.number(len(lost))
    for indices in lost:
        _pack_numbers(out, indices)
    _pack_numbers(out, array("Q", blamed))
    _pack_numbers(out, array("Q", blamed.values()))
    out.json(None if node.info is None else info_row(node.info))
    out.number(history.inputs_kept)
    _pack_doubles(out, () if history.began is None else (history.began,))
    bins = history.durations.counted
    places = [place for place, count in enumerate(bins or ()) if count]
    _pack_numbers(out, array("I", places))
    _pack_numbers(out, array("Q", (bins[place] for place in places) if bins else ()))
    _pack_doubles(out, [seconds for seconds, _ in history.durations.slowest])
    _pack_numbers(out, array("Q", (index for _, index in history.durations.slowest)))


def _pack_timeline(out: Packer, timeline: Timeline) -> None:
    out.double(timeline.origin)
    out.double(timeline.width)
    out.number(len(timeline.lanes))
    for name, lane in timeline.lanes.items():
        out.text(name)
        size = TIMES
        while size and not lane.items[size - 1] and not lane.busy[size - 1]:
            size -= 1
        out.number(size)
        for column in (lane.busy, lane.items, lane.failures):
            out.words(column[:size])


# -- reading -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Page:
    """What one digest says by itself, and where in its body the rest begins."""

    come: Unpacker
    seq: int
    counts: tuple[int, ...]
    lasts: array[float]
    facts: Sequence[int]
    rows: bytes
    previous: int


def replay_of(
    number: int,
    read: Read,
    *,
    store: ResultStore | None = None,
    decoded: Callable[..., Any] = decode,
) -> Replay:
    """Return what is known at the digest of a number; its `seq` is the commit that this reaches to.

    Parameters
    ----------
    read
        Reads records by their numbers, verified; also later, when items are asked for.
    store
        Where values are; None if none are needed.
    decoded
        Decodes the bodies of records.

    Raises
    ------
    DigestUnusable
        If it, or one that it stands on, cannot be used.
    HistoryDamaged
        If one of the facts that it names cannot be read.
    """
    reader = ItemReader(read, store)
    folded = FoldedHistory(reader)
    replay = Replay(store, read=decoded, folded=folded)
    pages = _pages(number, read)
    for entry in read([number for page in pages for number in page.facts]):
        replay.add(entry)
    # Facts tell nothing of items, but they were added like any other record.
    reader.forget()
    for page in pages:
        reader.tell(page.rows)
    try:
        for page in pages:
            for _ in range(page.come.number()):
                folded.node(page.come.number()).add_faults(FaultColumns.unpack(page.come))
        _take_last(pages[-1], replay)
    except _BROKEN as error:
        raise DigestUnusable(f"digest {number}: {type(error).__name__}: {error}") from error
    return replay


def _pages(number: int, read: Read) -> list[_Page]:
    """Return a digest and those that it stands on, oldest first."""
    pages: list[_Page] = []
    while number:
        try:
            (entry,) = read([number])
            page = _page(entry)
        except (HistoryDamaged, HistoryTooNew, *_BROKEN) as error:
            raise DigestUnusable(f"digest {number}: {error}") from error
        if page.previous >= number:
            raise DigestUnusable(f"digest {number} stands on a later one")
        pages.append(page)
        number = page.previous
    return pages[::-1]


def _page(entry: Entry) -> _Page:
    record = entry.record
    if record.kind != Kind.DIGEST or record.body[:1] != bytes([VERSION]):
        raise ValueError("it is of another layout")
    come = Unpacker(record.body)
    if come.number() != entry.number:
        raise ValueError("it was written for another place")
    previous, seq = come.number(), come.number()
    if seq != entry.seq - 1:
        raise ValueError("it was written for another commit")
    counts = tuple(come.number() for _ in range(6))
    return _Page(come, seq, counts, _doubles(come), _numbers(come), come.blob(), previous)


def _numbers(come: Unpacker) -> Sequence[int]:
    return come.ints(come.number())


def _doubles(come: Unpacker) -> array[float]:
    return come.words("d", come.number())


def _take_last(page: _Page, replay: Replay) -> None:
    folded = replay.folded
    assert folded is not None
    _take_nodes(page, replay)
    come = page.come
    for _ in range(come.number()):
        batch = come.number()
        nodes, indices, out = _numbers(come), _numbers(come), _numbers(come)
        replay.put_flying(batch // 2, Flight(tuple(nodes), indices, out, bool(batch % 2)))
    replay.timelines = [_timeline(come) for _ in range(come.number())]
    come.end()
    replay.records, replay.batches, replay.chunks, replay.error_count, folded.lines, folded.logs_dropped = (
        page.counts
    )
    replay.lasts = list(page.lasts)
    replay.seq = page.seq


def _take_nodes(page: _Page, replay: Replay) -> None:
    """Apply where the nodes and their items stood."""
    come = page.come
    for _ in range(come.number()):
        node = replay.nodes[come.number()]
        history = node.history
        assert isinstance(history, FoldedNode)
        size = come.number()
        states, attempts = come.column(size), come.column(size)
        valued = come.column(come.number())
        lost = [_numbers(come) for _ in range(come.number())]
        blamed = dict(zip(_numbers(come), _numbers(come), strict=True))
        info, inputs_kept, began = come.json(), come.number(), _doubles(come)
        places, counts = _numbers(come), _numbers(come)
        bins = array("Q", bytes(8 * BINS)) if len(places) else None
        for place, count in zip(places, counts, strict=True):
            assert bins is not None
            bins[place] = count
        slowest = list(zip(_doubles(come), _numbers(come), strict=True))
        node.states, node.attempts = bytearray(states), bytearray(attempts)
        node.mark(bytearray(valued), lost, blamed)
        node.info = None if info is None else info_of(info)
        history.inputs_kept = inputs_kept
        history.began = began[0] if began else None
        history.durations = Durations(slowest, bins)


def _timeline(come: Unpacker) -> Timeline:
    timeline = Timeline(come.double(), come.double())
    for _ in range(come.number()):
        name, lane, size = come.text(), Lane(), come.number()
        for column in (lane.busy, lane.items, lane.failures):
            column[:size] = come.words(column.typecode, size)
        timeline.lanes[name] = lane
    return timeline
