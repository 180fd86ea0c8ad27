"""A driver's part of the limits and rates that runs share: it asks for slots as the core wants them, and gives them back.

What goes to the catalog is done by the thread that keeps the lease; the driver's own thread only looks which limits there are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from graphflow.core import events as ev
from graphflow.errors import HistoryError, LeaseLost
from graphflow.graph.graph import Node
from graphflow.ports import KnownLimits, Limiter, WantedSlots

__all__ = ["SharedLimits"]

logger = logging.getLogger("graphflow.driver.shared_limits")
ADJUST_SECONDS = 1.0
"""What a run has of its limits is looked at so often, and written at most so often, but for what is asked at once."""
TRUSTED_SHARE = 2 / 3
"""After so much of the lease without a renewal nothing more is sent: others may soon count its slots as theirs."""


class SharedLimits:
    """What one run has of limits and rates.

    Parameters
    ----------
    limiter
        Where they are.
    wants
        What the core wants now, by limit; called by another thread than the core's.
    tell
        Hands an event to the core, in order with all others.
    changed
        Lets the core's thread take the `news`: they are made there, so that none is older than what it knows.
    wake
        Lets the next `turn` come at once.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        wants: Callable[[], Mapping[str, WantedSlots]],
        tell: Callable[[ev.Event], None],
        changed: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._limiter = limiter
        self._wants = wants
        self._tell = tell
        self._changed = changed
        self._wake = wake
        self._guard = threading.Lock()
        self._names: set[str] = set()
        self._known = KnownLimits()
        self._told = ev.LimitsChanged(grants={}, rates={})
        self._granted: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._is_urgent = False
        self._seen = -1
        self._next = 0.0
        self._is_trusted = True

    def note(self, nodes: Iterable[Node]) -> ev.LimitsChanged | None:
        """Note the names of nodes that are recorded; return what the core must know before them, if anything."""
        new = {name for node in nodes for name, _ in node.limits} - self._names
        if not new:
            return None
        with self._guard:
            self._names |= new
            try:
                self._known = self._limiter.known(self._names)
            except HistoryError as error:
                # Nothing is begun that a limit might forbid; the keeper looks again.
                logger.debug("limits could not be read: %s", error)
                self._known = KnownLimits(dict.fromkeys(self._names, 0), self._known.rates)
                self._seen = -1
        return self.news()

    def news(self) -> ev.LimitsChanged | None:
        """Return what the core is to be told, on its own thread; None if it knows."""
        with self._guard:
            event = self._current()
            is_known, self._told = event == self._told, event
            return None if is_known else event

    def wanted(self) -> None:
        """Ask for slots at once, or give back those that are not needed any more."""
        self._is_urgent = True
        self._wake()

    def reserve(self, name: str, count: int) -> None:
        """Ask for starting slots of a rate."""
        with self._guard:
            self._asked[name] = count
        self._wake()

    def turn(self, *, age: float, term: float) -> None:
        """Do what is due; called each tenth of a second by the thread that keeps the lease.

        Parameters
        ----------
        age
            Seconds since the lease was renewed.
        term
            How long it holds.

        Raises
        ------
        LeaseLost
            If another driver has the run.
        """
        if not self._names:
            return
        self._is_trusted = age < TRUSTED_SHARE * term
        try:
            if self._is_trusted:
                self._look()
                self._adjust()
                self._reserve()
        except LeaseLost:
            raise
        except HistoryError as error:
            logger.debug("limits: %s", error)
            self._seen = -1
        with self._guard:
            is_new = self._current() != self._told
        if is_new:
            self._changed()

    def _look(self) -> None:
        """Look which limits and rates there are, if anything was written."""
        version = self._limiter.version()
        if version == self._seen:
            return
        with self._guard:
            self._known = self._limiter.known(self._names)
            self._seen = version
            self._granted = {name: self._granted.get(name, 0) for name in self._known.sizes}
            is_new = self._current() != self._told
        if is_new:
            self._changed()
            # A limit that is new has no grant yet, and one that is smaller now is given back.
            self._next = min(self._next, time.monotonic())

    def _adjust(self) -> None:
        if not self._known.sizes:
            return
        now = time.monotonic()
        is_due = self._is_urgent or now >= self._next
        wants = (
            {name: want for name, want in self._wants().items() if name in self._known.sizes}
            if is_due
            else {}
        )
        self._is_urgent = False
        if not wants:
            return
        self._next = now + ADJUST_SECONDS
        self._granted = self._limiter.adjust(wants)

    def _reserve(self) -> None:
        with self._guard:
            asked, self._asked = self._asked, {}
        for name, count in asked.items():
            first: float | None = None
            try:
                first = self._limiter.reserve(name, count)
            finally:
                rate = self._known.rates.get(name, 0.0)
                has = first is not None and rate > 0
                self._tell(
                    ev.SlotsReserved(
                        name=name,
                        rate=rate,
                        first=time.monotonic() + (first or 0.0),
                        count=count if has else 0,
                    )
                )

    def _current(self) -> ev.LimitsChanged:
        granted = {name: self._granted.get(name, 0) if self._is_trusted else 0 for name in self._known.sizes}
        return ev.LimitsChanged(grants=granted, rates=dict(self._known.rates))
