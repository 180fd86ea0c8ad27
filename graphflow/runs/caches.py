"""What is cached in a result store: looked at, verified, kept small, removed; why items were executed is in `caching_reasons`.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.cache.claims import OnceClaim, once_claims
from graphflow.cache.collecting import (
    GC_GRACE_SECONDS,
    Collected,
    FolderStat,
    collect,
    folders_of,
    stat_folder,
    verify_folder,
)
from graphflow.cache.compacting import GRACE_SECONDS, Compacted, compact, forget_keys
from graphflow.cache.looking import Entry, entries_of, value_of
from graphflow.errors import LeaseHeld, NotFound, ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.stores.opening import default_store_url, open_store

__all__ = [
    "CachedTask",
    "Caches",
    "Collected",
    "Compacted",
    "Entry",
    "FolderStat",
    "OnceClaim",
    "Removal",
    "UnsettledItem",
    "caches",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTask:
    """What a listing tells of a task's cached results; `modified` is seconds since the epoch."""

    task: str
    objects: int
    nbytes: int
    modified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is to be removed, per task: keys, or where none are given whole objects."""

    keys: Mapping[str, Sequence[bytes]]
    objects: Mapping[str, Sequence[str]]

    @property
    def counts(self) -> dict[str, int]:
        """How many keys, or objects, per task."""
        return {task: len(chosen) for task, chosen in (self.keys or self.objects).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsettledItem:
    """An item of a task with `run_once` of which nobody knows whether it has run; `claim` is None where that is damaged."""

    key: str
    claim: OnceClaim | None


def caches(storage: str | None = None) -> Caches:
    """The cached results in a store: a folder or a URL, by default where results go by default.

    Raises
    ------
    ResultStoreError
        If the store cannot be used.
    """
    return Caches(open_store(default_store_url() if storage is None else storage))


class Caches:
    """The cached results of one store.

    `tasks` are names of tasks' folders or their beginnings; all if there are none. One that fits nothing raises
    `NotFound`; a store that cannot be read or written, `ResultStoreError`.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """Where the store is, without credentials."""
        return self._store.url

    # -- looking -------------------------------------------------------------------------------------------

    def tasks(self, tasks: Sequence[str] = ()) -> list[CachedTask]:
        """List tasks by name, each with the number and size of its objects; two listings of the store."""
        found: dict[str, list[Any]] = {each: [0, 0, 0.0] for each in sorted(self._folders(tasks))}
        for each in self._store.entries("cache/"):
            sums = found.get("/".join(each.name.split("/")[:2]))
            if sums is not None:
                sums[:] = sums[0] + 1, sums[1] + each.nbytes, max(sums[2], each.modified)
        return [
            CachedTask(task=_task(folder), objects=objects, nbytes=nbytes, modified=modified)
            for folder, (objects, nbytes, modified) in found.items()
        ]

    def stat(self, tasks: Sequence[str] = ()) -> Iterator[FolderStat]:
        """Count values task by task; one request per pack."""
        now = time.time()
        return (stat_folder(self._store, folder, now=now) for folder in self._folders(tasks))

    def entries(self, key: str, tasks: Sequence[str] = ()) -> list[Entry]:
        """Return the values whose keys begin so, the current one of each key first.

        Raises
        ------
        NotFound
            If there is none.
        ValueError
            If the text is not the beginning of a key.
        """
        now = time.time()
        found = [
            entry
            for folder in self._folders(tasks)
            for entry in entries_of(self._store, folder, key, now=now)
        ]
        if not found:
            raise NotFound(f"no cached value in {self.url} has a key that begins with {key!r}")
        return sorted(
            found, key=lambda each: (each.folder, each.key, not each.is_current, -each.made.created)
        )

    def value(self, entry: Entry) -> Any:
        """Return the value of an entry, verified and then unpickled.

        Raises
        ------
        ResultDamaged, SerializationError
            If it is not what was written, or cannot be restored here.
        """
        return value_of(self._store, entry)

    def verify(self, tasks: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
        """Read every object and yield its name with what is wrong with it, empty where nothing is; nothing is unpickled."""
        return (each for folder in self._folders(tasks) for each in verify_folder(self._store, folder))

    # -- keeping it small ----------------------------------------------------------------------------------

    def compact(
        self, tasks: Sequence[str] = (), *, grace_seconds: float = GRACE_SECONDS
    ) -> Iterator[tuple[str, Compacted]]:
        """Put small objects together, task by task; old ones go once they were replaced for the grace time."""
        return (
            (_task(folder), compact(self._store, folder, now=time.time(), grace_seconds=grace_seconds))
            for folder in self._folders(tasks)
        )

    def collect(
        self,
        tasks: Sequence[str] = (),
        *,
        grace_seconds: float = GC_GRACE_SECONDS,
        removes_damaged: bool = False,
    ) -> Iterator[tuple[str, Collected]]:
        """Remove what is of no use, task by task; objects younger than the grace time stay."""
        return (
            (
                _task(folder),
                collect(
                    self._store,
                    folder,
                    now=time.time(),
                    grace_seconds=grace_seconds,
                    removes_damaged=removes_damaged,
                ),
            )
            for folder in self._folders(tasks)
        )

    def removal(self, tasks: Sequence[str], keys: Iterable[str] = ()) -> Removal:
        """Choose what `remove` is to remove: all of tasks, or their values whose keys begin so.

        Raises
        ------
        NotFound
            If a key is the beginning of none.
        """
        folders = self._folders(tasks)
        prefixes = list(keys)
        chosen: dict[str, set[bytes]] = {}
        for prefix in prefixes:
            for entry in self.entries(prefix, tasks):
                chosen.setdefault(_task(entry.folder), set()).add(entry.key)
        objects = {} if prefixes else {_task(each): list(self._store.names(f"{each}/")) for each in folders}
        return Removal(keys={task: sorted(some) for task, some in chosen.items()}, objects=objects)

    def remove(self, removal: Removal) -> Iterator[tuple[str, int]]:
        """Remove what was chosen, and yield for each task how many values or objects went."""
        for task, keys in removal.keys.items():
            yield task, forget_keys(self._store, f"cache/{task}", list(keys), now=time.time())
        for task, names in removal.objects.items():
            # Large values last: a pack whose values are gone is damaged, and one that is gone is not.
            self._store.delete(sorted(names, key=lambda name: "/blobs/" in name))
            yield task, len(names)

    # -- items that run once -------------------------------------------------------------------------------

    def unsettled(self, key: str) -> UnsettledItem:
        """Return the item whose claim has this key, or a beginning of it.

        Raises
        ------
        ValueError
            If no claim has, or several have.
        LeaseHeld
            If the item is being executed.
        """
        known = once_claims(self._store)
        matching = [each for each in known if each.startswith(key.lower())]
        if len(matching) != 1:
            many = f"{len(matching)} claims begin" if matching else "no claim begins"
            raise ValueError(f"{many} with {key} in {self.url}")
        claims = known[matching[0]]
        try:
            claim = claims.find(bytes.fromhex(matching[0]))
        except ResultStoreError:
            # It is damaged, so its holder is unknown.
            claim = None
        if claim is not None and claims.is_held(claim):
            raise LeaseHeld(
                f"{claim.node} of run {claim.run_id} is being executed by process {claim.holder.pid} on "
                f"{claim.holder.host}; wait for it"
            )
        return UnsettledItem(key=matching[0], claim=claim)

    def release(self, item: UnsettledItem) -> None:
        """Let an item run again when it is asked for; the caller knows that it has not done its work."""
        claims = once_claims(self._store).get(item.key)
        if claims is not None:
            claims.give_back([bytes.fromhex(item.key)])

    def _folders(self, tasks: Sequence[str]) -> list[str]:
        found = folders_of(self._store)
        if not tasks:
            return found
        chosen: dict[str, None] = {}
        for task in tasks:
            name = f"cache/{task.removeprefix('cache/')}"
            fitting = [each for each in found if each == name] or [
                each for each in found if each.startswith(name)
            ]
            if not fitting:
                raise NotFound(
                    f"no cached results of a task {task!r} in {self.url}; list the tasks with `graphflow cache ls`"
                )
            chosen.update(dict.fromkeys(fitting))
        return list(chosen)


def _task(folder: str) -> str:
    return folder.partition("/")[2]
