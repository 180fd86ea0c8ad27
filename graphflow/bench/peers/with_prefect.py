"""Prefect 3, with a server of its own in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from graphflow.bench.items import Flaky, add_one, add_up, children_of, double, minus_three, nothing, widths_of
from graphflow.bench.peers.base import Peer
from graphflow.bench.requests import request

__all__ = ["Prefect"]

_THREADS = "on the default task runner, threads of one process"


class Prefect(Peer):
    """Flows with mapped tasks on the default task runner."""

    notes: ClassVar[dict[str, str]] = {"W3": _THREADS, "W5": _THREADS}

    def open(self, slots: int) -> None:
        """Import; the server starts with the first flow."""
        self._folder = tempfile.TemporaryDirectory(prefix="bench-prefect-", ignore_cleanup_errors=True)
        os.environ.update(
            PREFECT_HOME=self._folder.name,
            PREFECT_LOGGING_LEVEL="CRITICAL",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
            DO_NOT_TRACK="1",
        )
        import prefect
        from prefect.task_runners import ThreadPoolTaskRunner

        self._task = prefect.task
        self._flow: Any = prefect.flow(task_runner=ThreadPoolTaskRunner(max_workers=slots), name="benchmark")

    def close(self) -> None:
        """Remove the folder; the server ends with the process."""
        self._folder.cleanup()

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return a flow that gathers."""
        item = self._task(function)
        gathered: list[Any] = self._flow(lambda: item.map(list(values)).result())()
        return gathered

    def chain(self, values: Sequence[int]) -> int:
        """Run maps over futures."""
        first, second, third, total = (self._task(each) for each in (add_one, double, minus_three, add_up))

        def body() -> Any:
            return total(third.map(second.map(first.map(list(values)))))

        return int(self._flow(body)())

    def fan_out(self, n: int) -> int:
        """Run W4: the flow's body waits for each level."""
        widths, children, leaf = (self._task(each) for each in (widths_of, children_of, nothing))

        def body() -> int:
            lists = children.map(widths(n)).result()
            return sum(leaf.map([value for each in lists for value in each]).result())

        return int(self._flow(body)())

    def retried(self, n: int, folder: str) -> int:
        """`retries=1`."""
        flaky = Flaky(folder)

        def once(x: int) -> int:
            return flaky(x)

        item = self._task(retries=1)(once)
        return int(self._flow(lambda: sum(item.map(list(range(n))).result()))())

    def requests(self, n: int, port: int, milliseconds: int, concurrency: int) -> int:
        """Return an async flow that gathers."""
        ask = self._task(request)

        async def body() -> int:
            return sum(await asyncio.gather(*[ask(value, port, milliseconds) for value in range(n)]))

        return int(asyncio.run(self._flow(body)()))
