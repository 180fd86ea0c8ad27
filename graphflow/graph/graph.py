"""The DAG of one flow run, as data: nodes, their dependencies, and exports.

`Graph.nx` gives it as a networkx `MultiDiGraph`; networkx is loaded only then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from graphflow.errors import CycleError
from graphflow.model.map_options import NO_MAP_OPTIONS, MapOptions
from graphflow.model.orders import Program
from graphflow.model.policies import TaskOptions, Trigger, all_successful

if TYPE_CHECKING:
    import networkx

__all__ = ["Dep", "DepKind", "Graph", "Node", "Source"]


class DepKind(IntEnum):
    """How a node depends on another."""

    VALUE = 0
    """It takes the value of a node that is not mapped."""
    GATHER = 1
    """It takes all items of a mapped node, as a list in index order."""
    PICK = 2
    """It takes one item of a mapped node."""
    ORDER = 3
    """It only runs later."""
    ELEMENTS = 4
    """It is mapped over the elements of a value."""
    ITEMS = 5
    """It is mapped over the items of a mapped node: item i needs item i."""
    AFTER = 6
    """It comes after a call that was made for its effect, and runs once that has ended well."""

    @property
    def is_lane(self) -> bool:
        """Whether the dependency is item by item."""
        return self is DepKind.ITEMS

    @property
    def is_order(self) -> bool:
        """Whether the dependency decides only when a node runs, and gives it no value."""
        return self in (DepKind.ORDER, DepKind.AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dep:
    """One dependency; `slot` is the program's input that it fills, or -1 for order only."""

    upstream: int
    kind: DepKind
    slot: int = -1
    index: int | None = None
    argument: str = ""
    allows_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A sequence of the user's that a node is mapped over.

    `length` is None for an iterator, which is pulled as capacity frees up; `item_nbytes` estimates what
    one element weighs on the wire.
    """

    slot: int
    argument: str
    length: int | None
    values: Any = None
    item_nbytes: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A task placed in the graph.

    `concurrency` is how many items of it run at the same time in one slot, None where that is one.
    """

    id: int
    key: str
    name: str
    task_name: str
    is_mapped: bool
    deps: tuple[Dep, ...] = ()
    sources: tuple[Source, ...] = ()
    trigger: Trigger = all_successful
    fuse_key: Hashable | None = None
    bundle_key: Hashable | None = None
    """Nodes that are not mapped and have the same one may run in one batch, whose positions are nodes; None for none."""
    batch_size: int | None = None
    map_options: MapOptions = NO_MAP_OPTIONS
    concurrency: int | None = None
    limits: tuple[tuple[str, int], ...] = ()
    """What each item takes of limits that runs share: (name, slots)."""
    priority: int = 0
    group: str = ""
    program: Program | None = None
    is_builtin: bool = False
    context: Context | None = field(default=None, compare=False, repr=False)
    """The context variables where it was called, which its items see in the same process; None in another one."""

    @property
    def options(self) -> TaskOptions | None:
        """The task's options."""
        return self.program.options if self.program is not None else None

    @property
    def fixed_width(self) -> int | None:
        """The width as far as the user's own sequences tell it."""
        lengths = [source.length for source in self.sources if source.length is not None]
        return lengths[0] if lengths and len(lengths) == len(self.sources) else None


class Graph:
    """Nodes in the order they were recorded, with live state where a run is behind them.

    Parameters
    ----------
    nodes
        The nodes; more are added by `add`.
    name
        The flow's name.
    status
        Gives (state name, width, counts) of a node id; without it all nodes are Pending.
    """

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        *,
        name: str = "flow",
        status: Callable[[int], tuple[str, int | None, Mapping[str, int]]] | None = None,
    ) -> None:
        self.name = name
        self._nodes: dict[int, Node] = {}
        self._status = status
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Add a node whose upstreams are there already; O(its dependencies).

        Raises
        ------
        CycleError
            If it depends on itself or on a node that is not recorded before it.
        """
        for dep in node.deps:
            if dep.upstream == node.id or dep.upstream not in self._nodes:
                raise CycleError(
                    f"{node.name} cannot depend on "
                    f"{'itself' if dep.upstream == node.id else f'node {dep.upstream}, which is not recorded before it'}"
                    "; a graph has no cycles: build each call from existing futures"
                )
        self._nodes[node.id] = node

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def __getitem__(self, node_id: int) -> Node:
        return self._nodes[node_id]

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self._nodes)} nodes>"

    def _repr_html_(self) -> str:
        # What only notebooks show is loaded by them alone.
        from graphflow.graph.drawing import MOST_NODES, drawing
        from graphflow.model.html import box, element

        if sum(not node.is_builtin for node in self) <= MOST_NODES:
            return box(drawing(self))
        return box(element("pre", f"{self!r}; it is too large to draw, use .to_dot() or .to_text()"))

    def status(self, node_id: int) -> tuple[str, int | None, Mapping[str, int]]:
        """Return (state name, width or None, counts by state name) of a node."""
        if self._status is not None:
            return self._status(node_id)
        return "Pending", self._nodes[node_id].fixed_width, {}

    @property
    def nx(self) -> networkx.MultiDiGraph[int]:
        """The graph as networkx: nodes carry name, task, options, width, state; edges argument and mapped."""
        import networkx

        graph: networkx.MultiDiGraph[int] = networkx.MultiDiGraph(name=self.name)
        for node in self:
            state, width, counts = self.status(node.id)
            graph.add_node(
                node.id,
                name=node.name,
                task=node.task_name,
                options=node.options,
                is_mapped=node.is_mapped,
                width=width,
                state=state,
                counts=dict(counts),
                group=node.group,
                key=node.key,
            )
        for node in self:
            for dep in node.deps:
                graph.add_edge(
                    dep.upstream,
                    node.id,
                    argument=dep.argument or None,
                    mapped=dep.kind in (DepKind.ELEMENTS, DepKind.ITEMS),
                    kind=dep.kind.name.lower(),
                )
        return graph

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the graph as one JSON document: `{"schema", "name", "nodes": [...], "edges": [...]}`."""
        nodes, edges = [], []
        for node in self:
            state, width, counts = self.status(node.id)
            nodes.append(
                {
                    "id": node.id,
                    "key": node.key,
                    "name": node.name,
                    "task": node.task_name,
                    "group": node.group,
                    "is_mapped": node.is_mapped,
                    "width": width,
                    "state": state,
                    "counts": dict(counts),
                    "options": _options(node.options),
                }
            )
            edges += [
                {
                    "from": dep.upstream,
                    "to": node.id,
                    "argument": dep.argument or None,
                    "kind": dep.kind.name.lower(),
                    "mapped": dep.kind in (DepKind.ELEMENTS, DepKind.ITEMS),
                }
                for dep in node.deps
            ]
        document = {"schema": "graphflow.graph.graph/1", "name": self.name, "nodes": nodes, "edges": edges}
        return json.dumps(document, indent=indent)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        lines = ["flowchart TD"]
        for node in self:
            text = _escape(self._label(node))
            lines.append(f'    n{node.id}[["{text}"]]' if node.is_mapped else f'    n{node.id}["{text}"]')
        for node in self:
            for dep in node.deps:
                arrow = "-.->" if dep.kind.is_order else "==>" if _is_mapped(dep) else "-->"
                text = f"|{_escape(dep.argument)}|" if dep.argument else ""
                lines.append(f"    n{dep.upstream} {arrow}{text} n{node.id}")
        return "\n".join(lines)

    def to_dot(self) -> str:
        """Return the graph in Graphviz's DOT language."""
        lines = [f"digraph {_quote(self.name)} {{"]
        for node in self:
            shape = "box3d" if node.is_mapped else "box"
            lines.append(f"    n{node.id} [label={_quote(self._label(node))}, shape={shape}];")
        for node in self:
            for dep in node.deps:
                style = "dashed" if dep.kind.is_order else "bold" if _is_mapped(dep) else "solid"
                lines.append(
                    f"    n{dep.upstream} -> n{node.id} [label={_quote(dep.argument)}, style={style}];"
                )
        return "\n".join([*lines, "}"])

    def to_text(self) -> str:
        """Return the graph as text: one line per node, in an order that its dependencies allow."""
        lines = []
        for node in self:
            state, _, _ = self.status(node.id)
            needs = ", ".join(
                f"{dep.argument + '=' if dep.argument else 'after ' if dep.kind is DepKind.AFTER else ''}{self._nodes[dep.upstream].name}"
                f"{'[*]' if _is_mapped(dep) else ''}{'[' + str(dep.index) + ']' if dep.index is not None else ''}"
                for dep in node.deps
            )
            line = f"{self._label(node)}  {state}"
            lines.append(f"{line}  <- {needs}" if needs else line)
        return "\n".join(lines)

    def _label(self, node: Node) -> str:
        if not node.is_mapped:
            return node.name
        _, width, _ = self.status(node.id)
        return f"{node.name} [{'?' if width is None else width}]"


def _is_mapped(dep: Dep) -> bool:
    return dep.kind in (DepKind.ELEMENTS, DepKind.ITEMS)


def _options(options: TaskOptions | None) -> dict[str, Any]:
    if options is None:
        return {}
    return {
        "tags": sorted(options.tags),
        "version": options.version,
        "retries": options.retry.retries,
        "timeout_seconds": options.timeout_seconds,
        "trigger": options.trigger.name,
    }


def _escape(text: str) -> str:
    return text.replace('"', "#quot;").replace("|", "#124;")


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
