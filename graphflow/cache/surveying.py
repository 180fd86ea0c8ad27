"""What of a cache folder counts: which values lookups come to, which expired, and which packs are of no use any more.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphflow.cache.entries import EntryPack
from graphflow.cache.listing import listed_packs, read_packs
from graphflow.cache.nearby import Nearby
from graphflow.cache.segments import merged, search, segment_of
from graphflow.errors import ResultDamaged, ResultNotSigned, ResultStoreError
from graphflow.ports import ResultStore

__all__ = ["Survey", "dead_packs", "drop_expired", "is_old", "read_folder", "survey_folder"]

logger = logging.getLogger("graphflow.results")
Array = NDArray[Any]


@dataclass(slots=True, kw_only=True)
class Survey:
    """The packs of a folder at a time: which values of them count, and what is wrong with others."""

    packs: list[EntryPack]
    refused: dict[str, ResultStoreError]
    live: list[Array]
    """Per pack and place: whether this value is what a lookup of its key comes to."""
    expired: list[Array]

    @property
    def has_strangers(self) -> bool:
        """Whether there are packs that others can read, and this installation cannot."""
        return any(
            isinstance(each, ResultNotSigned) or not isinstance(each, ResultDamaged)
            for each in self.refused.values()
        )


def read_folder(
    store: ResultStore, folder: str, nearby: Nearby | None = None
) -> tuple[list[EntryPack], dict[str, ResultStoreError]]:
    """Return the packs of a folder, and what is wrong with others.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    refused: dict[str, ResultStoreError] = {}
    packs = list(
        read_packs(store, folder, listed_packs(store, folder).values(), refused.__setitem__, nearby=nearby)
    )
    # Of equal values the same one stays, whoever looks.
    packs.sort(key=lambda each: each.name)
    if refused:
        still = listed_packs(store, folder)
        refused = {name: error for name, error in refused.items() if name in still}
    return packs, refused


def survey_folder(store: ResultStore, folder: str, *, now: float, nearby: Nearby | None = None) -> Survey:
    """Return what there is in a folder; of damaged packs a warning tells.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    packs, refused = read_folder(store, folder, nearby)
    for error in refused.values():
        logger.warning("%s", error)
    return _survey(packs, now, refused)


def _survey(packs: list[EntryPack], now: float, refused: dict[str, ResultStoreError]) -> Survey:
    live = [np.zeros(pack.count, bool) for pack in packs]
    expired = [np.zeros(pack.count, bool) for pack in packs]
    if packs:
        every = merged([segment_of(pack, number) for number, pack in enumerate(packs)])
        order = np.argsort(every.pack, kind="stable")
        edges = np.searchsorted(every.pack[order], np.arange(len(packs) + 1)).tolist()
        places, is_over = every.place[order], every.expires[order] <= now
        for number, (start, stop) in enumerate(pairwise(edges)):
            live[number][places[start:stop]] = True
            expired[number][places[start:stop]] = is_over[start:stop]
    return Survey(packs=packs, refused=refused, live=live, expired=expired)


def drop_expired(survey: Survey, chosen: Collection[int], others: Sequence[EntryPack]) -> None:
    """Drop expired values of packs, except those that hide an older value in another pack."""
    over = {number: survey.expired[number][survey.packs[number].places] for number in chosen}
    if not any(each.any() for each in over.values()):
        return
    hidden = [merged([segment_of(pack, number) for number, pack in enumerate(others)])] if others else []
    for number, is_over in over.items():
        pack = survey.packs[number]
        keys, places = pack.keys[is_over], pack.places[is_over]
        if len(keys):
            hides = search(hidden, keys.tobytes()).pack >= 0
            survey.live[number][places[~hides]] = False


def dead_packs(
    packs: Sequence[EntryPack], replaced: Collection[str], *, now: float, grace_seconds: float
) -> list[str]:
    """Return the packs of which nothing has counted for a while, in the order in which they are to be removed.

    Those that are younger than the grace time are ignored: a reader that knows the older ones only still
    finds all in them. Those that were replaced go when their time has come.
    """
    old = [pack for pack in packs if is_old(pack, now, grace_seconds) and pack.name not in replaced]
    others = [pack for pack in packs if not is_old(pack, now, grace_seconds) or pack.name in replaced]
    then = _survey(old, now - max(0.0, grace_seconds), {})
    dead = {number for number in range(len(old)) if not (then.live[number] & ~then.expired[number]).any()}
    while dead:
        # One that expired stays as long as it hides an older value of its key in a pack that stays.
        left = [*others, *(pack for number, pack in enumerate(old) if number not in dead)]
        trial = _survey(old, now - max(0.0, grace_seconds), {})
        drop_expired(trial, sorted(dead), left)
        hiding = {number for number in dead if trial.live[number].any()}
        if not hiding:
            break
        dead -= hiding
    # An expired value goes after those that it hides.
    gone = sorted((old[number] for number in dead), key=lambda each: float(each.created.max(initial=0.0)))
    return [pack.name for pack in gone]


def is_old(pack: EntryPack, now: float, grace_seconds: float) -> bool:
    """Return whether a pack has been there for the grace time."""
    return grace_seconds <= 0.0 or now - pack.modified >= grace_seconds
