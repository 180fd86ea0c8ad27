"""What runs again because something upstream does: outcomes of earlier launches that no longer count.

They are taken back in the history too, before anything runs: else a driver that dies halfway would leave outcomes behind
that look just as good as those that were made of the new inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphflow.core.nodes import Past, packed
from graphflow.graph.graph import DepKind
from graphflow.model.records import EntryDep
from graphflow.model.states import FINAL_CODES, FINAL_TABLE, Code
from graphflow.records.replay import Replay, ReplayedNode

__all__ = ["Lineage", "TakenBack", "ended_of"]

TakenBack = tuple[int, Sequence[int]]
"""The number of a node, and the items of it that do not count any more."""


class Lineage:
    """The graph of the earlier launches, and which of their outcomes still count.

    Parameters
    ----------
    replay
        The history of those launches; outcomes that are taken back are Pending in it from then on.
    """

    def __init__(self, replay: Replay) -> None:
        self._nodes = replay.nodes
        self._users: dict[int, list[tuple[int, EntryDep]]] = {}
        self._children: dict[int, list[tuple[int, int]]] = {}
        self._pasts: dict[int, Past] = {}
        self._taken: list[TakenBack] = []
        for number, known in replay.nodes.items():
            for dep in known.entry.deps:
                self._users.setdefault(dep.upstream, []).append((number, dep))
            if known.entry.parent is not None:
                parent, index = known.entry.parent
                self._children.setdefault(parent, []).append((index, number))

    def hand_out(self, number: int, past: Past) -> None:
        """Hand this past to the core; what is reset later is reset there too."""
        self._pasts[number] = past

    def taken_back(self) -> list[TakenBack]:
        """Return what was taken back since this was asked last; of a node without items, no items."""
        taken, self._taken = self._taken, []
        return taken

    def children(self, number: int) -> Iterable[tuple[int, ReplayedNode]]:
        """Return the nodes that stand in for items of a node: (item, node)."""
        return ((index, self._nodes[child]) for index, child in self._children.get(number, ()))

    def take_back(self, number: int, indices: Sequence[int], *, is_changed: bool) -> None:
        """Mark items to run again, and what depends on them. O(items + dependencies).

        Parameters
        ----------
        is_changed
            Whether they may record other tasks than before; those that they recorded run again then as well.
        """
        todo = [(number, indices, is_changed)]
        while todo:
            number, indices, is_changed = todo.pop()
            was_final = self._nodes[number].is_final
            voided = self._void(number, indices)
            if not len(voided) and (len(indices) or not was_final):
                continue
            for user, dep in self._users.get(number, ()):
                known = self._nodes[user]
                kind = DepKind[dep.kind]
                if kind.is_order or (kind is DepKind.PICK and dep.index not in voided):
                    continue
                ended = ended_of(known, voided if kind is DepKind.ITEMS else None)
                if len(ended) or (kind is not DepKind.ITEMS and known.is_final):
                    todo.append((user, ended, True))
            if is_changed:
                for index, child in self._children.get(number, ()):
                    if index in voided:
                        todo.append((child, ended_of(self._nodes[child]), True))

    def take_back_users(self, number: int) -> None:
        """Mark a whole node as changed (in its width, for instance): what took all of it runs again."""
        for user, dep in self._users.get(number, ()):
            known = self._nodes[user]
            if DepKind[dep.kind] in (DepKind.GATHER, DepKind.VALUE, DepKind.ELEMENTS):
                ended = ended_of(known)
                if len(ended) or known.is_final:
                    self.take_back(user, ended, is_changed=True)

    def _void(self, number: int, indices: Sequence[int]) -> Sequence[int]:
        """Reset items that the core has not taken over yet, as if they had not run, and return them."""
        known, past = self._nodes[number], self._pasts.get(number)
        if past is not None and past.taken.find(1) >= 0:
            indices = [index for index in indices if past.taken[index : index + 1] != b"\1"]
            if not indices:
                return ()
        if not len(indices) and not known.is_final:
            return ()
        self._taken.append((number, indices))
        known.code = Code.PENDING
        known.write(indices, bytes(len(indices)), bytes(len(indices)))
        if past is not None:
            for index in indices:
                if index < len(past.states):
                    past.states[index] = past.attempts[index] = 0
        return indices


def ended_of(known: ReplayedNode, among: Sequence[int] | None = None) -> Sequence[int]:
    """Return the items of a node that ended, of some of them or of all."""
    states = known.states
    if among is None:
        among = range(len(states))
    flags = states.translate(FINAL_TABLE)
    if isinstance(among, range) and len(among) and flags.count(1, among.start, among.stop) == len(among):
        return among
    return packed([index for index in among if index < len(states) and states[index] in FINAL_CODES])
