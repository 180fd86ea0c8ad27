"""Scenarios that are run in several launches: small ones, whose items have values made of their inputs' values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.model.orders import Program
from graphflow.model.policies import RetryPolicy, TaskOptions, all_successful
from graphflow.model.reports import ValueInfo
from graphflow.model.states import FAILED_CODES, Code
from simulator.oracle import Expected, Oracle
from simulator.scenarios import Fragment, NodeScript, Scenario, ScenarioMaker

__all__ = ["FAILURE", "PlainValues", "element_of", "small_scenario", "value_of"]

FAILURE = RuntimeError("an item failed")
"""Handed over in place of the value of whatever failed."""
_SUCCESS = (Code.COMPLETED, Code.CACHED)
_OWN_FAILURES = FAILED_CODES - {Code.UPSTREAM_FAILED}


def small_scenario(seed: int, *, has_faults: bool = True) -> Scenario:
    """The scenario of a seed, with programs and with values to map over."""
    scenario = _SmallMaker(seed).scenario(has_faults)
    return with_values(replace(scenario, turns=()))


class _SmallMaker(ScenarioMaker):
    """Few and narrow nodes: what takes long is what many seeds have in common."""

    ROUNDS = (1, 1, 2)
    NODES = (2, 2, 3, 4)
    WIDTHS = (0, 1, 2, 2, 3, 3, 4, 5)
    DIAMONDS = 0.07
    STORMS = 0.0
    LOOPS = 0.1
    SHARED = 0.0

    def fragment(self, depth: int) -> Fragment:
        """What a task returns is collected: its root is never a map."""
        fragment = super().fragment(depth)
        root = next(node for node in fragment.nodes if node.id == fragment.root)
        if not root.is_mapped:
            return fragment
        self.ids += 1
        collected = Node(
            id=self.ids,
            key=str(self.ids),
            name=f"n{self.ids}",
            task_name="collect",
            is_mapped=False,
            deps=(Dep(upstream=root.id, kind=DepKind.GATHER, slot=0, argument="a"),),
        )
        self.scripts[self.ids] = NodeScript(info=ValueInfo(kind="sized", type_name="list", length=self.width))
        return replace(fragment, nodes=(*fragment.nodes, collected), root=self.ids)


# -- programs and sources -----------------------------------------------------------------------------------


def _body() -> None:
    """What nodes run; workers are simulated."""


def with_values(
    scenario: Scenario,
    versions: Mapping[tuple[int, int], int] | None = None,
    lengths: Mapping[tuple[int, int], int] | None = None,
) -> Scenario:
    """The same scenario with a program for each node, and elements for each sequence.

    Parameters
    ----------
    versions
        Of single elements, by (node, index).
    lengths
        Of sequences that are longer or shorter now, by (node, slot).
    """

    def made(nodes: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(
            _with_program(node, scenario.scripts[node.id], versions or {}, lengths or {}) for node in nodes
        )

    return replace(
        scenario,
        rounds=tuple(made(nodes) for nodes in scenario.rounds),
        fragments={
            place: replace(fragment, nodes=made(fragment.nodes))
            for place, fragment in scenario.fragments.items()
        },
    )


def _with_program(
    node: Node,
    script: NodeScript,
    versions: Mapping[tuple[int, int], int],
    lengths: Mapping[tuple[int, int], int],
) -> Node:
    slots = [dep.slot for dep in node.deps] + [source.slot for source in node.sources]
    taken = sorted(slot for slot in slots if slot >= 0)
    program = Program(
        id=node.key,
        fn=_body,
        kind="sync",
        args=(),
        kwargs={},
        has_nested=False,
        options=TaskOptions(name=node.task_name, retry=RetryPolicy(retries=script.retries)),
        node_name=node.name,
        node_key=node.key,
        flow_name="simulated",
        is_mapped=node.is_mapped,
    )
    sources = tuple(
        source
        if source.length is None
        else replace(
            source,
            length=(length := lengths.get((node.id, source.slot), source.length)),
            values=[
                element_of(node.id, source.slot, index, versions.get((node.id, index), 0))
                for index in range(length)
            ],
        )
        for source in node.sources
    )
    # An order-only dependency takes no slot.
    deps = tuple(dep if dep.slot < 0 else replace(dep, slot=taken.index(dep.slot)) for dep in node.deps)
    return replace(node, program=program, sources=sources, deps=deps)


def element_of(node: int, slot: int, index: int, version: int = 0) -> int:
    """An element of what a node is mapped over."""
    return ((node * 10 + slot) * 100 + index) * 100 + version


# -- values -------------------------------------------------------------------------------------------------


def value_of(node: int, index: int, info: ValueInfo | None, arguments: Sequence[Any]) -> Any:
    """The value that an item makes of its arguments; a list where the script says that it has a length."""
    made = hash((node, index, *map(_mixed, arguments)))
    if info is None or info.kind != "sized":
        return made
    return [hash((made, place)) for place in range(info.length)]


def _mixed(value: Any) -> int:
    if type(value) is int:
        return value
    if value is None:
        return -2
    if isinstance(value, list):
        return hash(tuple(map(_mixed, value)))
    if value is FAILURE:
        return -3
    raise TypeError(f"{value!r} is no value of the simulation")


class PlainValues:
    """The values that a plain loop would give, and how its items would end.

    Parameters
    ----------
    scenario
        What is run.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.oracle = Oracle(scenario)
        self._known: dict[tuple[int, int], Any] = {}
        self._slots: dict[int, dict[int, Dep | Source]] = {}

    def expected(self, node: int) -> Expected:
        """How a node ends; of a node of a fragment that nobody asks for, `KeyError`."""
        return self.oracle.expected[node]

    def value(self, node: int, index: int) -> Any:
        """The value of an item that ends well."""
        place = (node, index)
        if place not in self._known:
            self._known[place] = self._made(node, index)
        return self._known[place]

    def _made(self, node: int, index: int) -> Any:
        scripts, fragments = self.scenario.scripts, self.scenario.fragments
        item = scripts[node].item(index)
        if item.then == "graft" and (node, index) in fragments:
            return self.value(fragments[node, index].root, 0)
        return value_of(node, index, scripts[node].info, self._arguments(node, index))

    def _arguments(self, id_: int, index: int) -> list[Any]:
        node = self.oracle.nodes[id_]
        slots: dict[int, Callable[[], Any]] = {}
        for source in node.sources:
            values = source.values
            slots[source.slot] = lambda source=source, values=values: (  # type: ignore[misc]
                element_of(id_, source.slot, index) if values is None else values[index]
            )
        for dep in node.deps:
            if dep.slot >= 0:
                slots[dep.slot] = lambda dep=dep: self._argument(node, dep, index)  # type: ignore[misc]
        return [slots[slot]() for slot in range(len(slots))]

    def _argument(self, node: Node, dep: Dep, index: int) -> Any:
        upstream = self.expected(dep.upstream)
        if dep.kind is DepKind.ITEMS:
            return self._one(dep.upstream, index)
        if dep.kind is DepKind.ELEMENTS:
            return self.value(dep.upstream, 0)[index]
        if dep.kind is DepKind.GATHER:
            return FAILURE if upstream.width is None else self._all(node, dep, upstream)
        if upstream.broke_off and (dep.index or 0) >= len(upstream.items):
            return FAILURE
        return self._one(dep.upstream, dep.index or 0)

    def _one(self, node: int, index: int) -> Any:
        expected = self.expected(node)
        code = expected.items[index] if index < len(expected.items) else expected.code
        if code in _SUCCESS:
            return self.value(node, index)
        return None if code is Code.SKIPPED else FAILURE

    def _all(self, node: Node, dep: Dep, upstream: Expected) -> list[Any]:
        sees_failures = dep.allows_failure or node.trigger is not all_successful
        is_tolerant = self.oracle.nodes[dep.upstream].map_options.is_tolerant
        found = []
        for index, code in enumerate(upstream.items):
            if code is Code.SKIPPED or (code in _OWN_FAILURES and is_tolerant and not sees_failures):
                continue
            found.append(self._one(dep.upstream, index))
        return [*found, FAILURE] if upstream.broke_off else found
