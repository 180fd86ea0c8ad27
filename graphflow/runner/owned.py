"""Arguments that are each item's own: what one item does to them is not seen by another, whatever batch it travels in.

Copied for each call are lists, dicts, sets, deques and buffers, also within each other and in tuples. A constant of more than
`SMALL` elements is shared for as long as no item was seen to change it: it is compared with the original after the first item of the
first batches, and at the end of batches. A task that changes it gets a copy per item from then on. Objects of other types are shared; a
change of them is looked for once per batch, and logged.
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from graphflow.graph.owning import PLAIN, copied, is_mutable, may_be_mutable
from graphflow.model.orders import Hole, Program, Spread

__all__ = ["OwnArguments", "is_unchanging"]

logger = logging.getLogger("graphflow.runner")
SMALL = 100
"""Elements of constants that are copied for each item."""
SAMPLES = 64
TRUSTED = 3
"""Batches that leave a large constant as it was before others share one copy."""
MAX_KNOWN = 4
"""Functions of which a process keeps that."""
LOOK_FACTOR = 50
"""A shared copy is compared again after so many times as that takes."""
Call = Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]
Maker = Callable[[Any], Any]


def is_unchanging(column: Sequence[Any]) -> bool:
    """Return whether no element of a column is copied: numbers, texts, objects, parts of arrays. About 10 ns an element."""
    if isinstance(column, range) or hasattr(type(column), "ndim"):
        return True
    if not isinstance(column, list | tuple):
        return False
    kinds = set(map(type, column)) - PLAIN
    if kinds == {tuple} and all(type(each) is tuple for each in column):
        return PLAIN.issuperset(map(type, chain.from_iterable(column)))
    return not any(map(may_be_mutable, kinds))


class OwnArguments:
    """Makes the arguments of the calls of a step each item's own.

    Parameters
    ----------
    constants
        The values of the slots that are the same for all items, by their numbers.
    changing
        The slots whose values may be containers.
    """

    def __init__(self, program: Program, constants: Mapping[int, Any], changing: Collection[int]) -> None:
        self._program = program
        self._constants = constants
        self._changing = changing
        self._shared: list[_Constant | _Watched] = []
        names = program.parameter_names
        self._args = [
            self._maker(each, names[place] if place < len(names) else f"argument {place}")
            for place, each in enumerate(program.args)
        ]
        self._kwargs = {
            name: maker
            for name, each in program.kwargs.items()
            if (maker := self._maker(each, name)) is not None
        }
        self._spreads = any(type(each) is Spread for each in (*program.args, *program.kwargs.values()))

    def over(self, call: Call) -> Call:
        """Return a call with arguments of its own; the same one where nothing is to be done."""
        makers, by_name = self._args, self._kwargs
        if self._spreads:
            if not self._changing and not any(makers) and not by_name:
                return call

            def spread(place: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
                args, kwargs = call(place)
                return tuple(map(copied, args)), {name: copied(each) for name, each in kwargs.items()}

            return spread
        by_place = [(at, maker) for at, maker in enumerate(makers) if maker is not None]
        if not by_place and not by_name:
            return call

        def own(place: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
            args, kwargs = call(place)
            made = list(args)
            for at, maker in by_place:
                made[at] = maker(made[at])
            for name, maker in by_name.items():
                kwargs[name] = maker(kwargs[name])
            return tuple(made), kwargs

        return own

    def finish(self, run_id: str) -> None:
        """Look for changes of what items shared; logs the first of each."""
        for each in self._shared:
            if each.is_changed():
                _tell(run_id, self._program.node_name, each.name, each.text)

    def _maker(self, template: Any, name: str) -> Maker | None:
        kind = type(template)
        if kind is Spread:
            return None
        if kind is Hole and template.slot not in self._constants:
            return copied if template.slot in self._changing else None
        if kind is Hole:
            return self._constant(self._constants[template.slot], name)
        if self._program.has_nested and is_mutable(template):
            return copied
        return self._constant(template, name)

    def _constant(self, value: Any, name: str) -> Maker | None:
        if type(value) in PLAIN:
            return None
        if not is_mutable(value):
            if self._program.is_mapped and (state := _state_of(value)) is not None:
                self._shared.append(_Watched(value, state, name))
            return None
        if not self._program.is_mapped or _is_small(value):
            return copied
        constant = _Constant(value, name, _known_of(self._program.fn, name, value))
        self._shared.append(constant)
        return constant


class _Constant:
    """A large constant of a batch: shared by its items for as long as none was seen to change it.

    Batches begin with a copy of their own, until a few have left theirs as it was; then they share one.
    """

    text = (
        "some item changed it after others had not, and the items after it may have seen that: a constant of many elements is copied "
        "for each item only once a task was seen to change it; change a copy of it instead"
    )

    def __init__(self, value: Any, name: str, known: _Known) -> None:
        self.name = name
        self._value = value
        self._known = known
        self._given: Any = None
        self._calls = 0

    def __call__(self, value: Any) -> Any:
        """Return what an item gets."""
        known = self._known
        if known.is_changed:
            return copied(self._value)
        self._calls += 1
        if self._calls == 1:
            self._given = copied(self._value) if known.shared is None else known.shared
        elif self._calls == 2 and known.shared is None and _differ(self._given, self._value):
            known.is_changed = True
            return copied(self._value)
        return self._given

    def is_changed(self) -> bool:
        """Return whether an item may have seen another's change."""
        known = self._known
        if known.is_changed or not self._calls or time.monotonic() < known.next_look:
            return False
        began = time.monotonic()
        known.is_changed = _differ(self._given, self._value)
        ended = time.monotonic()
        if known.is_changed:
            was_seen = self._calls > 1 or known.shared is not None
            known.shared = None
            return was_seen
        known.clean += 1
        if known.clean >= TRUSTED:
            known.shared = self._given
            known.next_look = ended + LOOK_FACTOR * (ended - began)
        return False


@dataclass(slots=True)
class _Known:
    """What a process knows of a task's large constant: whether it is changed, and how many batches left it as it was."""

    value: Any
    is_changed: bool = False
    clean: int = 0
    shared: Any = None
    next_look: float = 0.0


_known: weakref.WeakKeyDictionary[Any, dict[str, _Known]] = weakref.WeakKeyDictionary()


def _known_of(fn: Any, name: str, value: Any) -> _Known:
    """Return what is known of the newest constant of a function."""
    try:
        by_name = _known.setdefault(fn, {})
    except TypeError:
        return _Known(value)
    found = by_name.get(name)
    if found is None or found.value is not value:
        found = by_name[name] = _Known(value)
        for other in list(_known)[:-MAX_KNOWN]:
            # They are large.
            _known.pop(other, None)
    return found


class _Watched:
    """An object that items share."""

    text = (
        "the task changed it, and what the items after it see depends on batches: only lists, dicts, sets, deques and buffers are each "
        "item's own; change a copy of it instead"
    )

    def __init__(self, value: Any, state: Any, name: str) -> None:
        self.name = name
        self._value = value
        self._state = state

    def is_changed(self) -> bool:
        """Return whether it is not what it was when the batch began."""
        return _differ(_state_of(self._value), self._state)


@functools.lru_cache(maxsize=1024)
def _tell(run_id: str, node: str, argument: str, text: str) -> None:
    """Log a change, once per run, node and argument in this process."""
    logger.warning("%s changed its argument %r, which its items share: %s", node, argument, text)


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except Exception:
        # Arrays among them that are not the same ones.
        return True


def _is_small(value: Any) -> bool:
    left, room = [value], SMALL
    while left:
        each = left.pop()
        size = len(each)
        room -= size
        if room < 0:
            return False
        inner = (
            each.values()
            if isinstance(each, dict)
            else ()
            if isinstance(each, bytearray | memoryview)
            else each
        )
        left += [one for one in inner if type(one) not in PLAIN and is_mutable(one)]
    return True


def _state_of(value: Any) -> Any:
    """Return what shows most changes of an object, for little: samples of an array, the identity of attributes; None if nothing does."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    try:
        if module == "numpy":
            flat = value.reshape(-1)
            return value.shape, flat[:: max(1, len(flat) // SAMPLES)].tobytes(), flat[-1:].tobytes()
        if module == "pandas":
            ends = value.iloc[[0, -1]] if len(value) else value
            return value.shape, list(map(str, getattr(value, "columns", ()))), ends.to_json()
        if isinstance(value, type) or callable(value):
            return None
        return {name: id(each) for name, each in vars(value).items()} or None
    except Exception:
        return None
