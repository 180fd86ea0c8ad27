"""The packs of a folder: which there are, and what each says of itself, in as few requests as can be.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from graphflow.cache.entries import SUFFIX, EntryPack, index_nbytes_of, parse_entries
from graphflow.cache.segments import search, segment_of
from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import ResultStore, StoredObject
from graphflow.results.packs.format import ENTRIES, TRAILER_NBYTES, read_trailer

__all__ = ["WHOLE_NBYTES", "has_key", "listed_packs", "read_packs"]

WHOLE_NBYTES = 64 << 10
"""Objects up to this size are read in one go, values and all."""
GUESS_NBYTES = 64 << 10
AT_ONCE = 64
_T = TypeVar("_T")


def listed_packs(store: ResultStore, folder: str) -> dict[str, StoredObject]:
    """Return the packs of a folder by their names in it, of one listing."""
    start = len(folder) + 1
    return {
        each.name[start:]: each
        for each in store.entries(f"{folder}/")
        if each.name.endswith(SUFFIX) and "/" not in each.name[start:]
    }


def read_packs(
    store: ResultStore,
    folder: str,
    objects: Iterable[StoredObject],
    refuse: Callable[[str, ResultStoreError], None],
    keep: Callable[[str, bytes], None] | None = None,
) -> Iterator[EntryPack]:
    """Yield the ends of packs, verified: one request each, several at a time.

    Parameters
    ----------
    refuse
        Told of each object that is not what was written, by its name in the folder.
    keep
        Given the bytes of objects that were read whole, by name.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    for some in _batches(objects, AT_ONCE):
        wanted = [(each.name, _end_nbytes(each)) for each in some]
        ends = store.read_many(
            [
                (each.name, each.nbytes - nbytes, nbytes)
                for each, (_, nbytes) in zip(some, wanted, strict=True)
            ]
        )
        for each, end in zip(some, ends, strict=True):
            name = each.name[len(folder) + 1 :]
            try:
                if isinstance(end, ResultDamaged):
                    raise end
                pack = _read_pack(store, folder, each, end)
            except ResultStoreError as error:
                refuse(name, error)
                continue
            if pack is not None:
                if keep is not None and len(end) == each.nbytes:
                    keep(pack.name, end)
                yield pack


def has_key(store: ResultStore, folder: str, found: StoredObject, key: bytes) -> bool:
    """Return whether a pack lists a value for a key, whatever its signature: nothing else of it is used."""
    nbytes = _end_nbytes(found)
    end = store.read(found.name, found.nbytes - nbytes, nbytes)
    pack = _read_pack(store, folder, found, end, asks_for_signer=False)
    return pack is not None and bool(search([segment_of(pack, 0)], key).pack[0] >= 0)


def _end_nbytes(found: StoredObject) -> int:
    """Return how much of an object's end is read."""
    hint = index_nbytes_of(found.name.rpartition("/")[2])
    guess = hint + TRAILER_NBYTES if hint else GUESS_NBYTES
    return found.nbytes if found.nbytes <= WHOLE_NBYTES else min(found.nbytes, guess)


def _read_pack(
    store: ResultStore, folder: str, found: StoredObject, end: bytes, *, asks_for_signer: bool = True
) -> EntryPack | None:
    tail = read_trailer(store, found.name, end, kind=ENTRIES, nbytes=found.nbytes)
    start = len(end) - TRAILER_NBYTES - tail.index_nbytes
    if start >= 0:
        index = memoryview(end)[start : len(end) - TRAILER_NBYTES]
    else:
        index = memoryview(store.read(found.name, tail.offset, tail.index_nbytes))
    return parse_entries(
        store,
        found.name,
        folder,
        tail,
        index,
        modified=found.modified,
        asks_for_signer=asks_for_signer,
    )


def _batches(items: Iterable[_T], count: int) -> Iterator[Sequence[_T]]:
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some
