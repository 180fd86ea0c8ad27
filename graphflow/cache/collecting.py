"""What is of no use any more in a cache folder, removed; and whether all the rest is what was written.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphflow.cache.compacting import remove_old
from graphflow.cache.entries import EntryPack, read_parts
from graphflow.cache.listing import listed_packs, read_packs
from graphflow.cache.surveying import survey_folder
from graphflow.errors import GraphflowError, ResultDamaged, ResultNotSigned, ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.packs.blocks import BLOB, ZSTD, digest_of, read_blob
from graphflow.results.packs.compression import decompress
from graphflow.results.packs.format import ENTRIES, HEADER_NBYTES, damage, header

__all__ = [
    "GC_GRACE_SECONDS",
    "Collected",
    "FolderStat",
    "collect",
    "folders_of",
    "stat_folder",
    "verify_folder",
]

GC_GRACE_SECONDS = 3600.0
"""Younger objects stay: a driver may be about to refer to them."""
CACHE = "cache/"


def folders_of(store: ResultStore) -> list[str]:
    """Return the cache folders of a store, by one listing."""
    names = (each.name for each in store.entries(CACHE))
    return sorted({"/".join(name.split("/")[:2]) for name in names if name.count("/") > 1})


# -- garbage -----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Collected:
    """What was removed: packs of which nothing counts, large values that no pack has, damaged packs, unfinished files.

    `kept` has the damaged packs that stay, with what is wrong with them.
    """

    packs: int = 0
    blobs: int = 0
    damaged: int = 0
    leftovers: int = 0
    nbytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)


def collect(
    store: ResultStore,
    folder: str,
    *,
    now: float,
    grace_seconds: float = GC_GRACE_SECONDS,
    removes_damaged: bool = False,
) -> Collected:
    """Remove what is of no use in a folder, if it is older than the grace time.

    As long as there are packs that this installation cannot read but others may (signed with another key, or by a newer
    graphflow), large values stay: those packs may have them.

    Parameters
    ----------
    now
        Seconds since the epoch.
    removes_damaged
        Whether damaged packs go too.

    Raises
    ------
    ResultStoreError
        If the store cannot be read or written.
    """
    done = Collected()
    # Large values first: one that is written meanwhile is not listed, its pack may be.
    blobs = list(store.entries(f"{folder}/blobs/"))
    survey = survey_folder(store, folder, now=now)
    sizes = {each.name: each for each in store.entries(f"{folder}/")}

    def remove(names: list[str]) -> int:
        store.delete(names)
        done.nbytes += sum(sizes[name].nbytes for name in names if name in sizes)
        return len(names)

    def is_old(name: str) -> bool:
        found = sizes.get(name)
        return found is not None and now - found.modified >= grace_seconds

    before = {pack.name for pack in survey.packs}
    done.packs, _ = remove_old(store, folder, now=now, grace_seconds=grace_seconds)
    gone = before - set(listed_packs(store, folder))
    done.nbytes += sum(sizes[f"{folder}/{each}"].nbytes for each in gone if f"{folder}/{each}" in sizes)
    for name, error in survey.refused.items():
        is_damaged = isinstance(error, ResultDamaged) and not isinstance(error, ResultNotSigned)
        if removes_damaged and is_damaged and is_old(f"{folder}/{name}"):
            done.damaged += remove([f"{folder}/{name}"])
        else:
            done.kept[name] = str(error)
    if not survey.has_strangers:
        used = {f"{folder}/{each}" for pack in survey.packs if pack.name not in gone for each in pack.blobs}
        done.blobs = remove([each.name for each in blobs if each.name not in used and is_old(each.name)])
    sweep = getattr(store, "sweep", None)
    if sweep is not None:
        done.leftovers = sweep(f"{folder}/", before=now - grace_seconds)
    return done


# -- looking -----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class FolderStat:
    """The counts of a cache folder; times are seconds since the epoch, None if there are no values."""

    folder: str
    packs: int = 0
    blobs: int = 0
    nbytes: int = 0
    values: int = 0
    live: int = 0
    expired: int = 0
    superseded: int = 0
    damaged: int = 0
    value_nbytes: int = 0
    oldest: float | None = None
    newest: float | None = None


def stat_folder(store: ResultStore, folder: str, *, now: float) -> FolderStat:
    """Return a folder's counts; reads the ends of packs, one request each.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    survey = survey_folder(store, folder, now=now)
    found = FolderStat(folder=folder, packs=len(survey.packs), damaged=len(survey.refused))
    for each in store.entries(f"{folder}/"):
        found.nbytes += each.nbytes
        found.blobs += each.name.startswith(f"{folder}/blobs/")
    for number, pack in enumerate(survey.packs):
        counted = int(survey.live[number].sum())
        found.values += pack.count
        found.expired += int(survey.expired[number].sum())
        found.superseded += pack.count - counted
        found.live += counted
        found.value_nbytes += int(pack.sizes.sum())
        if pack.count:
            first, last = float(pack.created.min()), float(pack.created.max())
            found.oldest = first if found.oldest is None else min(first, found.oldest)
            found.newest = last if found.newest is None else max(last, found.newest)
    found.live -= found.expired
    return found


def verify_folder(store: ResultStore, folder: str) -> Iterator[tuple[str, str]]:
    """Yield each pack and large value of a folder, with what is wrong with it; empty where all is what was written.

    Everything is read, and nothing unpickled.

    Raises
    ------
    ResultStoreError
        If the store cannot be read.
    """
    refused: dict[str, ResultStoreError] = {}
    for pack in read_packs(store, folder, listed_packs(store, folder).values(), refused.__setitem__):
        yield f"{folder}/{pack.name}", _problem(store, folder, pack)
    for name, error in refused.items():
        yield f"{folder}/{name}", str(error)


def _problem(store: ResultStore, folder: str, pack: EntryPack) -> str:
    name = f"{folder}/{pack.name}"
    try:
        if store.read(name, 0, HEADER_NBYTES) != header(ENTRIES):
            raise damage(store, name, "it does not begin like a pack")
        read_parts(store, folder, pack)
        for number in range(len(pack.sizes)):
            block = pack.block(number)
            if block.codec & BLOB:
                read_blob(store, folder, block)
                continue
            offset = int(pack.offsets[number])
            data = store.read(name, offset, block.nbytes)
            if digest_of([data], pack.salt) != block.digest:
                raise damage(store, name, f"the {block.nbytes:,} bytes from {offset:,} on differ")
            if block.codec & ZSTD:
                decompress(data, block.raw_nbytes)
    except ResultDamaged as error:
        return str(error)
    except (GraphflowError, ValueError) as error:
        if isinstance(error, ResultStoreError):
            raise
        return str(damage(store, name, str(error)))
    return ""
