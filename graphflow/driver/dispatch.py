"""From the core's `SubmitBatch` to a `BatchOrder`: where each input of the batch is."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphflow.core.core import Core
from graphflow.core.events import SubmitBatch
from graphflow.core.nodes import ONLY, OWN_FAILURES, NodeBook, chosen, codes_at
from graphflow.driver.caches import Caches
from graphflow.errors import ValueUnavailable
from graphflow.graph.folding import Fold
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.graph.mapping import FailedInput, SkippedInput, elements_of, slice_of
from graphflow.model.orders import (
    BatchOrder,
    BundleOrder,
    Column,
    Earlier,
    Elements,
    Gathered,
    Given,
    Input,
    Lane,
    Literals,
    Program,
    Ref,
    SlotSource,
    StepOrder,
    Whole,
)
from graphflow.model.policies import all_successful
from graphflow.model.states import FAILED_CODES, FINAL_CODES, Code
from graphflow.ports import Backend, ResultStore
from graphflow.records.item_index import MemoryHistory

__all__ = ["NO_PERSISTENCE", "Dispatcher", "Persistence", "filler_of"]

_BAD = FAILED_CODES | {Code.CANCELLED}


def _is_tolerated(book: NodeBook, index: int) -> bool:
    """Return whether an item failed, and its map tolerates that."""
    return index < len(book.states) and book.states[index] in OWN_FAILURES and book.tolerates


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """Which values are written to where they outlive the run.

    `store` is None where none are; `caches` has the caches; `epoch` is the number of the driver; `default` is for tasks that set none themselves. With `compares`, what items are mapped over is noted, so that a later launch can
    tell whether they are the same.
    """

    store: ResultStore | None = None
    caches: Caches | None = None
    epoch: int = 0
    default: bool = True
    compares: bool = False

    def check(self, node: Node) -> None:
        """Open what a node's results need before anything runs; raises `ResultStoreError`."""
        if self.caches is not None:
            self.caches.check(node)

    def close(self) -> None:
        """Close the dispatcher after the run's batches have ended."""
        if self.caches is not None:
            self.caches.close()

    def keeps(self, program: Program) -> bool:
        """Return whether a task's values are written."""
        wanted = program.options.persist_result
        return self.store is not None and (self.default if wanted is None else wanted)


NO_PERSISTENCE = Persistence()


class Dispatcher:
    """Builds orders from the core's books and the history.

    Parameters
    ----------
    failure
        Gives the exception of a failed (node, index).
    filler
        A column whose only entry is None.
    persistence
        Which values are written to where they outlive the run.
    """

    def __init__(
        self,
        *,
        run_id: str,
        core: Core,
        history: MemoryHistory,
        filler: Ref,
        failure: Callable[[int, int | None], BaseException],
        persistence: Persistence = NO_PERSISTENCE,
    ) -> None:
        self._persistence = persistence
        self._run_id = run_id
        self._core = core
        self._history = history
        self.filler = filler
        self._failure = failure
        self._gathered: dict[tuple[int, bool, bool, bool], Gathered] = {}
        self._shared: dict[Hashable, tuple[int, Program]] = {}
        self.buffers: dict[tuple[int, int], dict[int, Any]] = {}
        """Items taken from iterators and not ended yet, by (node, slot), then index."""

    def order(self, command: SubmitBatch) -> BatchOrder:
        """Return the order for a command. O(nodes x dependencies + parts of the inputs)."""
        if command.is_bundle:
            return self._bundle_order(command)
        inputs: list[Input] = []
        steps: list[StepOrder] = []
        places = {node: number for number, node in enumerate(command.nodes)}
        for number, node_id in enumerate(command.nodes):
            book = self._core.books[node_id]
            node = book.node
            assert node.program is not None
            program, caches = node.program, self._persistence.caches
            slots: dict[int, SlotSource] = {}
            for dep in node.deps:
                if dep.slot < 0:
                    continue
                if dep.kind is DepKind.ITEMS and dep.upstream in places:
                    slots[dep.slot] = Lane(places[dep.upstream])
                    continue
                slots[dep.slot] = len(inputs)
                inputs.append(self._input(node, dep, command.indices))
            for source in node.sources:
                slots[source.slot] = len(inputs)
                inputs.append(self._literals(node, source, command.indices))
            steps.append(
                StepOrder(
                    node=node_id,
                    program=program,
                    slots=tuple(slots[slot] for slot in range(len(slots))),
                    tries=command.tries[number],
                    wants_info=book.wants_info,
                    timeout_seconds=command.limits[number] if command.limits else None,
                    tolerates=bool(command.tolerates) and command.tolerates[number],
                    keeps=not command.keeps or command.keeps[number],
                    persists=self._persistence.keeps(program),
                    cache=None if caches is None else caches.order(program),
                    wants_digests=number == 0
                    and self._persistence.compares
                    and any(not isinstance(source.values, range) for source in node.sources),
                )
            )
        return BatchOrder(
            id=command.batch,
            run_id=self._run_id,
            steps=tuple(steps),
            indices=command.indices,
            width=command.width,
            inputs=tuple(inputs),
            slice_seconds=command.slice_seconds,
            tell_seconds=command.tell_seconds,
            concurrency=command.concurrency,
            pace=command.pace,
            results=self._persistence.store,
            epoch=self._persistence.epoch,
            context=self._core.books[command.nodes[0]].node.context,
        )

    def _bundle_order(self, command: SubmitBatch) -> BatchOrder:
        """Return the order for nodes that are not mapped, of one task."""
        books = self._core.books
        places = {node: position for position, node in enumerate(command.nodes)}
        inputs: list[Input] = []
        shapes: list[Any] = []
        slots: list[tuple[int | Earlier, ...]] = []
        after: list[tuple[int, ...]] = []
        programs: list[Program] = []
        for node_id in command.nodes:
            node = books[node_id].node
            assert node.program is not None
            programs.append(node.program)
            shapes.append((node.program.args, node.program.kwargs))
            filled: dict[int, int | Earlier] = {}
            for dep in node.deps:
                if dep.slot < 0:
                    continue
                if dep.upstream in places:
                    filled[dep.slot] = Earlier(places[dep.upstream])
                    continue
                inputs.append(self._input(node, dep, ONLY))
                filled[dep.slot] = len(inputs)
            slots.append(tuple(filled[slot] for slot in range(len(filled))))
            after.append(tuple(places[dep.upstream] for dep in node.deps if dep.upstream in places))
        leader = books[command.nodes[0]].node
        shared, program = self._shared_program(leader, programs[0])
        return BatchOrder(
            id=command.batch,
            run_id=self._run_id,
            steps=(
                StepOrder(node=shared, program=program, slots=(), persists=self._persistence.keeps(program)),
            ),
            indices=command.indices,
            width=None,
            inputs=(Literals(shapes), *inputs),
            slice_seconds=command.slice_seconds,
            results=self._persistence.store,
            epoch=self._persistence.epoch,
            context=leader.context,
            bundle=BundleOrder(
                nodes=command.nodes,
                names=tuple(each.node_name for each in programs),
                keys=tuple(each.node_key for each in programs),
                slots=tuple(slots),
                after=tuple(after),
                nested=bytes(each.has_nested for each in programs),
                wants_info=bytes(books[node].wants_info for node in command.nodes),
            ),
        )

    def _shared_program(self, leader: Node, program: Program) -> tuple[int, Program]:
        """Return what the programs of nodes of one bundle have in common, with the node by whose number it is known."""
        known = self._shared.get(leader.bundle_key)
        if known is None:
            shared = replace(program, args=(), kwargs={}, has_nested=False)
            known = self._shared[leader.bundle_key] = (leader.id, shared)
        return known

    def _literals(self, node: Node, source: Source, indices: Sequence[int]) -> Literals:
        if source.length is None:
            buffer = self.buffers[(node.id, source.slot)]
            return Literals([buffer[i] for i in indices])
        if isinstance(indices, range):
            return Literals(slice_of(source.values, indices.start, indices.stop))
        return Literals(elements_of(source.values, indices))

    def _input(self, node: Node, dep: Dep, indices: Sequence[int]) -> Input:
        if dep.kind is DepKind.VALUE:
            return self._whole(node, dep, 0)
        if dep.kind is DepKind.PICK:
            assert dep.index is not None
            return self._whole(node, dep, dep.index)
        if dep.kind is DepKind.GATHER:
            return self._gather(node, dep)
        if dep.kind is DepKind.ELEMENTS:
            place = self._history.node(dep.upstream).place(0)
            if place is None:
                raise ValueUnavailable(f"the value of {self._core.books[dep.upstream].node.name} is missing")
            return Elements(place.ref, place.position)
        upstream = self._core.books[dep.upstream]
        parts = tuple(self._history.node(dep.upstream).parts(indices, self.filler))
        codes = codes_at(upstream.states, indices)
        overrides = {
            position: self._stand_in(node, dep.upstream, indices[position])
            for position in chosen(range(len(indices)), codes, _BAD)
        }
        return Column(parts, overrides)

    def _stand_in(self, node: Node, upstream: int, index: int | None) -> Any:
        book = self._core.books[upstream]
        if node.is_builtin and index is not None and _is_tolerated(book, index):
            return SkippedInput()
        error = self._failure(upstream, index)
        if not node.is_builtin:
            return error
        name = book.node.name
        return FailedInput(error, f"{name}[{index}]" if book.node.is_mapped and index is not None else name)

    def _whole(self, node: Node, dep: Dep, index: int) -> Input:
        upstream = self._core.books[dep.upstream]
        code = Code.FAILED if upstream.broke_off else upstream.final
        if index < len(upstream.states):
            # An item counts by itself, also of a map that failed beside its items.
            code = upstream.states[index]
        if code in _BAD:
            return Given(self._stand_in(node, dep.upstream, index if upstream.node.is_mapped else None))
        if code == Code.SKIPPED:
            return Given(SkippedInput() if node.is_builtin and dep.allows_failure else None)
        place = self._history.node(dep.upstream).place(index)
        if place is None:
            raise ValueUnavailable(f"the value of {upstream.node.name} is missing")
        return Whole(place.ref, place.position)

    def _gather(self, node: Node, dep: Dep) -> Gathered | Given:
        upstream = self._core.books[dep.upstream]
        keeps_places = node.is_builtin and dep.allows_failure
        sees_failures = dep.allows_failure or node.trigger is not all_successful
        key = (dep.upstream, node.is_builtin, keeps_places, sees_failures)
        cached = self._gathered.get(key)
        if cached is not None:
            return cached
        if upstream.width is None:
            return Given(self._stand_in(node, dep.upstream, None))
        gathered = self.gathered(dep.upstream, node, keeps_places=keeps_places, sees_failures=sees_failures)
        if upstream.is_final:
            self._gathered[key] = gathered
        return gathered

    def gathered(
        self,
        upstream_id: int,
        node: Node | None,
        *,
        keeps_places: bool = False,
        sees_failures: bool = False,
    ) -> Gathered:
        """Return all items of a mapped node, in index order; skipped ones and tolerated failures drop out.

        Where it failed beside its items, or lacks some, that failure comes after them.
        """
        upstream = self._core.books[upstream_id]
        width = upstream.width or 0
        states = upstream.states
        overrides: dict[int, Any] = {}
        dropped: list[int] = []
        if states.count(Code.COMPLETED, 0, width) + states.count(Code.CACHED, 0, width) < width:
            for i in range(width):
                code = states[i]
                if _is_tolerated(upstream, i) and not (keeps_places or sees_failures):
                    dropped.append(i)
                elif code in _BAD and node is not None:
                    overrides[i] = self._stand_in(node, upstream_id, i)
                elif code == Code.SKIPPED:
                    if keeps_places:
                        overrides[i] = SkippedInput()
                    else:
                        dropped.append(i)
        parts = [*self._history.node(upstream_id).parts(range(width), self.filler)]
        if upstream.broke_off and node is not None:
            parts.append((self.filler, (0,)))
            overrides[width] = self._stand_in(node, upstream_id, None)
        return Gathered(
            id=f"{self._run_id}/{upstream_id}/{len(overrides)}/{len(dropped)}",
            parts=tuple(parts),
            dropped=tuple(dropped),
            overrides=overrides,
            is_folded=node is not None
            and upstream.node.program is not None
            and isinstance(upstream.node.program.fn, Fold),
        )

    def forget_ended(self, node_id: int, indices: Sequence[int]) -> None:
        """Drop the copies of items from iterators that have ended."""
        book = self._core.books[node_id]
        for source in book.node.sources:
            buffer = self.buffers.get((node_id, source.slot))
            if buffer:
                members = [self._core.books[member] for member in book.stage.members]
                for i in indices:
                    if all(member.states[i] in FINAL_CODES for member in members):
                        buffer.pop(i, None)


def filler_of(backend: Backend) -> Ref:
    """The column of one None that stands where an item has no value."""
    if backend.is_local:
        return Ref(kind="local", id="none", count=1, data=[None])
    return Ref(kind="inline", id="none", count=1, data=_PICKLED_NONE, nbytes=len(_PICKLED_NONE))


_PICKLED_NONE = pickle.dumps([None], protocol=5)
