"""Values of packs, read in a few ranges, verified block by block, and only then restored.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.entries import EntryPack
from graphflow.errors import GraphflowError, ResultDamaged, ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.packs.blocks import BLOB, ZSTD, digest_of, read_blob, values_of
from graphflow.results.packs.compression import decompress
from graphflow.results.packs.format import HEADER_NBYTES, damage
from graphflow.results.packs.serializers import serializer_of

__all__ = ["CHUNKS", "Chunks", "Failed", "load_values", "raw_block"]

Array = NDArray[Any]
GAP_NBYTES = 128 << 10
"""What lies between two ranges that are read as one."""
RANGE_NBYTES = 16 << 20
ROUND_NBYTES = 64 << 20
KEPT_NBYTES = 64 << 20
AHEAD_NBYTES = 4 << 20
"""Of a pack with no more than this, all is read at once where a request is dear."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A block that could not be had: why, and for which slots. `is_gone` where its object could not be read."""

    pack: int
    block: int
    slots: Array
    error: GraphflowError
    is_gone: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """A block of which values are wanted: those at `offsets` in it, for `slots`."""

    pack: int
    block: int
    slots: Array
    offsets: Array


class Chunks:
    """Pieces of packs that were read and may be asked for again soon; the oldest are let go first. For several threads.

    Packs go by the number of their folder, and their number there.
    """

    __slots__ = ("_lock", "_nbytes", "_pieces", "limit_nbytes")

    def __init__(self, limit_nbytes: int) -> None:
        self.limit_nbytes = limit_nbytes
        self._pieces: OrderedDict[tuple[int, int], list[tuple[int, memoryview]]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def begin_anew(self) -> None:
        """Keep nothing: in a forked child, where another thread's lock may never open."""
        self._lock = threading.Lock()
        self._pieces.clear()
        self._nbytes = 0

    def add(self, pack: tuple[int, int], start: int, data: bytes) -> None:
        """Keep a piece of a pack."""
        if len(data) > self.limit_nbytes:
            return
        with self._lock:
            self._pieces.setdefault(pack, []).append((start, memoryview(data)))
            self._pieces.move_to_end(pack)
            self._nbytes += len(data)
            while self._nbytes > self.limit_nbytes and len(self._pieces) > 1:
                _, dropped = self._pieces.popitem(last=False)
                self._nbytes -= sum(len(piece) for _, piece in dropped)

    def get(self, pack: tuple[int, int], start: int, nbytes: int) -> memoryview | None:
        """Return bytes of a pack, if they are here."""
        with self._lock:
            for at, piece in self._pieces.get(pack, ()):
                if at <= start and start + nbytes <= at + len(piece):
                    return piece[start - at : start - at + nbytes]
        return None


CHUNKS = Chunks(KEPT_NBYTES)
"""Those of this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CHUNKS.begin_anew)


def load_values(
    store: ResultStore,
    folder: str,
    packs: Sequence[EntryPack],
    numbers: Array,
    places: Array,
    values: list[Any],
    slots: Array,
    *,
    owner: int,
    reads_ahead: bool,
) -> list[Failed]:
    """Put values into a list at `slots`: those at `places` of the packs of these numbers. What cannot be had is returned.

    Parameters
    ----------
    owner
        The number of the folder in this process.
    reads_ahead
        Whether a request is dear.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    failed: list[Failed] = []
    for jobs in _rounds(packs, _jobs(packs, numbers, places, slots)):
        pieces = _read(store, folder, packs, jobs, owner=owner, reads_ahead=reads_ahead)
        for job in jobs:
            pack = packs[job.pack]
            name = f"{folder}/{pack.name}"
            is_gone = True
            try:
                data = pieces(job)
                is_gone = False
                found = _restored(store, folder, pack, job.block, data)
            except (GraphflowError, ValueError) as error:
                if isinstance(error, ResultStoreError) and not isinstance(error, ResultDamaged):
                    raise
                told = error if isinstance(error, ResultDamaged) else damage(store, name, str(error))
                is_blob = bool(pack.codecs[job.block] & BLOB)
                failed.append(Failed(job.pack, job.block, job.slots, told, is_gone or is_blob))
                continue
            if len(job.slots) == 1:
                values[job.slots[0]] = found[job.offsets[0]]
            else:
                for slot, offset in zip(job.slots.tolist(), job.offsets.tolist(), strict=True):
                    values[slot] = found[offset]
    return failed


def _jobs(packs: Sequence[EntryPack], numbers: Array, places: Array, slots: Array) -> Iterator[_Job]:
    """Yield what is wanted, block by block."""
    if len(numbers) > 1:
        is_later = (numbers[1:] > numbers[:-1]) | (
            (numbers[1:] == numbers[:-1]) & (places[1:] >= places[:-1])
        )
        if not is_later.all():
            order = np.lexsort((places, numbers))
            numbers, places, slots = numbers[order], places[order], slots[order]
    for start, stop in _runs(numbers):
        number = int(numbers[start])
        firsts = packs[number].firsts
        wanted = places[start:stop]
        blocks = np.searchsorted(firsts, wanted, side="right") - 1
        for first, last in _runs(blocks):
            block = int(blocks[first])
            yield _Job(number, block, slots[start + first : start + last], wanted[first:last] - firsts[block])


def _runs(sorted_values: Array) -> list[tuple[int, int]]:
    """Return where runs of equal values start and stop."""
    if not len(sorted_values):
        return []
    edges = [0, *(np.flatnonzero(sorted_values[1:] != sorted_values[:-1]) + 1).tolist(), len(sorted_values)]
    return list(pairwise(edges))


def _rounds(packs: Sequence[EntryPack], jobs: Iterator[_Job]) -> Iterator[list[_Job]]:
    """Jobs in groups that do not take too much memory."""
    some: list[_Job] = []
    nbytes = 0
    for job in jobs:
        size = int(packs[job.pack].sizes[job.block])
        if some and nbytes + size > ROUND_NBYTES:
            yield some
            some, nbytes = [], 0
        some.append(job)
        nbytes += size
    if some:
        yield some


def _read(
    store: ResultStore,
    folder: str,
    packs: Sequence[EntryPack],
    jobs: Sequence[_Job],
    *,
    owner: int,
    reads_ahead: bool,
) -> Callable[[_Job], memoryview]:
    """Read blocks, adjacent ones together; return their bytes, or raise `ResultDamaged`."""
    here: dict[tuple[int, int], memoryview] = {}
    ranges: list[tuple[int, int, int]] = []
    wanted: list[tuple[int, int, int, int]] = []
    for job in jobs:
        pack = packs[job.pack]
        if pack.codecs[job.block] & BLOB:
            continue
        start, nbytes = int(pack.offsets[job.block]), int(pack.sizes[job.block])
        kept = CHUNKS.get((owner, job.pack), start, nbytes)
        if kept is not None:
            here[job.pack, job.block] = kept
            continue
        stop = start + nbytes
        body_stop = pack.parts_place[0]
        if reads_ahead and body_stop <= AHEAD_NBYTES:
            start, stop = HEADER_NBYTES, max(stop, body_stop)
        if (
            ranges
            and ranges[-1][0] == job.pack
            and start <= ranges[-1][2] + GAP_NBYTES
            and max(stop, ranges[-1][2]) - ranges[-1][1] <= RANGE_NBYTES
        ):
            ranges[-1] = (job.pack, ranges[-1][1], max(stop, ranges[-1][2]))
        else:
            ranges.append((job.pack, start, stop))
        wanted.append((job.pack, job.block, len(ranges) - 1, int(pack.offsets[job.block])))
    found = store.read_many(
        [(f"{folder}/{packs[number].name}", start, stop - start) for number, start, stop in ranges]
    )
    errors: dict[tuple[int, int], ResultDamaged] = {}
    if reads_ahead:
        for (number, start, _), data in zip(ranges, found, strict=True):
            if not isinstance(data, ResultDamaged):
                CHUNKS.add((owner, number), start, data)
    for number, block, at, offset in wanted:
        data = found[at]
        if isinstance(data, ResultDamaged):
            errors[number, block] = data
        else:
            begin = offset - ranges[at][1]
            here[number, block] = memoryview(data)[begin : begin + int(packs[number].sizes[block])]

    def give(job: _Job) -> memoryview:
        error = errors.get((job.pack, job.block))
        if error is not None:
            raise error
        return here.get((job.pack, job.block), memoryview(b""))

    return give


def _restored(store: ResultStore, folder: str, pack: EntryPack, block: int, data: memoryview) -> list[Any]:
    """Return the values of a block, which is verified first."""
    raw = raw_block(store, folder, pack, block, data)
    return values_of(raw, serializer_of(pack.serializers[int(pack.block_serializers[block])]))


def raw_block(
    store: ResultStore, folder: str, pack: EntryPack, block: int, data: memoryview
) -> bytes | bytearray | memoryview:
    """Return the frames of a block, verified; of a large value they are read here.

    Raises
    ------
    ResultDamaged
        If they are not what was written.
    ResultStoreError
        If the store cannot be read.
    """
    found = pack.block(block)
    if found.codec & BLOB:
        return read_blob(store, folder, found)
    if len(data) != found.nbytes or digest_of([data], pack.salt) != found.digest:
        raise damage(
            store,
            f"{folder}/{pack.name}",
            f"the {found.nbytes:,} bytes from {int(pack.offsets[block]):,} on differ",
        )
    return decompress(data, found.raw_nbytes) if found.codec & ZSTD else data
