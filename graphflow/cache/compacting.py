"""Many small packs put together to a few, while others read and write.

New packs are written first, and list those that they replace; these are removed when the new ones have existed for a while,
by the next compaction or collection. So nothing is lost when a compaction is killed, and readers find what they know of until they look
again. Nothing is unpickled: blocks are verified, and put together as bytes.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.entries import EntryPack, Origin, build_entries, read_parts
from graphflow.cache.listing import WHOLE_NBYTES
from graphflow.cache.nearby import Nearby
from graphflow.cache.surveying import (
    Survey,
    dead_packs,
    drop_expired,
    is_old,
    read_folder,
    survey_folder,
)
from graphflow.cache.writing import SALT_NBYTES, block_columns
from graphflow.common.failpoints import failpoint
from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.ports import Buffer, ResultStore
from graphflow.results.packs.blocks import BLOB, BLOCK_NBYTES, ZSTD, Block, digest_of, packed_block
from graphflow.results.packs.compression import decompress
from graphflow.results.packs.format import damage
from graphflow.results.packs.serializers import COMPRESSED

__all__ = [
    "GRACE_SECONDS",
    "Compacted",
    "compact",
    "forget_keys",
    "remove_old",
]

logger = logging.getLogger("graphflow.results")
Array = NDArray[Any]
GRACE_SECONDS = 300.0
"""So long old packs stay beside those that replace them."""
TARGET_NBYTES = 32 << 20
TARGET_COUNT = 250_000


@dataclass(slots=True, kw_only=True)
class Compacted:
    """What a compaction did: packs read, written and removed; values that were dropped; old packs that wait for removal."""

    read: int = 0
    written: list[str] = field(default_factory=list)
    removed: int = 0
    waiting: int = 0
    expired: int = 0
    superseded: int = 0
    damaged: int = 0


def compact(
    store: ResultStore,
    folder: str,
    *,
    now: float,
    grace_seconds: float = GRACE_SECONDS,
    target_nbytes: int = TARGET_NBYTES,
    target_count: int = TARGET_COUNT,
    until: float = math.inf,
    nearby: Nearby | None = None,
) -> Compacted:
    """Put the small packs of a folder together, and remove those that were replaced long enough ago.

    Of equal keys the newest value stays, and expired ones are dropped. May be killed at any point, and run several times at
    once: then work is done twice, and nothing is lost.

    Parameters
    ----------
    now
        Seconds since the epoch.
    grace_seconds
        How long old packs stay beside the new ones, for those who know the old ones only.
    target_nbytes, target_count
        About how large new packs become; packs of at least half of one of these stay as they are, unless most of what is in
        them is of no use.
    until
        When it begins nothing more, in seconds of `time.monotonic`; the rest is for the next one.
    nearby
        Where packs are looked for before the store is asked.

    Raises
    ------
    ResultStoreError
        If the store cannot be read or written.
    """
    failpoint("compact.begin")
    survey = survey_folder(store, folder, now=now, nearby=nearby)
    done = Compacted(read=len(survey.packs), damaged=len(survey.refused))
    small = [
        number
        for number, pack in enumerate(survey.packs)
        # What was not signed with our key is not signed here by the way.
        if pack.is_signed
        and (
            (pack.nbytes < target_nbytes // 2 and pack.count < target_count // 2)
            or 2 * int((survey.live[number] & ~survey.expired[number]).sum()) < pack.count
        )
    ]
    before = sum(int(survey.live[number].sum()) for number in small)
    done.superseded = sum(survey.packs[number].count for number in small) - before
    drop_expired(
        survey, small, [pack for number, pack in enumerate(survey.packs) if number not in set(small)]
    )
    done.expired = before - sum(int(survey.live[number].sum()) for number in small)
    known = {pack.name for pack in survey.packs}
    useful = [number for number in small if survey.live[number].any()]
    for some in _groups(survey, useful, target_nbytes, target_count):
        if time.monotonic() >= until:
            return done
        # Those that some of them replaced, and that were not removed yet, are replaced by this one too.
        inherited = {name for each in some for name in survey.packs[each].replaces} & known
        pack = _put_together(store, folder, survey, some, inherited, until=until, nearby=nearby)
        if pack is not None:
            done.written.append(pack.name)
    done.removed, done.waiting = remove_old(
        store, folder, now=now, grace_seconds=grace_seconds, nearby=nearby
    )
    return done


def forget_keys(store: ResultStore, folder: str, keys: Sequence[bytes], *, now: float) -> int:
    """Remove all values of keys, at once: packs are written again without them. How many values that were.

    Raises
    ------
    ResultStoreError
        If the store cannot be read or written.
    """
    survey = survey_folder(store, folder, now=now)
    wanted = np.frombuffer(b"".join(keys), "S16")
    count = 0
    for number, pack in enumerate(survey.packs):
        chosen = np.isin(pack.keys, wanted)
        if not chosen.any():
            continue
        if not pack.is_signed:
            raise ResultStoreError(
                f"keys cannot be removed from {folder}/{pack.name} in {store.url}: it was signed by another installation; remove all results of "
                "the task, or remove the keys there"
            )
        count += int(chosen.sum())
        survey.live[number][:] = False
        survey.live[number][pack.places[~chosen]] = True
        if survey.live[number].any() and _put_together(store, folder, survey, [number], set()) is None:
            continue
        _remove(store, [f"{folder}/{pack.name}"])
    return count


def remove_old(
    store: ResultStore, folder: str, *, now: float, grace_seconds: float, nearby: Nearby | None = None
) -> tuple[int, int]:
    """Remove packs that others replaced, or of which nothing counts, for long enough; how many were, and how many wait.

    Only a pack that is there now, and verified, replaces others.

    Raises
    ------
    ResultStoreError
        If the store cannot be read or written.
    """
    packs, _ = read_folder(store, folder, nearby)
    known = {pack.name for pack in packs}
    # What was not signed with our key replaces nothing.
    heirs = [pack for pack in packs if pack.is_signed]
    replaced = {name for pack in heirs for name in pack.replaces if name in known}
    over = [pack for pack in heirs if is_old(pack, now, grace_seconds)]
    old = {name for pack in over for name in pack.replaces if name in known}
    dead = dead_packs(packs, replaced, now=now, grace_seconds=grace_seconds)
    names = [*sorted(old), *dead]
    return _remove(store, [f"{folder}/{name}" for name in names]), len(replaced - old)


def _remove(store: ResultStore, names: Sequence[str]) -> int:
    if names:
        failpoint("compact.remove.before")
        store.delete(names)
        failpoint("compact.remove.after")
    return len(names)


# -- putting together --------------------------------------------------------------------------------------


def _groups(survey: Survey, chosen: Sequence[int], nbytes: int, count: int) -> Iterator[list[int]]:
    """Packs that become one each, the oldest first. A pack is in one group only, so that this group replaces all of it."""

    def age(number: int) -> tuple[float, str]:
        created = survey.packs[number].created
        return (float(created.min()) if len(created) else -math.inf), survey.packs[number].name

    some: list[int] = []
    size = values = 0
    for number in sorted(chosen, key=age):
        pack, live = survey.packs[number], int(survey.live[number].sum())
        if some and (size + pack.nbytes > nbytes or values + live > count):
            yield some
            some, size, values = [], 0, 0
        some.append(number)
        size += pack.nbytes
        values += live
    # One alone is written again for what it gets rid of only.
    if len(some) > 1 or any(not survey.live[number].all() for number in some):
        yield some


class _Growing:
    """A pack that grows block by block."""

    def __init__(self) -> None:
        self.salt = os.urandom(SALT_NBYTES)
        self.blocks: list[Block] = []
        self.block_serializers: list[int] = []
        self.serializers: list[str] = []
        self.origins: dict[Origin, int] = {}
        self.columns: dict[str, list[Array]] = {
            name: [] for name in ("keys", "places", "created", "expires", "indices", "origin", "ordinals")
        }
        self.parts: dict[str, list[tuple[int, Array]]] = {}
        self.count = 0
        self._waiting: list[Buffer] = []
        self._waiting_count = 0
        self._waiting_serializer = ""

    def add_frames(self, raw: Buffer, count: int, serializer: str) -> None:
        """Add the frames of a block; several small blocks become one."""
        if self._waiting and serializer != self._waiting_serializer:
            self.flush()
        self._waiting.append(raw)
        self._waiting_count += count
        self._waiting_serializer = serializer
        if sum(map(len, self._waiting)) >= BLOCK_NBYTES // 2:
            self.flush()

    def flush(self) -> None:
        """End the block that is being put together."""
        if self._waiting:
            name = self._waiting_serializer
            block = packed_block(
                self._waiting, count=self._waiting_count, salt=self.salt, always=name.startswith(COMPRESSED)
            )
            self._add(block, name)
            self._waiting, self._waiting_count = [], 0

    def add_block(self, block: Block, serializer: str) -> None:
        """Add a block as it is."""
        self.flush()
        self._add(block, serializer)

    def _add(self, block: Block, serializer: str) -> None:
        if serializer not in self.serializers:
            self.serializers.append(serializer)
        self.blocks.append(block)
        self.block_serializers.append(self.serializers.index(serializer))

    def add_values(
        self, pack: EntryPack, start: int, stop: int, live: Array, parts: Mapping[str, Array]
    ) -> None:
        """Add the columns of the values in a block."""
        chosen = (pack.places >= start) & (pack.places < stop)
        chosen &= live[pack.places]
        numbers = np.array(
            [
                self.origins.setdefault(
                    Origin(each.run_id, each.node, each.host, each.pack or pack.name), len(self.origins)
                )
                for each in pack.origins
            ],
            np.int64,
        )
        columns = self.columns
        columns["keys"].append(pack.keys[chosen])
        columns["places"].append(pack.places[chosen].astype(np.int64) - start + self.count)
        columns["origin"].append(numbers[pack.origin[start:stop]])
        for name in ("created", "expires", "indices", "ordinals"):
            columns[name].append(getattr(pack, name)[start:stop])
        for name, values in parts.items():
            self.parts.setdefault(name, []).append((self.count, values[start:stop]))
        self.count += stop - start

    def built(
        self, folder: str, generation: int, replaces: frozenset[str], key: bytes
    ) -> tuple[list[Buffer], EntryPack]:
        """Return the pack."""
        self.flush()
        joined: dict[str, Any] = {name: np.concatenate(each) for name, each in self.columns.items()}
        parts = {}
        for name, pieces in self.parts.items():
            parts[name] = np.zeros(self.count, pieces[0][1].dtype)
            for start, values in pieces:
                parts[name][start : start + len(values)] = values
        pack = EntryPack(
            name="",
            nbytes=0,
            salt=self.salt,
            generation=generation,
            replaces=tuple(sorted(replaces)),
            folder=folder.rpartition("/")[2],
            serializers=tuple(self.serializers),
            origins=tuple(self.origins),
            **joined,
            **block_columns(self.blocks, self.block_serializers),
        )
        return build_entries(pack, self.blocks, parts, key=key), pack


def _put_together(
    store: ResultStore,
    folder: str,
    survey: Survey,
    numbers: Sequence[int],
    inherited: set[str],
    *,
    until: float = math.inf,
    nearby: Nearby | None = None,
) -> EntryPack | None:
    """Write what counts of some packs as one, of the first ones where time is up; None where nothing of it could be read."""
    growing = _Growing()
    replaces = set(inherited)
    for number in numbers:
        pack = survey.packs[number]
        if len(replaces) > len(inherited) and time.monotonic() >= until:
            break
        try:
            _add_pack(store, folder, pack, survey.live[number], growing, nearby)
        except ResultDamaged as error:
            # Somebody else put it together with others, and removed it.
            logger.debug("%s", error)
            continue
        replaces.add(pack.name)
    if not growing.count:
        return None
    generation = 1 + max(survey.packs[number].generation for number in numbers)
    parts, written = growing.built(folder, generation, frozenset(replaces), store.keys[0])
    failpoint("compact.publish.before")
    store.publish(f"{folder}/{written.name}", parts)
    failpoint("compact.publish.after")
    return written


def _front(store: ResultStore, folder: str, pack: EntryPack, nearby: Nearby | None) -> memoryview:
    """Return the blocks of a pack and the parts of its keys, as they are: not verified."""
    offset, nbytes, _ = pack.parts_place
    if nearby is not None and pack.nbytes <= WHOLE_NBYTES:
        data = nearby.end_of(pack.name, pack.nbytes, pack.nbytes)
        if data is not None:
            return memoryview(data)[: offset + nbytes]
    return memoryview(store.read(f"{folder}/{pack.name}", 0, offset + nbytes))


def _add_pack(
    store: ResultStore,
    folder: str,
    pack: EntryPack,
    live: Array,
    growing: _Growing,
    nearby: Nearby | None,
) -> None:
    """Add what counts of a pack, block by block, each of them verified; a damaged one is left behind."""
    name = f"{folder}/{pack.name}"
    body = _front(store, folder, pack, nearby)
    try:
        parts = read_parts(store, folder, pack, body[pack.parts_place[0] :])
    except ResultDamaged as error:
        logger.warning("%s", error)
        parts = {}
    for number in range(len(pack.sizes)):
        start, stop = int(pack.firsts[number]), int(pack.firsts[number + 1])
        if not live[start:stop].any():
            continue
        block = pack.block(number)
        serializer = pack.serializers[int(pack.block_serializers[number])]
        if block.codec & BLOB:
            growing.add_block(block, serializer)
        else:
            offset = int(pack.offsets[number])
            data = body[offset : offset + block.nbytes]
            try:
                if digest_of([data], pack.salt) != block.digest:
                    raise ValueError(f"the {block.nbytes:,} bytes from {offset:,} on differ")
                raw = decompress(data, block.raw_nbytes) if block.codec & ZSTD else data
            except ValueError as error:
                logger.warning("%s", damage(store, name, str(error)))
                continue
            if block.raw_nbytes < BLOCK_NBYTES // 2:
                growing.add_frames(raw, block.count, serializer)
            else:
                growing.add_block(
                    replace(block, data=data, digest=digest_of([data], growing.salt)), serializer
                )
        growing.add_values(pack, start, stop, live, parts)
