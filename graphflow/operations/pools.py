"""Pools, their queues, and workers."""

from __future__ import annotations

from graphflow.errors import NotFound, ParameterError
from graphflow.model.asked import AskedPool, AskedQueue
from graphflow.model.views import PoolList, PoolView, QueueView, WorkerList, WorkerView
from graphflow.operations.home import Home, check_backend, iso
from graphflow.orchestration.stores.pools import Pool

__all__ = ["list_pools", "list_workers", "pause_pool", "put_pool", "put_queue", "resume_pool", "show_pool"]


def list_pools(home: Home) -> PoolList:
    """List pools with their queues."""
    return PoolList(pools=[_pool(each) for each in home.stores.pools.all()])


def show_pool(home: Home, *, pool: str) -> PoolView:
    """Show a pool."""
    return _pool(home.stores.pools.find(pool))


def put_pool(home: Home, *, pool: str, changes: AskedPool) -> PoolView:
    """Make a pool, or change what is named of it."""
    _check_name(pool, "pool")
    given = changes.model_dump(include=changes.model_fields_set)
    check_backend(given.get("backend", ""))
    home.stores.pools.ensure(pool)
    return _pool(home.stores.pools.change(pool, **given))


def put_queue(home: Home, *, pool: str, queue: str, changes: AskedQueue) -> PoolView:
    """Make a queue of a pool, or change what is named of it."""
    _check_name(queue, "queue")
    given = changes.model_dump(include=changes.model_fields_set)
    return _pool(home.stores.pools.change_queue(pool, queue, **given))


def pause_pool(home: Home, *, pool: str, queue: str = "") -> PoolView:
    """Claim nothing of a pool, or of a queue of it; what runs goes on."""
    return _paused(home, pool, queue, True)


def resume_pool(home: Home, *, pool: str, queue: str = "") -> PoolView:
    """Let a pool, or a queue of it, go on."""
    return _paused(home, pool, queue, False)


def _paused(home: Home, pool: str, queue: str, is_paused: bool) -> PoolView:
    pools = home.stores.pools
    if not queue:
        return _pool(pools.change(pool, is_paused=is_paused))
    known = [each.name for each in pools.find(pool).queues]
    if queue not in known:
        raise NotFound(f"the pool {pool} has no queue {queue!r}; it has {', '.join(known)}")
    return _pool(pools.change_queue(pool, queue, is_paused=is_paused))


def list_workers(home: Home) -> WorkerList:
    """List the workers that are there."""
    return WorkerList(
        workers=[
            WorkerView(
                name=each.name,
                pool=each.pool,
                state=each.state,
                busy=each.busy,
                slots=each.slots,
                labels=each.labels,
                host=each.host,
                pid=each.pid,
                started=iso(each.started),
                seen=iso(each.seen),
                versions=each.versions,
                id=each.id,
            )
            for each in home.stores.pools.workers()
        ]
    )


def _pool(pool: Pool) -> PoolView:
    queues = [
        QueueView(name=each.name, priority=each.priority, size=each.size, is_paused=each.is_paused)
        for each in pool.queues
    ]
    return PoolView(
        name=pool.name,
        size=pool.size,
        is_paused=pool.is_paused,
        claimed=pool.claimed,
        waiting=pool.waiting,
        backend=pool.backend,
        queues=queues,
    )


def _check_name(text: str, what: str) -> None:
    if not text or "/" in text or text != text.strip() or not text.isprintable():
        raise ParameterError(f"{text!r} cannot be the name of a {what}: no '/', and no space at its ends")
