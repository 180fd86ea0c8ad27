"""Cached results as JSON documents: the same ones from every command and program. Times are ISO 8601 in UTC."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from graphflow.common.times import moment
from graphflow.runs.documents import time_text

if TYPE_CHECKING:
    # They load numpy, and are only looked at here.
    from graphflow.runs.caches import CachedTask, Collected, Compacted, Entry, FolderStat
    from graphflow.runs.caching_reasons import CacheEntry, CachingReason

__all__ = [
    "collected_document",
    "compacted_document",
    "entry_document",
    "reason_document",
    "stat_document",
    "task_document",
]


def task_document(found: CachedTask) -> dict[str, Any]:
    """A task of a listing."""
    return asdict(found) | {"modified": time_text(moment(found.modified))}


def stat_document(found: FolderStat) -> dict[str, Any]:
    """A task's values, counted."""
    document = asdict(found) | {
        "task": found.folder.partition("/")[2],
        "oldest": time_text(moment(found.oldest)),
        "newest": time_text(moment(found.newest)),
    }
    del document["folder"]
    return document


def entry_document(entry: Entry) -> dict[str, Any]:
    """A value's place and making."""
    made = entry.made
    return {
        "key": entry.key.hex(),
        "task": entry.folder.partition("/")[2],
        "state": "expired" if entry.is_expired else "current" if entry.is_current else "superseded",
        "created": time_text(moment(made.created)),
        "expires": time_text(moment(entry.expires)),
        "run_id": made.run_id,
        "node": made.node,
        "index": made.index,
        "host": made.host,
        "pack": entry.pack,
        "first_pack": made.pack,
        "object": entry.blob or entry.pack,
        "block_nbytes": entry.nbytes,
        "shared_with": entry.shared_with,
        "serializer": entry.serializer,
        "parts": {name: [each.hex() for each in values] for name, values in entry.parts.items()},
    }


def compacted_document(task: str, done: Compacted) -> dict[str, Any]:
    """What a compaction did."""
    return {
        "task": task,
        "packs_read": done.read,
        "packs_written": len(done.written),
        "packs_removed": done.removed,
        "packs_waiting": done.waiting,
        "values_expired": done.expired,
        "values_superseded": done.superseded,
        "packs_damaged": done.damaged,
    }


def collected_document(task: str, done: Collected) -> dict[str, Any]:
    """What was removed as garbage, and which damaged objects stay."""
    return {
        "task": task,
        "packs": done.packs,
        "large_values": done.blobs,
        "damaged": done.damaged,
        "leftovers": done.leftovers,
        "nbytes": done.nbytes,
        "kept": done.kept,
    }


def reason_document(found: CachingReason) -> dict[str, Any]:
    """Why an item was executed, or whose value it has."""
    item, reason, cached = found.item, found.reason, found.item.cached_from
    document: dict[str, Any] = {
        "schema": "graphflow.caching_reason/1",
        "item": f"{found.node.name}[{item.index}]" if found.node.is_mapped else found.node.name,
        "run_id": found.run_id,
        "state": item.state.name,
        "cached_from": None,
        "key": None,
        "entry": None,
        "equal": None,
        "nearest": None,
        "differs": [],
        "agrees": [],
        "notes": list(found.notes),
    }
    if cached is not None:
        document["cached_from"] = {
            "run_id": cached.run_id,
            "node": cached.node,
            "index": cached.index,
            "host": cached.host,
            "created": time_text(cached.created),
        }
    if reason is not None:
        document |= {
            "key": reason.own.key.hex(),
            "entry": _entry(reason.own),
            "equal": None if reason.equal is None else _entry(reason.equal),
            "nearest": None if reason.nearest is None else _entry(reason.nearest),
            "differs": list(reason.differs),
            "agrees": list(reason.agrees),
        }
    return document


def _entry(entry: CacheEntry) -> dict[str, Any]:
    made = entry.made
    return {
        "key": entry.key.hex(),
        "run_id": made.run_id,
        "node": made.node,
        "index": made.index,
        "host": made.host,
        "created": time_text(moment(made.created)),
        "expires": None if math.isinf(entry.expires) else time_text(moment(entry.expires)),
    }
