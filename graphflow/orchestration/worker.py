"""A worker: claims runs of a pool, and drives each in a process of its own."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata

from graphflow.common import ids
from graphflow.common.machine import boot_id
from graphflow.common.service import Service
from graphflow.errors import HistoryError, NotFound, ParameterError
from graphflow.histories.leases import DriverLock
from graphflow.orchestration.children import COMMAND, Child, how_it_ended
from graphflow.orchestration.keeper import worker_folder
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.pools import WorkerSeen
from graphflow.orchestration.stores.work import Given

__all__ = ["Worker", "WorkerOptions"]

logger = logging.getLogger("graphflow.orchestration.worker")
POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0
"""How often work is looked for although nothing was written: some becomes due."""
HEARTBEAT_SECONDS = 5.0
GIVE_BACK_SECONDS = 3.0
"""What a child has left of the time of grace to give its run back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker takes, and how it stops."""

    pool: str = "default"
    slots: int = 1
    queues: tuple[str, ...] = ()
    """Only these; all by default."""
    labels: tuple[str, ...] = ()
    name: str = ""
    grace_seconds: float = 30.0
    """How long children may take to hand their runs over, before they are killed."""
    waits_for_runs: bool = False
    """Whether runs may end when the worker stops, instead of being handed over."""
    env: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = COMMAND

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ParameterError(f"a worker has 1 slot or more, not {self.slots}")


class Worker:
    """Claims runs while it has free slots, from `start` to `stop`."""

    def __init__(self, stores: Stores, options: WorkerOptions) -> None:
        self._stores = stores
        self.options = options
        self._children: dict[str, Child] = {}
        self._lock: DriverLock | None = None
        self._seen_version = -1
        self._looked = float("-inf")
        self.seen = self._described()
        self._claims = Service(self.turn, name="graphflow-worker", interval=POLL_SECONDS)
        self._beats = Service(self._beat, name="graphflow-heartbeat", interval=HEARTBEAT_SECONDS)

    @property
    def busy(self) -> int:
        """How many runs it drives."""
        return len(self._children)

    def start(self) -> None:
        """Show that it is there, and begin to claim."""
        folder = worker_folder(self._stores, self.seen.id)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise HistoryError(
                f"the folder {folder} of a worker cannot be created: {error.strerror}"
            ) from error
        self._lock = DriverLock(folder)
        self._lock.publish()
        self._stores.pools.ensure(self.options.pool, *(self.options.queues or ("default",)))
        self._stores.pools.tell(self.seen, verb="ready")
        self._claims.start()
        self._beats.start()

    def wake(self) -> None:
        """Look for work at once."""
        self._looked = float("-inf")
        self._claims.wake()

    def turn(self) -> None:
        """Look after children, and claim what there are slots for."""
        self._reap()
        free = self.options.slots - len(self._children)
        if free <= 0 or self.seen.state != "ready" or not self._is_time():
            return
        if self._stores.work.is_due(self.options.pool):
            for given in self._stores.work.claim(self.seen, slots=free, queues=self.options.queues):
                self._begin(given)

    def _is_time(self) -> bool:
        """Return whether something was written since, or a while has passed."""
        version, now = self._stores.catalog.version(), time.monotonic()
        if version == self._seen_version and now - self._looked < LOOK_SECONDS:
            return False
        self._seen_version, self._looked = version, now
        return True

    def _begin(self, given: Given) -> None:
        env = {
            "GRAPHFLOW_HOME": str(self._stores.history.folder),
            "GRAPHFLOW_PROGRESS": "off",
            **({"GRAPHFLOW_BACKEND": given.pool_backend} if given.pool_backend else {}),
            **self.options.env,
        }
        try:
            self._children[given.run_id] = Child(
                given,
                # It gives the run back before it would be killed.
                grace_seconds=max(0.0, self.options.grace_seconds - GIVE_BACK_SECONDS),
                command=self.options.command,
                env=env,
            )
        except OSError as error:
            self._stores.work.give_back(
                given.run_id, given.epoch, why=f"no process could be started: {error.strerror}"
            )
            raise

    def _reap(self) -> None:
        for run_id, child in list(self._children.items()):
            code = child.ended()
            if code is None:
                continue
            self._look_after(child, code)
            del self._children[run_id]
            self._looked = float("-inf")

    def _look_after(self, child: Child, code: int) -> None:
        """Let a run wait again that its child left behind."""
        given = child.given
        try:
            header = self._stores.history.find(given.run_id)
        except NotFound:
            return
        work = header.work
        if (
            work is not None
            and work.state == "claimed"
            and work.epoch == given.epoch
            and header.lease is None
        ):
            why = f"its process {how_it_ended(code)} before it began; it waits for a worker"
            crashes = 0 if child.was_told_to_stop else 1
            if self._stores.work.give_back(given.run_id, given.epoch, why=why, crashes=crashes) and crashes:
                logger.warning("run %s: %s", given.run_id, why)

    def _beat(self) -> None:
        self.seen = replace(self.seen, seen=self._stores.clock.wall())
        self._stores.pools.tell(self.seen)
        if self._children:
            self._stores.work.renew(self.seen.id)

    # -- the end ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Claim nothing more, let children hand their runs over, and go.

        Children that take longer than the time of grace are killed; what they committed is kept.
        """
        if self._lock is None:
            return
        self._claims.stop(timeout=60.0)
        self.seen = replace(self.seen, state="draining")
        with suppress(HistoryError):
            self._stores.pools.tell(self.seen, verb="draining")
        if not self.options.waits_for_runs:
            self.hand_over()
        while self._children:
            self._wait_for_one()
        self._beats.stop()
        with suppress(HistoryError):
            self._stores.pools.drop(self.seen)
        self._lock.release()
        self._lock = None
        shutil.rmtree(worker_folder(self._stores, self.seen.id), ignore_errors=True)

    def kill(self) -> None:
        """Kill all children; what they committed is kept, and their runs wait for another worker."""
        for child in list(self._children.values()):
            child.was_told_to_stop = True
            child.kill()

    def hand_over(self) -> None:
        """Tell all children to hand their runs over; those that do not within the time of grace are killed."""
        children = list(self._children.values())
        for child in children:
            child.tell_to_stop()
        deadline = time.monotonic() + self.options.grace_seconds
        for child in children:
            if not child.wait(max(0.0, deadline - time.monotonic())):
                logger.warning(
                    "run %s was not handed over in time; its process is killed", child.given.run_id
                )
                child.kill()
                child.wait(5.0)

    def _wait_for_one(self) -> None:
        next(iter(self._children.values())).wait(POLL_SECONDS)
        self._reap()

    def _described(self) -> WorkerSeen:
        host, now = socket.gethostname(), self._stores.clock.wall()
        return WorkerSeen(
            id=ids.run_id(),
            name=self.options.name or f"{host}-{os.getpid()}",
            pool=self.options.pool,
            host=host,
            boot_id=boot_id(),
            pid=os.getpid(),
            slots=self.options.slots,
            labels=self.options.labels,
            versions={"python": platform.python_version(), "graphflow": metadata.version("graphflow")},
            started=now,
            seen=now,
            state="ready",
        )
