"""When a driver writes digests of its run's history, and of what they are made.

A short run has none: it is read as quickly without. Only when one is due for the first time is what was written so far read
back; from then on each commit is added as it is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from graphflow.errors import GraphflowError
from graphflow.model.records import Entry, Record
from graphflow.ports import History
from graphflow.records.codec import decode
from graphflow.records.digest import digest_record, forget_told
from graphflow.records.rebuilding import catch_up, folded_replay
from graphflow.records.replay import Replay

__all__ = ["Digests"]

_logger = logging.getLogger("graphflow.driver.digesting")
EVERY_RECORDS = 20_000
"""After so many records a digest is due at once; a reader replays no more than these."""
LEAST_RECORDS = 1_000
"""Fewer are replayed as quickly as a digest is read."""
EVERY_SECONDS = 30.0
SHARE = 0.02


class Digests:
    """The digests of one run, as its driver writes them.

    Parameters
    ----------
    history
        Where the run's records are read back from.
    run_id
        The run's id.
    every, least
        How many records a digest is due after: in any case, and where one was not written for long.
    share
        The part of the time that writing them may take, but for the last one of a launch.
    clock
        Seconds, for intervals.
    """

    def __init__(
        self,
        history: History,
        run_id: str,
        *,
        every: int = EVERY_RECORDS,
        least: int = LEAST_RECORDS,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._history = history
        self._run_id = run_id
        self._every = every
        self._least = least
        self._share = share
        self._clock = clock
        self._replay: Replay | None = None
        self._previous = 0
        self._made: tuple[Replay, int] | None = None
        """What the digest that is being written was made of, and its number."""
        self._count = self._seq = 0
        self._looked = self._not_before = clock()

    def wrote(self, records: Sequence[Record], *, seq: int, number: int, epoch: int) -> None:
        """Add a commit that is durable; `number` is that of its last record."""
        self._count += len(records)
        self._seq = seq
        replay = self._replay
        if replay is None:
            return
        first = number - len(records) + 1
        try:
            for place, record in enumerate(records):
                replay.add(Entry(seq, place, epoch, record, first + place))
        except GraphflowError:
            # It is read back when the next one is due.
            self._replay = None
            _logger.warning("run %s: its digest is made from its history again", self._run_id, exc_info=True)

    def is_due(self, *, at_end: bool = False) -> bool:
        """Return whether a digest is to be written now."""
        if self._count < self._least:
            return False
        if at_end:
            return True
        now = self._clock()
        return now >= self._not_before and (self._count >= self._every or now - self._looked >= EVERY_SECONDS)

    def record(self, *, number: int, at: float) -> Record:
        """Return the next digest, which will have a number; call `written` once it is durable.

        Raises
        ------
        GraphflowError
            If the history cannot be read back.
        """
        begin = self._clock()
        replay = self._replay
        if replay is None:
            replay, self._previous = folded_replay(self._history, self._run_id, read=_value_of)
            if self._previous:
                forget_told(replay)
            catch_up(replay, self._history, self._run_id)
        # Also of commits without records.
        replay.seq = self._seq
        # What follows forgets: if it is not written, all is read back.
        self._replay = None
        made = digest_record(replay, number=number, previous=self._previous, at=at)
        self._made = replay, number
        self._not_before = self._clock() + (self._clock() - begin) / self._share
        return made

    def written(self) -> None:
        """Go on from the digest that `record` gave: it is durable."""
        if self._made is not None:
            self._replay, self._previous = self._made
        self._made = None
        self._count = 0
        self._looked = self._clock()

    def failed(self) -> None:
        """Wait for the next interval: the digest could not be made or written."""
        self._replay = self._made = None
        self._count = 0
        self._looked = self._clock()


def _value_of(record: Record, *, seq: int | None = None) -> Any:
    return decode(record, seq=seq) if record.value is None else record.value
