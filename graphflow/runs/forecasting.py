"""What a run would find in the cache: keys are made and looked up for all inputs that are known, and nothing runs.

Loads numpy where something is cached, so nothing imports this before it is asked for.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.cache.cached import MISSING, cache_folder
from graphflow.common import ids, settings
from graphflow.driver.caches import storage_of
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.graph.mapping import classify, collected, elements_of, identity, is_indexed, snapshot
from graphflow.identity.cache_keys import KEY_NBYTES, NO_KEY, key_spec
from graphflow.runner.inputs import Constant, Ready, make_call
from graphflow.runner.keymaking import KeyMaker

__all__ = ["Forecast", "NodeForecast", "forecast"]

_PLAIN = (operator.getitem, identity, collected)
"""Of the engine's own tasks, those that only rearrange values."""


class _Unknown:
    """Stands for a value that only a run can tell."""

    def __repr__(self) -> str:
        return "unknown"


_UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeForecast:
    """What a run would do with one node's items.

    `width` is None where it depends on values that are not known; then all of it is unknown. Of the others, `cached` would be taken from
    the cache, `executed` would run, and of `unknown` ones the inputs depend on what runs before. `is_cacheable` tells whether the
    task has a cache at all.
    """

    name: str
    task_name: str
    is_mapped: bool
    is_cacheable: bool
    width: int | None
    cached: int = 0
    executed: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do; `forced` says why the graph ends before the flow does, empty where it is whole."""

    flow_name: str
    nodes: tuple[NodeForecast, ...]
    forced: str = ""


def forecast(flow_name: str, nodes: Sequence[Node], *, forced: str = "") -> Forecast:
    """Return what a run of these nodes would find in the cache.

    Values of cached items are loaded where a later key is made of them.

    Raises
    ------
    ResultStoreError, SettingsError
        If the cache cannot be read.
    """
    looked = _Looking()
    found = tuple(each for node in nodes if (each := looked.at(node)) is not None)
    return Forecast(flow_name=flow_name, nodes=found, forced=forced)


class _Looking:
    """Goes through a graph in the order of its calls."""

    def __init__(self) -> None:
        self._refreshes = settings.refresh_cache()
        self._run_id = ids.run_id()
        self._values: dict[int, list[Any] | None] = {}
        """The values of each node's items as far as they are known; None while even their number is not."""

    def at(self, node: Node) -> NodeForecast | None:
        """Return what would happen to a node; None for one of the engine's own."""
        program = node.program
        slots = self._slots(node)
        width = 1 if not node.is_mapped else _width(slots)
        self._values[node.id] = None if width is None else [_UNKNOWN] * width
        if program is None or node.is_builtin:
            self._rearrange(node, slots)
            return None
        spec = key_spec(program, run_id=self._run_id)
        cache = program.options.cache
        head = {
            "name": node.name,
            "task_name": node.task_name,
            "is_mapped": node.is_mapped,
            "is_cacheable": spec is not None,
        }
        if width is None:
            return NodeForecast(**head, width=None)  # type: ignore[arg-type]
        if spec is None or cache is None or cache.refresh or (self._refreshes and not cache.run_once):
            return NodeForecast(**head, width=width, executed=width)  # type: ignore[arg-type]
        known = [each for each in range(width) if _is_known(slots, each)]
        cached = self._look_up(node, spec, slots, known)
        return NodeForecast(
            **head,  # type: ignore[arg-type]
            width=width,
            cached=cached,
            executed=len(known) - cached,
            unknown=width - len(known),
        )

    def _look_up(self, node: Node, spec: Any, slots: Mapping[int, Ready], known: Sequence[int]) -> int:
        if not known:
            return 0
        assert node.program is not None
        store = storage_of(node.program.options.results, default=str(settings.home() / "results"))
        made = KeyMaker(node.program, spec, [slots[slot] for slot in range(len(slots))]).keys(known)
        folder = cache_folder(store, f"cache/{spec.folder}", self._run_id)
        found = folder.find(made.keys, now=time.time())
        places = [
            place
            for place in found.positions
            if made.keys[place * KEY_NBYTES : (place + 1) * KEY_NBYTES] != NO_KEY
        ]
        values = self._values[node.id]
        assert values is not None
        count = 0
        for place, value in zip(places, folder.load(found, places), strict=True):
            if value is not MISSING:
                values[known[place]] = value
                count += 1
        return count

    def _rearrange(self, node: Node, slots: Mapping[int, Ready]) -> None:
        program, values = node.program, self._values[node.id]
        if program is None or values is None or program.fn not in _PLAIN:
            return
        call = make_call(program, [slots[slot] for slot in range(len(slots))])
        for place in range(len(values)):
            if _is_known(slots, place):
                args, kwargs = call(place)
                try:
                    values[place] = program.fn(*args, **kwargs)
                except Exception:  # the run will say so
                    return

    # -- inputs ----------------------------------------------------------------------------------------------

    def _slots(self, node: Node) -> dict[int, Ready]:
        slots: dict[int, Ready] = {}
        for dep in node.deps:
            if dep.slot >= 0:
                slots[dep.slot] = self._input(dep)
        for source in node.sources:
            slots[source.slot] = _source(source)
        return slots

    def _input(self, dep: Dep) -> Ready:
        values = self._values.get(dep.upstream)
        if dep.kind is DepKind.ITEMS:
            return values if values is not None else _NoWidth()
        if dep.kind is DepKind.GATHER:
            is_known = values is not None and not any(each is _UNKNOWN for each in values)
            return Constant(values if is_known else _UNKNOWN)
        index = dep.index if dep.kind is DepKind.PICK and dep.index is not None else 0
        value = values[index] if values is not None and index < len(values) else _UNKNOWN
        if dep.kind is not DepKind.ELEMENTS:
            return Constant(value)
        if isinstance(value, _Unknown) or classify(value) != "sized":
            return _NoWidth()
        sequence = value if is_indexed(value) else snapshot(value)
        return elements_of(sequence, range(len(sequence)))


class _NoWidth(Constant):
    """An input that is mapped over, of which not even the length is known."""

    def __init__(self) -> None:
        super().__init__(_UNKNOWN)


def _source(source: Source) -> Ready:
    if source.length is None:
        return _NoWidth()
    return elements_of(source.values, range(source.length))


def _width(slots: Mapping[int, Ready]) -> int | None:
    if any(isinstance(each, _NoWidth) for each in slots.values()):
        return None
    widths = [len(each) for each in slots.values() if not isinstance(each, Constant)]
    return min(widths, default=None)


def _is_known(slots: Mapping[int, Ready], position: int) -> bool:
    return not any(
        (each.value if isinstance(each, Constant) else each[position]) is _UNKNOWN for each in slots.values()
    )
