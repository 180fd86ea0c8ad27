"""Peers that need no cluster: a plain loop, `multiprocessing.Pool`, joblib and asyncio."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from graphflow.bench.peers.base import CannotDo, Peer
from graphflow.bench.requests import request

__all__ = ["Asyncio", "Joblib", "Loop", "Pool"]

_BY_HAND = "retried by hand: failures are caught as values, and failed items mapped again"


class Loop(Peer):
    """A plain loop: what the work itself costs."""

    def open(self, slots: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return the built-in."""
        return map(function, values)


class Pool(Peer):
    """`multiprocessing.Pool.map` with its own chunks."""

    notes: ClassVar[dict[str, str]] = {"W7": _BY_HAND}

    def open(self, slots: int) -> None:
        """Start the processes."""
        self._pool = multiprocessing.Pool(slots)

    def close(self) -> None:
        """End them."""
        self._pool.close()
        self._pool.join()

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Map with one call."""
        return self._pool.map(function, values)


class Joblib(Peer):
    """joblib's default backend, loky, with its own batches; workers are used again."""

    notes: ClassVar[dict[str, str]] = {"W7": _BY_HAND}

    def open(self, slots: int) -> None:
        """Import; the workers start at the first call."""
        import joblib

        self._delayed = joblib.delayed
        self._parallel = joblib.Parallel(n_jobs=slots, backend="loky")
        self._parallel.__enter__()

    def close(self) -> None:
        """Shut down the workers."""
        from joblib.externals.loky import get_reusable_executor

        self._parallel.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Map with one call."""
        item = self._delayed(function)
        outcome: list[Any] = self._parallel(item(value) for value in values)
        return outcome


class Asyncio(Peer):
    """One event loop and a semaphore: the least that requests can cost in one process."""

    def open(self, slots: int) -> None:
        """Do nothing."""
        self._slots = slots

    def close(self) -> None:
        """Do nothing."""

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Refuse plain maps: only async items make sense here."""
        raise CannotDo("runs only waiting in parallel, no computing; see W8")

    def requests(self, n: int, port: int, milliseconds: int, concurrency: int) -> int:
        """Run as many requests at a time as all slots of the others together."""

        async def ask_all() -> int:
            free = asyncio.Semaphore(self._slots * concurrency)

            async def ask(value: int) -> int:
                async with free:
                    return await request(value, port, milliseconds)

            return sum(await asyncio.gather(*[ask(value) for value in range(n)]))

        return asyncio.run(ask_all())
