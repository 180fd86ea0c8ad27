"""Two runs side by side, or the peers of one run beside graphflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from graphflow.bench.lines import BenchError, Line, newest

__all__ = ["BASE", "Row", "Verdict", "against_base", "compare", "differences"]

BASE = "graphflow"


class Verdict(StrEnum):
    """What a row says."""

    SAME = "same"
    FASTER = "faster"
    SLOWER = "slower"
    BROKEN = "broken"
    """It had figures before, and now it was tried and has none."""
    MISSING = "missing"
    """One side has no figures, and nothing follows from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Median seconds of two sides, and the second over the first."""

    key: str
    peer: str
    n: int
    before: float | None
    after: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """How many times as long the second side takes."""
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def is_worse(self) -> bool:
        """Whether it counts as a regression."""
        return self.verdict in (Verdict.SLOWER, Verdict.BROKEN)


def compare(before: Sequence[Line], after: Sequence[Line], *, threshold: float) -> list[Row]:
    """Return each measurement that either run has, in the order of the first.

    Slower means that the median grew by more than a factor of `threshold`.

    Raises
    ------
    BenchError
        If the threshold is below 1, or the runs have no measurement in common.
    """
    if not threshold >= 1:
        raise BenchError(f"threshold must be a factor of 1 or more, not {threshold:g}")
    old, new = newest(before), newest(after)
    if not old.keys() & new.keys():
        raise BenchError("the two files have no measurement (workload, peer, n) in common")
    return [_row(key, old.get(key), new.get(key), threshold) for key in dict.fromkeys([*old, *new])]


def _row(key: tuple[str, str, int], old: Line | None, new: Line | None, threshold: float) -> Row:
    before = old.seconds if old is not None and old.is_ok else None
    after = new.seconds if new is not None and new.is_ok else None
    if before is not None and after is not None:
        verdict = _judged(after / before if before else 1.0, threshold)
    elif before is not None and new is not None and new.status in ("timeout", "wrong", "error"):
        verdict = Verdict.BROKEN
    else:
        verdict = Verdict.MISSING
    workload, peer, n = key
    return Row(key=workload, peer=peer, n=n, before=before, after=after, verdict=verdict)


def _judged(ratio: float, threshold: float) -> Verdict:
    if ratio > threshold:
        return Verdict.SLOWER
    return Verdict.FASTER if ratio < 1 / threshold else Verdict.SAME


def against_base(lines: Sequence[Line], *, threshold: float) -> list[Row]:
    """Every peer beside graphflow at the same workload and size; `before` is graphflow.

    Raises
    ------
    BenchError
        If the run has no figures of graphflow.
    """
    if not threshold >= 1:
        raise BenchError(f"threshold must be a factor of 1 or more, not {threshold:g}")
    found = newest(lines)
    bases = {(key, n): line for (key, peer, n), line in found.items() if peer == BASE and line.is_ok}
    if not bases:
        raise BenchError(f"peer {BASE!r}, which the others are compared with, was not measured")
    return [
        _row((key, peer, n), bases[key, n], line, threshold)
        for (key, peer, n), line in found.items()
        if peer != BASE and (key, n) in bases
    ]


def differences(before: Sequence[Line], after: Sequence[Line]) -> list[str]:
    """Return what else differs between two runs, so that their figures may not be comparable."""
    found = []
    for what in ("machine", "versions", "slots", "is_smoke"):
        old = {str(_of(line, what)) for line in before}
        new = {str(_of(line, what)) for line in after}
        if not old & new:
            found.append(f"{what}: {', '.join(sorted(old))} before, {', '.join(sorted(new))} after")
    return found


def _of(line: Line, what: str) -> object:
    if what == "versions":
        # Other packages differ from peer to peer.
        return {name: line.versions.get(name, "") for name in ("python", "dask", "distributed")}
    return getattr(line, what)
