"""Columns of a run, as they are to be written, and as a pack tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphflow.model.reports import Stored

__all__ = ["Pack", "PackSection", "Section"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A column that is to be written: the pickle of `count` values, of which those at `missing` are not there.

    Not `is_whole` where those are missing that nothing outside their batch needed.
    """

    node: int
    data: bytes
    count: int
    missing: Sequence[int] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSection:
    """A column of a pack: whose it is, and where."""

    node: int
    stored: Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """What a pack says of itself, verified; `created` is seconds since the epoch, `nbytes` the size of the object."""

    name: str
    run_id: str
    batch: int
    epoch: int
    created: float
    nodes: tuple[int, ...]
    sections: tuple[PackSection, ...]
    nbytes: int
