"""Lists of runs and of items."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["Listed"]

T = TypeVar("T")


class Listed(list[T]):
    """A list of runs or items, which notebooks show as a table."""

    def _repr_html_(self) -> str:
        # What only notebooks show is loaded by them alone.
        from graphflow.runs.html import items_html, runs_html

        every: list[Any] = list(self)
        return items_html(every) if every and hasattr(every[0], "attempts") else runs_html(every)
