"""Why an item was not found in a cache: what its key was made of, beside the nearest entry that was there before.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.cached import Made, made_of
from graphflow.cache.entries import EntryPack, read_parts
from graphflow.cache.surveying import read_folder
from graphflow.errors import ResultDamaged
from graphflow.ports import ResultStore

__all__ = ["CacheEntry", "Reason", "reason_of"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """An entry of a cache: `made` tells where it comes from; `expires` is infinite where it never does."""

    key: bytes
    made: Made
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """What is known of an item's entry.

    Attributes
    ----------
    folder
        The task's folder.
    own
        The item's entry.
    equal
        An earlier entry with the same key, which was not used; None where there is none.
    nearest
        The earlier entry of the task whose key has the most in common; None where there is none.
    differs, agrees
        The parts of the key that differ there, and those that do not.
    """

    folder: str
    own: CacheEntry
    equal: CacheEntry | None
    nearest: CacheEntry | None
    differs: tuple[str, ...]
    agrees: tuple[str, ...]


def reason_of(
    store: ResultStore, folders: Sequence[str], *, run_id: str, node: str, index: int
) -> Reason | None:
    """Return what became of the item of a run: looked for in these folders; None where no entry was made by it.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    for folder in folders:
        packs, _ = read_folder(store, folder)
        own = _made_by(packs, run_id, node, index)
        if own is not None:
            return _reason(store, folder, packs, *own)
    return None


def _made_by(packs: Sequence[EntryPack], run_id: str, node: str, index: int) -> tuple[int, int] | None:
    """Return the number of the pack and the place of the newest value that an item made."""
    best: tuple[float, int, int] | None = None
    for number, pack in enumerate(packs):
        origins = [at for at, each in enumerate(pack.origins) if each.run_id == run_id and each.node == node]
        if origins:
            for place in np.flatnonzero(np.isin(pack.origin, origins) & (pack.indices == index)).tolist():
                found = float(pack.created[place]), number, place
                best = found if best is None else max(best, found)
    return None if best is None else best[1:]


def _reason(store: ResultStore, folder: str, packs: Sequence[EntryPack], number: int, place: int) -> Reason:
    columns = [_parts_of(store, folder, pack) for pack in packs]
    own = _entry(packs[number], place)
    parts = {name: int(column[place]) for name, column in columns[number].items() if column[place]}
    equal: tuple[float, int, int] | None = None
    nearest: tuple[int, bool, float, int, int] | None = None
    for other, (pack, told) in enumerate(zip(packs, columns, strict=True)):
        keys = _keys_by_place(pack)
        is_earlier = pack.created < own.made.created
        is_equal = keys == np.frombuffer(own.key, "S16")[0]
        for at in np.flatnonzero(is_earlier & is_equal).tolist():
            found = float(pack.created[at]), other, at
            equal = found if equal is None else max(equal, found)
        places = np.flatnonzero(is_earlier & ~is_equal)
        if not len(places):
            continue
        differing = sum(
            (_column(told, name, pack.count)[places] != parts.get(name, 0)).astype(np.int32)
            for name in {*parts, *told}
        )
        counts = np.broadcast_to(np.asarray(differing), len(places))
        is_elsewhere = pack.indices[places] != own.made.index
        # The fewest differences; the same index; the newest.
        first = int(np.lexsort((-pack.created[places], is_elsewhere, counts))[0])
        at = int(places[first])
        mark = int(counts[first]), bool(is_elsewhere[first]), -float(pack.created[at]), other, at
        nearest = mark if nearest is None else min(nearest, mark)
    if nearest is None:
        return Reason(
            folder=folder, own=own, equal=_maybe(packs, equal), nearest=None, differs=(), agrees=tuple(parts)
        )
    _, _, _, other, at = nearest
    theirs = {name: int(column[at]) for name, column in columns[other].items() if column[at]}
    names = sorted({*parts, *theirs})
    return Reason(
        folder=folder,
        own=own,
        equal=_maybe(packs, equal),
        nearest=_entry(packs[other], at),
        differs=tuple(name for name in names if parts.get(name, 0) != theirs.get(name, 0)),
        agrees=tuple(name for name in names if parts.get(name, 0) == theirs.get(name, 0)),
    )


def _maybe(packs: Sequence[EntryPack], found: tuple[float, int, int] | None) -> CacheEntry | None:
    return None if found is None else _entry(packs[found[1]], found[2])


def _entry(pack: EntryPack, place: int) -> CacheEntry:
    key = bytes(_keys_by_place(pack)[place : place + 1].tobytes())
    return CacheEntry(key=key, made=made_of(pack, place), expires=float(pack.expires[place]))


def _keys_by_place(pack: EntryPack) -> Array:
    keys = np.zeros(pack.count, "S16")
    keys[pack.places] = pack.keys
    return keys


def _parts_of(store: ResultStore, folder: str, pack: EntryPack) -> dict[str, Array]:
    """Return what the keys of a pack were made of: a number per part and place, 0 where there is no such part."""
    try:
        columns = read_parts(store, folder, pack)
    except ResultDamaged:
        return {}
    found: dict[str, Array] = {}
    for title, column in columns.items():
        # What is the same for all has 8 bytes, and what is not has 4; the first 4 are of one kind. Where both are there, those of 4
        # are each value's own.
        numbers = np.frombuffer(column.tobytes(), "<u4").reshape(len(column), -1)[:, 0]
        width, _, name = title.partition(":")
        known = found.get(name)
        if known is not None:
            numbers = (
                np.where(numbers != 0, numbers, known)
                if width == "4"
                else np.where(known != 0, known, numbers)
            )
        found[name] = numbers
    return found


def _column(told: Mapping[str, Array], name: str, count: int) -> Array:
    return told[name] if name in told else np.zeros(count, np.uint32)


def folders_for(folders: Sequence[str], names: Iterator[str] | Sequence[str]) -> list[str]:
    """Return the folders, those first whose names begin like one of these."""
    wanted = tuple(f"cache/{name}-" for name in names)
    return sorted(folders, key=lambda each: not each.startswith(wanted))
