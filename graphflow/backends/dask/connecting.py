"""Ways to a Dask cluster: a local one of our own, a class to make one of, or one that is there already."""

from __future__ import annotations

import importlib
import inspect
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.backends.dask.silence import end_process
from graphflow.backends.dask.spawning import leave_main_out
from graphflow.common import settings
from graphflow.errors import BackendError, BackendUnreachable

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Way"]

logger = logging.getLogger("graphflow.backends.dask")
CONNECT_SECONDS = 5.0
LOOPBACK = "127.0.0.1"
_NOISY = (
    "distributed",
    "distributed.client",
    "distributed.scheduler",
    "distributed.nanny",
    "distributed.comm",
    "tornado",
)
"""Loggers that complain while a cluster is being closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to a cluster, checked when it is made.

    `slots` is set for a local cluster of our own, and then nothing else is.
    """

    slots: int | None = None
    address: str | None = None
    scheduler_file: str | None = None
    client: Any = None
    cluster: Any = None
    cluster_class: Any = None
    cluster_kwargs: Mapping[str, Any] = field(default_factory=dict)
    adapt_kwargs: Mapping[str, Any] = field(default_factory=dict)
    client_kwargs: Mapping[str, Any] = field(default_factory=dict)
    worker_timeout_seconds: float = field(default_factory=settings.worker_timeout_seconds)
    wait_for_workers_seconds: float = field(default_factory=settings.wait_for_workers_seconds)

    def __post_init__(self) -> None:
        for name in ("worker_timeout_seconds", "wait_for_workers_seconds"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise BackendError(f"{name} is a number of seconds above 0, not {seconds!r}")
        names = ("address", "scheduler_file", "client", "cluster", "cluster_class")
        chosen = [name for name in names if getattr(self, name) is not None]
        if self.slots is None and len(chosen) != 1:
            found = " and ".join(chosen) if chosen else "none"
            raise BackendError(f"dask(...) takes exactly one of {', '.join(names)}; given: {found}")
        if (self.cluster_kwargs or self.adapt_kwargs) and self.cluster_class is None:
            raise BackendError(
                "dask(...): cluster_kwargs and adapt_kwargs need cluster_class, which was not given"
            )

    def __str__(self) -> str:
        if self.slots is not None:
            return f"processes({self.slots})"
        return f"dask({self.address or self.scheduler_file or self.cluster_class or 'a given cluster'})"

    @property
    def is_own(self) -> bool:
        """Whether the cluster is made, and so closed, by us."""
        return self.slots is not None or self.cluster_class is not None

    def check_class(self) -> None:
        """Raise `BackendError` if there is no such cluster class."""
        if self.cluster_class is not None:
            _cluster_class(self.cluster_class)

    def connect(self) -> tuple[Client, Any]:
        """Return a client, and the cluster if it was made here.

        Raises
        ------
        BackendUnreachable
            If no scheduler answers within seconds.
        BackendError
            If the class does not exist or the client cannot be used.
        """
        from distributed import Client

        options: dict[str, Any] = {"set_as_default": False, "timeout": CONNECT_SECONDS, **self.client_kwargs}
        if self.is_own:
            cluster = self._make()
            # The scheduler of a local cluster is in this process: a message to it need not become bytes.
            near = _inside_address(cluster) if self.slots is not None else None
            if near is not None:
                return Client(near, loop=cluster.loop, **options), cluster
            return Client(cluster, **options), cluster
        if self.client is not None:
            if getattr(self.client, "asynchronous", False):
                raise BackendError(
                    "dask(client=...) takes a synchronous client; create one with Client(address)"
                )
            return self.client, None
        if self.cluster is not None:
            return Client(self.cluster, **options), None
        if self.scheduler_file is not None and not Path(self.scheduler_file).exists():
            raise BackendUnreachable(f"there is no scheduler file {self.scheduler_file}")
        try:
            if self.scheduler_file is not None:
                return Client(scheduler_file=self.scheduler_file, **options), None
            return Client(self.address, **options), None
        except (OSError, ValueError) as error:
            raise BackendUnreachable(
                f"no Dask scheduler answers at {self.address or self.scheduler_file} within {CONNECT_SECONDS:g} s "
                f"({type(error).__name__}: {error}); is it running, and is the address right?"
            ) from error

    def _make(self) -> Any:
        import dask
        from distributed import LocalCluster

        leave_main_out()
        with dask.config.set(_SETTINGS), _interrupts_blocked():
            if self.slots is not None:
                return LocalCluster(
                    n_workers=self.slots,
                    # One batch runs in a process, another waits there, decoded.
                    threads_per_worker=2,
                    processes=True,
                    # No dashboard. Dask serves call stacks and metrics here without asking who reads them, on every
                    # interface of the machine unless it is told otherwise; port 0 is one that nothing else uses.
                    dashboard_address=f"{LOOPBACK}:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                )
            make = _cluster_class(self.cluster_class)
            cluster = make(**{**_on_loopback(make), **self.cluster_kwargs})
            if self.adapt_kwargs:
                cluster.adapt(**self.adapt_kwargs)
            return cluster

    def disconnect(self, client: Client | None, cluster: Any) -> None:
        """Close what `connect` made, in silence; a client or cluster that was given stays open."""
        noisy = [logging.getLogger(name) for name in _NOISY]
        levels = [each.level for each in noisy]
        for each in noisy:
            each.setLevel(logging.CRITICAL + 1)
        try:
            if client is not None and cluster is not None:
                _quietly(lambda: client.unsubscribe_topic("all"))
            if client is not None and client is not self.client:
                _quietly(client.close)
            elif client is not None:
                _quietly(lambda: client.unsubscribe_topic("all"))
            if cluster is not None:
                _quietly(cluster.close)
        except BaseException:
            # Ctrl-C, again: nobody waits for what workers do.
            if self.slots is not None and cluster is not None:
                _abandon(cluster)
            raise
        finally:
            for each, level in zip(noisy, levels, strict=True):
                each.setLevel(level)


def _abandon(cluster: Any) -> None:
    """End the processes of a local cluster that is not waited for any more, and let Dask forget it."""
    cluster.shutdown_on_close = False
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
        pid = getattr(nanny, "pid", None)
        if pid:
            end_process(pid)


def _quietly(action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception:
        logger.debug("closing failed", exc_info=True)


def _on_loopback(make: Callable[..., Any]) -> dict[str, Any]:
    """Return arguments that keep Dask's HTTP server on the loopback interface, if the cluster class accepts them."""
    try:
        default = inspect.signature(make).parameters["dashboard_address"].default
    except (KeyError, TypeError, ValueError):
        return {}
    # Dask's own default is a port on all interfaces, as ":8787".
    return {"dashboard_address": LOOPBACK + default} if str(default).startswith(":") else {}


def _inside_address(cluster: Any) -> str | None:
    """Return an address of a local cluster's scheduler for clients in this process; None if there is none."""
    try:
        cluster.sync(cluster.scheduler.listen, "inproc://", allow_offload=False)
        addresses = [str(each.contact_address) for each in cluster.scheduler.listeners]
    except Exception:
        logger.debug("the scheduler is reached by its port", exc_info=True)
        return None
    return next((each for each in addresses if each.startswith("inproc://")), None)


_SETTINGS: dict[str, Any] = {
    # Crashes are attributed and retried by graphflow: Dask must not run a batch again by itself.
    "distributed.scheduler.allowed-failures": 0,
    # An item that holds the interpreter's lock for minutes is not a dead worker.
    "distributed.scheduler.worker-ttl": None,
    # Batches are sent to the worker that is to run them.
    "distributed.scheduler.work-stealing": False,
    # What an idle cluster does all the time takes from the cores that tasks run on.
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.admin.low-level-log-length": 10,
    # Samplers that ask for the interpreter's lock many times a second slow pure Python items down by a tenth.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in threads and processes that are started in this context: Ctrl-C in a terminal is the driver's alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first spawn starts multiprocessing's tracker, and unblocks SIGINT in the thread that does it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cluster_class(spec: Any) -> Callable[..., Any]:
    if not isinstance(spec, str):
        if not callable(spec):
            raise BackendError(f"cluster_class must be a class or its dotted path, not {spec!r}")
        made: Callable[..., Any] = spec
        return made
    module, _, name = spec.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackendError(f"there is no cluster class {spec!r}: {type(error).__name__}: {error}") from error
    return found
