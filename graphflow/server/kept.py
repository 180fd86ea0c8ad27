"""The runs that pages show, kept between requests: what is known of each is brought up to date, not read again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphflow.operations.home import Home
from graphflow.runs.recorded import RecordedRun

__all__ = ["KeptRuns"]

MOST_RUNS = 32
FRESH_SECONDS = 1.0


class _Kept:
    def __init__(self, run: RecordedRun) -> None:
        self.run = run
        self.lock = threading.Lock()
        self.looked = -FRESH_SECONDS


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

    @contextmanager
    def run(self, which: str) -> Iterator[RecordedRun]:
        """Lend a run, for one thread at a time; a second old at most.

        Raises
        ------
        RunNotFound
            If there is none, also where it was removed.
        """
        kept = self._find(which)
        with kept.lock:
            now = self._clock()
            if now - kept.looked >= FRESH_SECONDS:
                try:
                    kept.run.folded()
                    kept.run.refresh()
                except BaseException:
                    self._forget(kept)
                    raise
                kept.looked = now
            yield kept.run

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
