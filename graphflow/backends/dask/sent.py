"""What the backend holds of open runs: the batches that Dask has of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphflow.backends.local import Deliver
from graphflow.model.orders import BatchOrder

if TYPE_CHECKING:
    from distributed import Future

__all__ = ["OpenRun", "Sent"]


class Sent:
    """A batch that Dask has, or is to get."""

    __slots__ = ("done_at", "future", "order", "payload", "stranded_at", "worker")

    def __init__(self, order: BatchOrder, payload: bytes = b"") -> None:
        self.order = order
        self.payload = payload
        self.future: Future | None = None
        self.done_at: float | None = None
        """When Dask was first seen to have ended its task although no report came."""
        self.worker: str | None = None
        """The worker that it was sent to, where we chose it."""
        self.stranded_at: float | None = None
        """When that worker was first seen to be gone."""


class OpenRun:
    """What the backend holds of one run."""

    def __init__(self, deliver: Deliver, folder: Path | None, topic: str) -> None:
        self.deliver = deliver
        self.folder = folder
        self.topic = topic
        self.sent: dict[int, Sent] = {}
        self.is_closed = False
