"""Group commit: what several threads bring to be written while one writes goes together with the next write."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from graphflow.errors import ResultStoreError

__all__ = ["GroupCommit", "Grouped"]


class Grouped(Protocol):
    """Something to be written, and what became of it: `write_all` notes a `failure`."""

    is_over: bool
    failure: BaseException | None


_L = TypeVar("_L", bound=Grouped)


class GroupCommit(ABC, Generic[_L]):
    """Writes lots, one group at a time. No lot waits for more than two writes."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        """Held while a group is written."""
        self.changed = threading.Condition()
        """Held while `waiting` changes."""
        self.waiting: list[_L] = []
        """Lots whose writing has not begun."""

    @abstractmethod
    def write_all(self, lots: Sequence[_L]) -> None:
        """Write lots, and note at each that could not be written why."""

    def before(self) -> None:
        """Wait before a group is taken, if there is a reason to."""

    def submit(self, lot: _L) -> None:
        """Write a lot, alone or together with others that wait.

        Raises
        ------
        ResultStoreError
            If the store does not take it; and whatever else writing raises.
        """
        with self.changed:
            self.waiting.append(lot)
            self.changed.notify_all()
        with self.turn:
            if not lot.is_over:
                self.before()
                with self.changed:
                    lots, self.waiting = self.waiting, []
                try:
                    self.write_all(lots)
                finally:
                    for each in lots:
                        each.is_over = True
        if lot.failure is not None:
            if isinstance(lot.failure, Exception):
                raise lot.failure
            raise ResultStoreError("results could not be published: the publishing thread was interrupted")
