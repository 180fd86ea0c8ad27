"""What a batch needs of the process that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from graphflow.model.orders import Ref
from graphflow.model.reports import Report, Stored
from graphflow.results.packs.growing import GrowingPacks
from graphflow.runner.printing import Line

__all__ = ["BatchHost", "Packed", "SerializationFailure"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A column as bytes, with the errors of entries that cannot be carried, and where it went in the result store.

    `dropped` are positions of values that were left out, because nothing needs them after this batch. `stored` is None where
    it could not be written.
    """

    data: bytes
    errors: Mapping[int, Exception]
    stored: Stored | None
    dropped: Sequence[int] = ()


class BatchHost(Protocol):
    """The process, as a batch sees it."""

    worker: str
    is_local: bool
    growing: GrowingPacks
    """Where its results go."""
    takes_progress: bool
    """Whether partial reports are delivered while a batch runs."""

    @property
    def tell(self) -> Callable[[Line], None] | None:
        """Sends a line that an item printed to the run's process; None in that process itself."""
        ...

    def load(self, ref: Ref) -> list[Any]:
        """Return the values of a column."""
        ...

    def store(
        self, columns: Sequence[list[Any]], *, travels: bool = False, packed: Sequence[Packed | None] = ()
    ) -> list[Ref | SerializationFailure]:
        """Keep columns; a column that cannot be carried names its items.

        `travels` is for a partial report of a running batch: what it stores cannot wait for the batch's end. `packed` has
        an entry per column where some of them are bytes already.
        """
        ...

    def not_stored(self, run_id: str, node: int, text: str) -> None:
        """Warn, once per task, why a value cannot be stored."""
        ...

    def note(self, batch: int, index: int) -> None:
        """Remember, in a place that survives this process, what is being executed."""
        ...

    def is_stopped(self, run_id: str) -> bool:
        """Return whether the run asked its batches to stop."""
        ...

    def limit_of(self, run_id: str, node: int) -> float | None:
        """Return the limit of a node's items in seconds, once it is known from the map's median."""
        ...

    def progress(self, report: Report) -> None:
        """Deliver a partial report of a running batch: it has `held` positions. Called by any thread."""
        ...

    def ending(self) -> None:
        """Store further values so that they outlive this process."""
        ...

    def give_up(self, report: Report) -> None:
        """Deliver the report without an item that is stuck, and end its thread or process.

        Positions that the report has `held` are lost with the thread or process.
        """
        ...


class SerializationFailure:
    """A column of which some entries cannot be carried; the others are in `ref`."""

    def __init__(self, ref: Ref, errors: dict[int, Exception]) -> None:
        self.ref = ref
        self.errors = errors
