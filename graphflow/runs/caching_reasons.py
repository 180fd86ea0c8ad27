"""Why an item of a run was executed, or whose value it has.

Loads numpy, so nothing imports this before it is asked for.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from graphflow.cache.collecting import folders_of
from graphflow.cache.reasons import CacheEntry, Reason, folders_for, reason_of
from graphflow.common.wording import count_text
from graphflow.errors import NotFound
from graphflow.results.stores.opening import default_store_url, open_store
from graphflow.runs.nodes import Item, Node
from graphflow.runs.run import Run

__all__ = ["CacheEntry", "CachingReason", "caching_reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingReason:
    """What is known of the cached result of an item.

    Attributes
    ----------
    storage
        Where it was looked for.
    reason
        Its entry beside earlier ones; None where it has none.
    notes
        What the run's log says of why it has none.
    """

    run_id: str
    node: Node
    item: Item
    storage: str
    reason: Reason | None
    notes: tuple[str, ...]


def caching_reason(
    run: Run, node: str, index: int | None = None, *, storage: str | None = None
) -> CachingReason:
    """Find the entry of an item, and the nearest earlier one.

    Parameters
    ----------
    storage
        The result store of the task, where it is not the default one.

    Raises
    ------
    NotFound
        If there is no such node or item.
    ValueError
        If the node is a map and there is no index.
    ResultStoreError
        If the store cannot be read.
    """
    found, item = _item_of(run, node, index)
    cached = item.cached_from
    place = storage or (cached.store if cached is not None else default_store_url())
    store = open_store(place)
    folders = folders_for(folders_of(store), [re.sub(r"[^A-Za-z0-9_]+", "_", found.task_name)])
    reason = reason_of(
        store,
        folders,
        run_id=run.id if cached is None else cached.run_id,
        node=found.name if cached is None else cached.node,
        index=(item.index or 0) if cached is None else cached.index,
    )
    notes: tuple[str, ...] = ()
    if reason is None and cached is None:
        lines = run.logs.where(node=found.name, level=logging.WARNING)
        notes = tuple(line.message for line in lines if line.logger == "graphflow.cache")
    return CachingReason(run_id=run.id, node=found, item=item, storage=place, reason=reason, notes=notes)


def _item_of(run: Run, name: str, index: int | None) -> tuple[Node, Item]:
    if name not in [each.name for each in run.nodes]:
        names = ", ".join(each.name for each in run.nodes if not each.is_builtin) or "none"
        raise NotFound(f"run {run.id} has no node {name!r}; it has {names}")
    node = run.nodes[name]
    if node.is_mapped and index is None:
        raise ValueError(f"{name} is a map of {len(node.items):,} items; choose one, such as '{name}[0]'")
    if (index or 0) >= len(node.items):
        raise NotFound(f"{name} has {count_text(len(node.items), 'item')}; there is no item {index}")
    return node, node.items[index or 0]
