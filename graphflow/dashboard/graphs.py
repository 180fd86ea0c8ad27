"""The graph of a run as SVG: boxes in layers from left to right, and lines that pass behind no box.

A line over several layers has a slot of its own in each. The engine's own nodes are folded into lines, flows inside the flow
into one box each, until they are opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote

from markupsafe import Markup, escape

from graphflow.common.escaping import printable
from graphflow.dashboard.parts import by_kind
from graphflow.graph.drawing import joined
from graphflow.model.looks import LOOKS, kind_of
from graphflow.model.states import Counts

__all__ = ["MOST_BOXES", "MOST_FOLDED", "Box", "graph_svg", "layers_of"]

Node: TypeAlias = Any
Graph: TypeAlias = Any
"""The views of `graph` and `runs`."""

MOST_BOXES = 60
"""Above, nodes of the same task are one box."""
MOST_FOLDED = 400
"""Above, there is no picture."""
WIDTH, HEIGHT, GAP_X, GAP_Y = 168, 46, 44, 14
_LONGEST = 21
_WORST = (
    "failed",
    "retrying",
    "running",
    "paused",
    "blocked",
    "cancelled",
    "pending",
    "completed",
    "cached",
    "skipped",
)


@dataclass(slots=True)
class Box:
    """What is drawn as one: a node, or several."""

    key: str
    name: str
    nodes: list[Node] = field(default_factory=list)
    is_group: bool = False

    @property
    def counts(self) -> Counts:
        """Items by state."""
        found = Counts()
        for node in self.nodes:
            found.update(node.counts)
        return found

    @property
    def kind(self) -> str:
        """The kind of its state; of several, the one that wants most attention."""
        kinds = {kind_of(node.state_code.state_name) for node in self.nodes}
        return next((each for each in _WORST if each in kinds), "pending")

    @property
    def width(self) -> int | None:
        """Its items; None while that is not known."""
        widths = [node.width if node.is_mapped else 1 for node in self.nodes]
        return None if any(each is None for each in widths) else sum(each for each in widths if each)


def graph_svg(graph: Graph, nodes: Sequence[Node], *, href: str = "", opened: Collection[str] = ()) -> Markup:
    """Return the picture, empty where there is nothing to draw or too much.

    Parameters
    ----------
    nodes
        The nodes that are shown.
    href
        What the address of a node's page begins with; without it, boxes are no links.
    opened
        Flows inside the flow that are shown node by node.
    """
    shown = {node.id: node for node in nodes}
    ups = joined(graph, shown)
    box_of = _boxes(shown, opened, by_task=False)
    if len(set(map(id, box_of.values()))) > MOST_BOXES:
        box_of = _boxes(shown, opened, by_task=True)
    boxes = {box.key: box for box in box_of.values()}
    if not boxes or len(boxes) > MOST_FOLDED:
        return Markup("")
    above: dict[str, set[str]] = {key: set() for key in boxes}
    for number, upstream in ups.items():
        for each in upstream:
            if box_of[each].key != box_of[number].key:
                above[box_of[number].key].add(box_of[each].key)
    return _svg(boxes, _without_circles(above), href)


def _boxes(shown: dict[int, Node], opened: Collection[str], *, by_task: bool) -> dict[int, Box]:
    """Return the box of each node by its number; both see the same objects."""
    made: dict[str, Box] = {}
    found: dict[int, Box] = {}
    for number, node in shown.items():
        group = _closed(node.group, opened)
        if group:
            key, name = f"group {group}", group
        elif by_task:
            key, name = f"task {node.task_name}", node.task_name
        else:
            key, name = f"node {number}", node.name
        box = made.setdefault(key, Box(key, name, is_group=bool(group)))
        box.nodes.append(node)
        found[number] = box
    return found


def _closed(group: str, opened: Collection[str]) -> str:
    """Return the outermost flow of a path that is not opened; empty if all are."""
    parts = group.split("/") if group else []
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        if path not in opened:
            return path
    return ""


def _without_circles(above: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the same without the lines that lead back: boxes of several nodes may depend on each other."""
    order: list[str] = []
    state: dict[str, int] = {}
    kept: dict[str, set[str]] = {key: set() for key in above}
    for root in above:
        stack = [(root, iter(sorted(above[root])))] if root not in state else []
        state.setdefault(root, 1)
        while stack:
            key, rest = stack[-1]
            for each in rest:
                if state.get(each) == 1:
                    continue
                kept[key].add(each)
                if each not in state:
                    state[each] = 1
                    stack.append((each, iter(sorted(above[each]))))
                    break
            else:
                state[key] = 2
                order.append(key)
                stack.pop()
    return {key: kept[key] for key in order}


def layers_of(above: dict[str, set[str]]) -> tuple[dict[str, tuple[int, int]], list[list[str]]]:
    """Return layer and row of each box, and the way of each line: box, slots, box, as keys.

    `above` is in an order in which each comes after those that it depends on. No two have the same place.
    """
    depth: dict[str, int] = {}
    for key, upstream in above.items():
        depth[key] = max((depth[each] + 1 for each in upstream), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for key, layer in depth.items():
        layers[layer].append(key)
    ways: list[list[str]] = []
    below: dict[str, list[str]] = {}
    for key, upstream in above.items():
        for each in sorted(upstream):
            way = [each]
            for layer in range(depth[each] + 1, depth[key]):
                slot = f"slot {len(ways)} {layer}"
                layers[layer].append(slot)
                way.append(slot)
            way.append(key)
            ways.append(way)
            for before, after in itertools.pairwise(way):
                below.setdefault(after, []).append(before)
    rows = {key: row for keys in layers for row, key in enumerate(keys)}
    for keys in layers[1:]:
        # By the middle of those before them: few lines cross.
        keys.sort(key=lambda key: (_mean(rows[each] for each in below.get(key, ())), rows[key]))
        rows.update({key: row for row, key in enumerate(keys)})
    return {key: (at, rows[key]) for at, layer in enumerate(layers) for key in layer}, ways


def _mean(values: Iterable[int]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _svg(boxes: dict[str, Box], above: dict[str, set[str]], href: str) -> Markup:
    places, ways = layers_of(above)
    at = {
        key: (1 + layer * (WIDTH + GAP_X), 1 + row * (HEIGHT + GAP_Y)) for key, (layer, row) in places.items()
    }
    drawn = ["".join(_line(way, at)) for way in ways]
    drawn += [_box(box, *at[key], href) for key, box in boxes.items()]
    width = max(x for x, _ in at.values()) + WIDTH + 1
    height = max(y for _, y in at.values()) + HEIGHT + 1
    text = f"{len(boxes)} boxes: " + ", ".join(box.name for box in list(boxes.values())[:20])
    return Markup(
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="group"'
        f' aria-label="{_text(text)}">{"".join(drawn)}</svg>'
    )


def _line(way: Sequence[str], at: dict[str, tuple[int, int]]) -> Iterable[str]:
    """Yield the path of a line: curves between layers, straight through slots."""
    x, y = at[way[0]][0] + WIDTH, at[way[0]][1] + HEIGHT // 2
    yield f'<path class="edge" d="M{x} {y}'
    for place, key in enumerate(way[1:], 1):
        to_x, to_y = at[key][0], at[key][1] + HEIGHT // 2
        middle = (x + to_x) // 2
        yield f"C{middle} {y} {middle} {to_y} {to_x} {to_y}"
        x, y = to_x, to_y
        if place < len(way) - 1:
            x += WIDTH
            yield f"H{x}"
    yield '"/>'


def _text(text: str) -> str:
    return str(escape(printable(text)))


def _box(box: Box, x: int, y: int, href: str) -> str:
    counts, width = box.counts, box.width
    kinds = by_kind(counts)
    ended = sum(
        count for kind, count in kinds.items() if kind not in ("pending", "running", "retrying", "paused")
    )
    below = f"{ended:,} of {'?' if width is None else format(width, ',')}"
    if len(box.nodes) > 1:
        below = f"{len(box.nodes):,} nodes · {below}"
    short = box.name if len(box.name) <= _LONGEST else f"{box.name[: _LONGEST - 1]}…"
    inner = [
        f"<title>{_text(f'{box.name}: {box.kind}, {below}')}</title>",
        f'<rect class="box e-{box.kind}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>',
        f'<text class="name" x="{x + WIDTH // 2}" y="{y + 18}">{_text(short)}</text>',
        f'<text class="of" x="{x + WIDTH // 2}" y="{y + 33}">{LOOKS[box.kind].glyph} {_text(below)}</text>',
        f'<rect class="f-pending" x="{x + 8}" y="{y + HEIGHT - 6}" width="{WIDTH - 16}" height="3"/>',
    ]
    place, whole = 0.0, max(sum(kinds.values()), width or 0, 1)
    for kind, count in kinds.items():
        if kind == "pending":
            continue
        length = max(1.5, (WIDTH - 16) * count / whole)
        left = min(place, WIDTH - 17.5)
        inner.append(
            f'<rect class="f-{kind}" x="{x + 8 + left:.1f}" y="{y + HEIGHT - 6}"'
            f' width="{min(length, WIDTH - 16 - left):.1f}" height="3"/>'
        )
        place += length
    if not href:
        return f"<g>{''.join(inner)}</g>"
    if box.is_group:
        address = f"?open={quote(box.name, safe='')}#nodes"
    else:
        address = f"{href}{quote(box.nodes[0].name, safe='')}"
    return f'<a href="{_text(address)}">{"".join(inner)}</a>'
