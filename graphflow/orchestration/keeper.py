"""The keeper: finds work whose holder died, workers that are gone, and runs that are late."""

from __future__ import annotations

import logging
from pathlib import Path

from graphflow.common.machine import boot_id
from graphflow.common.service import Service
from graphflow.errors import NotFound
from graphflow.histories.leases import is_locked
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.orchestration.stores.work import Claimed

__all__ = ["Keeper", "worker_folder"]

logger = logging.getLogger("graphflow.orchestration.keeper")
TURN_SECONDS = 0.5
LATE_TURNS = 10
UNSEEN_SECONDS = 60.0
"""A worker of another machine that was not heard of for so long is gone."""
WORKER_DIED = "the worker that had claimed it died; it waits for another one"


def worker_folder(stores: Stores, worker_id: str) -> Path:
    """Return where a worker has the lock that shows that it lives."""
    return stores.history.folder / "workers" / worker_id


class Keeper:
    """Looks at everything that is claimed, twice a second; any number of processes may have one."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._turns = 0
        self.service = Service(self.turn, name="graphflow-keeper", interval=TURN_SECONDS)

    def turn(self) -> None:
        """Let work wait again whose holder died."""
        stores = self._stores
        claimed = stores.work.claimed()
        workers = {each.id: each for each in stores.pools.workers()}
        for each in claimed:
            self._check(each, workers.get(each.worker_id))
        for worker in workers.values():
            if not self._lives(worker):
                stores.pools.drop(worker)
        if self._turns % LATE_TURNS == 0:
            stores.work.note_late(stores.events.late_after_seconds)
        self._turns += 1

    def _check(self, each: Claimed, worker: WorkerSeen | None) -> None:
        try:
            # Looking at a run notices that its driver is gone, and lets the run wait again.
            header = self._stores.history.find(each.run_id)
        except NotFound:
            return
        work = header.work
        if work is None or work.state != "claimed" or work.epoch != each.epoch or header.lease is not None:
            return
        if worker is not None and self._lives(worker):
            return
        if worker is None and each.worker_id and is_locked(worker_folder(self._stores, each.worker_id)):
            return
        if self._stores.work.give_back(each.run_id, each.epoch, why=WORKER_DIED):
            logger.warning("run %s: %s", each.run_id, WORKER_DIED)

    def _lives(self, worker: WorkerSeen) -> bool:
        if worker.boot_id == boot_id():
            return is_locked(worker_folder(self._stores, worker.id))
        return self._stores.clock.wall() < worker.seen + UNSEEN_SECONDS
