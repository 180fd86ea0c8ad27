"""Scenarios for the simulator: a random graph, what each item of it does, and which faults strike.

Everything in a scenario follows from its seed; nothing here knows the engine.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from graphflow.core.events import MapOptionsChanged
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.model import policies
from graphflow.model.map_options import MapOptions
from graphflow.model.policies import Trigger, all_successful
from graphflow.model.reports import ValueInfo
from graphflow.model.states import Code, Counts
from graphflow.ports import Capacity

__all__ = [
    "Faults",
    "Fragment",
    "ItemScript",
    "IteratorScript",
    "NodeScript",
    "ReaderScript",
    "Scenario",
    "ScenarioMaker",
    "SharedScript",
    "random_scenario",
]

Ending = Literal["complete", "cached", "skip", "fail", "graft", "pause", "poison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemScript:
    """What the attempts of one item do: the first `failures` fail, the next one does `then`.

    `fail` gives up at once, whatever retries are left; `poison` kills its worker at each attempt.
    `pause` parks the item once and completes when it is resumed.
    """

    failures: int = 0
    error: Code = Code.FAILED
    then: Ending = "complete"


PLAIN = ItemScript()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeScript:
    """What the items of one node do, and what its value is to a map."""

    retries: int = 0
    delay_seconds: float = 0.0
    seconds: float = 0.01
    info: ValueInfo | None = None
    items: Mapping[int, ItemScript] = field(default_factory=dict)

    def item(self, index: int) -> ItemScript:
        """The script of one item."""
        return self.items.get(index, PLAIN)

    def delay(self, index: int, attempt: int) -> float:
        """Seconds until an item is tried again; every other retry is made at once."""
        return self.delay_seconds * (1 + index * 7 % 5) if attempt % 2 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IteratorScript:
    """An iterator that gives `length` items and then ends, or raises."""

    length: int
    raises: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """What an item recorded in its own place; a broken one cannot be decoded."""

    nodes: tuple[Node, ...]
    root: int
    is_broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderScript:
    """The body iterates over a map while it runs, `window` items ahead; it leaves the loop at item `leaves_at`."""

    window: int
    leaves_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, as probabilities per batch; times are in virtual seconds."""

    loses: float = 0.0
    """A batch is lost, with its worker or with its report."""
    has_journal: bool = True
    """Whether a lost batch is known to have been executing a certain item."""
    duplicates: float = 0.0
    """A report arrives once more, or after its batch was given up for lost."""
    cuts: float = 0.0
    """A batch hands a part back."""
    is_scattered: bool = False
    """Whether reports overtake each other."""
    capacities: tuple[tuple[float, Capacity], ...] = ()
    calm_after: float = 0.0
    """From then on no batch is lost."""
    stop_at: float | None = None
    is_hard: bool = False
    parts: float = 0.0
    """A batch reports in two parts, the second later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedScript:
    """What a run may have of limits and rates that it shares with others, as it changes: (time, sizes, rates), the first at 0."""

    turns: tuple[tuple[float, Mapping[str, int], Mapping[str, float]], ...] = ()
    burst: int = 1
    answers_after: float = 0.2
    """At most so many seconds after it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run to simulate."""

    seed: int
    rounds: tuple[tuple[Node, ...], ...]
    forced: tuple[int | None, ...]
    """Per round after the first: the node whose end it waits for, or None for a moment's delay."""
    scripts: Mapping[int, NodeScript]
    fragments: Mapping[tuple[int, int], Fragment]
    iterators: Mapping[tuple[int, int], IteratorScript]
    capacity: Capacity
    faults: Faults
    seen_by_body: frozenset[int] = frozenset()
    """Nodes whose failure the flow's body looks at."""
    turns: tuple[tuple[float, MapOptionsChanged], ...] = ()
    """When the user changes the options of a map."""
    readers: Mapping[int, ReaderScript] = field(default_factory=dict)
    """Maps over iterators that the body reads while they run."""
    shared: SharedScript = SharedScript()

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes, also those of fragments."""
        for each in self.rounds:
            yield from each
        for fragment in self.fragments.values():
            yield from fragment.nodes

    @property
    def may_halt(self) -> bool:
        """Whether a map may end early, at a moment that depends on timing."""
        options = [node.map_options for node in self.nodes] + [turn.map_options for _, turn in self.turns]
        leaves = any(reader.leaves_at is not None for reader in self.readers.values())
        return leaves or any(each.can_halt and each.exceeded(MAX_WIDTH, MAX_WIDTH) for each in options)

    def behind(self, id_: int) -> set[int]:
        """A map, and the maps that it takes items of, to any depth."""
        nodes = {node.id: node for node in self.nodes}
        found, todo = {id_}, [id_]
        while todo:
            upstreams = {dep.upstream for dep in nodes[todo.pop()].deps if dep.kind is DepKind.ITEMS}
            todo += upstreams - found
            found |= upstreams
        return found

    def is_read_alone(self, id_: int) -> bool:
        """Whether nothing but its reader ever needs a map, or what is behind it."""
        behind = self.behind(id_)
        return all(
            dep.upstream not in behind
            or dep.kind is DepKind.PICK
            or (dep.kind is DepKind.ITEMS and node.id in behind)
            for node in self.nodes
            for dep in node.deps
        )

    def without_faults(self) -> Scenario:
        """The same run with nothing going wrong around it (its items still do what they do)."""
        return replace(self, faults=Faults())

    def with_shape(self, *, is_fused: bool = True, batch_size: int | None = None) -> Scenario:
        """The same run with another batch size, fused as before or not at all."""

        def shaped(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
            return tuple(
                replace(
                    node,
                    fuse_key=node.fuse_key if is_fused else None,
                    bundle_key=node.bundle_key if is_fused else None,
                    batch_size=batch_size,
                )
                for node in nodes
            )

        return replace(
            self,
            rounds=tuple(shaped(each) for each in self.rounds),
            fragments={
                place: replace(fragment, nodes=shaped(fragment.nodes))
                for place, fragment in self.fragments.items()
            },
        )


def _raises(counts: Counts) -> bool:
    raise RuntimeError("this trigger is broken")


_TRIGGERS: tuple[Trigger, ...] = (
    policies.all_failed,
    policies.any_successful,
    policies.any_failed,
    policies.all_finished,
    policies.all_finished,
    policies.not_all_skipped,
    policies.some_failed(at_least=0.5),
    policies.some_successful(at_least=2),
    Trigger("broken", _raises),
)
_ARGUMENTS = "abcdefgh"
MAX_WIDTH = 100
"""No map of a scenario is as wide."""


def random_scenario(seed: int, *, has_faults: bool = True) -> Scenario:
    """The scenario of a seed.

    Parameters
    ----------
    seed
        Any whole number.
    has_faults
        Whether workers and reports get lost; items fail and retry in any case.
    """
    return ScenarioMaker(seed).scenario(has_faults)


class ScenarioMaker:
    """Makes the scenario of a seed.

    Parameters
    ----------
    seed
        Any whole number.
    """

    ROUNDS: tuple[int, ...] = (1, 1, 1, 2, 2, 3)
    NODES: tuple[int, ...] = (2, 3, 3, 4, 5, 6)
    WIDTHS: tuple[int, ...] = (0, 1, 2, 3, 3, 4, 5, 6, 8, 12, 20)
    DIAMONDS = 0.15
    STORMS = 0.05
    LOOPS = 0.2
    SHARED = 0.3

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.width = self.rng.choice(self.WIDTHS)
        self.batch_size = self.rng.choice((None, None, 1, 2, 3))
        self.trouble = self.rng.choice((0.0, 0.5, 0.9))
        self.scripts: dict[int, NodeScript] = {}
        self.fragments: dict[tuple[int, int], Fragment] = {}
        self.iterators: dict[tuple[int, int], IteratorScript] = {}
        self.ids = 0

    def scenario(self, has_faults: bool) -> Scenario:
        """The scenario."""
        rng = self.rng
        scope: list[Node] = []
        rounds: list[tuple[Node, ...]] = []
        forced: list[int | None] = []
        for turn in range(rng.choice(self.ROUNDS)):
            if turn:
                forced.append(rng.choice(scope).id if rng.random() < 0.6 else None)
            start = len(scope)
            for _ in range(rng.choice(self.NODES)):
                scope.append(self.node(scope, depth=0))
            if rng.random() < self.DIAMONDS:
                self.diamond(scope)
            if rng.random() < self.STORMS:
                self.storm(scope)
            if rng.random() < self.LOOPS:
                self.loop(scope, depth=1)
            rounds.append(tuple(self.with_effects(scope, start)))
        seen = (
            frozenset(node.id for node in scope if rng.random() < 0.3) if rng.random() < 0.3 else frozenset()
        )
        capacity = Capacity(slots=rng.choice((1, 1, 2, 4)), queue=rng.choice((0, 1, 1)))
        faults = self.faults() if has_faults else Faults()
        scenario = Scenario(
            seed=self.seed,
            rounds=tuple(rounds),
            forced=tuple(forced),
            scripts=self.scripts,
            fragments=self.fragments,
            iterators=self.iterators,
            capacity=capacity,
            faults=faults,
            seen_by_body=seen,
        )
        if rng.random() < 0.4:
            scenario = self.with_map_options(scenario)
        if rng.random() < 0.5:
            scenario = self.with_readers(scenario)
        return self.with_shared(scenario)

    def with_shared(self, scenario: Scenario) -> Scenario:
        """Limits and rates that other runs have their part of, and that are changed while the run goes on."""
        rng = random.Random(f"shared {self.seed}")
        if rng.random() >= self.SHARED:
            return scenario

        def named(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
            every: tuple[tuple[tuple[str, int], ...], ...] = (
                (),
                (),
                (("db", 1),),
                (("db", 1),),
                (("db", 2),),
                (("api", 1),),
                (("api", 1), ("db", 1)),
            )
            chosen: dict[Hashable, tuple[tuple[str, int], ...]] = {}
            return tuple(
                # Nodes that one batch may run are of one task.
                replace(
                    node,
                    limits=chosen.setdefault(
                        (node.bundle_key, node.bundle_key is None and node.id), rng.choice(every)
                    ),
                )
                for node in nodes
            )

        def size(least: int) -> dict[str, int]:
            return {
                name: rng.randint(least, 5)
                for name in ("db", "api")
                if rng.random() < (0.7 if name == "db" else 0.2)
            }

        def rates() -> dict[str, float]:
            return {"api": rng.choice((2.0, 20.0, 200.0))} if rng.random() < 0.6 else {}

        times = sorted(rng.random() * 4 for _ in range(rng.choice((0, 1, 2, 4))))
        turns = [
            (0.0, size(0), rates()),
            *((time, size(0), rates()) for time in times),
            (5.0, size(2), rates()),
        ]
        return replace(
            scenario,
            rounds=tuple(named(each) for each in scenario.rounds),
            fragments={
                place: replace(fragment, nodes=named(fragment.nodes))
                for place, fragment in scenario.fragments.items()
            },
            shared=SharedScript(
                turns=tuple(turns), burst=rng.choice((1, 1, 5)), answers_after=rng.choice((0.01, 0.2, 1.0))
            ),
        )

    def with_effects(self, scope: list[Node], start: int) -> list[Node]:
        """Let what is recorded after some of the plain nodes wait for them, as if nobody had kept their futures."""
        rng = random.Random(f"effects {self.seed} {start}")
        effects = [node.id for node in scope if not node.is_mapped and rng.random() < 0.3]
        if rng.random() < 0.5:
            effects = []
        for place in range(start, len(scope)):
            node = scope[place]
            deps = [Dep(upstream=each, kind=DepKind.AFTER) for each in effects if each < node.id]
            scope[place] = replace(node, deps=(*node.deps, *deps))
        return scope[start:]

    def with_readers(self, scenario: Scenario) -> Scenario:
        """A body that iterates over maps over iterators, and may leave such a loop early."""
        rng = self.rng
        recorded = [node.id for each in scenario.rounds for node in each]
        lazy = [
            id_
            for id_ in recorded
            if any((behind, slot) in self.iterators for behind in scenario.behind(id_) for slot in range(9))
        ]
        chosen = [id_ for id_ in lazy if rng.random() < 0.5][:2]
        readers = {
            id_: ReaderScript(
                window=rng.choice((1, 2, 5)), leaves_at=rng.choice((None, None, rng.randrange(4)))
            )
            for id_ in chosen
        }
        return replace(scenario, readers=readers)

    # -- options ------------------------------------------------------------------------------------------

    def with_map_options(self, scenario: Scenario) -> Scenario:
        """Limits and tolerance on some maps, some of them changed while they run."""
        rng = self.rng
        halts = rng.random() < 0.3

        def turned(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
            return tuple(self.turned(node, halts) for node in nodes)

        scenario = replace(
            scenario,
            rounds=tuple(turned(each) for each in scenario.rounds),
            fragments={
                place: replace(fragment, nodes=turned(fragment.nodes))
                for place, fragment in scenario.fragments.items()
            },
        )
        mapped = [node for each in scenario.rounds for node in each if node.is_mapped]
        turns = []
        for _ in range(rng.choice((0, 0, 1, 2)) if mapped else 0):
            node = rng.choice(mapped)
            size = rng.choice((None, None, 0, 2))
            # Tolerance stays what it is: what it comes to would depend on the moment.
            limits = self.map_options(False)
            options = replace(node.map_options, max_concurrency=limits.max_concurrency, rate=limits.rate)
            turns.append(
                (rng.random() * 3, MapOptionsChanged(node=node.id, map_options=options, batch_size=size))
            )
        return replace(scenario, turns=tuple(turns))

    def turned(self, node: Node, halts: bool) -> Node:
        """A node with options, if it is a map and chance wills it."""
        if not node.is_mapped or self.rng.random() < 0.5:
            return node
        options = self.map_options(halts)
        limits = (options.max_concurrency, options.rate)
        fuse_key: Hashable = node.fuse_key if node.fuse_key is None else (node.fuse_key, limits)
        concurrency = self.rng.choice((None, None, None, 3))
        if concurrency is not None and fuse_key is not None:
            fuse_key = (fuse_key, "async")
        return replace(node, map_options=options, fuse_key=fuse_key, concurrency=concurrency)

    def map_options(self, halts: bool) -> MapOptions:
        """Options of a map; without `halts`, such that no failures end it early."""
        rng = self.rng
        tolerance: dict[str, Any] = {}
        if halts and rng.random() < 0.5:
            tolerance = rng.choice(
                (
                    {"fail_fast": True},
                    {"tolerated_count": rng.randrange(3)},
                    {"tolerated_percentage": rng.choice((0.0, 10.0, 30.0))},
                )
            )
        elif rng.random() < 0.5:
            tolerance = rng.choice(({"tolerated_count": MAX_WIDTH}, {"tolerated_percentage": 100.0}))
        return MapOptions(
            max_concurrency=rng.choice((None, None, 1, 2, 3, 7)),
            rate=rng.choice((None, None, None, 0.7, 5.0, 60.0)),
            timeout_factor=rng.choice((None, 3.0)),
            **tolerance,
        )

    def faults(self) -> Faults:
        rng = self.rng
        if rng.random() < 0.2:
            return Faults()
        capacities: list[tuple[float, Capacity]] = []
        if rng.random() < 0.3:
            moment = 0.0
            for _ in range(rng.randrange(1, 4)):
                moment += rng.random() * 2
                capacities.append(
                    (moment, Capacity(slots=rng.choice((0, 1, 1, 2, 3)), queue=rng.choice((0, 1))))
                )
            capacities.append((moment + 1.0, Capacity(slots=rng.choice((1, 2)))))
        return Faults(
            loses=rng.choice((0.0, 0.1, 0.3)),
            has_journal=rng.random() < 0.6,
            duplicates=rng.choice((0.0, 0.2)),
            cuts=rng.choice((0.0, 0.3, 0.7)),
            is_scattered=rng.random() < 0.7,
            capacities=tuple(capacities),
            calm_after=20.0,
            stop_at=rng.random() * 3 if rng.random() < 0.15 else None,
            is_hard=rng.random() < 0.5,
            parts=rng.choice((0.0, 0.2, 0.6)),
        )

    # -- nodes ------------------------------------------------------------------------------------------

    def node(self, scope: list[Node], *, depth: int) -> Node:
        rng = self.rng
        self.ids += 1
        id_ = self.ids
        deps: list[Dep] = []
        sources: list[Source] = []
        is_mapped = rng.random() < 0.65
        if is_mapped:
            for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
                self.mapped_input(id_, scope, deps, sources)
        if scope:
            for _ in range(rng.choice((0, 0, 1) if is_mapped else (0, 1, 1, 2, 2, 3))):
                deps.append(self.constant(scope, len(deps) + len(sources)))
        own_trigger = rng.random() < 0.15
        node = Node(
            id=id_,
            key=str(id_),
            name=f"n{id_}",
            task_name=f"n{id_}",
            is_mapped=is_mapped,
            deps=tuple(deps),
            sources=tuple(sources),
            trigger=rng.choice(_TRIGGERS) if own_trigger else all_successful,
            fuse_key=rng.choice(("one", "one", "one", "one", "two", None)),
            batch_size=self.batch_size if rng.random() < 0.95 else 2,
            priority=rng.choice((0, 0, 0, 1)),
        )
        self.scripts[id_] = self.script(node, depth)
        return node

    def diamond(self, scope: list[Node]) -> None:
        """Four nodes in one stage, of which two wait side by side for retries: items overtake each other."""
        width = self.rng.choice((self.width, 16))
        first = self.chained(scope, width=width, needs=())
        left = self.chained(scope, width=width, needs=(first,), trouble=0.7)
        right = self.chained(scope, width=width, needs=(first,), trouble=0.7)
        self.chained(scope, width=width, needs=(left, right))

    def loop(self, scope: list[Node], depth: int) -> None:
        """Calls of one task in a loop, of which some need earlier ones: a batch may run several of them."""
        rng = self.rng
        ids: list[int] = []
        for _ in range(rng.choice((2, 4, 7))):
            self.ids += 1
            needs = rng.sample(ids, min(len(ids), rng.choice((0, 0, 1, 1, 2))))
            node = Node(
                id=self.ids,
                key=str(self.ids),
                name=f"n{self.ids}",
                task_name=f"n{self.ids}",
                is_mapped=False,
                deps=tuple(
                    Dep(upstream=need, kind=DepKind.VALUE, slot=slot, argument=_ARGUMENTS[slot])
                    for slot, need in enumerate(needs)
                ),
                bundle_key="loop",
            )
            self.scripts[node.id] = replace(self.script(node, depth), info=None)
            ids.append(node.id)
            scope.append(node)

    def storm(self, scope: list[Node]) -> None:
        """A map of which nearly all items are tried again, each at its own time."""
        self.chained(scope, width=16, needs=(), trouble=0.9, batch_size=self.rng.choice((3, 4, 5)))

    def chained(
        self,
        scope: list[Node],
        *,
        width: int,
        needs: tuple[int, ...],
        trouble: float = 0.0,
        batch_size: int | None = None,
    ) -> int:
        """A plain mapped node; returns its id."""
        rng = self.rng
        self.ids += 1
        id_ = self.ids
        deps = [
            Dep(upstream=need, kind=DepKind.ITEMS, slot=slot, argument=_ARGUMENTS[slot])
            for slot, need in enumerate(needs)
        ]
        scope.append(
            Node(
                id=id_,
                key=str(id_),
                name=f"n{id_}",
                task_name=f"n{id_}",
                is_mapped=True,
                deps=tuple(deps),
                sources=() if needs else (Source(slot=0, argument="a", length=width),),
                fuse_key="one",
                batch_size=batch_size or self.batch_size,
            )
        )
        retries = rng.choice((1, 2, 3))
        self.scripts[id_] = NodeScript(
            retries=retries,
            delay_seconds=rng.choice((0.1, 0.3)),
            seconds=rng.choice((0.01, 0.5)),
            items={
                index: self.item_script(id_, index, retries, depth=2)
                for index in range(width)
                if rng.random() < trouble
            },
        )
        return id_

    def mapped_input(self, id_: int, scope: list[Node], deps: list[Dep], sources: list[Source]) -> None:
        rng = self.rng
        slot = len(deps) + len(sources)
        argument = _ARGUMENTS[slot]
        mapped = [node for node in scope if node.is_mapped]
        scalars = [node for node in scope if not node.is_mapped]
        draw = rng.random()
        if mapped and draw < 0.6:
            # The latest nodes most often: long chains.
            upstream = mapped[-1] if rng.random() < 0.5 else rng.choice(mapped)
            deps.append(
                Dep(
                    upstream=upstream.id,
                    kind=DepKind.ITEMS,
                    slot=slot,
                    argument=argument,
                    allows_failure=rng.random() < 0.1,
                )
            )
        elif scalars and draw < 0.8:
            upstream = rng.choice(scalars)
            deps.append(Dep(upstream=upstream.id, kind=DepKind.ELEMENTS, slot=slot, argument=argument))
        elif draw < 0.88:
            sources.append(Source(slot=slot, argument=argument, length=None))
            self.iterators[id_, slot] = IteratorScript(length=self.some_width(), raises=rng.random() < 0.15)
        else:
            sources.append(Source(slot=slot, argument=argument, length=self.some_width()))

    def constant(self, scope: list[Node], slot: int) -> Dep:
        rng = self.rng
        upstream = scope[-1] if rng.random() < 0.3 else rng.choice(scope)
        index = None
        if rng.random() < 0.15:
            kind = DepKind.ORDER
        elif not upstream.is_mapped:
            kind = DepKind.VALUE
        elif rng.random() < 0.3:
            kind = DepKind.PICK
            index = rng.randrange(max(1, self.width + (rng.random() < 0.2)))
        else:
            kind = DepKind.GATHER
        return Dep(
            upstream=upstream.id,
            kind=kind,
            slot=-1 if kind is DepKind.ORDER else slot,
            index=index,
            argument="" if kind is DepKind.ORDER else _ARGUMENTS[slot],
            allows_failure=kind is not DepKind.ORDER and rng.random() < 0.15,
        )

    def some_width(self) -> int:
        return self.width if self.rng.random() < 0.96 else self.rng.randrange(0, 6)

    # -- what items do ----------------------------------------------------------------------------------

    def script(self, node: Node, depth: int) -> NodeScript:
        rng = self.rng
        items: dict[int, ItemScript] = {}
        retries = rng.choice((0, 0, 1, 2, 3))
        if rng.random() < self.trouble:
            places = self.width + 1 if node.is_mapped else 1
            for _ in range(rng.choice((1, 2, 3, 4)) if node.is_mapped else 1):
                index = rng.randrange(places)
                items[index] = self.item_script(node.id, index, retries, depth)
        return NodeScript(
            retries=retries,
            delay_seconds=rng.choice((0.0, 0.1, 1.0)),
            seconds=rng.choice((0.0001, 0.01, 0.2)),
            info=None if node.is_mapped else self.info(),
            items=items,
        )

    def info(self) -> ValueInfo:
        draw = self.rng.random()
        if draw < 0.9:
            return ValueInfo(kind="sized", type_name="list", length=self.some_width())
        if draw < 0.95:
            return ValueInfo(kind="scalar", type_name="int")
        return ValueInfo(kind="refused", type_name="dict", hint="Use items(...)")

    def item_script(self, node: int, index: int, retries: int, depth: int) -> ItemScript:
        rng = self.rng
        failures = rng.randrange(retries + 1)
        draw = rng.random()
        error = Code.FAILED if rng.random() < 0.7 else Code.TIMED_OUT
        if draw < 0.25:
            return ItemScript(failures=failures)
        if draw < 0.45:
            return ItemScript(failures=255, error=error)
        then: Ending
        if draw < 0.55:
            then = "fail"
        elif draw < 0.7:
            then = "skip"
        elif draw < 0.75:
            then = "cached"
        elif draw < 0.83:
            then = "pause"
        elif draw < 0.9:
            then = "poison"
        else:
            then = "graft"
            if depth == 2 or (node, index) in self.fragments:
                return ItemScript(failures=failures)
            self.fragments[node, index] = self.fragment(depth + 1)
        return ItemScript(failures=failures, error=error, then=then)

    def fragment(self, depth: int) -> Fragment:
        """What an item records in its own place."""
        rng = self.rng
        scope: list[Node] = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            scope.append(self.node(scope, depth=depth))
        return Fragment(nodes=tuple(scope), root=rng.choice(scope).id, is_broken=rng.random() < 0.1)
