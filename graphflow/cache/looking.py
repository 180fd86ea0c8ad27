"""Single values of a cache, for people who ask: where, when and by whom, of which parts, and the value itself.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphflow.cache.cached import Made, made_of
from graphflow.cache.entries import EntryPack, parts_at, read_parts
from graphflow.cache.loading import raw_block
from graphflow.cache.surveying import survey_folder
from graphflow.errors import ResultDamaged
from graphflow.ports import ResultStore
from graphflow.results.packs.blocks import BLOB, values_of
from graphflow.results.packs.serializers import serializer_of

__all__ = ["Entry", "entries_of", "value_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A value of a cache: `pack` is where it is now, `made.pack` where it was first.

    `nbytes` is what its block takes in the store, which it shares with `shared_with` others. `is_current` where a lookup of
    its key comes to it, `expires` None where it never does. `parts` is empty where they are damaged.
    """

    key: bytes
    folder: str
    pack: str
    made: Made
    nbytes: int
    shared_with: int
    blob: str
    serializer: str
    expires: float | None
    is_current: bool
    is_expired: bool
    parts: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    place: int
    known: EntryPack


def entries_of(store: ResultStore, folder: str, prefix: str = "", *, now: float) -> Iterator[Entry]:
    """Yield the values of keys that begin so (in hexadecimal), pack by pack.

    Raises
    ------
    ValueError
        If the prefix is not the beginning of a key.
    ResultStoreError
        If the store cannot be read.
    """
    first, last = _range(prefix)
    survey = survey_folder(store, folder, now=now)
    for number, pack in enumerate(survey.packs):
        start = int(np.searchsorted(pack.keys, first, side="left"))
        stop = int(np.searchsorted(pack.keys, last, side="right"))
        if start == stop:
            continue
        try:
            parts = read_parts(store, folder, pack)
        except ResultDamaged:
            parts = {}
        for at in range(start, stop):
            place = int(pack.places[at])
            block_number = int(np.searchsorted(pack.firsts, place, side="right")) - 1
            block = pack.block(block_number)
            expires = float(pack.expires[place])
            yield Entry(
                key=pack.keys[at].ljust(16, b"\0"),
                folder=folder,
                pack=pack.name,
                made=made_of(pack, place),
                nbytes=block.nbytes,
                shared_with=block.count - 1,
                blob=block.blob,
                serializer=pack.serializers[int(pack.block_serializers[block_number])],
                expires=None if expires == np.inf else expires,
                is_current=bool(survey.live[number][place]),
                is_expired=expires <= now,
                parts=parts_at(parts, place),
                place=place,
                known=pack,
            )


def _range(prefix: str) -> tuple[bytes, bytes]:
    text = prefix.strip().lower()
    try:
        if len(text) > 32:
            raise ValueError
        return bytes.fromhex(text.ljust(32, "0")), bytes.fromhex(text.ljust(32, "f"))
    except ValueError:
        raise ValueError(
            f"{prefix!r} is not the beginning of a key; use 1 to 32 hexadecimal digits"
        ) from None


def value_of(store: ResultStore, entry: Entry) -> Any:
    """Return the value of an entry, verified first.

    Raises
    ------
    ResultDamaged
        If it differs from what was written.
    SerializationError
        If it cannot be restored in this process.
    ResultStoreError
        If the store cannot be read.
    """
    pack = entry.known
    number = int(np.searchsorted(pack.firsts, entry.place, side="right")) - 1
    data = b""
    if not pack.codecs[number] & BLOB:
        data = store.read(f"{entry.folder}/{pack.name}", int(pack.offsets[number]), int(pack.sizes[number]))
    raw = raw_block(store, entry.folder, pack, number, memoryview(data))
    return values_of(raw, serializer_of(entry.serializer))[entry.place - int(pack.firsts[number])]
