"""Ray: a remote task per item."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphflow.bench.items import Flaky, add_one, double, minus_three
from graphflow.bench.peers.base import Peer

__all__ = ["Ray"]


class Ray(Peer):
    """`ray.remote` and `ray.get`."""

    def open(self, slots: int) -> None:
        """Start a local instance."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        self._ray = ray
        self._slots = slots
        ray.init(num_cpus=slots, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def close(self) -> None:
        """End it."""
        self._ray.shutdown()

    def _remote(self, function: Callable[[Any], Any], **options: Any) -> Any:
        def item(x: Any) -> Any:
            return function(x)

        return self._ray.remote(item).options(**options).remote

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Start all, then get all."""
        call = self._remote(function)
        gathered: list[Any] = self._ray.get([call(value) for value in values])
        return gathered

    def chain(self, values: Sequence[int]) -> int:
        """References to references."""
        first, second, third = (self._remote(each) for each in (add_one, double, minus_three))
        return sum(self._ray.get([third(second(first(value))) for value in values]))

    def retried(self, n: int, folder: str) -> int:
        """`max_retries=1, retry_exceptions=True`."""
        call = self._remote(Flaky(folder), max_retries=1, retry_exceptions=True)
        return sum(self._ray.get([call(value) for value in range(n)]))

    def requests(self, n: int, port: int, milliseconds: int, concurrency: int) -> int:
        """Return an async actor per slot."""

        class Asking:
            async def ask(self, value: int, port: int, milliseconds: int) -> int:
                from graphflow.bench.requests import request

                return await request(value, port, milliseconds)

        make = self._ray.remote(Asking).options(max_concurrency=concurrency).remote
        actors = [make() for _ in range(self._slots)]
        asked = [actors[value % self._slots].ask.remote(value, port, milliseconds) for value in range(n)]
        return sum(self._ray.get(asked))
