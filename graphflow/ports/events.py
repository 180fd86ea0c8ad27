"""What subscribers in the process of a run are told."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RunEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """A change in a run, as in-process subscribers see it.

    `kind` is one of `node` (a node was added or changed state), `items` (items of a node ended) and `run`.
    """

    kind: str
    run_id: str
    node: int | None = None
    state: str = ""
    count: int = 0
