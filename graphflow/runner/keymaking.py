"""The cache keys of a batch's items, from the inputs as the items get them."""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

from graphflow.common.functions import signature_of
from graphflow.common.wording import with_article
from graphflow.graph.mapping import FailedInput, PartialList
from graphflow.identity.cache_keys import (
    KEY_NBYTES,
    NO_KEY,
    SHORT_NBYTES,
    TEXT,
    KeySpec,
    argument_part,
    entry_of,
    part_of,
    problem_of,
)
from graphflow.identity.canonical import Encoder
from graphflow.identity.fingerprints import code_fingerprint
from graphflow.model.cache_policies import FileInput, FilesLater, files_later
from graphflow.model.orders import Built, Hole, Program, Spread
from graphflow.runner.inputs import Constant, Ready, failed_input, filled, make_call

__all__ = ["KeyMaker", "Keys"]

_NO_PART = bytes(4)
_remembered: dict[tuple[str, int | str], bytes] = {}
"""Entries of constants that were made in this process: by spec and position."""
_seen: dict[tuple[str, int], tuple[weakref.ref[Any], bytes]] = {}
"""Entries of values that came from other tasks, by spec and identity, as long as the object lives."""
_MOST_REMEMBERED = 256
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of some items.

    Attributes
    ----------
    keys
        16 bytes per position; zeros for an item that is not cached.
    parts
        What keys are made of, for those who ask later why one differs: 8 bytes, the same for all, or 4 bytes per position.
    problems
        Position -> why the item has no key. An item without key and problem is not to be cached: its `cache_key_fn` says so,
        or it has no inputs.
    """

    keys: bytes
    parts: Mapping[str, bytes] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)


class _NoKey(Exception):
    """An item has no key; the text says why, where there is anything to say."""


class _Name:
    """In place of an argument's value while names are found: where the value comes from.

    It is the element of a slot's value (`slot` is 0 or more), or follows from a template; `slots` are all that it is made of.
    """

    __slots__ = ("element", "place", "slot", "slots", "template")

    def __init__(
        self,
        place: int | str,
        *,
        slots: Sequence[int],
        slot: int = -1,
        element: Any = None,
        template: Any = None,
    ) -> None:
        self.place = place
        self.slots = slots
        self.slot = slot
        self.element = element
        self.template = template


class _Argument:
    """One argument of a call: where its value comes from."""

    __slots__ = ("column", "part", "source")

    def __init__(self, part: str, source: Any, slots: Sequence[Ready]) -> None:
        self.part = part
        self.source = source
        self.column: Sequence[Any] | None = None
        """The values of the items, where the argument is one of them as it is."""
        if type(source) is _Name and type(source.template) is Hole:
            slot = slots[source.template.slot]
            if not isinstance(slot, Constant):
                self.column = slot

    def value(self, slots: Sequence[Ready], position: int) -> Any:
        """Return the value at a position."""
        if self.column is not None:
            return self.column[position]
        return self._of(self.source, slots, position)

    def _of(self, source: Any, slots: Sequence[Ready], position: int) -> Any:
        if isinstance(source, tuple):
            return tuple(self._of(each, slots, position) for each in source)
        if source.slot >= 0:
            return _value_at(slots[source.slot], position)[source.element]
        if not source.slots:
            return source.template
        return filled(source.template, [_value_at(each, position) for each in slots])

    def is_constant(self, slots: Sequence[Ready]) -> bool:
        """Return whether it is the same for all items."""
        sources = self.source if isinstance(self.source, tuple) else (self.source,)
        return all(isinstance(slots[slot], Constant) for each in sources for slot in each.slots)


class _Plan:
    """How the keys of items with arguments of one shape are made.

    `literals` are the bytes around the entries of the arguments that vary, one more than there are of these.
    """

    __slots__ = ("is_void", "literals", "parts", "problem", "varying")

    def __init__(self, *, problem: str = "", is_void: bool = False) -> None:
        self.problem = problem
        self.is_void = is_void
        """Whether the call fails anyway, when it is made."""
        self.literals = [b""]
        self.varying: list[_Argument] = []
        self.parts: dict[str, bytes] = {}

    def add(self, data: bytes) -> None:
        self.literals[-1] += data

    def vary(self, argument: _Argument) -> None:
        self.varying.append(argument)
        self.literals.append(b"")


class KeyMaker:
    """Makes the keys of one step's items.

    Parameters
    ----------
    spec
        What `keys.key_spec` made of the program on the driver.
    slots
        The inputs of the batch; a list that grows while items run (of a lane's earlier step) is read when its item's key is asked for.
    """

    def __init__(self, program: Program, spec: KeySpec, slots: Sequence[Ready]) -> None:
        self._program = program
        self._spec = spec
        self._slots = slots
        cache = program.options.cache
        self._key_fn = cache.key_fn if cache is not None else None
        self._begun = blake2b(spec.prefix, digest_size=KEY_NBYTES)
        self._encode = Encoder(code_fingerprint).encode
        self._spreads = any(type(each) is Spread for each in (*program.args, *program.kwargs.values()))
        self._signature = signature_of(program.fn)
        self._plans: dict[Any, _Plan] = {}
        self._call: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]] | None = None
        self._problem = spec.problem
        self._is_lost = any(
            isinstance(each, Constant) and failed_input(each.value) is not None for each in slots
        )

    def keys(self, positions: Sequence[int]) -> Keys:
        """Return the keys of the items at these positions, in their order. Never raises."""
        size = len(positions)
        if self._is_lost:
            # These items will not run: an input of theirs failed.
            return Keys(keys=NO_KEY * size)
        if self._problem:
            return Keys(keys=NO_KEY * size, problems=dict.fromkeys(positions, self._problem))
        if self._key_fn is not None:
            return self._by_function(positions, self._key_fn)
        if not self._spec.policy.inputs:
            return Keys(keys=self._begun.digest() * size, parts=self._spec.parts)
        if self._spreads:
            return self._each(positions)
        plan = self._plan(())
        if plan.is_void:
            return Keys(keys=NO_KEY * size)
        if plan.problem:
            return Keys(keys=NO_KEY * size, problems=dict.fromkeys(positions, plan.problem))
        if len(plan.varying) == 1 and plan.varying[0].column is not None:
            found = self._by_column(positions, plan, plan.varying[0])
            if found is not None:
                return found
        return self._each(positions)

    # -- one column ---------------------------------------------------------------------------------------

    def _by_column(self, positions: Sequence[int], plan: _Plan, argument: _Argument) -> Keys | None:
        """Return the keys of items that differ in one argument; None where one of them needs a closer look."""
        column, encode = argument.column, self._encode
        assert column is not None
        try:
            entries = [encode(column[position]) for position in positions]
        except Exception:
            return None
        begun = self._begun.copy()
        begun.update(plan.literals[0])
        tail, copy, digests = plan.literals[1], begun.copy, []
        if max(map(len, entries), default=0) > SHORT_NBYTES:
            entries = [entry_of(each) for each in entries]
        for entry in entries:
            each = copy()
            each.update(entry + tail if tail else entry)
            digests.append(each.digest())
        parts = {**self._spec.parts, **plan.parts, argument.part: _numbers(map(crc32, entries))}
        return Keys(keys=b"".join(digests), parts=parts)

    # -- any inputs ---------------------------------------------------------------------------------------

    def _each(self, positions: Sequence[int]) -> Keys:
        keys: list[bytes] = []
        problems: dict[int, str] = {}
        every: dict[str, list[bytes]] = {}
        constant: dict[str, bytes] = {}
        for number, position in enumerate(positions):
            try:
                plan = self._plan(self._shape(position) if self._spreads else ())
                if plan.problem or plan.is_void:
                    raise _NoKey(plan.problem)
                material = [plan.literals[0]]
                own: list[tuple[str, bytes]] = []
                for argument, literal in zip(plan.varying, plan.literals[1:], strict=True):
                    entry = self._entry(argument, position)
                    own.append((argument.part, crc32(entry).to_bytes(4, "little")))
                    material += (entry, literal)
            except _NoKey as error:
                keys.append(NO_KEY)
                if str(error):
                    problems[position] = str(error)
                continue
            digest = self._begun.copy()
            digest.update(b"".join(material))
            keys.append(digest.digest())
            for part, told in own:
                column = every.setdefault(part, [])
                column += [_NO_PART] * (number - len(column))
                column.append(told)
            if self._spreads:
                for part, told in plan.parts.items():
                    column = every.setdefault(part, [])
                    column += [_NO_PART] * (number - len(column))
                    column.append(told[:4])
            else:
                constant = plan.parts
        size = len(positions)
        parts = {**self._spec.parts, **constant}
        for part, column in every.items():
            parts[part] = b"".join(column) + _NO_PART * (size - len(column))
        return Keys(keys=b"".join(keys), parts=parts, problems=problems)

    def _entry(self, argument: _Argument, position: int) -> bytes:
        value = argument.value(self._slots, position)
        try:
            return entry_of(self._encode(value))
        except Exception as error:
            if _is_failed(value):
                # The item will not run.
                raise _NoKey from None
            raise _NoKey(problem_of(argument.part, error)) from None

    # -- plans --------------------------------------------------------------------------------------------

    def _shape(self, position: int) -> tuple[Any, ...]:
        """Return how many arguments, or which, the spread inputs of an item give."""
        shape = []
        for each in (*self._program.args, *self._program.kwargs.values()):
            if type(each) is Spread:
                value = _value_at(self._slots[each.slot], position)
                if _is_failed(value):
                    raise _NoKey
                try:
                    shape.append(tuple(value) if isinstance(value, Mapping) else len(value))
                except TypeError:
                    # The call will say what is wrong with it.
                    raise _NoKey from None
        return tuple(shape)

    def _plan(self, shape: tuple[Any, ...]) -> _Plan:
        plan = self._plans.get(shape)
        if plan is None:
            plan = self._plans[shape] = self._new_plan(shape)
        return plan

    def _new_plan(self, shape: tuple[Any, ...]) -> _Plan:
        names = self._named(shape)
        if names is None:
            # The call fails when it is made, and says so itself.
            return _Plan(is_void=True)
        without = self._spec.policy.without
        plan = _Plan()
        for name in sorted(names):
            if name in without:
                continue
            encoded_name = name.encode("utf-8", "surrogatepass")
            plan.add(b"%d:" % len(encoded_name) + encoded_name)
            part = argument_part(name)
            source = names[name]
            argument = _Argument(part, source, self._slots)
            try:
                entry = self._constant(name, source, argument)
            except Exception as error:
                return _Plan(problem=problem_of(part, error))
            if entry is None:
                plan.vary(argument)
            else:
                plan.add(entry)
                plan.parts[part] = part_of(entry)
        return plan

    def _constant(self, name: str, source: Any, argument: _Argument) -> bytes | None:
        """Return the entry of an argument that is the same for all items; None for one that varies."""
        told: bytes | None
        if source is inspect.Parameter.empty:
            told = self._spec.defaults.get(name)
            if told is not None:
                return told
            assert self._signature is not None
            return self._remember(f"={name}", self._signature.parameters[name].default)
        if isinstance(source, _Name) and source.slot < 0:
            told = self._spec.constants.get(source.place)
            if told is not None:
                return told
            if not source.slots:
                return self._remember(source.place, source.template)
        if argument.is_constant(self._slots):
            return self._shared(argument.value(self._slots, 0))
        return None

    def _remember(self, place: int | str, value: Any) -> bytes:
        """Return the entry of a constant of the program, made once per process; not of one with files, which may change."""
        mark = (self._spec.token, place)
        entry = _remembered.get(mark)
        if entry is None:
            try:
                with files_later():
                    entry = entry_of(self._encode(value))
            except FilesLater:
                return entry_of(self._encode(value))
            with _lock:
                if len(_remembered) >= _MOST_REMEMBERED:
                    _remembered.clear()
                _remembered[mark] = entry
        return entry

    def _shared(self, value: Any) -> bytes:
        """Return the entry of another task's value that all items get; a large one is made once, not for each batch."""
        mark = (self._spec.token, id(value))
        known = _seen.get(mark)
        if known is not None and known[0]() is value:
            return known[1]
        entry = entry_of(self._encode(value))
        if len(entry) > 32 and type(value) is not FileInput and type(value).__weakrefoffset__:
            with _lock:
                if len(_seen) >= _MOST_REMEMBERED:
                    _seen.clear()
                _seen[mark] = (weakref.ref(value), entry)
        return entry

    def _named(self, shape: tuple[Any, ...]) -> dict[str, Any] | None:
        """Return the arguments by name, with where each comes from; None where the call does not fit the function."""
        shapes = iter(shape)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for place, each in enumerate(self._program.args):
            if type(each) is Spread:
                form = next(shapes)
                if isinstance(form, tuple):
                    kwargs.update(
                        {key: _Name(place, slots=(each.slot,), slot=each.slot, element=key) for key in form}
                    )
                else:
                    args += [
                        _Name(place, slots=(each.slot,), slot=each.slot, element=number)
                        for number in range(form)
                    ]
            else:
                args.append(self._source(place, each))
        for key, each in self._program.kwargs.items():
            if type(each) is Spread:
                next(shapes)
            kwargs[key] = self._source(key, each)
        if self._signature is None:
            return {**{str(number): each for number, each in enumerate(args)}, **kwargs}
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:
            return None
        named: dict[str, Any] = {}
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                extra = bound.arguments.get(name, {})
                # An argument by position only may share its name with one of these.
                named.update({(f"**{key}" if key in named else key): each for key, each in extra.items()})
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                named[name] = bound.arguments.get(name, ())
            else:
                named[name] = bound.arguments.get(name, inspect.Parameter.empty)
        return named

    def _source(self, place: int | str, each: Any) -> _Name:
        # Holes are looked for inside of arguments only where there are any: these may be large.
        is_plain = not self._program.has_nested and type(each) is not Hole
        return _Name(place, slots=() if is_plain else _slots_in(each), template=each)

    # -- a function that makes keys -----------------------------------------------------------------------

    def _by_function(self, positions: Sequence[int], key_fn: Callable[..., Any]) -> Keys:
        keys: list[bytes] = []
        told: list[bytes] = []
        problems: dict[int, str] = {}
        call = self._call = self._call or make_call(self._program, self._slots)
        for position in positions:
            key, part = NO_KEY, _NO_PART
            try:
                args, kwargs = call(position)
                if not _holds_failure(args) and not _holds_failure(kwargs.values()):
                    text = key_fn(self._context(parameters := self._parameters(args, kwargs)), parameters)
                    if isinstance(text, str):
                        data = text.encode("utf-8", "surrogatepass")
                        digest = self._begun.copy()
                        digest.update(data)
                        key, part = digest.digest(), crc32(data).to_bytes(4, "little")
                    elif text is not None:
                        problems[position] = (
                            f"cache_key_fn returned {with_article(type(text).__qualname__)}, not a string or None"
                        )
            except Exception as error:
                problems[position] = f"cache_key_fn raised {type(error).__name__}: {error}"
            keys.append(key)
            told.append(part)
        return Keys(keys=b"".join(keys), parts={**self._spec.parts, TEXT: b"".join(told)}, problems=problems)

    def _parameters(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._signature is None:
            return {**{str(number): each for number, each in enumerate(args)}, **kwargs}
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def _context(self, parameters: Mapping[str, Any]) -> Any:
        return self._spec.context(self._program, parameters)


def _value_at(slot: Ready, position: int) -> Any:
    return slot.value if isinstance(slot, Constant) else slot[position]


def _slots_in(template: Any) -> list[int]:
    """Return the slots of the holes in a template."""
    kind = type(template)
    if kind is Hole:
        return [template.slot]
    if kind is dict:
        return [slot for pair in template.items() for each in pair for slot in _slots_in(each)]
    if kind is Built:
        return [slot for each in template.parts.values() for slot in _slots_in(each)]
    if kind is list or kind is set or kind is frozenset or isinstance(template, tuple):
        return [slot for each in template for slot in _slots_in(each)]
    return []


def _is_failed(value: Any) -> bool:
    """Return whether a value stands for a failure, or holds one: its item does not run."""
    return failed_input(value) is not None or (
        isinstance(value, list | tuple) and any(type(each) in (FailedInput, PartialList) for each in value)
    )


def _holds_failure(values: Iterable[Any]) -> bool:
    return any(map(_is_failed, values))


def _numbers(values: Iterable[int]) -> bytes:
    numbers = array("I", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
