"""Maps over iterators that are read while they run: the reader sets the iterator's pace.

The loop over such a map is its reader. The iterators behind it are read no more than a window
beyond what was read, as long as nothing else needs the items; what was read may be let go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphflow.core import events as ev
from graphflow.core.halting import Halter
from graphflow.core.nodes import NodeBook, Stage
from graphflow.core.queues import Queues
from graphflow.core.state import RunState
from graphflow.graph.graph import DepKind

__all__ = ["Streams"]


@dataclass(slots=True)
class _Reader:
    """One map that is read; `nodes` are it and the maps that it takes items of, to any depth."""

    nodes: frozenset[int]
    limit: int = 0
    read: int = 0
    is_lifted: bool = False


@dataclass(slots=True)
class Streams:
    """The maps over iterators that are read while they run."""

    run: RunState
    queues: Queues
    halter: Halter
    readers: dict[int, _Reader] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)
    """Maps that a caller waits for, or waited for, as a whole."""

    def moved(self, event: ev.ReaderMoved) -> None:
        """Record a reader's progress: it wants items up to `limit`, and is done with those below `read`."""
        book = self.run.books.get(event.node)
        if book is None:
            return
        reader = self.readers.get(event.node)
        if reader is None:
            nodes = self._behind(book)
            reader = self.readers[event.node] = _Reader(nodes, is_lifted=not nodes.isdisjoint(self.wanted))
        reader.limit, reader.read = max(reader.limit, event.limit), max(reader.read, event.read)
        self._apply()
        if self._is_alone(reader):
            for node in sorted(reader.nodes):
                self.run.commands.append(ev.ReleaseItems(node=node, below=self._below(node)))

    def needed(self, event: ev.ItemsNeeded) -> None:
        """Record that a caller waits for an item of a map, or for all of it: the reader's pace must not delay it."""
        if event.index is None:
            self.wanted.add(event.node)
        for reader in self.readers.values():
            if event.node in reader.nodes:
                reader.is_lifted |= event.index is None
                reader.limit = max(reader.limit, (event.index or 0) + 1)
        self._apply()

    def recorded(self) -> None:
        """Update limits for recorded nodes, which may need more than the readers do."""
        if self.readers:
            self._apply()

    def closed(self) -> None:
        """Record that nothing more is recorded: a map that its reader left, and nothing else needs, ends where it is."""
        stages: dict[int, Stage] = {}
        for reader in self.readers.values():
            if self._is_alone(reader):
                stages.update((stage.id, stage) for stage in self._stages(reader))
                for stage in self._stages(reader):
                    stage.taken_below = max(stage.taken_below, self._taken_below(reader))
        for stage in stages.values():
            if stage.is_open:
                self.halter.abandon(stage)
            else:
                stage.is_unwanted = True

    def _apply(self) -> None:
        """Limit each stage to what its readers want; without limit if others need it."""
        limits: dict[int, tuple[Stage, int | None]] = {}
        for reader in self.readers.values():
            limit = max(reader.limit, self._taken_below(reader)) if self._is_alone(reader) else None
            for stage in self._stages(reader):
                known = limits.get(stage.id, (stage, limit))[1]
                far = None if known is None or limit is None else max(known, limit)
                limits[stage.id] = (stage, far)
        for stage, limit in limits.values():
            if stage.limit != limit:
                stage.limit = limit
                self.queues.enqueue(stage)

    def _stages(self, reader: _Reader) -> list[Stage]:
        return [self.run.books[node].stage for node in sorted(reader.nodes)]

    def _below(self, node: int) -> int:
        """Return the index below which all readers have read a map's items, and nothing else needs them."""
        reads = [reader.read for reader in self.readers.values() if node in reader.nodes]
        picked = self._picked(node)
        return min(reads if picked is None else [*reads, picked])

    def _behind(self, book: NodeBook) -> frozenset[int]:
        found, todo = {book.node.id}, [book]
        while todo:
            for dep in todo.pop().node.deps:
                if dep.kind is DepKind.ITEMS and dep.upstream not in found:
                    found.add(dep.upstream)
                    todo.append(self.run.books[dep.upstream])
        return frozenset(found)

    def _is_alone(self, reader: _Reader) -> bool:
        """Return whether only readers need the items; one that is picked is held by itself."""
        read = {node for each in self.readers.values() if not each.is_lifted for node in each.nodes}
        return not reader.is_lifted and all(
            kind is DepKind.PICK or (kind is DepKind.ITEMS and user in read)
            for node in reader.nodes
            for user, kind, _ in self.run.books[node].users
        )

    def _taken_below(self, reader: _Reader) -> int:
        """Return the index below which no task that takes single items needs any."""
        picks = [
            index + 1
            for node in reader.nodes
            for _, kind, index in self.run.books[node].users
            if kind is DepKind.PICK and index is not None
        ]
        return max(picks, default=0)

    def _picked(self, node: int) -> int | None:
        """Return the first item of a map that a task still needs by itself."""
        book = self.run.books[node]
        book.users = [user for user in book.users if not self.run.books[user[0]].is_final]
        return min(
            (index for _, kind, index in book.users if kind is DepKind.PICK and index is not None),
            default=None,
        )
