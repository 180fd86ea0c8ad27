"""What notebooks show of futures: what is known, and nothing is forced."""

from __future__ import annotations

from graphflow.driver.recorder import RunRecorder
from graphflow.graph.graph import Node
from graphflow.graph.recording import Recorder
from graphflow.model.html import badge, box, element
from graphflow.runs.html import nodes_table
from graphflow.runs.nodes import Node as NodeView

__all__ = ["future_html"]


def future_html(recorder: Recorder, node: Node, index: int | None, state: str) -> str:
    """Return a future: its name and state, and of a map that has begun a bar of its items."""
    name = node.name if index is None else f"{node.name}[{index}]"
    if node.is_mapped and index is None:
        if isinstance(recorder, RunRecorder) and recorder.has_driver:
            return box(nodes_table([NodeView(recorder.known, node.id)]))
        width = recorder.known_width(node)
        name = f"{name} [{'?' if width is None else format(width, ',')}]"
    return box(element("div", element("b", name), "  ", badge(state)))
