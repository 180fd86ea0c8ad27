"""Calls made for their effect: nobody keeps their future, so what is recorded after them waits for them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Collection, Sequence

from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.graph.handles import Handle
from graphflow.model.policies import Trigger, all_successful

__all__ = ["Effects"]

MANY = 16
"""From so many effects on that do not wait for each other, one node stands for all of them."""


class _Watch(weakref.ref[Handle]):
    """A future that nothing has used so far, which this does not keep alive."""

    __slots__ = ("node",)
    node: int


class Effects:
    """Which calls of one recording were made for their effect, and what waits for them.

    A plain call is one if its future is gone and nothing ever used it: it was not forced, and no call took it as an argument.
    That follows from the code of the body, so a resumed run finds the same edges. `.map` and `.submit` are not watched:
    they ask for work beside what follows.
    """

    def __init__(self) -> None:
        self._watched: dict[int, _Watch] = {}
        # A future may go while any thread is anywhere: what is called then only appends.
        self._gone: deque[_Watch] = deque()
        self._last: list[tuple[int, int]] = []
        """The effects that no other effect waits for: (number, node)."""
        self._count = 0
        self._waits: dict[int, int] = {}
        """By node, the number of the last effect that it waits for, itself or by what it depends on; none is left out."""

    def watch(self, future: Handle) -> None:
        """Take the future of a plain call, which may turn out to be thrown away."""
        watch = _Watch(future, self._gone.append)
        watch.node = future._node.id
        self._watched[watch.node] = watch

    def use(self, node: int) -> None:
        """Note that something used the future of a node."""
        self._watched.pop(node, None)

    def settle(self, nodes: Collection[int]) -> None:
        """Note that nodes have ended, and that their failures were handed to the body: nothing waits for them any more."""
        for node in nodes:
            self.use(node)
        self._last = [each for each in self._last if each[1] not in nodes]

    def many(self) -> Sequence[Dep]:
        """Return the dependencies of a node to stand for all effects so far, if they are many."""
        while self._gone:
            watch = self._gone.popleft()
            if self._watched.get(watch.node) is watch:
                del self._watched[watch.node]
                self._add(watch.node)
        return _after(self._last) if len(self._last) > MANY else ()

    def _add(self, node: int) -> None:
        waits = self._waits.get(node, 0)
        self._count += 1
        self._last = [each for each in self._last if each[0] > waits]
        self._last.append((self._count, node))

    def stand_in(self, node: Node) -> None:
        """Let a node stand for all effects so far."""
        self._waits[node.id] = self._count
        self._last = [(self._count, node.id)]

    def before(self, deps: Sequence[Dep], trigger: Trigger) -> Sequence[Dep]:
        """Return what a new node waits for beside its dependencies.

        What a dependency waits for needs no edge of its own, unless the node may begin although that dependency never did.
        """
        if not self._last:
            return ()
        waits = self._waits_of(deps) if trigger is all_successful else 0
        return _after([effect for effect in self._last if effect[0] > waits])

    def recorded(self, node: Node) -> None:
        """Note what a node waits for; the engine's own ones wait for their dependencies alone."""
        if self._count:
            self._waits[node.id] = self._waits_of(node.deps) if node.is_builtin else self._count

    def _waits_of(self, deps: Sequence[Dep]) -> int:
        return max((self._waits.get(dep.upstream, 0) for dep in deps if not dep.allows_failure), default=0)


def _after(effects: Sequence[tuple[int, int]]) -> Sequence[Dep]:
    return [Dep(upstream=node, kind=DepKind.AFTER) for node in sorted(node for _, node in effects)]
