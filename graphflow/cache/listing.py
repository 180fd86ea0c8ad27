"""The packs of a folder: which there are, and what each says of itself, in as few requests as can be.

Loads numpy, so nothing imports this before a cache is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TypeVar

from graphflow.cache.entries import SUFFIX, EntryPack, index_nbytes_of, parse_entries
from graphflow.cache.nearby import Nearby
from graphflow.cache.segments import search, segment_of
from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import ResultStore, StoredObject
from graphflow.results.packs.format import ENTRIES, TRAILER_NBYTES, read_trailer

__all__ = ["WHOLE_NBYTES", "end_nbytes", "has_key", "listed_packs", "read_packs"]

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
    nearby: Nearby | None = None,
) -> Iterator[EntryPack]:
    """Yield what the ends of packs say, verified: one request each, several at a time.

    Parameters
    ----------
    refuse
        Told of each object that is not what was written, by its name in the folder.
    keep
        Given the bytes of objects that were read whole, by name.
    nearby
        Where ends are looked for first, and kept for other processes of this machine.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    for some in _batches(objects, AT_ONCE):
        yield from _read_some(store, folder, some, refuse, keep, nearby)


def _read_some(
    store: ResultStore,
    folder: str,
    some: Sequence[StoredObject],
    refuse: Callable[[str, ResultStoreError], None],
    keep: Callable[[str, bytes], None] | None,
    nearby: Nearby | None,
) -> list[EntryPack]:
    names = [each.name[len(folder) + 1 :] for each in some]
    sizes = [end_nbytes(name, each.nbytes) for name, each in zip(names, some, strict=True)]
    packs = []
    with ExitStack() as turn:
        here = _here(nearby, names, some, sizes)
        if nearby is not None and len(here) < len(names):
            # Of several processes that miss the same, one reads it.
            turn.enter_context(nearby.turn())
            here = _here(nearby, names, some, sizes)
        away = [at for at, name in enumerate(names) if name not in here]
        read = store.read_many([(some[at].name, some[at].nbytes - sizes[at], sizes[at]) for at in away])
        fetched = dict(zip(map(names.__getitem__, away), read, strict=True))
        for name, each in zip(names, some, strict=True):
            end = here[name] if name in here else fetched[name]
            try:
                if isinstance(end, ResultDamaged):
                    raise end
                pack = _read_pack(store, folder, each, end)
            except ResultStoreError as error:
                refuse(name, error)
                continue
            if pack is None:
                continue
            if nearby is not None and name in fetched:
                nearby.keep(name, each.nbytes, end)
            if keep is not None and len(end) == each.nbytes:
                keep(pack.name, end)
            packs.append(pack)
    return packs


def _here(
    nearby: Nearby | None, names: Sequence[str], objects: Sequence[StoredObject], sizes: Sequence[int]
) -> dict[str, bytes]:
    """Return the ends that are on this machine, by name."""
    if nearby is None:
        return {}
    found = {
        name: nearby.end_of(name, each.nbytes, nbytes)
        for name, each, nbytes in zip(names, objects, sizes, strict=True)
    }
    return {name: end for name, end in found.items() if end is not None}


def has_key(store: ResultStore, folder: str, found: StoredObject, key: bytes) -> bool:
    """Return whether a pack lists a value for a key, whatever its signature: nothing else of it is used."""
    nbytes = end_nbytes(found.name.rpartition("/")[2], found.nbytes)
    end = store.read(found.name, found.nbytes - nbytes, nbytes)
    pack = _read_pack(store, folder, found, end, asks_for_signer=False)
    return pack is not None and bool(search([segment_of(pack, 0)], key).pack[0] >= 0)


def end_nbytes(name: str, nbytes: int) -> int:
    """Return how much is read of the end of a pack of that name and size."""
    hint = index_nbytes_of(name)
    guess = hint + TRAILER_NBYTES if hint else GUESS_NBYTES
    return nbytes if nbytes <= WHOLE_NBYTES else min(nbytes, guess)


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
