"""The runs that pages show, kept between requests: what is known of each is brought up to date, not read again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from graphflow.operations.home import Home
from graphflow.runs.recorded import RecordedRun

__all__ = ["KeptRuns"]

T = TypeVar("T")

MOST_RUNS = 32
MOST_PAGES = 8
"""Of each run."""
FRESH_SECONDS = 1.0


class _Kept:
    def __init__(self, run: RecordedRun) -> None:
        self.run = run
        self.lock = threading.Lock()
        self.looked = -FRESH_SECONDS
        self.pages: OrderedDict[Hashable, Any] = OrderedDict()
        """What was made of it as it is now."""
        self.stands: tuple[int, str] | None = None
        """Its last commit and its state, where it has ended."""

    def look(self) -> None:
        """Bring it up to date; pages stay where nothing can have changed."""
        self.run.folded()
        self.run.refresh()
        stands = (self.run.replay.seq, self.run.state_name) if self.run.is_over else None
        if stands is None or stands != self.stands:
            self.pages.clear()
        self.stands = stands


class KeptRuns:
    """At most 32 runs, of which the least recently used goes first; each takes 2 bytes per item.

    Parameters
    ----------
    home
        Where they are.
    clock
        Seconds that never go back.
    """

    def __init__(self, home: Home, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def page(self, which: str, key: Hashable, make: Callable[[RecordedRun], T]) -> T:
        """Return what is made of a run, made once for all who ask for the same while the run is as it is; errors as for `run`."""
        with self._lent(which) as kept:
            if key not in kept.pages:
                kept.pages[key] = make(kept.run)
                while len(kept.pages) > MOST_PAGES:
                    kept.pages.popitem(last=False)
            found: T = kept.pages[key]
            return found

    @contextmanager
    def run(self, which: str) -> Iterator[RecordedRun]:
        """Lend a run, for one thread at a time; a second old at most.

        Raises
        ------
        RunNotFound
            If there is none, also where it was removed.
        """
        with self._lent(which) as kept:
            yield kept.run

    @contextmanager
    def _lent(self, which: str) -> Iterator[_Kept]:
        kept = self._find(which)
        with kept.lock:
            now = self._clock()
            if now - kept.looked >= FRESH_SECONDS:
                try:
                    kept.look()
                except BaseException:
                    self._forget(kept)
                    raise
                kept.looked = now
            yield kept

    def _find(self, which: str) -> _Kept:
        with self._lock:
            kept = self._kept.get(which)
        if kept is None:
            found = self._home.runs.run(which)
            with self._lock:
                kept = self._kept.setdefault(found.id, _Kept(found))
        with self._lock:
            self._kept[kept.run.id] = kept
            self._kept.move_to_end(kept.run.id)
            while len(self._kept) > MOST_RUNS:
                self._kept.popitem(last=False)
        return kept

    def _forget(self, kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(kept.run.id) is kept:
                del self._kept[kept.run.id]
