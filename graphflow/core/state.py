"""What the parts of the core share while they handle an event: books, commands, and notices to each other.

A notice is a consequence that waits for its turn, so that no part calls into another while that is half done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from graphflow.core.events import Command
from graphflow.core.grants import Grants
from graphflow.core.nodes import Flight, NodeBook, Stage
from graphflow.ports import Capacity

__all__ = [
    "DependencyEnded",
    "FollowerBack",
    "ItemsEndedUpstream",
    "LanesOpen",
    "Notice",
    "RootEnded",
    "RunState",
    "TooManyFailed",
    "Unwanted",
    "UpstreamGone",
    "WidthKnown",
]


@dataclass(frozen=True, slots=True)
class ItemsEndedUpstream:
    """Items that a stage takes one by one are final."""

    stage: Stage
    upstream: NodeBook
    indices: Sequence[int]


@dataclass(frozen=True, slots=True)
class WidthKnown:
    """The width of a node is known that a stage takes items of."""

    stage: Stage
    upstream: NodeBook


@dataclass(frozen=True, slots=True)
class UpstreamGone:
    """A node that a stage takes items of ended without a width."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class DependencyEnded:
    """One of the things that a stage waits for before it opens is final."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class FollowerBack:
    """A stage that followed others in a batch before it opened came back without an outcome."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class TooManyFailed:
    """More items of a map failed than its options allow."""

    book: NodeBook


@dataclass(frozen=True, slots=True)
class LanesOpen:
    """Items of a stage that are not under way are to be decided one by one."""

    stage: Stage
    indices: Sequence[int]


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A stage has opened that nothing needs any more."""

    stage: Stage


@dataclass(frozen=True, slots=True)
class RootEnded:
    """The root of the fragment that stands in for an item is final."""

    node: int
    index: int
    root: NodeBook


Notice = (
    ItemsEndedUpstream
    | WidthKnown
    | UpstreamGone
    | DependencyEnded
    | FollowerBack
    | RootEnded
    | TooManyFailed
    | LanesOpen
    | Unwanted
)


@dataclass(slots=True)
class RunState:
    """One run's books, and what the event at hand has led to so far."""

    capacity: Capacity
    books: dict[int, NodeBook] = field(default_factory=dict)
    flights: dict[int, Flight] = field(default_factory=dict)
    now: float = 0.0
    is_stopping: bool = False
    is_paused: bool = False
    """Whether nothing is sent for now."""
    is_closed: bool = False
    """Whether nothing more is recorded, but for grafts."""
    returned: frozenset[int] = frozenset()
    """Nodes whose values are asked for at the end."""
    open_nodes: int = 0
    means: dict[str, float] = field(default_factory=dict)
    """The newest mean of seconds per item by task, for nodes of which nothing ran yet."""
    commands: list[Command] = field(default_factory=list)
    notices: deque[Notice] = field(default_factory=deque)
    grants: Grants = field(default_factory=Grants)

    def leader_of(self, stage: Stage) -> NodeBook:
        """Return the book of the node that sets a stage's width."""
        return self.books[stage.leader]
