"""The clock: makes runs of what is due. Any number of processes may have one; each turn is a transaction that is safe to repeat."""

from __future__ import annotations

from collections.abc import Callable

from graphflow.common.service import Service
from graphflow.orchestration.stores.opening import Stores

__all__ = ["ScheduleClock"]

LONGEST_SECONDS = 0.25
"""How long a schedule that another process adds or changes may go unseen."""
SCHEDULES_PER_TURN = 100


class ScheduleClock:
    """Fires schedules in a thread of its own.

    Parameters
    ----------
    stores
        Where they are.
    made
        Called when there are new runs.
    """

    def __init__(self, stores: Stores, made: Callable[[], None] = lambda: None) -> None:
        self._stores = stores
        self._made = made
        self.service = Service(self.turn, name="graphflow-clock", interval=0.0)

    def turn(self) -> float:
        """Fire what is due now; return the seconds until the next turn."""
        due = self._stores.fires.next_due()
        now = self._stores.clock.wall()
        if due is None or due > now:
            return LONGEST_SECONDS if due is None else min(LONGEST_SECONDS, due - now)
        fired = self._stores.fires.fire(most=SCHEDULES_PER_TURN)
        if fired.runs:
            self._made()
        # All may be paused: then what is due stays.
        return 0.0 if fired.schedules else LONGEST_SECONDS
