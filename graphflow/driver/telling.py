"""Which moves of nodes become events: those of tasks, a few hundred at most, with their items counted once."""

from __future__ import annotations

from graphflow.core.nodes import NodeBook
from graphflow.model.records import NodeNews
from graphflow.model.states import FINAL_CODES, Code

__all__ = ["MOST_TOLD", "Teller"]

MOST_TOLD = 200
"""So many events of nodes has a driver; the rest is counted, so that 50,000 calls cost nothing."""


class Teller:
    """Gathers the news of one driver's nodes, until they are durable and may be told."""

    def __init__(self) -> None:
        self.left_out = 0
        """How many moves were only counted."""
        self.has_news = False
        self._told = 0
        self._attempt = 0
        self._running: set[int] = set()
        self._news: list[NodeNews] = []

    def begin_attempt(self) -> None:
        """Begin an attempt of the whole flow: its nodes run again."""
        self._attempt += 1
        self._running = set()

    def moved(self, book: NodeBook, number: int, code: Code, at: float) -> None:
        """Note a node's state if it is its first start or its end, and it did not end so before this launch. O(1) beyond the limit."""
        is_final = code in FINAL_CODES
        if book.node.is_builtin or not (is_final or code is Code.RUNNING):
            return
        if is_final:
            if number not in self._running and _was_taken_over(book):
                return
            self._running.discard(number)
        elif number in self._running:
            return
        else:
            self._running.add(number)
        self.has_news = True
        if self._told == MOST_TOLD:
            self.left_out += 1
            return
        self._told += 1
        self._news.append(
            NodeNews(
                key=f"{self._attempt}.{number}.{code.state_name}",
                name=book.node.name,
                task_name=book.node.task_name,
                state=code.state_name,
                at=at,
                width=book.width if book.node.is_mapped else 1,
                counts=book.state_counts(),
            )
        )

    def take(self) -> list[NodeNews]:
        """Return what is new since the last call."""
        news, self._news, self.has_news = self._news, [], False
        return news


def _was_taken_over(book: NodeBook) -> bool:
    """Return whether outcomes of an earlier launch are the node's."""
    return book.past is not None and 1 in book.past.taken
