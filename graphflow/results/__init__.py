"""Stored results: stores for objects that are written once, and packs of many values in one object."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphflow.results.exports.exports import Export, read_export
    from graphflow.results.stores.local import LocalStore
    from graphflow.results.stores.opening import open_store
    from graphflow.results.stores.remote import FsspecStore

__all__ = ["Export", "FsspecStore", "LocalStore", "open_store", "read_export"]

_PLACES = {
    "Export": "exports.exports",
    "FsspecStore": "stores.remote",
    "LocalStore": "stores.local",
    "open_store": "stores.opening",
    "read_export": "exports.exports",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        # Loaded by those who need it, not by every import of one of the modules.
        return getattr(importlib.import_module(f"graphflow.results.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'graphflow.results' has no attribute {name!r}")
