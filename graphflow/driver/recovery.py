"""What earlier launches of a run left, matched with what its flow records now.

The rules: a node is found by its key. Finished items are kept, also where their task's code changed (with one
warning), unless what they are mapped over, or their constant arguments, changed. Failed and cancelled items run again.
What depends on something that runs again runs again too (`graphflow.driver.lineage`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphflow.common.wording import count_text
from graphflow.core.nodes import Past, packed
from graphflow.driver.bookkeeping import node_inputs
from graphflow.driver.comparing import Arrivals, differing
from graphflow.driver.lineage import Lineage, TakenBack, ended_of
from graphflow.errors import FlowChanged, RunNotFound, SourceChanged, TaskOptionError
from graphflow.graph.graph import DepKind, Node
from graphflow.graph.mapping import slice_of
from graphflow.identity.fingerprints import code_fingerprint
from graphflow.identity.hashing import source_digests
from graphflow.model.map_options import MAP_OPTION_NAMES, checked_map_options
from graphflow.model.orders import GONE
from graphflow.model.policies import POLICY_NAMES
from graphflow.model.reports import Stored, ValueInfo
from graphflow.model.states import FINAL_CODES, GOOD_CODES, Code
from graphflow.records.item_index import NodeHistory
from graphflow.records.replay import Replay, ReplayedNode

__all__ = ["Recovery", "Selection"]

logger = logging.getLogger("graphflow.recovery")
_KEPT = bytes(code if code in GOOD_CODES else Code.PENDING for code in range(256))
_KEPT_FAILURES = bytes(code if code in FINAL_CODES else Code.PENDING for code in range(256))
_TOLD = bytes((Past.NEVER_KEPT, Past.NEVER_KEPT | Past.THERE)) + bytes(254)
_NEEDS_VALUE = bytes(255 if code in (Code.COMPLETED, Code.CACHED) else 0 for code in range(256))
_NEEDS_NONE = bytes(0 if code in (Code.COMPLETED, Code.CACHED) else Past.THERE for code in range(256))
SUSPECT_DEATHS = 2
"""An item that was under way when this many drivers died runs apart from others from then on."""
SUSPECT_PIECES = 64
"""Into so many parts the items are dealt that were under way together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Items to run again although they may have ended well, and no others; `indices` None stands for all of a node.

    An empty `node` is the run's only map.
    """

    node: str
    indices: frozenset[int] | None = None


class Recovery:
    """Answers what was left of each node.

    Parameters
    ----------
    replay
        The history of the earlier launches.
    damaged
        Columns of values that cannot be trusted any more.
    code
        The fingerprint of the flow's code now.
    selections
        What is to run again in any case.
    retries_failed
        Whether all that failed is to run again, also what a map tolerated.
    rerun_changed
        Whether to rerun tasks whose code has changed, and what depends on them.
    is_forced
        Whether a flow whose calls differ from the earlier ones is taken all the same.
    """

    def __init__(
        self,
        replay: Replay,
        *,
        damaged: Iterable[Stored] = (),
        code: str = "",
        selections: Sequence[Selection] = (),
        retries_failed: bool = False,
        rerun_changed: bool = False,
        is_forced: bool = False,
    ) -> None:
        self.replay = replay
        self._nodes = {known.entry.key: known for known in replay.nodes.values()}
        self._lineage = Lineage(replay)
        self._completed = {number for number, known in replay.nodes.items() if known.code == Code.COMPLETED}
        self._damaged = {(each.name, each.offset) for each in damaged}
        self._selections = {self._named(each): each for each in selections}
        self._retries_failed = retries_failed
        self._rerun_changed = rerun_changed
        before = replay.launches[0].code if replay.launches else ""
        self._is_strict = not is_forced and bool(code and before and code != before)
        self._calls = [known for known in replay.nodes.values() if known.entry.parent is None]
        self._place = 0
        self._keys: dict[int, str] = {}
        self._matched: dict[int, ReplayedNode] = {}
        self._widths: dict[int, int] = {}
        self._arrivals: dict[int, Arrivals] = {}
        self._warned: set[tuple[str, str]] = set()

    def _named(self, selection: Selection) -> str:
        """Return the node that a selection means, once it is found to be there.

        Raises
        ------
        RunNotFound
            If there is no such node.
        IndexError
            If there is no such item.
        """
        entries = [known.entry for known in self.replay.nodes.values() if not known.entry.is_builtin]
        maps = [entry.name for entry in entries if entry.is_mapped]
        name = selection.node
        if not name:
            if len(maps) != 1:
                raise RunNotFound(
                    f"the run has {count_text(len(maps), 'map')} ({', '.join(maps) or 'none'}); choose a node"
                )
            name = maps[0]
        entry = next((each for each in entries if each.name == name), None)
        if entry is None:
            names = ", ".join(each.name for each in entries) or "none"
            raise RunNotFound(f"the run has no node {name!r}; there are: {names}")
        width = len(self.replay.nodes[entry.number].states)
        wrong = sorted(index for index in selection.indices or () if not 0 <= index < width)
        if wrong:
            raise IndexError(f"{name} has {count_text(width, 'item')}; there is no item {wrong[0]}")
        return name

    @property
    def numbers(self) -> Mapping[str, int]:
        """The numbers of nodes by key."""
        return {key: known.entry.number for key, known in self._nodes.items()}

    def history_of(self, node: Node) -> NodeHistory:
        """Return what is known of a node's items, without values that are lost."""
        history = self.replay.history.node(self._nodes[node.key].number)
        if self._damaged:
            history.forget(lambda ref: (ref.path, ref.offset) in self._damaged)
        return history

    # -- matching ---------------------------------------------------------------------------------------

    def past_of(self, node: Node, is_inner: bool) -> Past | None:
        """Return what can be taken over of a node; None if there is nothing.

        Raises
        ------
        FlowChanged
            If the flow's code changed, and this call is not the one that was there before.
        """
        self._keys[node.id] = node.key
        known = self._nodes.get(node.key)
        if not is_inner:
            self._check_place(node, known)
        if known is None:
            return None
        if not self._is_alike(node, known):
            self._lineage.take_back(known.number, ended_of(known), is_changed=True)
            return None
        past = self._made(node, known)
        self._lineage.hand_out(known.number, past)
        self._matched[node.id] = known
        if node.is_mapped and past.width is not None:
            self._widths[node.id] = past.width
        return past

    def taken_back(self) -> list[TakenBack]:
        """Return the items whose ends no longer count, since the last call, by number of the node."""
        return self._lineage.taken_back()

    def _check_place(self, node: Node, known: ReplayedNode | None) -> None:
        place = self._place
        self._place += 1
        if not self._is_strict or place >= len(self._calls):
            return
        before = self._calls[place].entry
        if known is None or known.entry.key != before.key:
            raise FlowChanged(
                f"the flow was changed and no longer matches its earlier run: call {place + 1} was "
                f"{before.name!r} (task {before.task_name!r}), and is {node.name!r} (task {node.task_name!r}) now; undo the change, "
                "or resume with force to keep what still matches"
            )

    def _is_alike(self, node: Node, known: ReplayedNode) -> bool:
        """Return whether a node may be the one that was there before; warns where it may not."""
        entry = known.entry
        # What it comes after decides when it runs, and not what it gives.
        deps = [
            (DepKind(dep.kind).name, self._keys.get(dep.upstream, ""), dep.index)
            for dep in node.deps
            if dep.kind is not DepKind.AFTER
        ]
        before = [
            (dep.kind, self.replay.nodes[dep.upstream].entry.key, dep.index)
            for dep in entry.deps
            if dep.upstream in self.replay.nodes and dep.kind != DepKind.AFTER.name
        ]
        if entry.is_mapped != node.is_mapped or deps != before:
            if self._is_strict:
                raise FlowChanged(
                    f"the flow was changed and no longer matches its earlier run: {node.name!r} has different "
                    "inputs than before; undo the change, or resume with force to rerun this task and what depends on it"
                )
            self._warn(node, "has different inputs than before; all its items run again")
            return False
        inputs = node_inputs(node)
        if inputs and entry.inputs and inputs != entry.inputs:
            self._warn(node, "has different constant arguments than before; all its items run again")
            return False
        program = node.program
        if program is not None and not node.is_builtin and entry.code:
            code = code_fingerprint(program.fn)
            if code and code != entry.code:
                if self._rerun_changed:
                    self._warn(node, "has changed code; all its items run again")
                    return False
                self._warn(node, "has changed code; finished items are kept, the others run the new code")
        return True

    def _warn(self, node: Node, text: str) -> None:
        if (node.task_name, text) not in self._warned:
            self._warned.add((node.task_name, text))
            logger.warning("task %r %s", node.task_name, text)

    def changed(self, node: Node) -> Node:
        """Return a node with the options and policies that were changed in an earlier launch, unless they do not fit it any more."""
        known = self._nodes.get(node.key)
        if known is None:
            return node
        for _, values in known.changes:
            owner = f"the changed options of {node.name!r}"
            policy = {name: values[name] for name in POLICY_NAMES if name in values}
            changes = {name: values[name] for name in MAP_OPTION_NAMES if name in values}
            try:
                if policy and node.program is not None:
                    options = node.program.options.with_policy(owner, policy)
                    node = replace(node, program=replace(node.program, options=options))
                if changes and node.is_mapped:
                    node = replace(
                        node, map_options=checked_map_options(owner, changes, before=node.map_options)
                    )
                if "batch_size" in values:
                    node = replace(node, batch_size=values["batch_size"] or None)
            except TaskOptionError as error:
                logger.warning("%s", error)
        return node

    # -- items ------------------------------------------------------------------------------------------

    def _made(self, node: Node, known: ReplayedNode) -> Past:
        size, code, is_final = len(known.states), known.code, known.is_final
        is_tolerant = node.map_options.is_tolerant and known.number in self._completed
        keeps_failures = (is_tolerant and not self._retries_failed) or bool(self._selections)
        states = bytearray(known.states.translate(_KEPT_FAILURES if keeps_failures else _KEPT))
        unfinished = self._unfinished(known)
        for index in unfinished:
            if states[index] not in GOOD_CODES:
                states[index] = Code.PENDING
        failed = [index for index in ended_of(known) if not states[index]]
        if failed:
            # What took a map with tolerated failures as a whole has gone on without them.
            self._lineage.take_back(known.number, packed(failed), is_changed=is_tolerant)
        elif is_final and not size and code not in GOOD_CODES:
            self._lineage.take_back(known.number, (), is_changed=True)
        changed = [index for index in self._changed(node, known) if known.states[index] in FINAL_CODES]
        if changed:
            self._lineage.take_back(known.number, packed(changed), is_changed=True)
            for index in changed:
                states[index] = Code.PENDING
        if is_final and code not in GOOD_CODES and (not keeps_failures or known.broke_off):
            # What an iterator raised is never kept: it is read again.
            self._lineage.take_back_users(known.number)
        attempts = bytearray(known.attempts[:size].ljust(size, b"\0"))
        self._count_flying(node, known, attempts)
        valued = self._valued(known, states)
        for index in unfinished:
            valued[index] = Past.GONE
        self._tell_of_values(node, states, valued)
        return Past(
            # One that did not end well may have been cut short.
            width=None if is_final and code not in GOOD_CODES else known.width,
            states=states,
            attempts=attempts,
            valued=valued,
            info=self._info(known),
            suspects=tuple(
                kept
                for part in known.suspects(SUSPECT_DEATHS, SUSPECT_PIECES)
                if (kept := [index for index in part if index < size and not states[index]])
            ),
        )

    def _tell_of_values(self, node: Node, states: bytearray, valued: bytearray) -> None:
        """Log that values are recomputed: those that were not to be stored, and those that were lost."""
        program = node.program
        if program is not None and program.options.persist_result is False:
            count = sum(map(states.count, (Code.COMPLETED, Code.CACHED)))
            if count:
                self._warn(
                    node,
                    f"has persist_result=False: the values of {count_text(count, 'finished item')} are gone, and are recomputed if something that "
                    "still runs needs them",
                )
        elif lost := valued.count(Past.GONE):
            self._warn(
                node,
                f"has {count_text(lost, 'finished item')} whose values are no longer stored, to be run again",
            )

    def _unfinished(self, known: ReplayedNode) -> set[int]:
        """Return items in whose place tasks were recorded that have not all ended well: only the item can record them again."""
        return {
            index
            for index, child in self._lineage.children(known.number)
            if index < len(known.states) and not self._is_finished(child)
        }

    def _is_finished(self, known: ReplayedNode) -> bool:
        is_kept = bool(self._selections) or known.number in self._completed
        return (
            known.is_final
            and (known.code in GOOD_CODES or is_kept)
            and not self._unfinished(known)
            and known.entry.name not in self._selections
        )

    def _info(self, known: ReplayedNode) -> ValueInfo | None:
        """Return what the value is to a map; where a node stands in for it, what that node's value is."""
        root = None if known.entry.is_mapped else known.aliases.get(0)
        if root is None:
            return known.info
        stand_in = self.replay.nodes[root]
        if not stand_in.entry.is_mapped:
            return self._info(stand_in)
        length = stand_in.states.count(Code.COMPLETED) + stand_in.states.count(Code.CACHED)
        return ValueInfo(kind="sized", type_name="list", length=length)

    def _changed(self, node: Node, known: ReplayedNode) -> Sequence[int]:
        """Return items that are to run again although they may have ended well: selected ones, and those whose input changed."""
        size = len(known.states)
        selection = self._selections.get(node.name)
        if selection is not None and selection.indices is None:
            return range(size)
        found = set() if selection is None or selection.indices is None else {*selection.indices}
        found.update(self._compared(node, known))
        width = node.fixed_width
        if width is not None and node.is_mapped and width != size:
            found.update(range(width, size))
        return sorted(index for index in found if index < size)

    @staticmethod
    def _count_flying(node: Node, known: ReplayedNode, attempts: bytearray) -> None:
        """Count an attempt that was running when the driver died if others went before it, but never as the last."""
        retries = 0 if node.program is None else node.program.options.retry.retries
        for index in known.in_flight():
            if index < len(attempts) and 0 < attempts[index] < retries:
                attempts[index] += 1

    def _valued(self, known: ReplayedNode, states: bytearray) -> bytearray:
        """Return where a value is there, or none is needed."""
        kept = bytearray(bytes([Past.NEVER_KEPT])) * len(states)
        history = self.replay.history.node(known.number)
        at = 0
        for ref, positions in history.parts(range(len(states)), GONE):
            if ref.kind == "stored":
                is_whole = (ref.path, ref.offset) not in self._damaged
                kept[at : at + len(positions)] = bytes([Past.THERE if is_whole else Past.GONE]) * len(
                    positions
                )
            at += len(positions)
        for index in known.missing():
            kept[index] = Past.GONE
        for index in known.missing(is_whole=False):
            kept[index] = Past.NEVER_KEPT
        # One that ended without a value of its own stands in a column all the same.
        told = int.from_bytes(known.valued(0, len(states)).translate(_TOLD))
        needed = int.from_bytes(kept) & told & int.from_bytes(states.translate(_NEEDS_VALUE))
        valued = needed | int.from_bytes(states.translate(_NEEDS_NONE))
        return bytearray(valued.to_bytes(len(states)))

    def _compared(self, node: Node, known: ReplayedNode) -> Iterable[int]:
        """Return items that are mapped over something else than before."""
        if not node.sources or any(source.length is None for source in node.sources):
            return ()
        width = min(len(known.states), *(source.length or 0 for source in node.sources))
        now = source_digests([slice_of(source.values, 0, width) for source in node.sources])
        return differing(known.digests(0, width), now)

    def check_source(
        self, node: Node, slot: int, start: int, values: Sequence[Any], *, has_ended: bool
    ) -> None:
        """Check that an iterator yields the same items as before.

        If a list is zipped with it, an item that differs may be the list's: it runs again.

        Raises
        ------
        SourceChanged
            At the first one that differs.
        """
        known = self._matched.get(node.id)
        if known is None:
            return
        count = start + len(values)
        before_count = max(known.width or 0, known.told() if len(node.sources) == 1 else 0)
        if has_ended and count < before_count:
            raise SourceChanged(
                f"the iterator that {node.name} is mapped over ended after {count} items; in the earlier launch of "
                f"this run it yielded {before_count}. Its items cannot be matched: start a new run, or map over a list"
            )
        arrivals = self._arrivals.setdefault(node.id, Arrivals(node))
        first, now = arrivals.take(slot, values)
        changed = [first + place for place in differing(known.digests(first, arrivals.compared), now)]
        if changed and arrivals.are_iterators_alone:
            raise SourceChanged(
                f"the iterator that {node.name} is mapped over yields a different item {changed[0]} than in the earlier launch of "
                "this run. Its items cannot be matched: start a new run, or map over a list"
            )
        ended = ended_of(known, changed)
        if len(ended):
            self._lineage.take_back(known.number, ended, is_changed=True)

    def width_known(self, node: int, width: int | None) -> None:
        """Apply the known width of a map, or that it has none: if it differs, what took all of it runs again."""
        before = self._widths.pop(node, None)
        if before is not None and before != width:
            self._lineage.take_back_users(self._matched[node].number)
