"""Which items of a batch have started, ended and been reported, and the thread that reports while it runs.

Positions are handed out by one iterator of C, whose steps nothing interrupts: how many were taken can be read at any
time, and what was not taken can be taken away. So the thread that runs the items pays nothing for it.
"""

from __future__ import annotations

import logging
import operator
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, TypeVar

from graphflow.model.reports import Graft
from graphflow.runner.watchdog import watchdog

__all__ = [
    "CONCURRENT_TELL_SECONDS",
    "LATE_SECONDS",
    "TELL_SECONDS",
    "Positions",
    "Teller",
    "inputs_of",
    "part_of",
    "records_of",
]

logger = logging.getLogger("graphflow.runner")
LATE_SECONDS = 0.1
"""A slice may be over for this long before finished items are reported and the rest is handed back."""
TELL_SECONDS = 0.5
CONCURRENT_TELL_SECONDS = 0.25
BUSY_SECONDS = 0.01
_RUNS, _ENDED, _TOLD = range(3)
_IS_RUNNING, _IS_ENDED = bytes([1, 0, 0]).ljust(256, b"\0"), bytes([0, 1, 0]).ljust(256, b"\0")


class Positions:
    """The positions of one batch.

    Attributes
    ----------
    rest
        Yields the positions that were not started; the caller runs those that it takes.
    lock
        Held while a report is made and delivered, so that reports come one after the other.
    is_over
        Whether the last report was made, or is being made.

    Parameters
    ----------
    in_turn
        Whether an item ends before the next one begins; else `mark_ended` is called for each.
    """

    def __init__(self, size: int, *, in_turn: bool) -> None:
        self.size = size
        self.rest = iter(range(size))
        self.lock = threading.Lock()
        self.is_over = False
        self.is_cut = False
        self._end = size
        self._told = 0
        self._flags = None if in_turn else bytearray(size)
        self._hands_back = False

    @property
    def taken(self) -> int:
        """How many positions were taken to run."""
        return self._end if self.is_cut else self.size - operator.length_hint(self.rest)

    @property
    def has_rest(self) -> bool:
        """Whether some positions were not taken."""
        return operator.length_hint(self.rest) > 0

    def cut(self) -> None:
        """Start nothing more; items that were not taken are handed back with the next report."""
        left = len(list(self.rest))
        if not self.is_cut:
            self._end = self.size - left
            self.is_cut = True
            self._hands_back = left > 0

    def mark_ended(self, positions: Sequence[int]) -> None:
        """Mark items as ended, in any order."""
        flags = self._flags
        assert flags is not None
        for position in positions:
            flags[position] = _ENDED

    def part(self) -> tuple[Sequence[int], Sequence[int]] | None:
        """Return the finished items that were not reported, and those that still run; None if there is nothing to report.

        Items that were not taken continue too, unless they were cut off.
        """
        if self._flags is None:
            active = self.taken - 1
            if active < 0 or (active <= self._told and not self._hands_back):
                return None
            return range(self._told, active), range(active, self._end)
        # Read before `taken`: what has ended was taken before.
        flags = bytes(self._flags)
        taken = self.taken
        ended = list(compress(range(taken), flags.translate(_IS_ENDED)))
        running = list(compress(range(taken), flags.translate(_IS_RUNNING)))
        if not (ended or self._hands_back) or not (running or taken < self._end):
            return None
        return _joined(ended), _joined([*running, *range(taken, self._end)])

    def told(self, positions: Sequence[int]) -> None:
        """Record that a report of these, which are of the last `part`, was delivered."""
        if self.is_cut:
            self._hands_back = False
        if self._flags is None:
            self._told += len(positions)
        else:
            for position in positions:
                self._flags[position] = _TOLD

    def last(self, reached: int | None = None) -> Sequence[int]:
        """Return what the last report tells: of items that run in turn, up to `reached`."""
        self.is_over = True
        if self._flags is None:
            assert reached is not None
            return range(self._told, reached)
        return _joined(list(compress(range(self.size), self._flags.translate(_IS_ENDED))))


def _joined(positions: Sequence[int]) -> Sequence[int]:
    """Return ascending positions, as a range where they are one."""
    if positions and positions[-1] - positions[0] + 1 == len(positions):
        return range(positions[0], positions[-1] + 1)
    return positions or range(0)


_Column = TypeVar("_Column", bound="list[Any] | bytearray | array[float] | array[int]")


def part_of(column: _Column, positions: Sequence[int]) -> _Column:
    """Return the entries of these positions, in their order."""
    part: Any
    if isinstance(positions, range):
        part = column[positions.start : positions.stop]
    else:
        part = column[:0]
        part.extend([column[position] for position in positions])
    return part  # type: ignore[no-any-return]


def records_of(records: Sequence[Graft], positions: Sequence[int]) -> tuple[Graft, ...]:
    """Return the grafts of these positions; in a report, a graft names the place there."""
    if not records:
        return ()
    if isinstance(positions, range):
        first = positions.start
        chosen = tuple(each for each in records if each.position in positions)
        return tuple(replace(each, position=each.position - first) for each in chosen) if first else chosen
    places = {position: place for place, position in enumerate(positions)}
    return tuple(replace(each, position=places[each.position]) for each in records if each.position in places)


def inputs_of(inputs: Mapping[int, str], positions: Sequence[int]) -> dict[int, str]:
    """Return the texts of these positions, by their places in the report."""
    if not inputs:
        return {}
    # Another thread may add to it.
    texts = dict(inputs)
    if isinstance(positions, range):
        return {each - positions.start: text for each, text in texts.items() if each in positions}
    return {place: texts[each] for place, each in enumerate(positions) if each in texts}


class Teller:
    """Lets a batch tell what has ended; looked at by the watchdog.

    It tells in a thread of its own: storing values takes as long as it takes, and timeouts are not to wait for it.

    Parameters
    ----------
    tell
        Makes and delivers a report, if there is something to say.
    first
        Seconds until it is called first.
    every
        Seconds until it is called again.
    is_in_step
        Whether it is called at multiples of `every`, so that the batches of all processes of a machine tell together, and what
        they tell is written together.
    """

    def __init__(
        self, tell: Callable[[], None], *, first: float, every: float, is_in_step: bool = False
    ) -> None:
        self._tell = tell
        self._every = every
        self._is_in_step = is_in_step
        self._thread: threading.Thread | None = None
        now = time.monotonic()
        self.due = self._next(now) if is_in_step else now + first

    def _next(self, now: float) -> float:
        """Return when to tell again."""
        return (now // self._every + 1) * self._every if self._is_in_step else now + self._every

    def check(self, now: float) -> float:
        """Report if it is time; return the next time to check."""
        if now < self.due:
            return self.due
        if self._thread is not None and self._thread.is_alive():
            return now + BUSY_SECONDS
        self.due = self._next(now)
        # No `Service`: one report, when the watchdog says so; a thread that waits would be one more per batch.
        self._thread = threading.Thread(target=self._run, name="graphflow-report", daemon=True)
        self._thread.start()
        return self.due

    def hurry(self) -> None:
        """Report at once, or as soon as the current report is sent."""
        self.due = 0.0
        watchdog().look_at(self.due)

    def _run(self) -> None:
        try:
            self._tell()
        except Exception:
            # What could not be told now is told by the last report.
            logger.debug("a partial report of a batch failed", exc_info=True)
