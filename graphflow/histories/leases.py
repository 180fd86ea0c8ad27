"""Who drives a run: claims that run out, and locks that end with their holder.

On one machine a claim expires by the steady clock, which cannot be set, and a lock on a file shows at once when its
holder died. For other machines there is the wall clock. A holder that was stopped and taken over from is detected by
the number of its claim (its epoch), which every commit is guarded by.
"""

from __future__ import annotations

import os
import socket
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graphflow.common.machine import boot_id
from graphflow.errors import HistoryError, LeaseHeld
from graphflow.model.records import Lease
from graphflow.ports import Clock

__all__ = ["Claim", "DriverLock", "Holder", "SystemClock", "claim_of", "is_locked", "this_process"]

LOCK_NAME = "driver.lock"


class SystemClock:
    """The clocks of this machine."""

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Return seconds since some moment of this boot."""
        return time.monotonic()


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that can drive runs; `boot_id` names one boot of one machine, empty where that is not known."""

    host: str
    pid: int
    boot_id: str

    def is_beside(self, other: Holder) -> bool:
        """Return whether both run on one kernel, so that they share its steady clock and its locks."""
        if self.boot_id and other.boot_id:
            return self.boot_id == other.boot_id
        return self.host == other.host

    def outlived_boot_of(self, other: Holder) -> bool:
        """Return whether the other ran before this machine was started again."""
        return bool(
            self.host == other.host and self.boot_id and other.boot_id and self.boot_id != other.boot_id
        )


def this_process() -> Holder:
    """Return the holder that this process is."""
    return Holder(socket.gethostname(), os.getpid(), boot_id())


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease as the catalog holds it."""

    run_id: str
    epoch: int
    holder: Holder
    steady_until: float
    wall_until: float

    def is_alive(self, me: Holder, clock: Clock, *, has_lock: bool) -> bool:
        """Return whether the holder may still drive; `has_lock` is only believed of a holder on the same machine."""
        if me.outlived_boot_of(self.holder):
            return False
        if me.is_beside(self.holder):
            return has_lock and clock.steady() < self.steady_until
        return clock.wall() < self.wall_until

    def lease(self, me: Holder, clock: Clock) -> Lease:
        """Return the same, for people."""
        until = self.wall_until
        if me.is_beside(self.holder):
            until = clock.wall() + (self.steady_until - clock.steady())
        return Lease(epoch=self.epoch, host=self.holder.host, pid=self.holder.pid, until=until)

    def held(self, me: Holder, clock: Clock, what: str) -> LeaseHeld:
        """Return the error for another process that wants the run."""
        lease = self.lease(me, clock)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(lease.until))
        return LeaseHeld(
            f"run {self.run_id} {what}: process {lease.pid} on {lease.host} drives it, until {moment}"
            f" ({max(0.0, lease.until - clock.wall()):.0f} s from now) unless it renews its lease. Wait for it, or"
            " stop that process",
            host=lease.host,
            pid=lease.pid,
            until=lease.until,
        )


def claim_of(run_id: str, epoch: int, holder: Holder, clock: Clock, seconds: float) -> Claim:
    """Return a claim from now on, by both clocks."""
    return Claim(
        run_id=run_id,
        epoch=epoch,
        holder=holder,
        steady_until=clock.steady() + seconds,
        wall_until=clock.wall() + seconds,
    )


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
