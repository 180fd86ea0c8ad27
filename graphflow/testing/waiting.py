"""Wait for what another thread or process does: a look now and then, and an error when it never comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually", "eventually_async"]

T = TypeVar("T")
SECONDS = 60.0
"""Long enough for any machine: a test that passes never waits that long."""
PAUSE_SECONDS = 0.005


def eventually(look: Callable[[], T], *, seconds: float = SECONDS) -> T:
    """Return what a look finds once that is true; of use in tests and in their tasks, in any process.

    Raises
    ------
    AssertionError
        If nothing was found in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"it did not happen in {seconds:g} s")
        time.sleep(PAUSE_SECONDS)
    return found


async def eventually_async(look: Callable[[], T], *, seconds: float = SECONDS) -> T:
    """Do as `eventually`, and let other coroutines run meanwhile."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"it did not happen in {seconds:g} s")
        await asyncio.sleep(PAUSE_SECONDS)
    return found
