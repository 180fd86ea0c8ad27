"""The catalog as orchestration uses it: one connection, and all that is stored through it."""

from __future__ import annotations

from pathlib import Path

from graphflow.common import settings
from graphflow.errors import HistoryError
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.leases import SystemClock
from graphflow.histories.sqlite import SqliteHistory
from graphflow.orchestration.stores.events import Events
from graphflow.orchestration.stores.fires import Fires
from graphflow.orchestration.stores.hooks import Hooks
from graphflow.orchestration.stores.limits import Limits
from graphflow.orchestration.stores.outbox import Outbox
from graphflow.orchestration.stores.plans import Plans
from graphflow.orchestration.stores.pools import Pools
from graphflow.orchestration.stores.rules import Rules
from graphflow.orchestration.stores.tokens import Tokens
from graphflow.orchestration.stores.work import PATIENCE_SECONDS, WorkStore
from graphflow.ports import Clock

__all__ = ["Stores", "open_stores"]


class Stores:
    """What is deployed, due, waiting and driven in a home; used by several threads, closed once.

    Parameters
    ----------
    catalog
        The connection that everything is written through.
    history
        The runs of the same home.
    clock
        What times go by.
    """

    def __init__(self, catalog: SqliteCatalog, history: SqliteHistory, clock: Clock) -> None:
        self.catalog = catalog
        self.history = history
        self.clock = clock
        self.events = Events(catalog, clock)
        self.pools = Pools(catalog, clock)
        self.limits = Limits(catalog, clock)
        self.plans = Plans(catalog, clock)
        self.fires = Fires(catalog, clock, self.plans)
        self.work = WorkStore(catalog, clock)
        self.tokens = Tokens(catalog, clock)
        self.rules = Rules(catalog, clock)
        self.outbox = Outbox(catalog, clock)
        self.hooks = Hooks(catalog, clock)

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.catalog.close()
        self.history.close()


def open_stores(folder: Path | str | None = None, *, clock: Clock | None = None) -> Stores:
    """Open the catalog of a home, which is made where there is none.

    Raises
    ------
    HistoryError
        If histories are kept in memory, or it cannot be opened.
    """
    if folder is None and settings.history_kind() == "memory":
        raise HistoryError(
            "deployments, schedules and workers need a catalog on disk, but GRAPHFLOW_HISTORY is memory; unset it"
        )
    history = SqliteHistory(folder, clock=clock)
    return Stores(history.connect(patience=PATIENCE_SECONDS), history, clock or SystemClock())
