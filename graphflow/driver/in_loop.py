"""Waiting for a driver inside an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graphflow.common.importing import without_waiting

if TYPE_CHECKING:
    from graphflow.driver.driver import Driver

__all__ = ["wait_in_loop"]


async def wait_in_loop(driver: Driver, ready: Callable[[], bool]) -> None:
    """Wait without blocking the running event loop."""
    if driver.backend.runs_in_caller:
        driver.wait(ready)
        return
    import asyncio

    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(done.set)
        except RuntimeError:
            # The loop was closed in the meantime: nobody waits there any more.
            return

    driver.when(ready, wake)
    with without_waiting(driver.importing):
        await done.wait()
    if driver.failure is not None and not ready():
        raise driver.failure
