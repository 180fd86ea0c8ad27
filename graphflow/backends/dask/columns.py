"""Columns that stay on workers of a cluster, and bytes that all workers reach."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.errors import ValueUnavailable
from graphflow.model.orders import BatchOrder, Ref
from graphflow.model.reports import Report
from graphflow.runner.columns import decode, load_column, write_pack
from graphflow.runner.wire import refs_of
from graphflow.runner.worker import Stored

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ColumnsOnWorkers"]


class ColumnsOnWorkers:
    """Futures of what workers keep: columns of reports, and shared bytes."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._blocks: dict[str, Future] = {}
        self._shared: dict[str, Future] = {}

    def open(self, client: Client) -> None:
        """Begin, with the client of the cluster."""
        self._client = client

    def close(self) -> None:
        """Let go of all."""
        self._client = None
        self._blocks.clear()
        self._shared.clear()

    def share(self, data: bytes, folder: Path | None) -> Ref:
        """Bytes that all workers reach, sent once: through a folder where they share this machine's disk, else by Dask."""
        assert self._client is not None
        name = f"shared-{uuid.uuid4().hex}"
        if folder is not None:
            return write_pack(folder, name, [data])[0]
        future = self._client.scatter(Stored(b"", {name: data}), hash=False)
        self._shared[name] = future
        return Ref(kind="remote", id=name, count=0, nbytes=len(data))

    def unshare(self, ref: Ref) -> None:
        """Let go of shared bytes."""
        self._shared.pop(ref.id, None)

    def needed(self, order: BatchOrder, payload: bytes) -> list[Future]:
        """The futures of what a batch reads: Dask brings that to the worker."""
        needed = {ref.id for ref in refs_of(order) if ref.kind == "remote"}
        blocks = list(
            {id(self._blocks[each]): self._blocks[each] for each in needed if each in self._blocks}.values()
        )
        blocks += [
            future
            for each, future in list(self._shared.items())
            if each in needed or each.encode() in payload
        ]
        return blocks

    def stayed(self, report: Report, future: Future) -> None:
        """Note the columns of a report that stayed on the worker, in the result of its task."""
        for step in report.steps:
            for ref in (step.values, step.labels):
                if ref is not None and ref.kind == "remote":
                    self._blocks[ref.id] = future

    def fetch(self, ref: Ref) -> list[Any]:
        """The values of a column.

        Raises
        ------
        ValueUnavailable
            If it is on a cluster that is closed, or that let go of it.
        """
        if ref.kind != "remote":
            return load_column(ref, "a result")
        future = self._blocks.get(ref.id)
        if future is None or self._client is None:
            raise ValueUnavailable(
                "a result was on a worker of a cluster that is closed or that released it; read it before the "
                "backend is closed"
            )
        return decode(future.result().columns[ref.id], "a result")

    def free(self, refs: Iterable[Ref]) -> None:
        """Let go of columns."""
        for ref in refs:
            self._blocks.pop(ref.id, None)
