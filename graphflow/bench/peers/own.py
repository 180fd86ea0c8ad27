"""graphflow itself, on each of its backends, through its public API."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphflow import backends, flatten, flow, task
from graphflow.bench.items import (
    Flaky,
    add_one,
    add_up,
    children_of,
    double,
    minus_three,
    nothing,
    widths_of,
)
from graphflow.bench.peers.base import CannotDo, Peer
from graphflow.bench.requests import request

__all__ = ["Graphflow", "GraphflowDefault", "GraphflowInline"]


class Graphflow(Peer):
    """On a local Dask cluster of worker processes."""

    def open(self, slots: int) -> None:
        """Create the backend; its cluster starts with the first run."""
        self._slots = slots
        self._backend: Any = self._make(slots)

    def _make(self, slots: int) -> Any:
        return backends.processes(slots=slots)

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _run(self, body: Callable[[], Any]) -> Any:
        return flow(body).with_options(backend=self._backend, name="benchmark")()

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return the list that a flow returns."""
        item = task(function)
        outcome: list[Any] = self._run(lambda: item.map(values))
        return outcome

    def total(self, function: Callable[[Any], int], values: Sequence[Any]) -> int:
        """Run a map and a task that reduces it."""
        item, total = task(function), task(add_up)
        return int(self._run(lambda: total(item.map(values))))

    def chain(self, values: Sequence[int]) -> int:
        """Return three maps, fused by graphflow."""
        first, second, third, total = task(add_one), task(double), task(minus_three), task(add_up)
        return int(self._run(lambda: total(third.map(second.map(first.map(values))))))

    def fan_out(self, n: int) -> int:
        """Run maps over futures whose width is known at run time."""
        widths, children, leaf, total = task(widths_of), task(children_of), task(nothing), task(add_up)
        return int(self._run(lambda: total(leaf.map(flatten(children.map(widths(n)))))))

    def retried(self, n: int, folder: str) -> int:
        """`retries=1`."""
        item, total = task(name="flaky", retries=1)(Flaky(folder)), task(add_up)
        return int(self._run(lambda: total(item.map(range(n)))))

    def requests(self, n: int, port: int, milliseconds: int, concurrency: int) -> int:
        """Return an async task."""
        ask, total = task(concurrency=concurrency)(request), task(add_up)
        return int(self._run(lambda: total(ask.map(range(n), port, milliseconds))))


class GraphflowDefault(Graphflow):
    """On the backend that a user gets who says nothing."""

    def _make(self, slots: int) -> Any:
        backend, _ = backends.resolve(None)
        return backend


class GraphflowInline(Graphflow):
    """Run in the calling thread."""

    def _make(self, slots: int) -> Any:
        if slots != 1:
            raise CannotDo(f"has one slot, not {slots}")
        return backends.inline()
