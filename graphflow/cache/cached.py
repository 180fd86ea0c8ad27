"""Results by key: what a task made before, in a store that runs, processes and machines may share.

Looked up for many positions at once, in sorted keys that a process reads once per run; nothing is asked per item. numpy is
loaded where a cache is first used, not here.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from graphflow.cache.joining import Joiner, Lot
from graphflow.cache.nearby import Nearby
from graphflow.errors import ResultNotSigned, ResultStoreError
from graphflow.graph.mapping import is_small
from graphflow.identity.cache_keys import KEY_NBYTES
from graphflow.ports import ResultStore, StoredObject
from graphflow.results.packs.blocks import LARGE_NBYTES
from graphflow.results.stores.local import LocalStore

if TYPE_CHECKING:
    from graphflow.cache.entries import EntryPack
    from graphflow.cache.loading import Failed
    from graphflow.cache.segments import Matches, Segment

__all__ = ["MISSING", "CacheFolder", "Found", "Made", "Published", "cache_folder"]

logger = logging.getLogger("graphflow.results")
MAX_FOLDERS = 64
PUT_DISTANCE = 4.0
"""A process is so many times as long not asking a store to take a pack as it takes to do so."""
_folder_numbers = itertools.count()


class _Missing:
    """The one value that stands for none."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What stands for a value that was found and turned out to be damaged: it is a miss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Where a value comes from: the pack that it was first in, the run, its node and map index there, when, on which host."""

    pack: str
    run_id: str
    node: str
    index: int
    created: float
    host: str


@dataclass(frozen=True, slots=True)
class Published:
    """What became of values: the object that has them (empty where none was written), and why others are not in it."""

    name: str
    errors: dict[int, Exception] = field(default_factory=dict)


class Found:
    """What a search found; `hits` has a 1 per position that was, and a 0 per other."""

    __slots__ = ("_folder", "_keys", "_matches", "hits")

    def __init__(self, folder: CacheFolder, keys: bytes, hits: bytes, matches: Matches | None) -> None:
        self._folder = folder
        self._keys = keys
        self._matches = matches
        self.hits = hits

    @property
    def positions(self) -> list[int]:
        """The positions that were found."""
        return [position for position, hit in enumerate(self.hits) if hit]

    def made(self, position: int) -> Made:
        """Return where the value of a position comes from.

        Raises
        ------
        LookupError
            If none was found.
        """
        if self._matches is None or not self.hits[position]:
            raise LookupError(f"position {position} was not found")
        pack = self._folder._packs[int(self._matches.pack[position])]
        return made_of(pack, int(self._matches.place[position]))


def made_of(pack: EntryPack, place: int) -> Made:
    """Return where the value at a place of a pack comes from."""
    origin = pack.origins[int(pack.origin[place])]
    return Made(
        pack=origin.pack or pack.name,
        run_id=origin.run_id,
        node=origin.node,
        index=int(pack.indices[place]),
        created=float(pack.created[place]),
        host=origin.host,
    )


class CacheFolder:
    """One task's entries in one store, as this process knows them; may be used by several threads.

    Parameters
    ----------
    store
        Where they are.
    folder
        In which folder of it.
    large_nbytes
        A value of more bytes than this is an object of its own.
    """

    def __init__(self, store: ResultStore, folder: str, *, large_nbytes: int = LARGE_NBYTES) -> None:
        self.store = store
        self.folder = folder
        self.large_nbytes = large_nbytes
        self._packs: list[EntryPack] = []
        self._numbers: dict[str, int] = {}
        self._own: set[str] = set()
        self._refused: set[str] = set()
        self._foreign: dict[str, str] = {}
        """The fingerprints of the keys that signed packs which are refused for that, by name."""
        self._replaced: set[str] = set()
        self._warned: set[str] = set()
        self._damaged: set[tuple[int, int]] = set()
        self._segments: list[Segment] = []
        self._latest = -math.inf
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self._first = threading.Lock()
        self._is_near = store.url.startswith("file:")
        self._joiner = Joiner(self._write, distance=0.0 if self._is_near else PUT_DISTANCE)
        self._number = next(_folder_numbers)
        self.nearby: Nearby | None = None
        """Where other processes of this machine leave the ends of packs."""

    def __repr__(self) -> str:
        return f"CacheFolder({self.store.url}, {self.folder!r})"

    def __len__(self) -> int:
        """Return how many keys are known."""
        return sum(map(len, self._segments))

    # -- knowing -------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Learn what there is: one listing, and one request per pack that is new here.

        Raises
        ------
        ResultStoreError
            If the store cannot be read. Packs that are damaged are left out, with a warning each.
        """
        from graphflow.cache.listing import listed_packs

        with self._refreshing:
            listed = listed_packs(self.store, self.folder)
            refused = self._read_new(listed)
            with self._lock:
                self._forget({name for name in self._numbers if name not in listed and name not in self._own})
            if refused:
                # What was put together with others meanwhile, and removed, is not damaged: it is elsewhere.
                still = listed_packs(self.store, self.folder)
                refused = {name: error for name, error in refused.items() if name in still}
                refused |= self._read_new({name: each for name, each in still.items() if name not in refused})
            for name, error in refused.items():
                self._refused.add(name)
                if isinstance(error, ResultNotSigned) and error.signer:
                    self._foreign[name] = error.signer
                    # One is told of; what the same key signed is refused for the same reason.
                    name = error.signer
                self._warn(name, error)

    def signed_elsewhere(self, key: bytes) -> str:
        """Return the fingerprint of the foreign key that a value of this key was signed with; empty if there is no such value.

        Nothing of the value is read. Costs a request per refused pack.

        Raises
        ------
        ResultStoreError
            If the store cannot be read.
        """
        if not self._foreign:
            return ""
        from graphflow.cache.listing import has_key, listed_packs

        listed = listed_packs(self.store, self.folder)
        for name, signer in self._foreign.items():
            if name in listed and has_key(self.store, self.folder, listed[name], key):
                return signer
        return ""

    def _read_new(self, listed: Mapping[str, StoredObject]) -> dict[str, ResultStoreError]:
        """Read the unknown packs of a listing; return what is wrong with others."""
        from graphflow.cache.listing import read_packs
        from graphflow.cache.loading import CHUNKS

        known = self._numbers.keys() | self._refused
        new = sorted(
            (each for name, each in listed.items() if name not in known), key=lambda each: -each.modified
        )
        # What newer packs replaced need not be read: pulled as they are read, a few at a time.
        wanted = (each for each in new if each.name[len(self.folder) + 1 :] not in self._replaced)
        refused: dict[str, ResultStoreError] = {}
        whole: dict[str, bytes] = {}
        keep = None if self._is_near else whole.__setitem__
        found = []
        for pack in read_packs(self.store, self.folder, wanted, refused.__setitem__, keep, self.nearby):
            if pack.is_signed:
                self._replaced.update(pack.replaces)
            found.append(pack)
        self._learn(found)
        for name, data in whole.items():
            CHUNKS.add((self._number, self._numbers[name]), 0, data)
        return refused

    def _learn(self, packs: Sequence[EntryPack]) -> None:
        from graphflow.cache.segments import merged, segment_of, with_segment

        with self._lock:
            segments = []
            for pack in packs:
                if pack.name in self._numbers:
                    continue
                self._numbers[pack.name] = len(self._packs)
                self._packs.append(pack.without_keys())
                segments.append(segment_of(pack, self._numbers[pack.name]))
                if len(pack.created):
                    self._latest = max(self._latest, float(pack.created.max()))
            if segments:
                self._segments = with_segment(self._segments, merged(segments))

    def _forget(self, names: set[str]) -> None:
        """Forget packs that no longer exist."""
        import numpy as np

        gone = [self._numbers.pop(name) for name in names if name in self._numbers]
        self._own -= names
        if gone:
            kept = [each.take(~np.isin(each.pack, gone)) for each in self._segments]
            self._segments = [each for each in kept if len(each)]

    def _warn(self, name: str, error: BaseException) -> None:
        """Warn once per object that it cannot be used."""
        if name not in self._warned:
            self._warned.add(name)
            logger.warning("%s: its results are recomputed", str(error).removesuffix("; ignoring it"))

    # -- finding and loading -------------------------------------------------------------------------------

    def find(self, keys: bytes, *, now: float) -> Found:
        """Return which keys have a value: 16 bytes per position, of which all-zero ones are no keys.

        One vectorised search and no request. The newest of several values of a key counts, and one that expired is none.
        """
        if len(keys) % KEY_NBYTES:
            raise ValueError(f"{len(keys)} bytes are not a whole number of keys of {KEY_NBYTES} bytes")
        segments = self._segments
        if not segments or not keys:
            return Found(self, keys, bytes(len(keys) // KEY_NBYTES), None)
        from graphflow.cache.segments import search

        matches = search(segments, keys)
        is_hit = (matches.pack >= 0) & (matches.expires > now)
        for number, block in list(self._damaged):
            firsts = self._packs[number].firsts
            is_there = (matches.place >= firsts[block]) & (matches.place < firsts[block + 1])
            is_hit &= ~((matches.pack == number) & is_there)
        return Found(self, keys, is_hit.tobytes(), matches)

    def load(self, found: Found, positions: Sequence[int]) -> list[Any]:
        """Return the values of positions that were found; `MISSING` for one that is damaged, which a warning tells.

        Raises
        ------
        ResultStoreError
            If the store cannot be read.
        """
        import numpy as np

        values: list[Any] = [MISSING] * len(positions)
        if not values or found._matches is None:
            return values
        at = np.asarray(positions, np.int64)
        slots = np.flatnonzero(np.frombuffer(found.hits, np.uint8)[at])
        failed = self._load(found._matches, at[slots], values, slots)
        vanished = [each for each in failed if each.is_gone]
        if vanished:
            slots = np.concatenate([each.slots for each in vanished])
            failed += self._load_moved(found._keys, at[slots], values, slots, vanished)
        for each in failed:
            if not each.is_gone or any(values[slot] is MISSING for slot in each.slots.tolist()):
                pack = self._packs[each.pack]
                self._damaged.add((each.pack, each.block))
                self._warn(pack.block(each.block).blob or pack.name, each.error)
        return values

    def _load_moved(
        self, keys: bytes, at: Any, values: list[Any], slots: Any, vanished: Sequence[Failed]
    ) -> list[Failed]:
        """Load what was not where it had been: compaction moves values, and one more listing tells where to."""
        import numpy as np

        from graphflow.cache.segments import search

        with self._lock:
            self._own -= {self._packs[each.pack].name for each in vanished}
        self.refresh()
        if not self._segments:
            return []
        matches = search(self._segments, np.frombuffer(keys, "S16")[at].tobytes())
        there = np.flatnonzero(matches.pack >= 0)
        return self._load(matches, there, values, slots[there])

    def _load(self, matches: Matches, at: Any, values: list[Any], slots: Any) -> list[Failed]:
        from graphflow.cache.loading import load_values

        return load_values(
            self.store,
            self.folder,
            self._packs,
            matches.pack[at],
            matches.place[at],
            values,
            slots,
            owner=self._number,
            reads_ahead=not self._is_near,
        )

    # -- publishing ----------------------------------------------------------------------------------------

    def publish(
        self,
        *,
        keys: bytes,
        values: Sequence[Any],
        indices: Sequence[int],
        run_id: str,
        node: str,
        created: float,
        expires: float | None,
        parts: Mapping[str, bytes],
        serializer: str = "pickle",
    ) -> Published:
        """Write values as one object, and large ones beside it; this process knows them at once.

        Small ones may share the object with those that other threads publish meanwhile.

        What has no key is left out, and what cannot be serialized is left out and named.

        Parameters
        ----------
        keys
            16 bytes per value.
        indices
            The map index of each value.
        expires
            When they are of no use any more; None for never.
        parts
            What the keys were made of, by name: 8 bytes that are the same for all, or 4 bytes per value.

        Raises
        ------
        ResultStoreError
            If the store does not take it.
        SettingsError
            If there is no such serializer.
        """
        lot = Lot(
            keys=keys,
            values=values,
            indices=indices,
            run_id=run_id,
            node=node,
            created=created,
            expires=expires,
            parts=parts,
            serializer=serializer,
        )
        if all(map(is_small, values)):
            self._joiner.submit(lot)
        else:
            # What takes long to write holds nobody up.
            self._write(lot)
        return Published(lot.name, lot.errors)

    def _write(self, lot: Lot) -> None:
        from graphflow.cache.writing import write_entries

        pack, lot.errors = write_entries(
            self.store,
            self.folder,
            keys=lot.keys,
            values=lot.values,
            indices=lot.indices,
            origin=(lot.run_id, lot.node, _host()),
            created=self._later(lot.keys, lot.created),
            expires=lot.expires,
            parts=lot.parts,
            serializer=lot.serializer,
            large_nbytes=self.large_nbytes,
            nearby=self.nearby,
        )
        if pack is not None:
            with self._lock:
                self._own.add(pack.name)
                self._learn([pack])
            lot.name = pack.name

    def _later(self, keys: bytes, created: float) -> float:
        """Return a time after that of all values that these ones replace, also where the clock was set back."""
        if created > self._latest:
            return created
        from graphflow.cache.segments import search

        matches = search(self._segments, keys)
        known = matches.created[matches.pack >= 0]
        return max(created, math.nextafter(float(known.max()), math.inf)) if len(known) else created


@functools.cache
def _host() -> str:
    return socket.gethostname()


# -- one per process ---------------------------------------------------------------------------------------

_folders: OrderedDict[tuple[ResultStore, str], tuple[CacheFolder, set[str]]] = OrderedDict()
_folders_lock = threading.Lock()


def cache_folder(store: ResultStore, folder: str, token: str, place: LocalStore | None = None) -> CacheFolder:
    """Return this process's folder of this name, refreshed once per token (the id of a run).

    Processes of a machine that meet at a `place` on its disk leave there what others need not read from the store.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    name = (store, folder)
    with _folders_lock:
        found, tokens = _folders.setdefault(name, (CacheFolder(store, folder), set()))
        _folders.move_to_end(name)
        while len(_folders) > MAX_FOLDERS:
            _folders.popitem(last=False)
    with found._first:
        if place is not None and found.nearby is None:
            found.nearby = Nearby(place, folder)
        if token not in tokens:
            found.refresh()
            tokens.add(token)
    return found


def forget_folders() -> None:
    """Forget what this process knows: for processes that were forked, and for tests."""
    global _folders_lock
    _folders_lock = threading.Lock()
    _folders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_folders)
