"""Whether batches on threads hold each other up at the interpreter's lock: measured, not guessed.

All threads of a process together get about one CPU second per second if each of them computes in Python. With
code that frees the lock they get more, and if they wait for something else, less.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["Gauge", "Reading", "Work"]

_DECAY = 0.8


@dataclass(slots=True)
class Work:
    """What the latest batches of one task took; each report weighs more than the ones before it."""

    cpu: float = 0.0
    elapsed: float = 0.0
    items: float = 0.0

    def add(self, *, cpu: float, elapsed: float, items: int) -> None:
        """Count a batch."""
        self.cpu = _DECAY * self.cpu + cpu
        self.elapsed = _DECAY * self.elapsed + elapsed
        self.items = _DECAY * self.items + items

    @property
    def share(self) -> float:
        """CPU seconds per second of a batch."""
        return self.cpu / self.elapsed if self.elapsed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured: over `seconds` in which batches ran, `running` at a time, at `cpu_rate` CPU seconds each."""

    seconds: float
    cpu_rate: float
    running: float


class Gauge:
    """Measures the process while batches run in it.

    Parameters
    ----------
    window_seconds
        How far back it looks; only time in which batches ran counts.
    """

    def __init__(self, *, window_seconds: float = 1.0) -> None:
        self._window = window_seconds
        self._running = 0
        self._now = 0.0
        self._process_cpu = 0.0
        self._sums = (0.0, 0.0, 0.0)
        self._marks: deque[tuple[float, float, float]] = deque([self._sums])

    def change(self, running: int, *, now: float, process_cpu: float) -> None:
        """So many batches run from `now` on; the process has used so many CPU seconds."""
        if self._running:
            seconds = now - self._now
            busy, cpu, area = self._sums
            self._sums = (
                busy + seconds,
                cpu + process_cpu - self._process_cpu,
                area + seconds * self._running,
            )
            if self._sums[0] - self._marks[-1][0] >= self._window / 20:
                self._marks.append(self._sums)
            while len(self._marks) > 2 and self._sums[0] - self._marks[1][0] > self._window:
                self._marks.popleft()
        self._running, self._now, self._process_cpu = running, now, process_cpu

    def reading(self) -> Reading:
        """Return what the window shows."""
        before, sums = self._marks[0], self._sums
        seconds = sums[0] - before[0]
        if seconds <= 0:
            return Reading(0.0, 0.0, 0.0)
        return Reading(seconds, (sums[1] - before[1]) / seconds, (sums[2] - before[2]) / seconds)
