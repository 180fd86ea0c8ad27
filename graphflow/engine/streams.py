"""Maps over iterators that somebody reads while they run: the reader's pace is the iterator's.

Whoever iterates over such a map is its reader. The iterators behind it are asked for no more than a window
beyond what was read, as long as nothing else needs the items; what was read may be let go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphflow.engine import events as ev
from graphflow.engine.books import NodeBook
from graphflow.engine.halting import Halter
from graphflow.engine.queues import Dispatcher
from graphflow.engine.state import RunState
from graphflow.graph import DepKind

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
    dispatcher: Dispatcher
    halter: Halter
    readers: dict[int, _Reader] = field(default_factory=dict)

    def moved(self, event: ev.ReaderMoved) -> None:
        """A reader went on: it wants items up to `limit`, and has done with those below `read`."""
        book = self.run.books.get(event.node)
        if book is None:
            return
        reader = self.readers.get(event.node)
        if reader is None:
            reader = self.readers[event.node] = _Reader(self._behind(book))
        reader.limit, reader.read = max(reader.limit, event.limit), max(reader.read, event.read)
        self._apply(reader)
        if self._is_alone(reader):
            below = min(
                [reader.read, *(low for node in reader.nodes if (low := self._picked(node)) is not None)]
            )
            self.run.commands.append(ev.ReleaseItems(nodes=tuple(sorted(reader.nodes)), below=below))

    def needed(self, event: ev.ItemsNeeded) -> None:
        """Somebody waits for an item of a map, or for all of it: the reader's pace must not hold that up."""
        for reader in self.readers.values():
            if event.node in reader.nodes:
                if event.index is None:
                    reader.is_lifted = True
                else:
                    reader.limit = max(reader.limit, event.index + 1)
                self._apply(reader)

    def recorded(self) -> None:
        """Nodes were recorded: they may need more than the readers do."""
        for reader in self.readers.values():
            self._apply(reader)

    def closed(self) -> None:
        """Nothing more is recorded: a map that its reader left, and nobody else needs, ends where it is."""
        for reader in self.readers.values():
            if not self._is_alone(reader):
                continue
            for book in [self.run.books[node] for node in sorted(reader.nodes)]:
                if book.stage.pulled and not book.is_final:
                    self.halter.abandon(book.stage)

    def _apply(self, reader: _Reader) -> None:
        limit = reader.limit if self._is_alone(reader) else None
        for node in reader.nodes:
            stage = self.run.books[node].stage
            if stage.limit != limit:
                stage.limit = limit
                self.dispatcher.enqueue(stage)

    def _behind(self, book: NodeBook) -> frozenset[int]:
        found, todo = {book.node.id}, [book]
        while todo:
            for dep in todo.pop().node.deps:
                if dep.kind is DepKind.ITEMS and dep.upstream not in found:
                    found.add(dep.upstream)
                    todo.append(self.run.books[dep.upstream])
        return frozenset(found)

    def _is_alone(self, reader: _Reader) -> bool:
        """Whether nobody but the reader needs the items; one that is picked is held by itself."""
        return not reader.is_lifted and all(
            user in reader.nodes or kind is DepKind.PICK
            for node in reader.nodes
            for user, kind, _ in self.run.books[node].users
        )

    def _picked(self, node: int) -> int | None:
        """The first item of a map that a task still needs by itself."""
        book = self.run.books[node]
        book.users = [user for user in book.users if not self.run.books[user[0]].is_final]
        return min(
            (index for _, kind, index in book.users if kind is DepKind.PICK and index is not None),
            default=None,
        )
