"""Taking turns to write a database that many processes share.

SQLite's lock has no queue: a process that finds it taken sleeps, longer each time, while others that come later get it. A lock on a
file beside the database is asked for before each transaction, at short intervals. It only helps: who has no turn within a second goes on
without, and what shuts out others is SQLite's own lock.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["turn"]

LONGEST_SECONDS = 1.0
PAUSE_SECONDS = (0.0005, 0.002)


@contextmanager
def turn(path: Path | None, seconds: float) -> Iterator[None]:
    """Hold the lock of a file while the block runs, if it is free within so many seconds, at most one; without a path, do nothing.

    The lock is on an open file of its own, so that it ends with the block, or with the process.
    """
    descriptor = None if path is None else _taken(path, min(seconds, LONGEST_SECONDS))
    try:
        yield
    finally:
        if descriptor is not None:
            _let_go(descriptor)


def _let_go(descriptor: int) -> None:
    import fcntl

    with suppress(OSError):
        # Not by closing it alone: a process that was forked meanwhile has it open, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    with suppress(OSError):
        os.close(descriptor)


def _taken(path: Path, seconds: float) -> int | None:
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (ImportError, OSError):
        return None
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if not isinstance(error, BlockingIOError) or time.monotonic() >= deadline:
                with suppress(OSError):
                    os.close(descriptor)
                return None
        time.sleep(random.uniform(*PAUSE_SECONDS))
