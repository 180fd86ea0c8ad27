"""Backends: where batches run.

`inline()` and `threads()` need only this process; `local()`, the default, loads distributed when there is
enough work for worker processes; `processes()` and `dask()` load it when they are started.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

# Loaded here, before the function `dask` is made: who loads it later puts the folder in the function's place.
import graphflow.backends.dask  # noqa: F401
from graphflow.backends.automatic.shared_cluster import shared_cluster_of
from graphflow.backends.automatic.switching import LocalBackend, cores
from graphflow.backends.local import InlineBackend, ThreadsBackend, check_slots
from graphflow.common import settings
from graphflow.errors import BackendError
from graphflow.ports import Backend

if TYPE_CHECKING:
    from graphflow.backends.dask.cluster import DaskBackend

__all__ = ["check_spec", "dask", "inline", "local", "processes", "reached", "resolve", "threads"]


def inline() -> InlineBackend:
    """Run batches in the thread that waits for them, one at a time; a debugger works."""
    return InlineBackend()


def threads(slots: int | None = None) -> ThreadsBackend:
    """Run batches on `slots` threads of this process; by default the number of cores plus four."""
    return ThreadsBackend(slots)


def local(slots: int | None = None) -> LocalBackend:
    """Run batches on threads of this process, and on worker processes once there is enough CPU work.

    The default of every flow. `slots` is the number of threads and of processes; by default one process per core.
    The processes start in the background, and stay until `close()` or the end of a `with` block.
    """
    return LocalBackend(slots)


def processes(
    slots: int | None = None,
    *,
    worker_timeout_seconds: float | None = None,
    wait_for_workers_seconds: float | None = None,
) -> DaskBackend:
    """Run batches on a local Dask cluster of `slots` worker processes; by default one per core.

    It needs no `__main__` guard. The cluster starts with the first run and stays until `close()`, the end of
    a `with` block, or the interpreter's end.

    Parameters
    ----------
    worker_timeout_seconds
        Seconds of silence after which a worker is taken for lost and what runs there goes to others; by default the setting
        `workers.timeout_seconds`, 60.
    wait_for_workers_seconds
        Seconds for which a run waits where there are no workers, and five times that while some are starting; by default
        the setting `workers.wait_seconds`, 60.
    """
    from graphflow.backends.dask.cluster import DaskBackend
    from graphflow.backends.dask.connecting import Way

    check_slots("processes", slots)
    return DaskBackend(
        Way(slots=slots or os.cpu_count() or 1, **_patience(worker_timeout_seconds, wait_for_workers_seconds))
    )


def _patience(timeout: float | None, wait: float | None) -> dict[str, Any]:
    given = {"worker_timeout_seconds": timeout, "wait_for_workers_seconds": wait}
    return {name: seconds for name, seconds in given.items() if seconds is not None}


def dask(
    *,
    address: str | None = None,
    scheduler_file: str | None = None,
    client: Any = None,
    cluster: Any = None,
    cluster_class: Any = None,
    cluster_kwargs: Mapping[str, Any] | None = None,
    adapt_kwargs: Mapping[str, Any] | None = None,
    client_kwargs: Mapping[str, Any] | None = None,
    worker_timeout_seconds: float | None = None,
    wait_for_workers_seconds: float | None = None,
) -> DaskBackend:
    """Run batches on a Dask cluster: exactly one of an address, a scheduler file, a client, a cluster or a class.

    A client or cluster that is passed stays open; one that is created from `cluster_class` (a class or its
    dotted path), `cluster_kwargs` and `adapt_kwargs` is closed with the backend. For `worker_timeout_seconds` and
    `wait_for_workers_seconds` see `processes`; a silent worker on which batches run is removed from the cluster.

    Raises
    ------
    BackendError
        If none or several are given.
    """
    from graphflow.backends.dask.cluster import DaskBackend
    from graphflow.backends.dask.connecting import Way

    way = Way(
        address=address,
        scheduler_file=scheduler_file,
        client=client,
        cluster=cluster,
        cluster_class=cluster_class,
        cluster_kwargs=dict(cluster_kwargs or {}),
        adapt_kwargs=dict(adapt_kwargs or {}),
        client_kwargs=dict(client_kwargs or {}),
        **_patience(worker_timeout_seconds, wait_for_workers_seconds),
    )
    return DaskBackend(way)


def resolve(spec: Any) -> tuple[Backend, bool]:
    """Return the backend for a user's spec, and whether the run owns (and closes) it.

    Accepts None (the setting `runs.backend`, else `local`), a name (`local`, `local:4`, `inline`, `threads`, `threads:8`,
    `processes`, `processes:4`), an address (`tcp://host:8786`), the path of a scheduler file (`*.json`), a
    `distributed` client or cluster, or a backend.

    Raises
    ------
    BackendError
        For anything else.
    """
    if isinstance(spec, Backend):
        return spec, False
    return _maker(spec)(), True


def check_spec(spec: Any) -> None:
    """Refuse what `resolve` accepts nothing of, without making a backend.

    Raises
    ------
    BackendError
        As `resolve` does.
    """
    if not isinstance(spec, Backend):
        _maker(spec)


def reached(spec: Any) -> tuple[Backend, bool] | None:
    """Return the backend for a spec, started, if it is a cluster that has to be there already; None for others.

    Raises
    ------
    BackendError
        As `resolve` does; also if there is no such cluster class.
    BackendUnreachable
        If no scheduler answers.
    """
    check_spec(spec)
    if spec is None:
        spec = settings.backend()
    if isinstance(spec, str) and "://" not in spec and not spec.endswith(".json"):
        return None
    if isinstance(spec, Backend):
        check = getattr(spec, "check_there", None)
        if check is not None:
            check()
        return None
    if spec is None:
        return None
    found = resolve(spec)
    try:
        found[0].start()
    except BaseException:
        found[0].close()
        raise
    return found


def _maker(spec: Any) -> Callable[[], Backend]:
    if spec is None:
        spec = settings.backend() or "local"
    if isinstance(spec, str):
        return _by_name(spec)
    if hasattr(spec, "scheduler_info") and hasattr(spec, "submit"):
        return partial(dask, client=spec)
    if hasattr(spec, "scheduler_address"):
        return partial(dask, cluster=spec)
    raise BackendError(f"unknown backend {spec!r}; {_HINT}")


_HINT = (
    'use "local", "inline", "threads", "threads:8", "processes", "processes:4", an address such as '
    '"tcp://host:8786", the path of a scheduler file, a Dask client or cluster, or one of graphflow.backends'
)


def _shared_local(slots: int | None) -> LocalBackend:
    """Return a local backend for one run; its worker processes stay warm for the next one."""
    return LocalBackend(slots, shared=shared_cluster_of(slots or cores()))


def _by_name(spec: str) -> Callable[[], Backend]:
    name, _, count = spec.partition(":")
    if name in ("local", "threads", "processes") and "/" not in spec:
        if count and not (count.isdigit() and int(count) > 0):
            raise BackendError(
                f"backend {spec!r}: {count!r} is not a number of slots; use, for example, {name}:4"
            )
        slots = int(count) if count else None
        makers: dict[str, Callable[[int | None], Backend]] = {
            "local": _shared_local,
            "threads": threads,
            "processes": processes,
        }
        return partial(makers[name], slots)
    if spec == "inline":
        return inline
    if "://" in spec:
        return partial(dask, address=spec)
    if spec.endswith(".json"):
        return partial(dask, scheduler_file=spec)
    close = difflib.get_close_matches(name, ("local", "inline", "threads", "processes"), n=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise BackendError(f"unknown backend {spec!r}; {_HINT}{hint}")
