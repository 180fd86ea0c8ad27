"""Events and settings of a home."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphflow.common import ids
from graphflow.errors import ParameterError
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.happening import Happening
from graphflow.ports import Clock

__all__ = ["Events", "happening_of"]

MOST_NBYTES = 64 << 10
LATE_AFTER_SECONDS = 60.0


class Events:
    """What happened, in the order in which it became durable."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def emit(
        self, type: str, *, subject: str = "", data: Mapping[str, Any] | None = None, id: str | None = None
    ) -> str:
        """Write an event of a user; return its id. The same id is written once.

        Raises
        ------
        ParameterError
            If its type is reserved or no type, or its data is no JSON, or too large.
        """
        words = type.split(".")
        if not all(word and word.replace("-", "_").isidentifier() for word in words):
            raise ParameterError(
                f"{type!r} is not the type of an event; use words with dots, such as shop.order.paid"
            )
        if words[0] == "graphflow":
            raise ParameterError(
                f"the type {type!r} begins with graphflow, which is reserved; use a word of your own"
            )
        try:
            text = json.dumps(dict(data or {}), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"the data of the event {type} is not JSON: {error}") from None
        if len(text.encode()) > MOST_NBYTES:
            raise ParameterError(
                f"the data of the event {type} is {len(text.encode()):,} bytes, more than {MOST_NBYTES:,}; store it, and send its place"
            )
        given = id or ids.run_id()
        self._catalog.emit(
            id=given, at=self._clock.wall(), type=type, subject=subject, related={}, data=json.loads(text)
        )
        return given

    def after(
        self, seq: int = 0, *, type: str = "*", subject: str = "", since: float = 0.0, limit: int = 1_000
    ) -> list[Happening]:
        """Return events after a number, oldest first; `type` may have `*`."""
        rows = self._catalog.rows(statements.EVENTS_AFTER, (seq, since, _like(type), subject, subject, limit))
        return [happening_of(*row) for row in rows]

    def last(
        self, *, type: str = "*", subject: str = "", since: float = 0.0, limit: int = 50
    ) -> list[Happening]:
        """Return the last events, oldest first."""
        rows = self._catalog.rows(statements.LAST_EVENTS, (since, _like(type), subject, subject, limit))
        return [happening_of(*row) for row in reversed(rows)]

    def find(self, id: str) -> Happening | None:
        """Return the event of an id."""
        rows = self._catalog.rows(statements.EVENT, (id,))
        return happening_of(*rows[0]) if rows else None

    def is_any_pending(self) -> bool:
        """Return whether there are events that no reactor has seen; cheap."""
        return bool(self._catalog.rows(statements.IS_ANY_PENDING))

    def version(self) -> int:
        """Return a number that differs as soon as another connection wrote something."""
        return self._catalog.version()

    # -- settings of the home --------------------------------------------------------------------------------

    @property
    def is_all_paused(self) -> bool:
        """Whether nothing fires and nothing is claimed."""
        return self._setting("is_paused") == "1"

    def pause_all(self, is_paused: bool) -> None:
        """Pause everything, or let it go on."""
        with self._catalog.transaction():
            self._catalog.execute(statements.SET_SETTING, ("is_paused", "1" if is_paused else "0"))
            at = self._clock.wall()
            verb = "paused" if is_paused else "resumed"
            self._catalog.emit(
                id=ids.run_id(), at=at, type=f"graphflow.audit.{verb}", subject="all", related={}, data={}
            )

    @property
    def late_after_seconds(self) -> float:
        """How old a fire is that counts as missed, and how long a run waits before it is late."""
        found = self._setting("late_after_seconds")
        return LATE_AFTER_SECONDS if found is None else float(found)

    def _setting(self, name: str) -> str | None:
        rows = self._catalog.rows(statements.SETTING, (name,))
        return str(rows[0][0]) if rows else None


def _like(type: str) -> str:
    return type.replace("*", "%")


def happening_of(
    seq: int,
    id: str,
    at: float,
    type: str,
    source: str,
    subject: str,
    related: str,
    depth: int,
    data: str,
) -> Happening:
    """Return an event from its row."""
    return Happening(
        seq=seq,
        id=id,
        time=at,
        type=type,
        source=source,
        subject=subject,
        related=json.loads(related),
        depth=depth,
        data=json.loads(data),
    )
