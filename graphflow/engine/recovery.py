"""What earlier lives of a run left, matched with what its flow records now.

The rules: a node is found by its key. Finished items are kept, also where their task's code changed (with one
warning), unless what they are mapped over, or their constant arguments, changed. Failed and cancelled items run again.
What depends on something that runs anew runs anew (`graphflow.engine.restoring`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphflow.engine.bookkeeping import node_inputs
from graphflow.engine.books import Past
from graphflow.errors import FlowChanged, RunNotFound, SourceChanged
from graphflow.fingerprints import code_fingerprint
from graphflow.graph import DepKind, Node
from graphflow.hashing import combined_digests, item_digests
from graphflow.histories.memory import NodeHistory
from graphflow.histories.replay import Replay, ReplayedNode
from graphflow.mapping import slice_of
from graphflow.orders import GONE
from graphflow.reports import Stored
from graphflow.states import FAILED_CODES, FINAL_CODES, Code

__all__ = ["Recovery", "Selection"]

logger = logging.getLogger("graphflow.recovery")
GOOD = (Code.COMPLETED, Code.CACHED, Code.SKIPPED)
_KEPT = bytes(code if code in GOOD else Code.PENDING for code in range(256))
_KEPT_FAILURES = bytes(
    code
    if code in GOOD or code == Code.CANCELLED or (code in FAILED_CODES and code != Code.UPSTREAM_FAILED)
    else Code.PENDING
    for code in range(256)
)
_ENDED = bytes(255 if code in FINAL_CODES else 0 for code in range(256))
_ANY = bytes(255 if code else 0 for code in range(256))
SUSPECT_DEATHS = 2
"""An item that was under way when this many drivers died runs alone from then on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Items to run again although they may have ended well, and no others; `indices` None stands for all of a node.

    An empty `node` is the run's only map.
    """

    node: str
    indices: frozenset[int] | None = None


@dataclass(slots=True)
class _Matched:
    """A node of now and what was found of it."""

    known: ReplayedNode
    past: Past
    checked: int = 0
    """Items of its iterator that were compared."""
    digests: list[int] = field(default_factory=list)


class Recovery:
    """Answers what was left of each node.

    Parameters
    ----------
    replay
        The history of the earlier lives.
    damaged
        Columns of values that cannot be trusted any more.
    code
        The fingerprint of the flow's code now.
    selections
        What is to run again in any case.
    rerun_changed
        Whether tasks whose code changed run anew, with all that depends on them.
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
        rerun_changed: bool = False,
        is_forced: bool = False,
    ) -> None:
        self.replay = replay
        self._nodes = {known.entry.key: known for known in replay.nodes.values()}
        self._damaged = {(each.name, each.offset) for each in damaged}
        self._selections = {self._named(each): each for each in selections}
        self._rerun_changed = rerun_changed
        before = replay.lives[0].code if replay.lives else ""
        self._is_strict = not is_forced and bool(code and before and code != before)
        self._calls = [known for known in replay.nodes.values() if known.entry.parent is None]
        self._place = 0
        self._keys: dict[int, str] = {}
        self._matched: dict[int, _Matched] = {}
        self._warned: set[tuple[str, str]] = set()

    def _named(self, selection: Selection) -> str:
        """The node that a selection means, once it is found to be there.

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
                    f"the run has {len(maps)} maps ({', '.join(maps) or 'none'}); name the node"
                )
            name = maps[0]
        entry = next((each for each in entries if each.name == name), None)
        if entry is None:
            names = ", ".join(each.name for each in entries) or "none"
            raise RunNotFound(f"the run has no node {name!r}; there are: {names}")
        width = len(self.replay.nodes[entry.number].states)
        wrong = sorted(index for index in selection.indices or () if not 0 <= index < width)
        if wrong:
            raise IndexError(f"{name} has {width} items; there is no item {wrong[0]}")
        return name

    @property
    def numbers(self) -> Mapping[str, int]:
        """The numbers of nodes by key."""
        return {key: known.entry.number for key, known in self._nodes.items()}

    def history_of(self, node: Node) -> NodeHistory:
        """What is known of a node's items."""
        return self.replay.history.node(self._nodes[node.key].entry.number)

    # -- matching ---------------------------------------------------------------------------------------

    def past_of(self, node: Node, is_inner: bool) -> Past | None:
        """What can be taken over of a node; None if there is nothing.

        Raises
        ------
        FlowChanged
            If the flow's code changed, and this call is not the one that was there before.
        """
        self._keys[node.id] = node.key
        known = self._nodes.get(node.key)
        if not is_inner:
            self._check_place(node, known)
        if known is None or not self._is_alike(node, known):
            return None
        past = self._made(node, known)
        self._matched[node.id] = _Matched(known, past)
        return past

    def _check_place(self, node: Node, known: ReplayedNode | None) -> None:
        place = self._place
        self._place += 1
        if not self._is_strict or place >= len(self._calls):
            return
        before = self._calls[place].entry
        if known is None or known.entry.key != before.key:
            raise FlowChanged(
                f"the flow was changed so that its earlier run does not match it any more: call {place + 1} was "
                f"{before.name!r} (task {before.task_name!r}), and is {node.name!r} (task {node.task_name!r}) now; undo the change, "
                "or force it to keep what still matches"
            )

    def _is_alike(self, node: Node, known: ReplayedNode) -> bool:
        """Whether a node may be the one that was there before; warns where it may not."""
        entry = known.entry
        deps = [(DepKind(dep.kind).name, self._keys.get(dep.upstream, ""), dep.index) for dep in node.deps]
        before = [
            (dep.kind, self.replay.nodes[dep.upstream].entry.key, dep.index)
            for dep in entry.deps
            if dep.upstream in self.replay.nodes
        ]
        if entry.is_mapped != node.is_mapped or deps != before:
            if self._is_strict:
                raise FlowChanged(
                    f"the flow was changed so that its earlier run does not match it any more: {node.name!r} takes other "
                    "inputs than before; undo the change, or force it to run this task, and what depends on it, anew"
                )
            self._warn(node, "takes other inputs than before; all of it runs anew")
            return False
        inputs = node_inputs(node)
        if inputs and entry.inputs and inputs != entry.inputs:
            self._warn(node, "has other constant arguments than before; all of it runs anew")
            return False
        program = node.program
        if program is not None and not node.is_builtin and entry.code:
            code = code_fingerprint(program.fn)
            if code and code != entry.code:
                if self._rerun_changed:
                    self._warn(node, "has changed code; all of it runs anew")
                    return False
                self._warn(node, "has changed code; finished items are kept, the others run the new code")
        return True

    def _warn(self, node: Node, text: str) -> None:
        if (node.task_name, text) not in self._warned:
            self._warned.add((node.task_name, text))
            logger.warning("task %r %s", node.task_name, text)

    # -- items ------------------------------------------------------------------------------------------

    def _made(self, node: Node, known: ReplayedNode) -> Past:
        size = len(known.states)
        is_tolerant = node.knobs.is_tolerant and known.code == Code.COMPLETED
        keeps_failures = is_tolerant or bool(self._selections)
        states = bytearray(known.states.translate(_KEPT_FAILURES if keeps_failures else _KEPT))
        attempts = bytearray(known.attempts[:size].ljust(size, b"\0"))
        # What failed for good starts with all its attempts.
        spent = int.from_bytes(known.states.translate(_ENDED)) & ~int.from_bytes(states.translate(_ANY))
        attempts = bytearray((int.from_bytes(attempts) & ~spent).to_bytes(size))
        self._count_flying(node, known, attempts)
        selection = self._selections.get(node.name)
        if selection is not None:
            chosen = range(size) if selection.indices is None else selection.indices
            for index in chosen:
                if index < size:
                    states[index] = attempts[index] = 0
        self._compare(node, known, states, attempts)
        return Past(
            width=known.width,
            states=states,
            attempts=attempts,
            valued=self._valued(known, states),
            info=known.info,
            suspects=frozenset(
                index for index in known.suspects(SUSPECT_DEATHS) if index < size and not states[index]
            ),
        )

    @staticmethod
    def _count_flying(node: Node, known: ReplayedNode, attempts: bytearray) -> None:
        """An attempt that was under way when the driver died counts where others went before it, but never as the last."""
        retries = 0 if node.program is None else node.program.options.retry.retries
        for index in known.in_flight():
            if index < len(attempts) and 0 < attempts[index] < retries:
                attempts[index] += 1

    def _valued(self, known: ReplayedNode, states: bytearray) -> bytearray:
        """Where a value is there, or none is needed."""
        table = bytes(
            code != Code.PENDING and code not in (Code.COMPLETED, Code.CACHED) for code in range(256)
        )
        valued = bytearray(states.translate(table))
        history = self.replay.history.node(known.entry.number)
        at = 0
        for ref, positions in history.parts(range(len(states)), GONE):
            if ref.kind == "stored" and (ref.path, ref.offset) not in self._damaged:
                valued[at : at + len(positions)] = b"\1" * len(positions)
            at += len(positions)
        for index in known.missing():
            valued[index] = 0
        return valued

    def _compare(self, node: Node, known: ReplayedNode, states: bytearray, attempts: bytearray) -> None:
        """Items that are mapped over something else than before run anew."""
        if not node.sources or any(source.length is None for source in node.sources):
            return
        width = min(len(states), *(source.length or 0 for source in node.sources))
        before = known.digests(0, width)
        if not before.strip(b"\0"):
            return
        now = _digests([source.values for source in node.sources], 0, width)
        if now == before:
            return
        for index in range(width):
            cut = slice(8 * index, 8 * index + 8)
            if before[cut] != now[cut] and before[cut].strip(b"\0") and now[cut].strip(b"\0"):
                states[index] = attempts[index] = 0

    def check_source(self, node: Node, start: int, values: Sequence[Any], *, has_ended: bool) -> None:
        """An iterator gave items again: they must be those that it gave before.

        Raises
        ------
        SourceChanged
            At the first one that differs.
        """
        matched = self._matched.get(node.id)
        if matched is None:
            return
        known = matched.known
        if has_ended and known.width is not None and start + len(values) < known.width:
            raise SourceChanged(
                f"the iterator that {node.name} is mapped over ended after {start + len(values)} items; in the earlier life of "
                f"this run it gave {known.width}. Its items cannot be matched: run the flow anew, or give a list"
            )
        if len(node.sources) > 1:
            return
        stop = min(start + len(values), len(known.states))
        before = known.digests(start, stop)
        if not before.strip(b"\0"):
            return
        now = _digests([values], 0, stop - start)
        if before == now:
            return
        for place in range(stop - start):
            cut = slice(8 * place, 8 * place + 8)
            if before[cut] != now[cut] and before[cut].strip(b"\0") and now[cut].strip(b"\0"):
                raise SourceChanged(
                    f"the iterator that {node.name} is mapped over gives another item {start + place} than in the earlier life of "
                    "this run. Its items cannot be matched: run the flow anew, or give a list"
                )


def _digests(columns: Sequence[Any], lo: int, hi: int) -> bytes:
    """What items are mapped over, as runners note it."""
    found = [item_digests(slice_of(each, lo, hi)) for each in columns]
    return combined_digests([each for each in found if each]) if any(found) else b""
