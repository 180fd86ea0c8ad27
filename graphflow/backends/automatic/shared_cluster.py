"""A local cluster of worker processes that comes up in the background and stays warm between its users."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphflow.backends.dask.cluster import DaskBackend

__all__ = ["SharedCluster", "shared_cluster_of"]

logger = logging.getLogger("graphflow.backends")
IDLE_SECONDS = 300.0
STARTING_SWITCH_SECONDS = 0.0002
Ready = Callable[["DaskBackend | None"], None]


class SharedCluster:
    """One cluster and the count of its users.

    Parameters
    ----------
    slots
        Worker processes.
    idle_seconds
        How long the cluster stays without a user.
    """

    def __init__(self, slots: int, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self.slots = slots
        self._idle_seconds = idle_seconds
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._users = 0
        self._backend: DaskBackend | None = None
        self._starter: threading.Thread | None = None
        self._waiting: list[Ready] = []
        self._timer: threading.Timer | None = None
        self._is_broken = False
        self._is_closed = False

    @property
    def users(self) -> int:
        """How many use it."""
        return self._users

    @property
    def backend(self) -> DaskBackend | None:
        """The cluster, where it is up."""
        found = self._backend
        return found if found is not None and not found.is_failed and self._pid == os.getpid() else None

    def acquire(self, ready: Ready) -> None:
        """Become a user; `ready` is called once the cluster is up, from another thread if it is not up yet.

        It gets None where there can be no cluster: it did not come up, or this process is a fork of the one that
        made it.
        """
        with self._lock:
            self._users += 1
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._pid != os.getpid() or self._is_broken or self._is_closed:
                found = None
            elif self.backend is not None:
                found = self._backend
            else:
                self._waiting.append(ready)
                if self._starter is None:
                    # The interpreter's end waits for it: half a cluster could not be closed.
                    self._starter = threading.Thread(
                        target=self._start, name="graphflow-cluster", daemon=False
                    )
                    _before_exit(self.close)
                    self._starter.start()
                return
        ready(found)

    def release(self) -> None:
        """End being a user; after some time without any the cluster is closed."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and not self._is_closed and self._pid == os.getpid():
                # No `Service`: it acts once, and is cancelled under the lock that it takes itself.
                self._timer = threading.Timer(self._idle_seconds, self._idle)
                self._timer.daemon = True
                self._timer.name = "graphflow-idle"
                self._timer.start()

    def _start(self) -> None:
        from graphflow.backends.dask.cluster import DaskBackend
        from graphflow.backends.dask.connecting import Way

        made: DaskBackend | None = None
        failed, self._backend = self._backend, None
        # Threads that compute let go of the interpreter's lock this often. Each file that an import opens waits for
        # that once: 0.5 s of work take 10 s beside them by default, and 1 s so.
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, STARTING_SWITCH_SECONDS))
        try:
            if failed is not None:
                failed.close()
            made = DaskBackend(Way(slots=self.slots))
            made.start()
        except BaseException as error:
            made = None
            logger.debug("the local cluster did not start", exc_info=True)
            if not self._is_closed:
                logger.warning(
                    "no local worker processes could be started (%s: %s); all tasks stay on threads of this process",
                    type(error).__name__,
                    error,
                )
        finally:
            sys.setswitchinterval(before)
        with self._lock:
            self._backend, self._is_broken, self._starter = made, made is None, None
            waiting, self._waiting = self._waiting, []
        for ready in waiting:
            ready(made)

    def _idle(self) -> None:
        with self._lock:
            if self._users:
                return
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def close(self) -> None:
        """Close the cluster for good; one that is just coming up is waited for."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._is_closed = True
            starter = self._starter
            if self._timer is not None:
                self._timer.cancel()
        if starter is not None and starter is not threading.current_thread():
            starter.join()
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()
        _not_before_exit(self.close)


def _before_exit(close: Callable[[], None]) -> None:
    """Call back at the interpreter's end, while threads can still be started: coming up and closing need them."""
    import concurrent.futures.thread  # noqa: F401  (its own end comes after what is registered later)

    register = getattr(threading, "_register_atexit", atexit.register)
    with _SHARED.lock:
        if close in _SHARED.closing:
            return
        _SHARED.closing.append(close)
        if not _SHARED.is_registered:
            _SHARED.is_registered = True
            register(_SHARED.close)


def _not_before_exit(close: Callable[[], None]) -> None:
    with _SHARED.lock:
        if close in _SHARED.closing:
            _SHARED.closing.remove(close)


class _Shared:
    """The shared clusters of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clusters: dict[int, SharedCluster] = {}
        self.closing: list[Callable[[], None]] = []
        self.is_registered = False
        self.inherited: list[object] = []
        """What a fork got of its parent: kept as it is, since closing it would close the parent's."""

    def close(self) -> None:
        """Close all shared clusters of this process."""
        with self.lock:
            closing = list(self.closing)
        for close in closing:
            close()

    def forget(self) -> None:
        """Start over in a forked process, and leave the parent's clusters alone."""
        self.inherited += [self.clusters, self.closing]
        self.lock = threading.Lock()
        self.clusters, self.closing = {}, []


_SHARED = _Shared()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.forget)


def shared_cluster_of(slots: int) -> SharedCluster:
    """Return the cluster that all runs of this process share, for a number of worker processes."""
    with _SHARED.lock:
        found = _SHARED.clusters.get(slots)
        if found is None or found._is_closed:
            found = _SHARED.clusters[slots] = SharedCluster(slots)
        return found
