"""Dask's own ways to map, each on a local cluster of worker processes with one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from graphflow.bench.items import Flaky, add_one, add_up, children_of, double, minus_three, nothing, widths_of
from graphflow.bench.peers.base import Peer

__all__ = ["ClientMap", "DaskBag", "DaskDelayed"]


class _OnDask(Peer):
    def open(self, slots: int) -> None:
        """Start a cluster."""
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=slots, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        )
        self._client = Client(self._cluster)

    def close(self) -> None:
        """Close it."""
        self._client.close()
        self._cluster.close()


class ClientMap(_OnDask):
    """`client.map` and `client.gather`: a task of the scheduler per item."""

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Map, then gather."""
        gathered: list[Any] = self._client.gather(self._client.map(function, values, pure=False))
        return gathered

    def chain(self, values: Sequence[int]) -> int:
        """Map over futures."""
        futures = self._client.map(add_one, values, pure=False)
        futures = self._client.map(double, futures, pure=False)
        futures = self._client.map(minus_three, futures, pure=False)
        return sum(self._client.gather(futures))

    def retried(self, n: int, folder: str) -> int:
        """`retries=1`."""
        futures = self._client.map(Flaky(folder), range(n), pure=False, retries=1)
        return sum(self._client.gather(futures))


class DaskBag(_OnDask):
    """`dask.bag` in 50 partitions per slot: its own choice, 10,000 for a million items, is 20 times slower."""

    notes: ClassVar[dict[str, str]] = {
        "": "in 50 partitions per slot, set by hand",
        "W7": "in 50 partitions per slot; failures are caught as values, and failed items mapped again by hand",
    }

    def open(self, slots: int) -> None:
        """Start a cluster."""
        super().open(slots)
        self._partitions = 50 * slots

    def _bag(self, values: Sequence[Any]) -> Any:
        import dask.bag

        return dask.bag.from_sequence(values, npartitions=max(1, min(len(values), self._partitions)))

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return a bag's map as a list."""
        gathered: list[Any] = self._bag(values).map(function).compute() if len(values) else []
        return gathered

    def total(self, function: Callable[[Any], int], values: Sequence[Any]) -> int:
        """Return summed on the workers."""
        return int(self._bag(values).map(function).sum().compute())

    def chain(self, values: Sequence[int]) -> int:
        """Fused by dask."""
        return int(self._bag(values).map(add_one).map(double).map(minus_three).sum().compute())

    def fan_out(self, n: int) -> int:
        """Compute the first level, and flatten the second in the bag."""
        (widths,) = self._bag([n]).map(widths_of).compute()
        return int(self._bag(widths).map(children_of).flatten().map(nothing).sum().compute())


class DaskDelayed(_OnDask):
    """`dask.delayed`: a graph with a task per item."""

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return one compute call over all."""
        import dask

        item = dask.delayed(function, pure=False)
        computed: tuple[Any, ...] = dask.compute(*[item(value) for value in values])
        return computed

    def _sum(self, items: list[Any], **options: Any) -> int:
        import dask

        return int(dask.delayed(add_up, pure=False)(items).compute(**options))

    def total(self, function: Callable[[Any], int], values: Sequence[Any]) -> int:
        """Return summed on a worker."""
        import dask

        item = dask.delayed(function, pure=False)
        return self._sum([item(value) for value in values])

    def chain(self, values: Sequence[int]) -> int:
        """Calls of calls."""
        import dask

        first, second, third = (dask.delayed(each, pure=False) for each in (add_one, double, minus_three))
        return self._sum([third(second(first(value))) for value in values])

    def retried(self, n: int, folder: str) -> int:
        """`retries=1`."""
        import dask

        item = dask.delayed(Flaky(folder), pure=False)
        return self._sum([item(value) for value in range(n)], retries=1, optimize_graph=False)
