"""Workers that say nothing: stopped processes, hung disks, cut networks. They are told of, and then taken for lost."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Silence"]

logger = logging.getLogger("graphflow.backends.dask")
FIRST_WORD_SECONDS = 10.0
"""From so many seconds of silence on, people are told what is waited for."""

_REMOVE_SOURCE = """
async def _graphflow_remove(address, dask_scheduler=None):
    import inspect
    options = {"stimulus_id": "graphflow-silent-worker", "close": False, "safe": True}
    known = inspect.signature(dask_scheduler.remove_worker).parameters
    return await dask_scheduler.remove_worker(address, **{name: each for name, each in options.items() if name in known})
"""


class Silence:
    """Which workers of a cluster say nothing, and since when.

    A worker says something with each of its heartbeats. One in a process of this machine that uses the processor counts as
    heard: its item may hold the interpreter's lock.

    Parameters
    ----------
    name
        How texts name the backend.
    timeout
        Seconds after which a worker that says nothing is lost.
    batches
        Gives what runs on a worker, as labels; a worker on which nothing of ours runs is left alone.
    """

    def __init__(self, *, name: str, timeout: float, batches: Callable[[str], list[str]]) -> None:
        self._name = name
        self._timeout = timeout
        self._batches = batches
        self._heard: dict[str, tuple[Any, float]] = {}
        """By worker: what was last known of it, and when that changed."""
        self._told: set[str] = set()
        self._lost: set[str] = set()

    def look(self, seen: Mapping[str, float], pids: Mapping[str, int]) -> list[str]:
        """Return the workers that are lost now, once each.

        Parameters
        ----------
        seen
            By worker, when the scheduler last heard from it.
        pids
            The processes of workers on this machine.
        """
        now = time.monotonic()
        lost: list[str] = []
        for address in self._heard.keys() - seen.keys():
            self._forget(address)
        for address, last in seen.items():
            sign = last, _cpu_seconds(pids.get(address))
            known = self._heard.get(address)
            if known is None or known[0] != sign:
                self._heard[address] = sign, now
                if address in self._told and address not in self._lost:
                    logger.warning("%s: worker %s is there again", self._name, address)
                self._told.discard(address)
                continue
            silent = now - known[1]
            if silent < min(FIRST_WORD_SECONDS, self._timeout) or address in self._lost:
                continue
            labels = self._batches(address)
            if not labels:
                continue
            what = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
            if silent >= self._timeout:
                self._lost.add(address)
                logger.warning(
                    "%s: worker %s has said nothing for %.0f s and is taken for lost; %s goes to other workers",
                    self._name,
                    address,
                    silent,
                    what,
                )
                lost.append(address)
            elif address not in self._told:
                self._told.add(address)
                logger.warning(
                    "%s: worker %s has said nothing for %.0f s; %s is waited for, and goes to other workers after %g s of "
                    "silence (worker_timeout_seconds)",
                    self._name,
                    address,
                    silent,
                    what,
                    self._timeout,
                )
        return lost

    def _forget(self, address: str) -> None:
        del self._heard[address]
        self._told.discard(address)
        self._lost.discard(address)


def _cpu_seconds(pid: int | None) -> float | None:
    """Return what a process has used of the processor; None if that is not known."""
    if pid is None:
        return None
    # distributed needs it too.
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    # What a process does without an item, such as looking at its own memory, is less than this.
    return float(round(times.user + times.system, 1))


def end_process(pid: int) -> None:
    """End a worker's process for good, also one that is stopped."""
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def remove(client: Client, address: str) -> None:
    """Take a worker from a cluster: its tasks are ended there, and what it says later is not listened to."""
    space: dict[str, Any] = {"__name__": "__main__"}
    # Made so that it is pickled by value: the scheduler imports nothing of ours.
    exec(compile(_REMOVE_SOURCE, "<graphflow remove>", "exec"), space)
    try:
        client.run_on_scheduler(space["_graphflow_remove"], address)
    except Exception:
        logger.warning("worker %s could not be taken from its cluster", address, exc_info=True)
