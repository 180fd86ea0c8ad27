"""Recording: a call becomes a node of the graph, its futures become dependencies."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import Any

from graphflow.common import ids
from graphflow.errors import (
    CrossRunError,
    ForcingError,
    MapTypeError,
    MapWidthError,
)
from graphflow.graph import mapping
from graphflow.graph.binding import COLLECT, Binder, Callee, bound_names, builtin, spread_by_signature
from graphflow.graph.context import FLOW
from graphflow.graph.effects import Effects
from graphflow.graph.folding import Combine, Fold
from graphflow.graph.graph import DepKind, Node
from graphflow.graph.handles import Handle
from graphflow.graph.mapping import AllowFailure, SpreadOver
from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults
from graphflow.model.map_options import NO_MAP_OPTIONS
from graphflow.model.orders import Program
from graphflow.model.policies import ASYNC_CONCURRENCY, TaskOptions, all_successful

__all__ = ["RECORDER", "Recorder", "is_outside", "outside_flows"]

_GETITEM = builtin("getitem", operator.getitem)
_FLATTEN = builtin("flatten", mapping.flattened)
_COMPRESS = builtin("filter", mapping.compressed)
_PRODUCT = builtin("product", mapping.product_of)
_ITEMS = builtin("items", mapping.item_pairs)
_ROWS = builtin("rows", mapping.table_rows)
_EFFECTS = builtin("effects", mapping.nothing)


@dataclass(frozen=True, slots=True)
class _Inside:
    """The flow inside the flow whose body records here, as a path, whether its prints are logged, where results go, and
    whether they outlive the run.

    All that it records waits for `wait_for`.
    """

    recorder: Recorder
    group: str
    log_prints: bool
    results: CacheDefaults
    wait_for: tuple[Any, ...] = ()
    persist_result: bool | None = None


_INSIDE: ContextVar[_Inside | None] = ContextVar("graphflow_inside", default=None)


class Recorder:
    """Takes calls and makes nodes of them; as it stands, of a graph that is only looked at.

    Parameters
    ----------
    flow_name, scope
        What the nodes' keys are made of; a scope is a path such as `flow/subflow`.
    group, log_prints, results
        What nodes get where no flow is called inside the flow.
    """

    def __init__(
        self,
        *,
        flow_name: str,
        scope: str = "",
        flow_parameters: Mapping[str, Any] | None = None,
        group: str = "",
        log_prints: bool = False,
        results: CacheDefaults = NO_DEFAULTS,
    ) -> None:
        self.flow_name = flow_name
        self.flow_parameters: Mapping[str, Any] = flow_parameters or {}
        self.nodes: list[Node] = []
        self.effects = Effects()
        self._scope = scope
        self._outermost = _Inside(self, group, log_prints, results)
        self._occurrences: dict[tuple[str, str], int] = {}
        self._names: dict[str, int] = {}
        self._options: dict[tuple[Any, ...], tuple[Any, Any, TaskOptions]] = {}
        # Fragments are adopted on the driver's thread, while the body goes on to record.
        self._lock = threading.RLock()

    @property
    def scope(self) -> str:
        """The path that sets these nodes' keys apart from those of other recordings."""
        return self._scope

    def _inside(self) -> _Inside:
        inside = _INSIDE.get()
        return inside if inside is not None and inside.recorder is self else self._outermost

    @contextmanager
    def inside(
        self,
        flow_name: str,
        *,
        log_prints: bool,
        results: CacheDefaults = NO_DEFAULTS,
        wait_for: Any = None,
        persist_result: bool | None = None,
    ) -> Iterator[str]:
        """Record nodes in this context under a flow that is called here; yield its path.

        The path is `outer/inner`, with a number from the second call on.
        """
        outer = self._inside()
        count = self._occurrences.get((f"{outer.group}/", flow_name), 0)
        self._occurrences[(f"{outer.group}/", flow_name)] = count + 1
        name = flow_name if count == 0 else f"{flow_name}-{count}"
        group = f"{outer.group}/{name}" if outer.group else name
        token = _INSIDE.set(
            _Inside(
                self,
                group,
                outer.log_prints or log_prints,
                results.merged(outer.results),
                outer.wait_for if wait_for is None else (*outer.wait_for, wait_for),
                outer.persist_result if persist_result is None else persist_result,
            )
        )
        try:
            yield group
        finally:
            _INSIDE.reset(token)

    # -- what subclasses (a run) do with a new node ---------------------------------------------------

    def added(self, node: Node) -> None:
        """Handle a recorded node."""

    def check(self, callee: Callee) -> None:
        """Raise if this task cannot run here."""

    def context_here(self) -> Context | None:
        """Return the context variables as they are, for nodes that stay in this process."""
        return None

    def next_id(self) -> int:
        """Return the id of the next node."""
        return len(self.nodes)

    def cannot_force(self, node_name: str) -> ForcingError:
        """Return the error for a future that is forced where nothing can run."""
        return ForcingError(
            f"the future of {node_name} was forced while the graph of {self.flow_name!r} is built, not run; use "
            "flow.run(...) for a flow whose shape depends on values"
        )

    def foreign_text(self, handle: Handle, owner: str) -> str:
        """Return what is wrong with a future of another recording, and what to do."""
        return (
            f"{owner} got a future of {handle._node.name} that belongs to another run "
            f"(of {handle._recorder.flow_name!r}); use its value instead: future.result()"
        )

    # -- calls ----------------------------------------------------------------------------------------

    def own(self, handle: Handle, owner: str) -> Node:
        """Return the node of a future, which must be of this recording."""
        if handle._recorder is not self:
            raise CrossRunError(self.foreign_text(handle, owner))
        self.effects.use(handle._node.id)
        return handle._node

    def call(
        self,
        callee: Callee,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        wait_for: Any = None,
        owner: str | None = None,
        name: str | None = None,
    ) -> Node:
        """Record a plain call."""
        owner = owner or f"task {callee.options.name!r}"
        self.check(callee)
        names = bound_names(callee, args, kwargs, owner)
        binder = Binder(self, owner)
        new_args = tuple(binder.constant(arg, names[i]) for i, arg in enumerate(args))
        new_kwargs = {key: binder.constant(value, key) for key, value in kwargs.items()}
        binder.order(wait_for)
        return self._place(callee, binder, new_args, new_kwargs, is_mapped=False, name=name)

    def map(
        self, callee: Callee, args: Sequence[Any], kwargs: Mapping[str, Any], *, wait_for: Any = None
    ) -> Node:
        """Record a mapped call.

        Raises
        ------
        MapTypeError
            If an argument is of a kind that is not mapped, or none is mapped.
        MapWidthError
            If the lengths are known already and differ.
        """
        owner = f"task {callee.options.name!r}"
        self.check(callee)
        args = [spread_by_signature(callee, arg, len(args) + len(kwargs)) for arg in args]
        spreads = any(isinstance(arg, SpreadOver) for arg in [*args, *kwargs.values()])
        names = (
            [f"argument {i}" for i in range(len(args))]
            if spreads
            else bound_names(callee, args, kwargs, owner)
        )
        binder = Binder(self, owner)
        new_args = tuple(binder.mapped(arg, names[i]) for i, arg in enumerate(args))
        new_kwargs = {key: binder.mapped(value, key) for key, value in kwargs.items()}
        lanes = [dep for dep in binder.deps if dep.kind in (DepKind.ELEMENTS, DepKind.ITEMS)]
        if not binder.sources and not lanes:
            raise MapTypeError(
                f"{owner}: nothing to map over: all arguments are constants "
                f"({', '.join(type(arg).__name__ for arg in [*args, *kwargs.values()]) or 'there are none'}); pass a "
                "sequence, or call the task without .map"
            )
        self._check_widths(owner, binder)
        binder.order(wait_for)
        return self._place(callee, binder, new_args, new_kwargs, is_mapped=True)

    def _check_widths(self, owner: str, binder: Binder) -> None:
        widths = {source.argument: source.length for source in binder.sources if source.length is not None}
        for dep in binder.deps:
            if dep.kind is DepKind.ITEMS:
                width = self.known_width(self.nodes_by_id(dep.upstream))
                if width is not None:
                    widths[dep.argument] = width
        if len(set(widths.values())) > 1:
            each = ", ".join(f"{name}: {width}" for name, width in widths.items())
            raise MapWidthError(
                f"{owner} is mapped over arguments of different lengths ({each}); mapped arguments are zipped and "
                "must have one length; wrap a constant in unmapped(...)",
                widths=widths,
            )

    def nodes_by_id(self, node_id: int) -> Node:
        """Return a node of this recording."""
        return self.nodes[node_id]

    def known_width(self, node: Node) -> int | None:
        """Return the width of a mapped node as far as it is known without running anything."""
        width = node.fixed_width
        if width is None and node.is_mapped and not node.sources:
            lanes = [dep for dep in node.deps if dep.kind is DepKind.ITEMS]
            if lanes and not any(dep.kind is DepKind.ELEMENTS for dep in node.deps):
                return self.known_width(self.nodes_by_id(lanes[0].upstream))
        return width

    def is_lazy(self, node: Node) -> bool:
        """Return whether the width of a map is known only when an iterator has ended."""
        todo, seen = [node], {node.id}
        while todo:
            each = todo.pop()
            if any(source.length is None for source in each.sources):
                return True
            for dep in each.deps:
                if dep.kind is DepKind.ITEMS and dep.upstream not in seen:
                    seen.add(dep.upstream)
                    todo.append(self.nodes_by_id(dep.upstream))
        return False

    def is_endless(self, node: Node) -> bool:
        """Return whether a map is known to have no last item: all that it is mapped over are iterators without an end."""
        lanes = [dep for dep in node.deps if dep.kind in (DepKind.ITEMS, DepKind.ELEMENTS)]
        return (
            bool(node.sources or lanes)
            and all(source.length is None and mapping.is_endless(source.values) for source in node.sources)
            and all(
                dep.kind is DepKind.ITEMS and self.is_endless(self.nodes_by_id(dep.upstream)) for dep in lanes
            )
        )

    def check_ends(self, node: Node, owner: str) -> None:
        """Raise `ForcingError` if something takes all items of a map that has no last one."""
        if node.is_mapped and self.is_endless(node):
            raise ForcingError(
                f"{owner} takes all items of {node.name}, which is mapped over an iterator without an end; iterate over the "
                "future of the map, or bound the iterator: itertools.islice(values, n)"
            )

    def check_readable(self, node: Node) -> None:
        """Raise `ForcingError` if items cannot be read while they run, since all of an iterator is read before the first."""
        todo = [node]
        while todo:
            each = todo.pop()
            for dep in each.deps:
                if dep.kind not in (DepKind.ITEMS, DepKind.ELEMENTS) and not each.is_builtin:
                    continue
                upstream = self.nodes_by_id(dep.upstream)
                if (
                    dep.kind is DepKind.GATHER
                    and self.known_width(upstream) is None
                    and self.is_lazy(upstream)
                ):
                    raise ForcingError(
                        f"{node.name} cannot be read item by item: {each.task_name}(...) takes all items of {upstream.name} "
                        "first, and its iterator has no known end; iterate over the future of that map and choose or unpack "
                        "values in the loop, give the map a list, or ask for all of it: .result()"
                    )
                todo.append(upstream)

    def _place(
        self,
        callee: Callee,
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_mapped: bool,
        name: str | None = None,
    ) -> Node:
        with self._lock:
            many = self.effects.many()
            if many:
                every = Binder(self, "effects")
                every.deps += many
                stand_in = self._node(_EFFECTS, every, (), {}, is_mapped=False, name=None)
                self.effects.stand_in(self._add(stand_in))
            if not callee.is_builtin:
                binder.order(self._inside().wait_for)
                binder.deps += self.effects.before(binder.deps, callee.options.trigger)
            node = self._add(self._node(callee, binder, args, kwargs, is_mapped=is_mapped, name=name))
            self.effects.recorded(node)
        return node

    def _add(self, node: Node) -> Node:
        # It may be refused.
        self.added(node)
        self.nodes.append(node)
        return node

    def unique_name(self, base: str) -> str:
        """Return the name of a new node: the base, with a number from the second on."""
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return base if count == 0 else f"{base}-{count}"

    def _node(
        self,
        callee: Callee,
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_mapped: bool,
        name: str | None,
    ) -> Node:
        inside = self._inside()
        options = self._options_here(callee, inside)
        context = self.context_here()
        scope = f"{self.scope}/{inside.group}" if inside.group else self.scope
        occurrence = self._occurrences.get((scope, options.name), 0)
        self._occurrences[(scope, options.name)] = occurrence + 1
        key = ids.node_key(self.flow_name, scope, options.name, occurrence)
        node_name = self.unique_name(name or options.name)
        is_batched = options.batched and is_mapped
        # What is cached is kept before another task has it, and could change it.
        can_fuse = options.trigger is all_successful and not callee.is_builtin and options.cache is None
        program = Program(
            id=key,
            fn=callee.fn,
            kind=callee.kind,  # type: ignore[arg-type]
            args=args,
            kwargs=kwargs,
            has_nested=binder.has_nested,
            options=options,
            node_name=node_name,
            node_key=key,
            flow_name=self.flow_name,
            is_mapped=is_mapped,
            parameter_names=tuple(callee.signature.parameters) if callee.signature else (),
            flow_parameters=self.flow_parameters,
            group=inside.group,
            defaults=inside.results,
        )
        return Node(
            id=self.next_id(),
            key=key,
            name=node_name,
            task_name=options.name,
            is_mapped=is_mapped,
            deps=tuple(binder.deps),
            sources=tuple(binder.sources),
            trigger=options.trigger,
            bundle_key=(id(callee.fn), id(options), inside.group, id(inside.results), id(context))
            if not is_mapped and _may_bundle(callee, options, binder)
            else None,
            fuse_key=(
                callee.kind,
                options.resources,
                options.priority,
                options.workers,
                options.map_options.max_concurrency,
                options.map_options.rate,
            )
            if can_fuse and not is_batched
            else None,
            batch_size=options.batch_size,
            map_options=options.map_options if is_mapped else NO_MAP_OPTIONS,
            concurrency=(options.concurrency or ASYNC_CONCURRENCY)
            if callee.kind == "async" and not is_batched
            else None,
            limits=options.limits,
            priority=options.priority,
            group=inside.group,
            program=program,
            is_builtin=callee.is_builtin,
            context=context,
        )

    def _options_here(self, callee: Callee, inside: _Inside) -> TaskOptions:
        """Return a task's options where it is called; the same object for all calls there."""
        given = callee.options
        place = (id(given), inside.log_prints, inside.persist_result, id(inside.results), callee.is_builtin)
        known = self._options.get(place)
        if known is not None:
            return known[-1]
        options = given
        if options.log_prints is None and inside.log_prints:
            options = replace(options, log_prints=True)
        if options.persist_result is None and inside.persist_result is not None:
            options = replace(options, persist_result=inside.persist_result)
        if not callee.is_builtin:
            options = options.in_flow(inside.results)
        # What the key names by its id is kept.
        self._options[place] = (given, inside.results, options)
        return options

    # -- the engine's own tasks -----------------------------------------------------------------------

    def getitem(self, handle: Handle, key: Any) -> Node:
        """`future[key]`."""
        return self.call(
            _GETITEM, (handle, key), {}, name=f"{handle._node.name}[{key!r}]", owner="future[key]"
        )

    def collect(self, value: Any) -> Node:
        """Return one node whose value is the structure with its futures resolved."""
        return self.call(COLLECT, (value,), {}, owner="a returned structure")

    def flatten(self, value: Any) -> Node:
        """Return one level of nesting less."""
        return self.call(_FLATTEN, (AllowFailure(value),), {}, owner="flatten(...)")

    def compress(self, values: Any, flags: Any) -> Node:
        """Return what a predicate keeps."""
        return self.call(_COMPRESS, (AllowFailure(values), AllowFailure(flags)), {}, owner="filter(...)")

    def product(self, pools: Sequence[Any], named: Mapping[str, Any]) -> Node:
        """Return the product of sequences known at run time."""
        return self.call(_PRODUCT, pools, named, owner="product(...)")

    def reduce(
        self, values: Handle, combine: Callable[[Any, Any], Any], *, initial: Any, options: TaskOptions
    ) -> Node:
        """Return an associative reduce of a mapped node: in parts, where the items are, then of the parts."""
        parts = Callee(
            fn=Fold(combine),
            options=replace(options, name=f"{options.name}.parts", batched=True, task_run_name=None),
            kind="sync",
            signature=None,
        )
        total = Callee(fn=Combine(combine, initial), options=options, kind="sync", signature=None)
        node = self.map(parts, (values,), {})
        return self.call(total, (Handle(self, node),), {})

    def helper(self, name: str, value: Any) -> Node:
        """`items` or `rows` of a value known at run time."""
        return self.call(_ITEMS if name == "items" else _ROWS, (value,), {}, owner=f"{name}(...)")


def _may_bundle(callee: Callee, options: TaskOptions, binder: Binder) -> bool:
    """Return whether a batch may run a node that is not mapped together with others of its task."""
    return (
        callee.kind in ("sync", "builtin")
        and options.trigger is all_successful
        and options.cache is None
        and options.batch_size is None
        and not options.on_running
        and not any(dep.allows_failure for dep in binder.deps)
    )


RECORDER: ContextVar[Recorder | None] = ContextVar("graphflow_recorder", default=None)
"""The recorder that takes calls in this context; None outside flows and tasks."""


def outside_flows() -> Context:
    """Return a copy of this context as it is outside any flow's body: a task is not in the body that calls it."""
    context = copy_context()
    context.run(_leave)
    return context


def is_outside(context: Context) -> bool:
    """Return whether `outside_flows` would return the same variables as it did when it made this context."""
    others = 0
    for variable, value in copy_context().items():
        if variable in _OWN:
            continue
        others += 1
        if context.get(variable, _OWN) is not value:
            return False
    return others + len(_OWN) == len(context)


_OWN: frozenset[Any] = frozenset((RECORDER, FLOW, _INSIDE))


def _leave() -> None:
    RECORDER.set(None)
    FLOW.set(None)
    _INSIDE.set(None)
