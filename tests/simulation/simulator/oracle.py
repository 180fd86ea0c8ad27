"""What a scenario must come to: a plain recursive reading of the rules, without batches, order or time.

It shares no code with the engine's core, and never looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.model.policies import all_successful
from graphflow.model.reports import ValueInfo
from graphflow.model.states import FAILED_CODES, Code, Counts
from simulator.scenarios import ItemScript, NodeScript, Scenario

__all__ = ["Expected", "Oracle"]

_SUCCESS = (Code.COMPLETED, Code.CACHED)
_ROOT_FAILURES = FAILED_CODES - {Code.UPSTREAM_FAILED}


@dataclass(slots=True, kw_only=True)
class Expected:
    """How a node must end; `items` is empty where its width is never known."""

    code: Code = Code.PENDING
    width: int | None = None
    items: list[Code] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    is_failed_whole: bool = False
    """It failed beside its items."""
    is_cut_off: bool = False
    """It lacks items that a map before it lacks."""
    is_lazy: bool = False
    """Its width is known only when an iterator has ended."""

    @property
    def broke_off(self) -> bool:
        """Whether its items are not all that there should have been."""
        return self.is_failed_whole or self.is_cut_off

    @property
    def has_failed(self) -> bool:
        """Whether anything about it failed."""
        return self.code in FAILED_CODES or self.broke_off or any(code in FAILED_CODES for code in self.items)

    @property
    def has_run(self) -> bool:
        """Whether any of its items was executed."""
        return any(self.attempts)


class Oracle:
    """The expected end of each node of a scenario that nobody stops.

    Parameters
    ----------
    scenario
        What is run.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.nodes = {node.id: node for node in scenario.nodes}
        self.expected: dict[int, Expected] = {}
        for nodes in scenario.rounds:
            for node in nodes:
                self._node(node.id)

    # -- one node ---------------------------------------------------------------------------------------

    def _node(self, id_: int) -> Expected:
        if id_ not in self.expected:
            node = self.nodes[id_]
            expected = self._evaluate(node)
            expected.is_lazy = self._is_lazy(node)
            self.expected[id_] = expected
        return self.expected[id_]

    def _is_lazy(self, node: Node) -> bool:
        return any(source.length is None for source in node.sources) or any(
            dep.kind is DepKind.ITEMS and self.expected[dep.upstream].is_lazy for dep in node.deps
        )

    def _evaluate(self, node: Node) -> Expected:
        for dep in node.deps:
            self._node(dep.upstream)
        if any(self._is_missing(dep) for dep in node.deps):
            return self._failed_whole(node)
        item_wise = [dep for dep in node.deps if dep.kind is DepKind.ITEMS]
        constants = [dep for dep in node.deps if dep.kind is not DepKind.ITEMS]
        verdict = self._mapped_over(node, constants)
        if verdict is None and not (item_wise and node.trigger is not all_successful):
            verdict = self._verdict(node, constants, None)
        if verdict is Code.FAILED:
            return self._failed_whole(node)
        if verdict is not None:
            return self._ended(node, verdict)
        if not node.is_mapped:
            return self._run(node, 1, Expected())
        return self._mapped(node, item_wise)

    def _is_missing(self, dep: Dep) -> bool:
        upstream = self.expected[dep.upstream]
        return (
            dep.kind is DepKind.PICK
            and upstream.width is not None
            and dep.index is not None
            and dep.index >= upstream.width
            and upstream.code in _SUCCESS
        )

    def _mapped_over(self, node: Node, constants: Sequence[Dep]) -> Code | None:
        """What a map over a value that is not there comes to; failure beats skip."""
        codes = [self.expected[dep.upstream].code for dep in constants if dep.kind is DepKind.ELEMENTS]
        if any(code in FAILED_CODES for code in codes):
            return Code.UPSTREAM_FAILED
        if Code.SKIPPED in codes:
            is_plain = node.trigger is all_successful
            fails = is_plain and any(
                self._counts(dep, None).failed and not dep.allows_failure for dep in constants
            )
            return Code.UPSTREAM_FAILED if fails else Code.SKIPPED
        return None

    def _counts(self, dep: Dep, index: int | None) -> Counts:
        upstream = self.expected[dep.upstream]
        if dep.kind is DepKind.ITEMS and index is not None:
            return Counts([upstream.items[index].state_name])
        if dep.kind is DepKind.PICK and dep.index is not None and dep.index < len(upstream.items):
            return Counts([upstream.items[dep.index].state_name])
        if (
            dep.kind in (DepKind.GATHER, DepKind.ORDER)
            and self.nodes[dep.upstream].is_mapped
            and upstream.items
        ):
            counts = Counts(code.state_name for code in upstream.items)
            if upstream.broke_off and not counts.failed:
                counts["Failed"] += 1
            return counts
        return Counts([upstream.code.state_name])

    def _tolerates(self, id_: int) -> bool:
        """Whether the failures of a map's own items are tolerated; scenarios never exceed what is."""
        return self.nodes[id_].map_options.is_tolerant

    def _without_tolerated(self, dep: Dep, counts: Counts) -> Counts:
        """To the default trigger, what a map tolerates is as if it had been skipped."""
        if dep.allows_failure or not self._tolerates(dep.upstream):
            return counts
        upstream = self.expected[dep.upstream]
        takes_item = dep.kind is DepKind.ITEMS or (
            dep.kind is DepKind.PICK and dep.index is not None and dep.index < len(upstream.items)
        )
        if upstream.broke_off and not takes_item:
            return counts
        kept = Counts(counts)
        skipped = sum(kept.pop(code.state_name, 0) for code in _ROOT_FAILURES)
        if skipped:
            kept["Skipped"] += skipped
        return kept

    def _verdict(self, node: Node, deps: Sequence[Dep], index: int | None) -> Code | None:
        """None to run, else how the node or the item ends; `FAILED` for a trigger that raises."""
        is_plain = node.trigger is all_successful
        parts = [(dep, self._counts(dep, index)) for dep in deps if is_plain or dep.kind is not DepKind.AFTER]
        if node.trigger is all_successful:
            parts = [(dep, self._without_tolerated(dep, counts)) for dep, counts in parts]
            if any(counts.failed and not dep.allows_failure for dep, counts in parts):
                return Code.UPSTREAM_FAILED
            without_value = any(
                counts.skipped == counts.items_total
                for dep, counts in parts
                if dep.kind not in (DepKind.ORDER, DepKind.AFTER)
            )
            return Code.SKIPPED if without_value else None
        total = Counts()
        for _, counts in parts:
            total.update(counts)
        try:
            decided = node.trigger(total)
        except Exception:
            return Code.FAILED
        if decided:
            return None
        return Code.UPSTREAM_FAILED if total.failed else Code.SKIPPED

    # -- nodes that end as a whole ----------------------------------------------------------------------

    @staticmethod
    def _ended(node: Node, code: Code) -> Expected:
        width = node.fixed_width if node.is_mapped else 1
        if not width:
            return Expected(code=code)
        return Expected(code=code, width=width, items=[code] * width, attempts=[0] * width)

    @staticmethod
    def _failed_whole(node: Node) -> Expected:
        if node.is_mapped:
            return Expected(code=Code.FAILED, is_failed_whole=True)
        return Expected(code=Code.FAILED, width=1, items=[Code.FAILED], attempts=[0], is_failed_whole=True)

    # -- maps -------------------------------------------------------------------------------------------

    def _mapped(self, node: Node, item_wise: Sequence[Dep]) -> Expected:
        widths: set[int] = {source.length for source in node.sources if source.length is not None}
        for dep in node.deps:
            if dep.kind is DepKind.ELEMENTS:
                info = self._info(dep.upstream)
                if info is None or info.kind != "sized":
                    return self._failed_whole(node)
                widths.add(info.length)
        if len(widths) > 1:
            return self._failed_whole(node)
        upstreams = [self.expected[dep.upstream] for dep in item_wise]
        gone = [upstream.code for upstream in upstreams if upstream.width is None]
        if gone:
            return self._ended(node, Code.UPSTREAM_FAILED if set(gone) != {Code.SKIPPED} else Code.SKIPPED)
        widths.update(upstream.width for upstream in upstreams if upstream.width is not None)
        iterators = [
            self.scenario.iterators[node.id, source.slot] for source in node.sources if source.length is None
        ]
        expected = Expected()
        widths.update(iterator.length for iterator in iterators)
        # An iterator that gives more than the others have is never asked for its end.
        has_raised = any(iterator.raises and iterator.length == min(widths) for iterator in iterators)
        # What a map before it lacks is no difference of lengths.
        is_cut_off = any(upstream.broke_off and upstream.width == min(widths) for upstream in upstreams)
        expected.is_cut_off = is_cut_off
        expected.is_failed_whole = has_raised or (len(widths) > 1 and not is_cut_off)
        if len(widths) > 1 and not self._is_lazy(node):
            return self._failed_whole(node)
        return self._run(node, min(widths), expected)

    def _run(self, node: Node, width: int, expected: Expected) -> Expected:
        item_wise = [dep for dep in node.deps if dep.kind is DepKind.ITEMS]
        deps = node.deps if node.trigger is not all_successful else item_wise
        script = self.scenario.scripts[node.id]
        expected.width = width
        for index in range(width):
            verdict = self._verdict(node, deps, index) if item_wise else None
            code, attempts = (verdict, 0) if verdict is not None else self._item(node, script, index)
            expected.items.append(code)
            expected.attempts.append(attempts)
        expected.code = self._derived(node, expected)
        return expected

    def _item(self, node: Node, script: NodeScript, index: int) -> tuple[Code, int]:
        item: ItemScript = script.item(index)
        if item.failures > script.retries:
            return item.error, script.retries + 1
        attempts = item.failures + 1
        if item.then == "pause":
            return Code.COMPLETED, attempts + 1
        if item.then == "graft":
            fragment = self.scenario.fragments[node.id, index]
            if fragment.is_broken:
                return Code.FAILED, attempts
            for each in fragment.nodes:
                self._node(each.id)
            code = self.expected[fragment.root].code
            return (
                Code.COMPLETED if code in _SUCCESS else Code.UPSTREAM_FAILED if code in FAILED_CODES else code
            ), attempts
        codes = {
            "complete": Code.COMPLETED,
            "cached": Code.CACHED,
            "skip": Code.SKIPPED,
            "fail": item.error,
            "poison": Code.CRASHED,
        }
        return codes[item.then], attempts

    def _derived(self, node: Node, expected: Expected) -> Code:
        items = set(expected.items)
        if self._tolerates(node.id) and not expected.is_failed_whole:
            items -= _ROOT_FAILURES
        if not node.is_mapped:
            return expected.items[0]
        if expected.is_failed_whole or items & {Code.FAILED, Code.TIMED_OUT}:
            return Code.FAILED
        if Code.CRASHED in items:
            return Code.CRASHED
        if Code.UPSTREAM_FAILED in items or expected.is_cut_off:
            return Code.UPSTREAM_FAILED
        for code in (Code.SKIPPED, Code.CACHED):
            if set(expected.items) == {code}:
                return code
        return Code.COMPLETED

    def _info(self, id_: int) -> ValueInfo | None:
        """What the value of a node is to a map; a graft's is its root's."""
        fragment = self.scenario.fragments.get((id_, 0))
        if fragment is None or self.scenario.scripts[id_].item(0).then != "graft":
            return self.scenario.scripts[id_].info
        root = self.expected[fragment.root]
        if self.nodes[fragment.root].is_mapped:
            length = sum(code in _SUCCESS for code in root.items)
            return ValueInfo(kind="sized", type_name="list", length=length)
        return self._info(fragment.root)

    # -- failures that nobody was handed ----------------------------------------------------------------

    def unhandled(self, seen: Sequence[tuple[int, bool]]) -> tuple[int, ...]:
        """The nodes with a failure of their own that was handed to nothing that the user wrote.

        Parameters
        ----------
        seen
            What the flow's body looked at: (node, whether that raised its failure).
        """
        raised: set[tuple[int, int | None]] = set()
        for node_id, is_raised in seen:
            if is_raised:
                self._hand(node_id, None, raised)
        handed = set[tuple[int, int | None]]()
        for node_id, _ in seen:
            self._hand(node_id, None, handed)
        for id_, expected in self.expected.items():
            node = self.nodes[id_]
            for dep in node.deps:
                if dep.kind is DepKind.AFTER:
                    continue
                if not (dep.allows_failure or node.trigger is not all_successful):
                    continue
                if dep.kind is DepKind.ITEMS:
                    for index, attempts in enumerate(expected.attempts):
                        if attempts and self.expected[dep.upstream].items[index] in FAILED_CODES:
                            self._hand(dep.upstream, index, handed)
                elif expected.has_run and self._counts(dep, None).failed:
                    self._hand(dep.upstream, dep.index, handed)
        return tuple(
            sorted(
                id_
                for id_, expected in self.expected.items()
                if self._is_unhandled(id_, expected, handed, raised)
            )
        )

    def _is_unhandled(
        self,
        id_: int,
        expected: Expected,
        handed: set[tuple[int, int | None]],
        raised: set[tuple[int, int | None]],
    ) -> bool:
        if expected.is_failed_whole and expected.width is not None:
            # A map that ends before its source looks whole to whoever takes it as data.
            return (id_, None) not in raised
        if (id_, None) in handed:
            return False
        if self._tolerates(id_) and not expected.is_failed_whole:
            return False
        return expected.is_failed_whole or any(
            code in _ROOT_FAILURES and (id_, index) not in handed for index, code in enumerate(expected.items)
        )

    def _hand(self, id_: int, index: int | None, handed: set[tuple[int, int | None]]) -> None:
        """Note that a failure, and with it what it comes from, was handed to the user."""
        expected = self.expected[id_]
        if not self.nodes[id_].is_mapped or (index is not None and index >= len(expected.items)):
            index = None
        if (id_, index) in handed:
            return
        handed.add((id_, index))
        codes = expected.items if index is None else [expected.items[index]]
        if Code.UPSTREAM_FAILED not in codes and not (
            index is None and (expected.is_cut_off or expected.code is Code.UPSTREAM_FAILED)
        ):
            return
        for place in range(len(expected.items)) if index is None else [index]:
            fragment = self.scenario.fragments.get((id_, place))
            if fragment is not None and fragment.root in self.expected:
                self._hand(fragment.root, None, handed)
                if index is not None:
                    return
        if index is None and expected.is_cut_off:
            for dep in self.nodes[id_].deps:
                if dep.kind is DepKind.ITEMS and self.expected[dep.upstream].broke_off:
                    self._hand(dep.upstream, None, handed)
        for dep in self._causes(self.nodes[id_]):
            self._hand(dep.upstream, index if dep.kind is DepKind.ITEMS else dep.index, handed)

    def _causes(self, node: Node) -> list[Dep]:
        """The dependencies by which a node comes to be `UpstreamFailed`: constants decide before items do."""
        is_plain = node.trigger is all_successful
        constants = [
            dep
            for dep in node.deps
            if dep.kind is not DepKind.ITEMS
            and (is_plain or dep.kind is not DepKind.AFTER)
            and self._counts(dep, None).failed
        ]
        blocking = [
            dep for dep in constants if dep.kind is DepKind.ELEMENTS or (is_plain and not dep.allows_failure)
        ]
        item_wise = [dep for dep in node.deps if dep.kind is DepKind.ITEMS]
        gone = [
            dep
            for dep in item_wise
            if self.expected[dep.upstream].width is None and self.expected[dep.upstream].has_failed
        ]
        return blocking or gone or item_wise + ([] if is_plain else constants)
