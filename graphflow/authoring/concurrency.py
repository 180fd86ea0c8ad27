"""`concurrency` and `rate_limit`: the limits and rates of all runs, for any code; one round trip each, so for slow things.

A process has one holder for all of its code, known by a lock that ends with it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from graphflow.common import settings
from graphflow.common.service import Service
from graphflow.errors import HistoryError, NotFound, ParameterError
from graphflow.histories.leases import DriverLock, SystemClock, is_locked
from graphflow.histories.limiting import HOLDERS, CatalogLimiter
from graphflow.histories.sqlite import SqliteHistory

__all__ = ["concurrency", "rate_limit", "rate_limit_async"]

TERM_SECONDS = 30.0
PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = (0.05, 0.15)
"""Between two questions for slots that others have."""
SWEPT_SECONDS = 60.0
"""A lock that nobody has is removed when it is so old: one that is new may not be locked yet."""
MOST_AHEAD = 1_000
"""No more starts are asked for at once."""


class _Holder:
    """What this process has of limits; made at its first use, and again after a fork."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._pid = 0
        self._used: Counter[str] = Counter()
        self._limiter: CatalogLimiter | None = None
        self._lock: DriverLock | None = None
        self._keeper: Service | None = None
        self._home = ""

    def limiter(self) -> CatalogLimiter:
        """Return this process's part of the limits of the home."""
        home = str(settings.home())
        if self._limiter is not None and self._pid == os.getpid() and self._home == home:
            return self._limiter
        history = SqliteHistory()
        name = f"{HOLDERS}/{os.getpid()}-{os.urandom(4).hex()}"
        folder = history.folder / name
        catalog = history.connect(patience=PATIENCE_SECONDS)
        _sweep(history.folder / HOLDERS)
        folder.mkdir(parents=True)
        self._lock = DriverLock(folder)
        self._lock.publish()
        self._limiter = CatalogLimiter(
            catalog, catalog, clock=SystemClock(), holder=name, term_seconds=TERM_SECONDS
        )
        self._pid, self._home, self._used = os.getpid(), home, Counter()
        self._keeper = Service(self._limiter.renew, name="graphflow-holder", interval=TERM_SECONDS / 3)
        self._keeper.start()
        return self._limiter

    def occupy(self, name: str, slots: int) -> bool | None:
        with self._guard:
            taken = self.limiter().occupy(name, slots, in_use=self._used[name])
            if taken:
                self._used[name] += slots
            return taken

    def release(self, name: str, slots: int) -> None:
        with self._guard:
            limiter = self.limiter()
            self._used[name] = max(0, self._used[name] - slots)
            limiter.release(name, in_use=self._used[name])

    def give_up(self, name: str) -> None:
        with self._guard:
            self.limiter().release(name, in_use=self._used[name])

    def reserve(self, name: str, count: int) -> float | None:
        with self._guard:
            return self.limiter().reserve(name, count)

    def close(self) -> None:
        """Let go what is held; the folder of the lock goes with it."""
        if self._pid != os.getpid() or self._lock is None:
            return
        if self._keeper is not None:
            self._keeper.stop()
        shutil.rmtree(self._lock.path.parent, ignore_errors=True)
        self._lock.release()
        self._limiter = self._lock = None


def _sweep(folder: Path) -> None:
    """Remove what processes left that were killed."""
    with suppress(OSError):
        for each in list(folder.glob("*")):
            if each.stat().st_mtime < time.time() - SWEPT_SECONDS and not is_locked(each):
                shutil.rmtree(each, ignore_errors=True)


_holder = _Holder()
atexit.register(_holder.close)


class concurrency:
    """Hold slots of limits while a block runs; `with` in any code, `async with` in a coroutine.

    Parameters
    ----------
    names
        A limit, or several, which are taken in the order of their names. One that does not exist holds nothing up.
    occupy
        How many slots of each.
    timeout_seconds
        How long slots are waited for; None for ever.
    strict
        Whether a limit that does not exist is an error.

    Raises
    ------
    TimeoutError
        If the slots were not free in time.
    NotFound
        With `strict`, if there is no such limit.
    ParameterError
        If `occupy` is not an integer, 1 or more.
    HistoryError
        If the catalog cannot be read or written.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        occupy: int = 1,
        *,
        timeout_seconds: float | None = None,
        strict: bool = False,
    ) -> None:
        self._names = sorted(_names(names))
        self._occupy = _count("occupy", occupy)
        self._timeout_seconds = timeout_seconds
        self._strict = strict
        self._taken: list[str] = []

    def _try(self, name: str, deadline: float | None) -> bool:
        """Take the slots of one limit; False to be tried again."""
        taken = _holder.occupy(name, self._occupy)
        if taken is None and self._strict:
            raise NotFound(f"there is no limit {name!r}; `graphflow limits set {name} SIZE` makes it")
        if taken:
            self._taken.append(name)
        if taken is False and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(
                f"{self._occupy} slots of the limit {name!r} were not free within {self._timeout_seconds} s"
            )
        return taken is not False

    def _deadline(self) -> float | None:
        return None if self._timeout_seconds is None else time.monotonic() + self._timeout_seconds

    def __enter__(self) -> None:
        deadline = self._deadline()
        try:
            for name in self._names:
                while not self._try(name, deadline):
                    time.sleep(random.uniform(*PAUSE_SECONDS))
        except BaseException:
            self._let_go(self._names)
            raise

    async def __aenter__(self) -> None:
        deadline = self._deadline()
        try:
            for name in self._names:
                while not await asyncio.to_thread(self._try, name, deadline):
                    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
        except BaseException:
            self._let_go(self._names)
            raise

    def _let_go(self, names: Sequence[str]) -> None:
        """Let all slots go, and the wish for those that were not given."""
        for name in names:
            # What cannot be written ends with the term.
            with suppress(HistoryError):
                if name in self._taken:
                    self._taken.remove(name)
                    _holder.release(name, self._occupy)
                else:
                    _holder.give_up(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._let_go([*self._taken])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._let_go, [*self._taken])


def rate_limit(names: str | Sequence[str], occupy: int = 1, *, strict: bool = False) -> None:
    """Wait for the next start of rates.

    Parameters
    ----------
    names
        A rate, or several. One that does not exist holds nothing up.
    occupy
        How many starts this is: the next one of others comes so much later.
    strict
        Whether a rate that does not exist is an error.

    Raises
    ------
    NotFound
        With `strict`, if there is no such rate.
    ParameterError
        If `occupy` is not an integer from 1 to 1,000.
    HistoryError
        If the catalog cannot be read or written.
    """
    time.sleep(_seconds_until(names, occupy, strict))


async def rate_limit_async(names: str | Sequence[str], occupy: int = 1, *, strict: bool = False) -> None:
    """Wait for the next start of rates in a coroutine; see `rate_limit`."""
    await asyncio.sleep(await asyncio.to_thread(_seconds_until, names, occupy, strict))


def _seconds_until(names: str | Sequence[str], occupy: int, strict: bool) -> float:
    """Reserve starts of rates; return the seconds until all of them have one."""
    count = _count("occupy", occupy)
    if count > MOST_AHEAD:
        raise ParameterError(f"occupy is at most {MOST_AHEAD} starts, not {occupy}")
    seconds = 0.0
    for name in _names(names):
        end = _holder.reserve(name, count)
        if end is None and strict:
            raise NotFound(f"there is no rate {name!r}; `graphflow rates set {name} 50/s` makes it")
        seconds = max(seconds, end or 0.0)
    return seconds


def _names(names: str | Sequence[str]) -> list[str]:
    every: list[Any] = [names] if isinstance(names, str) else [*names]
    if not every or not all(isinstance(name, str) and name for name in every):
        raise ParameterError(f"a name of a limit or rate, or a list of names, is needed, not {names!r}")
    return list(dict.fromkeys(every))


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(f"{what} must be an integer, 1 or more, not {value!r}")
    return int(value)
