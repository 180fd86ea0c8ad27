"""Results that outlive a run: stores for objects that are written once, and packs of many values in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphflow.results.exports import Export, read_export

__all__ = ["Export", "read_export"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # Loaded by those who read exports, not by every import of a store.
        from graphflow.results import exports

        return getattr(exports, name)
    raise AttributeError(f"module 'graphflow.results' has no attribute {name!r}")
