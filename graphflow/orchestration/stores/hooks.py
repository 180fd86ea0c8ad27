"""Hooks of a home, and what was delivered to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphflow.common import ids
from graphflow.errors import NotFound
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.automated import Hook
from graphflow.ports import Clock

__all__ = ["Hooks"]


class Hooks:
    """The hooks of a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def put(self, hook: Hook, *, made_by: str = "") -> str:
        """Store a hook in place of the one of its name; return `added`, `changed` or `unchanged`."""
        with self._catalog.whole():
            known = {each.name: (each, file) for each, file in self.all()}.get(hook.name)
            if known == (hook, made_by):
                return "unchanged"
            row = (hook.name, hook.kind, hook.model_dump_json(), made_by)
            self._catalog.execute(statements.PUT_HOOK, row)
            verb = "added" if known is None else "changed"
            self._audit(verb, hook.name)
        return verb

    def remove(self, name: str) -> None:
        """Remove a hook.

        Raises
        ------
        NotFound
            If there is none.
        """
        with self._catalog.whole():
            self.find(name)
            self._catalog.execute(statements.DELETE_HOOK, (name,))
            self._audit("removed", name)

    def all(self) -> list[tuple[Hook, str]]:
        """Return all hooks by name, each with the file that `deploy apply` made it from."""
        rows = self._catalog.rows(statements.HOOKS)
        return [(Hook.model_validate_json(body), made_by) for _, _, body, made_by in rows]

    def find(self, name: str) -> Hook:
        """Return the hook of a name.

        Raises
        ------
        NotFound
            If there is none.
        """
        rows = self._catalog.rows(statements.HOOK, (name,))
        if not rows:
            raise NotFound(f"there is no hook {name!r}")
        return Hook.model_validate_json(rows[0][2])

    # -- deliveries; in the transaction that is open ---------------------------------------------------------------

    def delivered(self, name: str, delivery: str) -> str | None:
        """Return the run of a delivery that was taken before, empty where it started none; None if it is new."""
        rows = self._catalog.rows(statements.DELIVERY, (name, delivery))
        return None if not rows else str(rows[0][0])

    def deliver(self, hook: Hook, delivery: str, run_id: str, data: Mapping[str, Any]) -> str:
        """Write a delivery and its event; return the event's id."""
        now, given = self._clock.wall(), ids.run_id()
        if delivery:
            self._catalog.execute(statements.ADD_DELIVERY, (hook.name, delivery, now, run_id))
        related = {"hook": hook.name, **({"run": run_id} if run_id else {})}
        self._catalog.emit(
            id=given, at=now, type="graphflow.hook.received", subject=hook.name, related=related, data=data
        )
        return given

    def _audit(self, verb: str, name: str) -> None:
        self._catalog.audit(verb, name, at=self._clock.wall(), related={"hook": name})
