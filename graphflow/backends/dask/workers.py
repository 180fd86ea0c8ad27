"""The workers of a cluster: whether they fit this process, what they offer, and how to tell them something."""

from __future__ import annotations

import inspect
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.backends.dask.bootstrap import check_facts, probe
from graphflow.backends.dask.connecting import Way
from graphflow.errors import BackendError
from graphflow.model.policies import TaskOptions
from graphflow.ports import Capacity

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Workers", "tell_soon"]

logger = logging.getLogger("graphflow.backends.dask")
BATCH_SECONDS = 0.006
"""What a batch costs on a local cluster, measured: half of it in the driver's process with the scheduler in it, half
in the worker."""
LOOK_SECONDS = 0.1
FIRST_WORD_SECONDS = 3.0
EVERY_SECONDS = 10.0
_COMING = ("created", "init", "starting", "running")
"""States of what looks after a worker process that will be there, or is."""
COMING = 5
"""Workers that are starting are waited for so many times longer than workers of which nothing is seen."""


class Workers:
    """The workers of one cluster.

    Parameters
    ----------
    client, cluster
        As `Way.connect` returned them.
    name
        How errors name the backend.
    """

    def __init__(self, way: Way, client: Client, cluster: Any, *, name: str) -> None:
        self._way = way
        self._client = client
        self._cluster = cluster
        self._name = name
        self._told = 0.0
        self.seen: Mapping[str, float] = {}
        """When the scheduler last heard from each, by its own clock."""

    def share_disk(self, folder: Path) -> bool:
        """Whether all of them share this machine's disk, where `folder` is.

        Raises
        ------
        BackendError
            If one could not run batches.
        """
        token = uuid.uuid4().hex
        path = folder / "token"
        path.write_text(token)
        found = self._client.run(probe(), str(path))
        for worker, facts in found.items():
            check_facts(worker, facts)
        loopback = self._client.scheduler is not None and re.match(
            r"(tcp|tls)://(127\.|localhost|\[::1\])|inproc://", self._client.scheduler.address
        )
        return bool(loopback) and all(facts["token"] == token for facts in found.values())

    @property
    def is_elastic(self) -> bool:
        """Whether more may come when there is more to do."""
        cluster = self._cluster or self._way.cluster
        return bool(self._way.adapt_kwargs) or bool(getattr(cluster, "_adaptive", None))

    def wait(self) -> None:
        """Wait for the first one, where more will not come by themselves.

        Raises
        ------
        BackendError
            If none comes in time.
        """
        begun = time.monotonic()
        while not self.is_elastic and not self._known():
            self.be_patient(time.monotonic() - begun)
            time.sleep(LOOK_SECONDS)

    def be_patient(self, waited: float) -> None:
        """Say, now and then, that there are no workers.

        Raises
        ------
        BackendError
            If they were waited for long enough.
        """
        limit = self._way.wait_for_workers_seconds
        coming = self._coming()
        if waited > (COMING * limit if coming else limit):
            raise BackendError(
                f"{self._name} has no workers, and was given {waited:.0f} s (wait_for_workers_seconds={limit:g}); start some, or find "
                "out why they do not come back (memory? a module that exits the process?), then run the flow again"
            )
        if waited < self._told:
            self._told = 0.0
        if waited >= (self._told or min(FIRST_WORD_SECONDS, limit / 2)):
            self._told = waited + EVERY_SECONDS
            logger.warning(
                "%s has no workers yet; %s for up to %g s (wait_for_workers_seconds)",
                self._name,
                f"{coming} that start are waited for" if coming else "they are waited for",
                COMING * limit if coming else limit,
            )

    def _coming(self) -> int:
        """Return how many worker processes are just starting, as far as that is known."""
        cluster = self._cluster or self._way.cluster
        workers = getattr(cluster, "workers", None)
        if not isinstance(workers, Mapping):
            return 0
        states = [getattr(getattr(each, "status", None), "name", "") for each in workers.values()]
        return sum(state in _COMING for state in states)

    def pids(self) -> dict[str, int]:
        """The processes of workers that this machine's own cluster runs, by address."""
        workers = getattr(self._cluster, "workers", None) if self._way.slots is not None else None
        found: dict[str, int] = {}
        for each in workers.values() if isinstance(workers, Mapping) else ():
            address, pid = getattr(each, "worker_address", None), getattr(each, "pid", None)
            if address and pid:
                found[str(address)] = int(pid)
        return found

    def threads(self) -> dict[str, int]:
        """The number of threads of each, by address."""
        known = self._known()
        self.seen = {address: float(each["last_seen"]) for address, each in known.items()}
        return {address: int(each["nthreads"]) for address, each in known.items()}

    def capacity(self, slots: int) -> Capacity:
        """What may be sent to that many slots."""
        is_elastic = self.is_elastic
        return Capacity(
            slots=max(slots, 1) if is_elastic else slots,
            queue=3 if is_elastic else 1,
            is_elastic=is_elastic,
            batch_seconds=BATCH_SECONDS,
        )

    def _known(self) -> Mapping[str, Any]:
        info = (
            self._client.scheduler_info(n_workers=-1)
            if _takes_n_workers(self._client)
            else self._client.scheduler_info()
        )
        workers: Mapping[str, Any] = info["workers"]
        return workers

    def check(self, options: TaskOptions) -> None:
        """Refuse a task whose resources or workers no worker has."""
        if not (options.resources or options.workers) or self.is_elastic:
            return
        workers = self._known()
        if options.workers:
            known = {
                name for address, each in workers.items() for name in (address, str(each.get("name", "")))
            }
            hosts = {address.rpartition(":")[0].rpartition("/")[2] for address in workers}
            missing = [each for each in options.workers if each not in known and each not in hosts]
            if missing:
                raise BackendError(
                    f"task {options.name!r} asks for workers {missing}, but {self._name} has {sorted(workers)}"
                )
        for name, amount in options.resources:
            most = max(
                (float(each.get("resources", {}).get(name, 0)) for each in workers.values()), default=0.0
            )
            if most < amount:
                raise BackendError(
                    f"task {options.name!r} asks for {name}={amount:g} on one worker, but the most that a worker of "
                    f"{self._name} offers is {most:g}; start workers with --resources {name}={amount:g}"
                )


def tell_soon(
    what: str, client: Client, function: Callable[..., None], *args: Any, workers: list[str] | None = None
) -> threading.Thread:
    """Call a function on workers, on all of them by default, from a thread that this returns."""
    # No `Service`: one call, which workers may answer late or never.
    telling = threading.Thread(
        target=_tell,
        args=(client, function, *args),
        kwargs={"workers": workers},
        name=f"graphflow-{what}",
        daemon=True,
    )
    telling.start()
    return telling


def _tell(
    client: Client, function: Callable[..., None], *args: Any, workers: list[str] | None = None
) -> None:
    """Call a function on workers, on all of them by default. What does not reach one is only noted."""
    try:
        client.run(function, *args, workers=workers, on_error="ignore")
    except Exception:
        logger.debug("%s did not reach all workers: %s", function.__name__, args, exc_info=True)


def _takes_n_workers(client: Client) -> bool:
    return "n_workers" in inspect.signature(client.scheduler_info).parameters
