"""Pools, their queues, and the workers that are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphflow.errors import NotFound, ParameterError
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.ports import Clock

__all__ = ["Pool", "Pools", "Queue", "WorkerSeen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A place in a pool: lower priorities are claimed first."""

    pool: str
    name: str
    priority: int = 0
    size: int | None = None
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Who may run what is sent to it, and how many at once; None is no limit."""

    name: str
    size: int | None = None
    is_paused: bool = False
    backend: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    claimed: int = 0
    waiting: int = 0
    queues: tuple[Queue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker as it told of itself."""

    id: str
    name: str
    pool: str
    host: str
    boot_id: str
    pid: int
    slots: int
    labels: tuple[str, ...]
    versions: Mapping[str, str]
    started: float
    seen: float
    state: str
    """`ready` or `draining`."""
    busy: int = 0


class Pools:
    """The pools of a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def all(self) -> list[Pool]:
        """Return all pools with their queues, by name."""
        queues: dict[str, list[Queue]] = {}
        for pool, name, priority, size, is_paused in self._catalog.rows(statements.QUEUES):
            found = Queue(pool=pool, name=name, priority=priority, size=size, is_paused=bool(is_paused))
            queues.setdefault(pool, []).append(found)
        return [
            Pool(
                name=name,
                size=size,
                is_paused=bool(is_paused),
                backend=backend,
                env=json.loads(env),
                claimed=claimed,
                waiting=waiting,
                queues=tuple(queues.get(name, ())),
            )
            for name, size, is_paused, backend, env, claimed, waiting in self._catalog.rows(statements.POOLS)
        ]

    def find(self, name: str) -> Pool:
        """Return a pool.

        Raises
        ------
        NotFound
            If there is none of this name.
        """
        every = self.all()
        for each in every:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in every) or "none yet"
        raise NotFound(
            f"there is no pool {name!r}; there is {known}. `graphflow pool create {name}` makes it"
        )

    def ensure(self, name: str, *queues: str) -> None:
        """Make a pool and queues of it, where they are not there."""
        with self._catalog.transaction():
            self._catalog.execute(statements.ENSURE_POOL, (name,))
            for queue in queues or ("default",):
                self._catalog.execute(statements.ENSURE_QUEUE, (name, queue))

    def change(self, name: str, **changes: Any) -> Pool:
        """Change `size`, `is_paused`, `backend` or `env` of a pool.

        Raises
        ------
        NotFound
            If there is none of this name.
        ParameterError
            If the size is below 0.
        """
        with self._catalog.whole():
            pool = self.find(name)
            new = {
                "size": pool.size,
                "is_paused": pool.is_paused,
                "backend": pool.backend,
                "env": pool.env,
                **changes,
            }
            _check_size(new["size"])
            row = (new["size"], int(new["is_paused"]), new["backend"], json.dumps(dict(new["env"])), name)
            self._catalog.execute(statements.SET_POOL, row)
            self._catalog.audit("pool", name, at=self._clock.wall(), data=changes)
        return self.find(name)

    def change_queue(self, pool: str, name: str, **changes: Any) -> Pool:
        """Change `priority`, `size` or `is_paused` of a queue, which is made where it is not there.

        Raises
        ------
        NotFound
            If there is no such pool.
        ParameterError
            If the size is below 0.
        """
        with self._catalog.transaction():
            self.find(pool)
            self._catalog.execute(statements.ENSURE_QUEUE, (pool, name))
            (queue,) = [each for each in self.find(pool).queues if each.name == name]
            new = {"priority": queue.priority, "size": queue.size, "is_paused": queue.is_paused, **changes}
            _check_size(new["size"])
            row = (new["priority"], new["size"], int(new["is_paused"]), pool, name)
            self._catalog.execute(statements.SET_QUEUE, row)
            self._catalog.audit("pool", f"{pool}/{name}", at=self._clock.wall(), data=changes)
        return self.find(pool)

    # -- workers ---------------------------------------------------------------------------------------------

    def workers(self) -> list[WorkerSeen]:
        """Return the workers that are there, as they told of themselves last."""
        return [
            WorkerSeen(
                id=id,
                name=name,
                pool=pool,
                host=host,
                boot_id=boot_id,
                pid=pid,
                slots=slots,
                labels=tuple(json.loads(labels)),
                versions=json.loads(versions),
                started=started,
                seen=seen,
                state=state,
                busy=busy,
            )
            for id, name, pool, host, boot_id, pid, slots, labels, versions, started, seen, state, busy in self._catalog.rows(
                statements.WORKERS
            )
        ]

    def tell(self, worker: WorkerSeen, *, verb: str = "") -> None:
        """Write down that a worker is there; with an event, if `verb` says what it became."""
        with self._catalog.transaction():
            self._catalog.execute(
                statements.PUT_WORKER,
                (
                    worker.id,
                    worker.name,
                    worker.pool,
                    worker.host,
                    worker.boot_id,
                    worker.pid,
                    worker.slots,
                    json.dumps(worker.labels),
                    json.dumps(dict(worker.versions)),
                    worker.started,
                    worker.seen,
                    worker.state,
                ),
            )
            if verb:
                self._tell(worker, verb)

    def drop(self, worker: WorkerSeen) -> None:
        """Remove a worker that is gone."""
        with self._catalog.transaction():
            if self._catalog.execute(statements.DROP_WORKER, (worker.id,)):
                self._tell(worker, "gone")

    def _tell(self, worker: WorkerSeen, verb: str) -> None:
        self._catalog.emit(
            id=f"{worker.id}:{verb}",
            at=self._clock.wall(),
            type=f"graphflow.worker.{verb}",
            subject=worker.name,
            related={"pool": worker.pool},
            data={"host": worker.host, "pid": worker.pid, "slots": worker.slots},
        )


def _check_size(size: int | None) -> None:
    if size is not None and size < 0:
        raise ParameterError(f"a size is 0 or more runs at once, or none for no limit; not {size}")
