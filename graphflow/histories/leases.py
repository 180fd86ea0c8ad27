"""Who drives a run: locks that end with their holder, beside claims that run out.

On one machine a claim expires by the steady clock, which cannot be set, and a lock on a file shows at once when its
holder died. For other machines there is the wall clock. A holder that was stopped and taken over from is detected by
the number of its claim (its epoch), which every commit is guarded by.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path

from graphflow.common.machine import boot_id
from graphflow.errors import HistoryError
from graphflow.ports import Claim, Holder

__all__ = ["DriverLock", "SystemClock", "is_locked", "noted_claim", "this_process"]

LOCK_NAME = "driver.lock"
CLAIM_NBYTES = 1024


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Return seconds since some moment of this boot."""
        return time.monotonic()


def this_process() -> Holder:
    """Return the holder that this process is."""
    return Holder(socket.gethostname(), os.getpid(), boot_id())


_held: weakref.WeakSet[DriverLock] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    # Closed without unlocking: a child that outlives its parent must not look like the driver.
    for lock in list(_held):
        lock.strand()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_after_fork)


class DriverLock:
    """A lock that the system takes back when its holder dies, however it dies.

    Each holder makes a new file and puts it in the place of the one before: a stopped predecessor keeps the lock
    of a file that is no longer used.

    Raises
    ------
    HistoryError
        If the file cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl

        self.path = folder / LOCK_NAME
        self._temporary = folder / f"{LOCK_NAME}.{os.getpid()}.{os.urandom(4).hex()}"
        self._descriptor = -1
        try:
            self._descriptor = os.open(
                self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.discard()
            raise HistoryError(
                f"the lock file {self._temporary} cannot be created or locked: {error.strerror}; GRAPHFLOW_HOME must be"
                " on a writable disk with file locks"
            ) from error
        _held.add(self)

    def publish(self) -> None:
        """Publish this lock under the name that others check."""
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise HistoryError(f"the lock file {self.path} cannot be created: {error.strerror}") from error

    def note(self, claim: Claim) -> None:
        """Write a claim beside the lock, for others to see while the catalog cannot be written; a failure is harmless."""
        holder = claim.holder
        text = json.dumps(
            [
                claim.run_id,
                claim.epoch,
                holder.host,
                holder.pid,
                holder.boot_id,
                claim.steady_until,
                claim.wall_until,
            ]
        )
        with suppress(OSError):
            os.pwrite(self._descriptor, text.encode().ljust(CLAIM_NBYTES), 0)

    def release(self) -> None:
        """Release it; calling it again does nothing."""
        self.strand()
        _held.discard(self)

    def discard(self) -> None:
        """Release it before it was published."""
        self.release()
        with suppress(OSError):
            self._temporary.unlink()

    def strand(self) -> None:
        """Close this process's hold of it, as at its death."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def noted_claim(folder: Path) -> Claim | None:
    """Return the claim beside the lock that a living process of this machine holds, if there is one."""
    if not is_locked(folder):
        return None
    try:
        with open(folder / LOCK_NAME, "rb") as file:
            run_id, epoch, host, pid, boot_id, steady_until, wall_until = json.loads(file.read(CLAIM_NBYTES))
        return Claim(
            run_id=str(run_id),
            epoch=int(epoch),
            holder=Holder(str(host), int(pid), str(boot_id)),
            steady_until=float(steady_until),
            wall_until=float(wall_until),
        )
    except (OSError, ValueError, TypeError):
        return None


def is_locked(folder: Path) -> bool:
    """Return whether a living process of this machine holds a run's lock."""
    import fcntl

    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
