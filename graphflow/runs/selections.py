"""What is chosen of a run by names and indices that a person, or another program, gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphflow.errors import ValueUnavailable

if TYPE_CHECKING:
    from graphflow.runs.nodes import Items
    from graphflow.runs.recorded import RecordedRun
    from graphflow.runs.run import Run

__all__ = ["items_of", "value_of"]


def items_of(
    run: Run,
    node: str | None = None,
    states: Sequence[str] | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Items:
    """Return items of a node, or of the run's only map where none is named.

    Raises
    ------
    KeyError, ValueError
        If there is no such node or state, or no node is named and the run has not just one map.
    """
    if node is None:
        maps = [each.name for each in run.nodes if each.is_mapped and not each.is_builtin]
        if len(maps) != 1:
            found = f"{len(maps)} maps ({', '.join(maps)})" if maps else "no maps"
            raise ValueError(f"run {run.name} has {found}; choose a node with --node")
        node = maps[0]
    return run.items(node).where(states=states or None, start=start, stop=stop)


def value_of(run: RecordedRun, node: str | None = None, index: int | None = None) -> Any:
    """Return the value of a run, of a node, or of one of its items.

    Raises
    ------
    KeyError, IndexError, ValueError
        If there is no such node or item, or an item of no node is asked for.
    ValueUnavailable
        If the run has not ended.
    """
    if node is None:
        if index is not None:
            raise ValueError(f"--index {index} needs a node; use --node too")
        if not run.is_over:
            raise ValueUnavailable(f"run {run.name} is {run.state_name}; it has no value yet")
        return run.result()
    found = run.nodes[node]
    return found.result() if index is None else found.items[index].result()
