"""How long a thread waits at once: a signal that comes just before a wait without end would be seen after it."""

from __future__ import annotations

import time

__all__ = ["check_timeout", "waiting_seconds"]

SIGNAL_SECONDS = 0.5
"""Python runs handlers of signals between instructions of the main thread; after this time it looks again."""


def waiting_seconds(deadline: float | None) -> float:
    """Return seconds to wait at once, until a deadline of `time.monotonic()`; None for no deadline."""
    return SIGNAL_SECONDS if deadline is None else max(0.0, min(SIGNAL_SECONDS, deadline - time.monotonic()))


def check_timeout(timeout: float | None) -> None:
    """Raise `ValueError` for a negative number of seconds."""
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
