"""The sweeper: deletes what is old, a thousand rows of each kind at a time, so that nobody waits for it."""

from __future__ import annotations

from graphflow.common.service import Service
from graphflow.histories import statements
from graphflow.orchestration.stores.opening import Stores

__all__ = ["KEPT_SECONDS", "Sweeper", "sweep"]

DAY = 86_400.0
SWEPT_AT_ONCE = 1_000
TURN_SECONDS = 3_600.0
MORE_SECONDS = 0.5
"""The pause after a turn that left something."""
KEPT_SECONDS = {
    statements.OLD_EVENTS: 90 * DAY,
    statements.OLD_FIRES: 90 * DAY,
    statements.OLD_FIRINGS: 90 * DAY,
    statements.OLD_WINDOWS: 90 * DAY,
    statements.OLD_ACTIONS: 30 * DAY,
    statements.OLD_DELIVERIES: 7 * DAY,
}
"""How long each kind of row is kept, by the statement that deletes what is older."""


class Sweeper:
    """Sweeps once an hour; any number of processes may have one."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.service = Service(self.turn, name="graphflow-sweeper", interval=MORE_SECONDS)

    def turn(self) -> float:
        """Delete what is old; return the seconds until the next turn."""
        return MORE_SECONDS if sweep(self._stores) >= SWEPT_AT_ONCE else TURN_SECONDS


def sweep(stores: Stores) -> int:
    """Delete up to a thousand old rows of each kind, each in a transaction; return the most of one kind."""
    now = stores.clock.wall()
    return max(
        stores.catalog.execute(statement, (now - kept, SWEPT_AT_ONCE))
        for statement, kept in KEPT_SECONDS.items()
    )
