"""The progress of a run's nodes as rows: counts, rates and remaining times."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from graphflow.errors import ValueUnavailable
from graphflow.model.states import Code, State

if TYPE_CHECKING:
    from graphflow.runs.run import Run

__all__ = ["Meter", "NodeRow", "NodeView", "format_eta", "format_rate", "format_seconds", "rows_of"]

_WINDOW_SECONDS = 5.0
_FAILED = ("Failed", "TimedOut", "UpstreamFailed", "Crashed", "Indeterminate")


class NodeView(Protocol):
    """The attributes of a node that the command line reads."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state_code(self) -> Code: ...
    @property
    def width(self) -> int | None: ...
    @property
    def is_mapped(self) -> bool: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def is_builtin(self) -> bool: ...
    @property
    def retries(self) -> int: ...
    @property
    def started(self) -> datetime | None: ...
    @property
    def ended(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node at one moment. `done` counts all items that ended, in any state; `width` may be unknown.

    `blocked` are those of `failed` that never began because of a failure before them. `retries` is counted only on request, as that takes time proportional to the width.
    """

    id: int
    name: str
    state: State
    is_mapped: bool
    width: int | None
    done: int
    completed: int
    cached: int
    skipped: int
    failed: int
    blocked: int
    cancelled: int
    retrying: int
    retries: int
    rate: float | None
    eta_seconds: float | None
    seconds: float | None

    @property
    def fraction(self) -> float | None:
        """The fraction that is done, from 0 to 1; None if the width is unknown."""
        if self.width is None:
            return None
        return 1.0 if self.width == 0 else min(1.0, self.done / self.width)

    @property
    def started_nothing(self) -> bool:
        """Whether nothing has happened yet."""
        return (
            not self.done and not self.retrying and not self.state.is_running() and not self.state.is_final()
        )


class Meter:
    """Makes rows, and measures each node's rate over the last seconds. Reads no clock: `now` is an argument."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[tuple[float, int]]] = {}

    def read(self, nodes: Iterable[NodeView], *, now: float, counts_retries: bool = False) -> list[NodeRow]:
        """Return a row per node; `now` is in seconds since the epoch, as the nodes' times are.

        The engine's own nodes (an element of a future, a collection) have a row only if they failed.
        """
        return [
            self._row(node, now, counts_retries)
            for node in nodes
            if not node.is_builtin or not set(_FAILED).isdisjoint(node.counts)
        ]

    def _row(self, node: NodeView, now: float, counts_retries: bool) -> NodeRow:
        counts = node.counts
        state = State.of(node.state_code)
        completed = counts.get("Completed", 0)
        cached = counts.get("Cached", 0)
        skipped = counts.get("Skipped", 0)
        cancelled = counts.get("Cancelled", 0)
        failed = sum(counts.get(name, 0) for name in _FAILED)
        done = completed + cached + skipped + failed + cancelled
        seconds = _seconds(node, now)
        is_final = state.is_final()
        # What came from the cache, or never began, says nothing of the pace.
        executed = completed + failed - counts.get("UpstreamFailed", 0)
        rate = executed / seconds if is_final and seconds else self._rate(node, executed, now, seconds)
        width = node.width if node.is_mapped else 1
        left = None if width is None or is_final else width - done
        return NodeRow(
            id=node.id,
            name=node.name,
            state=state,
            is_mapped=node.is_mapped,
            width=width,
            done=done,
            completed=completed,
            cached=cached,
            skipped=skipped,
            failed=failed,
            blocked=counts.get("UpstreamFailed", 0),
            cancelled=cancelled,
            retrying=counts.get("AwaitingRetry", 0) + counts.get("Retrying", 0),
            retries=node.retries if counts_retries else 0,
            rate=rate,
            eta_seconds=left / rate if left and rate else None,
            seconds=seconds,
        )

    def _rate(self, node: NodeView, done: int, now: float, seconds: float | None) -> float | None:
        if node.started is None:  # waiting, for a cluster to come up for instance, says nothing of its pace
            return None
        samples = self._samples.setdefault(node.id, deque([(now - (seconds or 0.0), 0)]))
        samples.append((now, done))
        while len(samples) > 2 and now - samples[0][0] > _WINDOW_SECONDS:
            samples.popleft()
        begin, before = samples[0]
        return (done - before) / (now - begin) if now > begin else None


def rows_of(run: Run, meter: Meter, *, counts_retries: bool = False) -> list[NodeRow]:
    """Return the run's current rows; none before it has begun."""
    try:
        nodes = run.nodes
    except ValueUnavailable:
        return []
    return meter.read(nodes, now=time.time(), counts_retries=counts_retries)


def _seconds(node: NodeView, now: float) -> float | None:
    if node.started is None:
        return None
    worked: Callable[[float], float | None] | None = getattr(node, "worked_seconds", None)
    if worked is not None:
        return worked(now)
    end = node.ended.timestamp() if node.ended is not None else now
    return max(0.0, end - node.started.timestamp())


def format_seconds(seconds: float | None) -> str:
    """Return a duration as text: `0.03 s`, `12.4 s`, `3:05`, `2:00:09`."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return format_eta(seconds)


def format_eta(seconds: float | None) -> str:
    """Return minutes and seconds, such as `0:21`, with hours if there are any."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_rate(rate: float | None) -> str:
    """Return items per second as text: `212k/s`, `9.1k/s`, `410/s`, `3.2/s`."""
    if not rate:
        return ""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rate >= size:
            value = rate / size
            return f"{value:.0f}{unit}/s" if value >= 100 else f"{value:.1f}{unit}/s"
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
