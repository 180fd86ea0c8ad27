"""How long a thread waits at once: a signal that comes just before a wait without end would be seen after it."""

from __future__ import annotations

import time

__all__ = ["waiting_seconds"]

SIGNAL_SECONDS = 0.5
"""Python runs handlers of signals between instructions of the main thread; after this time it looks again."""


def waiting_seconds(deadline: float | None) -> float:
    """Seconds to wait at once, until a deadline of `time.monotonic()`; None for no deadline."""
    return SIGNAL_SECONDS if deadline is None else max(0.0, min(SIGNAL_SECONDS, deadline - time.monotonic()))
