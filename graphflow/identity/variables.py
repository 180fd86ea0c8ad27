"""The values of global variables that code uses: what cache keys see of the data that surrounds a task.

Followed are the user's functions and classes that a function reaches when it runs. A variable counts by the value that it has
when a call is recorded; one that this code itself changes (a counter, a table that it fills) by the value that it had first in this
process, so that what a run does to it makes no difference to the next one.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, is_dataclass
from hashlib import blake2b
from typing import Any

from graphflow.common.wording import with_article
from graphflow.identity.canonical import Encoder, Untold
from graphflow.identity.code import bare, is_code, is_constant, is_own
from graphflow.identity.origins import is_installed, module_name
from graphflow.identity.syntax import read_code
from graphflow.model.cache_policies import FilesLater, files_later

__all__ = ["MAX_NBYTES", "Variables", "told_object", "variables_of"]

MAX_NBYTES = 1 << 20
"""Larger values are not looked at."""
SMALL_NBYTES = 16 << 10
"""Larger values are hashed once per run."""
MAX_REACHED = 1_000
DIGEST_NBYTES = 16
_MADE_BY_CLASS = 1 << 9
"""The flag of types that a class statement made: all that their objects hold are attributes."""
_NEUTRAL = frozenset(
    [
        "_asyncio",
        "_contextvars",
        "_io",
        "_thread",
        "_threading_local",
        "_weakref",
        "asyncio",
        "concurrent",
        "contextvars",
        "graphflow",
        "io",
        "logging",
        "threading",
        "types",
        "typing",
        "weakref",
    ]
)
"""Packages of objects that coordinate, log or describe: they have no canonical form, and results seldom depend on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """The first value of a variable that code itself changes: a constant, or a digest (empty if it does not count).

    `space` are the module's names, whose id stands for them.
    """

    space: Mapping[str, Any]
    value: Any = None
    digest: bytes | None = None


_first: dict[tuple[int, str], _First] = {}

Memo = MutableMapping[tuple[int, str], tuple[Any, bytes]]


@dataclass(slots=True)
class Variables:
    """The variables of a function.

    Attributes
    ----------
    constants, values
        Digests by name: of numbers, texts and tuples of these, and of everything else.
    problems
        Why a variable counts by the statement that defines it alone.
    changed
        The variables that the code changes, by the id of a module's names and their own name.
    places
        The digests of `values`, by the same.
    """

    constants: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    changed: set[tuple[int, str]] = field(default_factory=set)
    places: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def first(self, space: Mapping[str, Any], name: str, value: Any) -> Any:
        """Return the value of a variable: the first constant that it was in this process, where the code changes it."""
        known = _first.get((id(space), name)) if (id(space), name) in self.changed else None
        if known is None:
            return value
        return known.value if known.digest is None else known


def variables_of(fn: Any, code_of: Callable[[Any], str], *, memo: Memo | None = None) -> Variables:
    """Return the values of the variables that a callable uses. Never raises.

    Parameters
    ----------
    code_of
        Gives what stands for the code of a function or class within a value.
    memo
        Remembers the digests of large values, for as long as the caller keeps it.
    """
    reader = _Reader(code_of, {} if memo is None else memo)
    reader.reach(fn)
    at = 0
    while at < len(reader.reached):
        reader.read(reader.reached[at])
        at += 1
    return reader.found()


def told_object(value: Any, code_of: Callable[[Any], str]) -> Any:
    """Return an object; where it has no canonical form, and nothing but attributes, these and what it is."""
    try:
        Encoder(code_of).encode(value)
    except Exception:
        if hasattr(value, "__dict__") and all(
            each is object or (each.__flags__ & _MADE_BY_CLASS and "__slots__" not in vars(each))
            for each in type(value).__mro__
        ):
            return "attributes", dict(vars(value))
    return value


class _Reader:
    """Walks through functions, classes and modules, and notes the variables that they name."""

    def __init__(self, code_of: Callable[[Any], str], memo: Memo) -> None:
        self.reached: list[Any] = []
        self._seen: set[int] = set()
        self._code_of = code_of
        self._memo = memo
        self._home: str | None = None
        self._found: dict[str, tuple[Mapping[str, Any], str, Any]] = {}
        self._variables = Variables()

    def reach(self, value: Any) -> None:
        """Read a function or class later, if it is the user's."""
        value = bare(value)
        if id(value) in self._seen or len(self.reached) >= MAX_REACHED or not is_own(value):
            return
        self._seen.add(id(value))
        self.reached.append(value)

    def read(self, target: Any) -> None:
        """Note what one callable or class names."""
        if isinstance(target, types.FunctionType):
            self._function(target)
        elif isinstance(target, type):
            self._class(target)
        elif isinstance(target, types.MethodType):
            self.reach(target.__func__)
            self.reach(target.__self__ if isinstance(target.__self__, type) else type(target.__self__))
        elif isinstance(target, functools.partial):
            for each in (target.func, *target.args, *target.keywords.values()):
                if is_code(bare(each)):
                    self.reach(each)
        else:
            self.reach(type(target))

    def found(self) -> Variables:
        """Return the variables with their values."""
        made = self._variables
        for label, (space, name, value) in sorted(self._found.items()):
            place = id(space), name
            try:
                told = _first.get(place) if place in made.changed else None
                if told is None:
                    if is_constant(value):
                        told = _First(space=space, value=value)
                    else:
                        told = _First(space=space, digest=self._told(place, value) or b"")
                    if place in made.changed:
                        _first[place] = told
                if told.digest is None:
                    made.constants[label] = _digest(Encoder(self._code_of).encode(told.value))
                elif told.digest:
                    made.values[label] = made.places[place] = told.digest
            except Exception as error:
                made.problems.append(f"global {label!r} ({error})")
        return made

    # -- walking -------------------------------------------------------------------------------------------

    def _function(self, fn: types.FunctionType) -> None:
        space = fn.__globals__
        if self._home is None:
            self._home = str(space.get("__name__"))
        code = read_code(fn.__code__, space)
        own = {*fn.__code__.co_varnames, *fn.__code__.co_cellvars, *fn.__code__.co_freevars}
        for path in code.changes:
            self._change(space, path, own)
        for name in code.variables:
            if name in space and not name.startswith("__"):
                self._name(space, name, code.names)
        for cell in fn.__closure__ or ():
            try:
                value = bare(cell.cell_contents)
            except ValueError:
                continue
            if is_code(value):
                self.reach(value)
        for value in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()):
            if is_code(bare(value)):
                self.reach(value)

    def _class(self, kind: type) -> None:
        space = _space_of(kind)
        for name, value in list(vars(kind).items()):
            inner = bare(value)
            if isinstance(inner, types.FunctionType | type):
                self.reach(inner)
            elif (
                not name.startswith("_")
                and not hasattr(type(inner), "__get__")
                and not issubclass(kind, enum.Enum)
            ):
                self._note(space, f"{kind.__qualname__}.{name}", inner)
        for base in kind.__bases__:
            self.reach(base)

    def _change(self, space: Mapping[str, Any], path: tuple[str, ...], own: set[str]) -> None:
        if path[0] in own:
            return
        for number, name in enumerate(path[:-1]):
            inner = space.get(name)
            if isinstance(inner, type) and number == len(path) - 2:
                self._variables.changed.add((id(_space_of(inner)), f"{inner.__qualname__}.{path[-1]}"))
            if not isinstance(inner, types.ModuleType):
                return
            space = vars(inner)
        self._variables.changed.add((id(space), path[-1]))

    def _name(self, space: Mapping[str, Any], name: str, used: frozenset[str]) -> None:
        value = bare(space[name])
        if is_code(value):
            self.reach(value)
        elif isinstance(value, types.ModuleType):
            self._module(value, used)
        else:
            self._note(space, name, value)

    def _module(self, module: types.ModuleType, used: frozenset[str]) -> None:
        if is_installed(module) or id(module) in self._seen:
            return
        self._seen.add(id(module))
        for name in used.intersection(vars(module)):
            if not name.startswith("__"):
                self._name(vars(module), name, used)
        self._seen.discard(id(module))

    def _note(self, space: Mapping[str, Any], name: str, value: Any) -> None:
        module = str(space.get("__name__") or "")
        label = name if module == self._home else f"{module_name(module)}.{name}"
        if label in self._found:
            return
        self._found[label] = space, name, value
        if is_own(type(value)):
            self.reach(type(value))
        for each in _functions_in(value):
            self.reach(each)

    # -- values --------------------------------------------------------------------------------------------

    def _told(self, place: tuple[int, str], value: Any) -> bytes | None:
        """Return the digest of a value that is not a constant; None where it does not count."""
        large = self._memo.get(place)
        if large is not None and large[0] is value:
            return large[1]
        nbytes = _weight(value, MAX_NBYTES)
        if nbytes > MAX_NBYTES:
            raise Untold(f"{with_article(type(value).__qualname__)} of more than {MAX_NBYTES >> 20} MB")
        with files_later():
            digest = self._hashed(value)
        if nbytes > SMALL_NBYTES and digest is not None:
            self._memo[place] = value, digest
        return digest

    def _hashed(self, value: Any) -> bytes | None:
        is_neutral = _is_neutral(value)
        try:
            told = value if is_neutral else told_object(value, self._code_of)
            return _digest(Encoder(self._code_of).encode(told))
        except FilesLater:
            return None
        except Exception as error:
            if is_neutral:
                return None
            why = str(error) if isinstance(error, Untold) else f"{type(error).__name__}: {error}"
            raise Untold(why) from None


def _space_of(kind: type) -> Mapping[str, Any]:
    module = sys.modules.get(kind.__module__)
    return {} if module is None else vars(module)


def _digest(encoded: bytes) -> bytes:
    return blake2b(encoded, digest_size=DIGEST_NBYTES).digest()


def _is_neutral(value: Any) -> bool:
    return any(
        each.__module__.partition(".")[0] in _NEUTRAL for each in type(value).__mro__ if each is not object
    )


def _functions_in(value: Any) -> Iterator[Any]:
    """Yield the functions and classes of a table of them, also of tables in it; large tables are of data."""
    left, room = [value], MAX_REACHED
    while left and room > 0:
        each = left.pop()
        if type(each) is dict:
            each = each.values()
        elif type(each) not in (list, tuple, set, frozenset):
            if is_code(bare(each)):
                yield each
            continue
        room -= len(each)
        if room > 0:
            left += each


def _weight(value: Any, most: int) -> int:
    """Return about how many bytes a value is; anything above `most` once that is known."""
    total = 0
    left: list[Any] = [value]
    seen: set[int] = set()
    while left and total <= most:
        each = left.pop()
        kind = type(each)
        if kind in (str, bytes, bytearray):
            total += len(each)
            continue
        total += 8
        if is_constant(each) and kind not in (tuple, frozenset):
            continue
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Mapping):
            total += 8 * len(each)
            if total <= most:
                left += each.keys()
                left += each.values()
        elif isinstance(each, list | tuple | set | frozenset):
            total += 8 * len(each)
            if total <= most:
                left += each
        elif isinstance(nbytes := getattr(each, "nbytes", None), int):
            total += nbytes
        elif callable(usage := getattr(each, "memory_usage", None)) and not isinstance(each, type):
            total += int(sum(usage(deep=False)) if kind.__name__ == "DataFrame" else usage(deep=False))
        elif is_dataclass(each) and not isinstance(each, type):
            left += [getattr(each, one.name, None) for one in fields(each)]
        elif not callable(each) and not isinstance(each, types.ModuleType):
            left += list(getattr(each, "__dict__", {}).values())
    return total
