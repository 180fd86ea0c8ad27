"""Running coroutines to their end, wherever the caller stands."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable
from typing import Any

__all__ = ["KeptLoop", "run_awaitable"]


def run_awaitable(awaitable: Awaitable[Any]) -> Any:
    """What an awaitable gives; it runs in a thread of its own where this thread's event loop is running."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(awaitable))
    outcome: list[Any] = []
    errors: list[BaseException] = []
    context = contextvars.copy_context()

    def target() -> None:
        try:
            outcome.append(context.run(asyncio.run, _awaited(awaitable)))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="graphflow-async")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class KeptLoop:
    """Runs awaitables one after the other in one event loop, which is made at the first."""

    def __init__(self) -> None:
        self._runner: Any = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """What an awaitable gives."""
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._runner = self._runner or asyncio.Runner()
            return self._runner.run(_awaited(awaitable), context=contextvars.copy_context())
        return run_awaitable(awaitable)

    def close(self) -> None:
        """End the loop, and what still runs in it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
