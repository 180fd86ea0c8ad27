"""Which tasks of a run are cached, and where: what the driver tells batches of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any, cast

from graphflow.cache.nearby import Nearby
from graphflow.cache.sites import Presence, Site, site_of
from graphflow.cache.tidying import tidy
from graphflow.common import settings
from graphflow.errors import ResultStoreError
from graphflow.graph.graph import Node
from graphflow.identity.cache_keys import key_spec
from graphflow.identity.variables import Memo
from graphflow.model.cache_policies import CacheDefaults
from graphflow.model.orders import CacheOrder, Program
from graphflow.ports import ResultStore
from graphflow.results.packs.serializers import serializer_of
from graphflow.results.stores.opening import open_store

__all__ = ["Caches", "storage_of"]

logger = logging.getLogger("graphflow.cache")


Configured = tuple[str | None, Mapping[str, Any]]
"""The location of results that is configured, None for the default, and its options."""


def storage_of(
    said: CacheDefaults, *, default: str, path: str = "", configured: Configured | None = None
) -> ResultStore:
    """Return the store that a flow or task names, else the one that is configured, else the default folder.

    Parameters
    ----------
    path
        A folder below what is named or configured; the default is taken as it is.
    configured
        What is configured, None for what is configured now.

    Raises
    ------
    ResultStoreError, SettingsError
        If there is no such kind of store, or it is configured wrongly.
    """
    if said.result_storage is not None:
        return open_store(said.result_storage, storage_options=said.result_storage_options, path=path)
    url, options = configured or (settings.result_storage(), settings.result_storage_options())
    if url is not None:
        return open_store(url, storage_options=options, path=path)
    return open_store(default)


class Caches:
    """The caches of one run's tasks.

    Parameters
    ----------
    run_id
        The flow run's id.
    token
        Sets this driver apart from others of the same run.
    refreshes
        Whether results are recomputed in this run, whatever the tasks' options.
    storage
        Where results go unless something else is said; what is configured now by default.
    """

    def __init__(
        self, *, run_id: str, token: str, refreshes: bool = False, storage: Configured | None = None
    ) -> None:
        self._run_id = run_id
        self._token = token
        self._refreshes = refreshes
        self._storage = storage
        self._known: dict[int, tuple[Program, CacheOrder | None]] = {}
        self._stores: dict[str, ResultStore] = {}
        self._presences: dict[tuple[str, str], Presence] = {}
        self._sites: dict[str, Site] = {}
        self._memo: Memo = {}
        self._noted: set[tuple[str, str]] = set()
        self._compacts = settings.compact_cache()

    def order(self, program: Program) -> CacheOrder | None:
        """Return where a node's results are kept by their keys; None if they are not.

        Raises
        ------
        ResultStoreError
            If the store cannot be used, or cannot claim although the task runs once only.
        SettingsError
            If there is no such serializer.
        """
        if program.options.cache is None:
            return None
        known = self._known.get(id(program))
        if known is None or known[0] is not program:
            known = (program, self._made(program))
            self._known[id(program)] = known
        return known[1]

    def check(self, node: Node) -> None:
        """Open what a node needs before anything runs; raises what `order` does."""
        if node.program is not None:
            self.order(node.program)

    def _made(self, program: Program) -> CacheOrder | None:
        options = program.options
        cache = options.cache
        spec = key_spec(program, run_id=self._run_id, memo=self._memo)
        if cache is None or spec is None:
            return None
        for note in spec.notes:
            if (spec.folder, note) not in self._noted:
                self._noted.add((spec.folder, note))
                logger.warning(
                    "the cache keys of task %r do not see changes of %s; only the statement that defines it is part of them: "
                    "pass it as an argument, or raise cache_version= when it changes",
                    options.name,
                    note,
                )
        if options.result_serializer is not None:
            # A wrong name is told here, and not by a worker that has a value to write.
            serializer_of(options.result_serializer)
        store = self._store(options.results)
        if cache.run_once and not store.can_create:
            raise ResultStoreError(
                f"task {options.name!r} has run_once=True, but {store.url} does not support claims: it cannot create an object only "
                "if it does not exist; set result_storage= to a local folder or an s3:// URL"
            )
        folder = f"cache/{spec.folder}"
        return CacheOrder(
            store=store,
            folder=folder,
            spec=spec,
            token=self._token,
            serializer=options.result_serializer or "pickle",
            refreshes=(self._refreshes and not cache.run_once) or bool(cache.refresh),
            can_claim=store.can_create,
            site=None if cache.run_once or not store.can_create else self._site(store, folder),
        )

    def _site(self, store: ResultStore, folder: str) -> Site | None:
        """Return where this machine's processes settle who executes what, where the store is not on a disk; others hear of this driver."""
        if not store.is_shared:
            return None
        site = self._sites.get(store.url)
        if site is None:
            site = self._sites[store.url] = site_of(store)
        if (store.url, folder) not in self._presences:
            self._presences[store.url, folder] = Presence(store, folder, self._token, site)
        return site

    def close(self) -> None:
        """Close the caches after the run's batches have ended, and keep them small; calling it again does nothing."""
        while self._presences:
            self._presences.popitem()[1].close()
        orders = {(each.store.url, each.folder): each for _, each in self._known.values() if each is not None}
        self._known.clear()
        if orders and self._compacts:
            tidy(
                [
                    (
                        each.store,
                        each.folder,
                        None if each.site is None else Nearby(each.site.place, each.folder),
                    )
                    for each in orders.values()
                ]
            )

    def _store(self, said: CacheDefaults) -> ResultStore:
        """Return a store, tried before anything runs; one that others reach too once per process."""
        place = said.result_storage or ""
        store = self._stores.get(place)
        if store is None:
            store = storage_of(said, default=str(settings.home() / "results"), configured=self._storage)
            if store.is_shared:
                # An error is not kept.
                _check_once(cast(Any, store))
            else:
                store.check()
            self._stores[place] = store
        return store


@functools.lru_cache(maxsize=64)
def _check_once(store: Any) -> None:
    store.check()
