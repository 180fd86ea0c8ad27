"""A graph as a picture for notebooks: nodes in columns by the longest way to them, edges from left to right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from graphflow.model.html import Markup, element
from graphflow.model.looks import LOOKS, kind_of

__all__ = ["MOST_NODES", "drawing", "joined"]

MOST_NODES = 60


class GraphView(Protocol):
    """What a drawing needs of a graph."""

    name: str

    def __iter__(self) -> Iterator[Any]: ...
    def __getitem__(self, node_id: int, /) -> Any: ...
    def status(self, node_id: int) -> tuple[str, int | None, Mapping[str, int]]: ...


_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 150, 30, 46, 14
_LONGEST = 20


def drawing(graph: GraphView) -> Markup:
    """Return the graph as SVG; the engine's own nodes are left out, and what they connect is joined."""
    ups = joined(graph, {node.id for node in graph if not node.is_builtin})
    columns: dict[int, int] = {}
    for node, above in ups.items():
        columns[node] = max((columns[each] + 1 for each in above), default=0)
    rows: dict[int, int] = {}
    filled: dict[int, int] = {}
    for node, column in columns.items():
        wanted = max((rows[each] for each in ups[node] if columns[each] == column - 1), default=0)
        rows[node] = max(wanted if not filled.get(column) else 0, filled.get(column, 0))
        filled[column] = rows[node] + 1
    places = {
        node: (1 + columns[node] * (_WIDTH + _GAP_X), 1 + rows[node] * (_HEIGHT + _GAP_Y)) for node in ups
    }
    edges = [_edge(places[each], places[node]) for node, above in ups.items() for each in sorted(above)]
    boxes = [_box(graph, node, *places[node]) for node in ups]
    return element(
        "svg",
        element("title", f"{graph.name}: {len(ups)} nodes"),
        *edges,
        *boxes,
        width=max((x for x, _ in places.values()), default=0) + _WIDTH + 2,
        height=max((y for _, y in places.values()), default=0) + _HEIGHT + 2,
        role="img",
    )


def joined(nodes: Iterable[Any], shown: Collection[int]) -> dict[int, set[int]]:
    """Return for each node that is shown those of them it depends on, directly or through others."""
    through: dict[int, set[int]] = {}
    ups: dict[int, set[int]] = {}
    for node in nodes:
        above: set[int] = set()
        for dep in node.deps:
            above |= through.get(dep.upstream, set())
        if node.id in shown:
            ups[node.id] = above
            through[node.id] = {node.id}
        else:
            through[node.id] = above
    return ups


def _edge(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT // 2, end[0], end[1] + _HEIGHT // 2
    middle = (x1 + x2) // 2
    return element("path", d=f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}", class_="edge")


def _box(graph: GraphView, node_id: int, x: int, y: int) -> Markup:
    node = graph[node_id]
    state, width, _ = graph.status(node_id)
    kind = kind_of(state)
    label = (
        node.name if not node.is_mapped else f"{node.name} [{'?' if width is None else format(width, ',')}]"
    )
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    return element(
        "g",
        element("title", f"{label}: {state}"),
        element("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, rx=6, class_=f"node e-{kind}"),
        element("text", LOOKS[kind].glyph, x=x + 8, y=y + 20, class_=f"f-{kind}"),
        element("text", short, x=x + 24, y=y + 20),
    )
