"""The ends of packs on the disk of a machine: what one of its processes wrote to a store, or read there, others need not read there.

Nothing depends on them: what is not here, or is not what was put here, is read from the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from graphflow.errors import GraphflowError, ResultDamaged
from graphflow.results.stores.local import LocalStore

__all__ = ["Nearby", "prune_ends"]

logger = logging.getLogger("graphflow.results")
MAX_END_NBYTES = 256 << 10
LIMIT_NBYTES = 64 << 20
"""Bytes that all pack ends of a task's folder may use."""
KEPT_SECONDS = 86_400.0
COUNT_EVERY = 32
TURN_SECONDS = 5.0
POLL_SECONDS = 0.02
DIGEST_NBYTES = 16


class Nearby:
    """The ends of the packs of one task's folder. Used by several threads.

    Parameters
    ----------
    place
        The folder of the machine's processes (`Site.place`).
    folder
        The task's.
    limit_nbytes
        About how much is kept: all sizes are added up now and then only.
    """

    def __init__(self, place: LocalStore, folder: str, *, limit_nbytes: int = LIMIT_NBYTES) -> None:
        self._place = place
        self._prefix = _prefix(folder)
        self._limit_nbytes = limit_nbytes
        self._kept = 0
        self._is_full = False
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the one process that reads from the store what is not here, so that others find it here; for some seconds at most."""
        file = self._opened()
        try:
            end = time.monotonic() + TURN_SECONDS
            while file is not None and time.monotonic() < end:
                try:
                    # A process that dies lets go of it.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(POLL_SECONDS)
                except OSError as error:
                    logger.debug("%s cannot be locked: %s", self._prefix, error)
                    break
            yield
        finally:
            if file is not None:
                os.close(file)

    def _opened(self) -> int | None:
        path = f"{self._place.folder}/{self._prefix}"
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            return os.open(f"{path}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            logger.debug("%s cannot be locked: %s", path, error)
            return None

    def keep(self, name: str, nbytes: int, end: bytes) -> None:
        """Keep the end of a pack of so many bytes, unless there is much already."""
        if len(end) > MAX_END_NBYTES:
            return
        try:
            with self._lock:
                if self._kept % COUNT_EVERY == 0:
                    total = sum(each.nbytes for each in self._place.entries(self._prefix))
                    self._is_full = total >= self._limit_nbytes
                self._kept += 1
            if not self._is_full:
                self._place.create(self._prefix + name, _digest(name, nbytes, end) + end, is_lasting=False)
        except GraphflowError as error:
            logger.debug("the end of pack %s is not kept on this machine: %s", name, error)

    def end_of(self, name: str, nbytes: int, end_nbytes: int) -> bytes | None:
        """Return the last `end_nbytes` of a pack of `nbytes`; None where they are not here."""
        if end_nbytes > MAX_END_NBYTES:
            return None
        try:
            data = self._place.read(self._prefix + name, 0, DIGEST_NBYTES + end_nbytes)
        except ResultDamaged:
            return None
        except GraphflowError as error:
            logger.debug("the end of pack %s cannot be read on this machine: %s", name, error)
            return None
        end = data[DIGEST_NBYTES:]
        return end if data[:DIGEST_NBYTES] == _digest(name, nbytes, end) else None


def prune_ends(place: LocalStore, folder: str, *, now: float, limit_nbytes: int = LIMIT_NBYTES) -> None:
    """Remove what is old of a task's folder, and the oldest of what takes more than half of the room; others read that from the store.

    Raises
    ------
    ResultStoreError
        If it cannot be removed.
    """
    gone, left = [], limit_nbytes // 2
    for each in sorted(place.entries(_prefix(folder)), key=lambda each: -each.modified):
        left -= each.nbytes
        if left < 0 or each.modified < now - KEPT_SECONDS:
            gone.append(each.name)
    place.delete(gone)


def _prefix(folder: str) -> str:
    return f"ends/{folder}/"


def _digest(name: str, nbytes: int, end: bytes) -> bytes:
    # The machine may have stopped before a file was on its disk.
    return hashlib.blake2b(f"{name} {nbytes} ".encode() + end, digest_size=DIGEST_NBYTES).digest()
