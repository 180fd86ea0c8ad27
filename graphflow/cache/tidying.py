"""Compact the caches of a run's tasks at its end: many packs become few, in bounded time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from graphflow.cache.nearby import Nearby
from graphflow.common.service import Service
from graphflow.errors import GraphflowError
from graphflow.ports import ResultStore

__all__ = ["tidy"]

logger = logging.getLogger("graphflow.cache")
MAX_PACKS = 64
"""A folder with more packs than this is compacted."""
TIDY_SECONDS = 3.0


def tidy(
    places: Sequence[tuple[ResultStore, str, Nearby | None]],
    *,
    max_packs: int = MAX_PACKS,
    seconds: float = TIDY_SECONDS,
) -> None:
    """Compact those of these folders that have many packs, as `graphflow cache compact` does; return after some seconds at the latest.

    What a store does not answer in that time goes on in the background, and may end with the process at any point. Of what
    fails a warning tells: it costs objects, and no result.
    """
    over = threading.Event()
    until = time.monotonic() + seconds

    def turn() -> None:
        try:
            for store, folder, nearby in places:
                if time.monotonic() < until:
                    _compact(store, folder, nearby, max_packs=max_packs, until=until)
        finally:
            service.stop(0.0)
            over.set()

    # A store that does not answer would hold up the end of the run.
    service = Service(turn, name="graphflow-tidying", interval=0.0)
    service.start()
    over.wait(seconds)


def _compact(store: ResultStore, folder: str, nearby: Nearby | None, *, max_packs: int, until: float) -> None:
    start = len(folder) + 1
    try:
        if sum("/" not in name[start:] for name in store.names(f"{folder}/")) <= max_packs:
            return
        from graphflow.cache.compacting import compact

        done = compact(store, folder, now=time.time(), until=until, nearby=nearby)
        logger.debug("%s: %d packs were put together as %d", folder, done.read, len(done.written))
    except GraphflowError as error:
        logger.warning(
            "cached results in %s stay in many objects: %s; run `graphflow cache compact` later",
            folder,
            error,
        )
