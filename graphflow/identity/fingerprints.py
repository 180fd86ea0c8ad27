"""Fingerprints of code: what a function does, as far as that can be seen from its source and what it uses.

A fingerprint is made of the normalised syntax trees of the function and of the user's own functions and classes that it
reaches, with defaults, closures and constants. Comments, docstrings, positions, annotations and the decorators of the
function itself are no part of it.
"""

from __future__ import annotations

import functools
import os
import sys
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from graphflow.identity.canonical import Encoder
from graphflow.identity.code import bare, is_code, is_constant, is_own
from graphflow.identity.origins import is_installed
from graphflow.identity.syntax import (
    class_node,
    definition_of,
    dump,
    module_tree,
    names_in,
    origin_module,
    read_code,
)
from graphflow.identity.variables import Variables
from graphflow.model.cache_policies import files_later

__all__ = ["code_fingerprint", "constants_digest", "current_code", "pure_code"]

DIGEST_NBYTES = 16
MAX_REACHED = 1_000
"""Of more functions than that, the others are not looked at."""
_classes: weakref.WeakKeyDictionary[type, tuple[str, frozenset[str]] | None] = weakref.WeakKeyDictionary()
"""The sources of classes and the names that they use; None where there is none."""
_known: weakref.WeakKeyDictionary[Any, dict[bool, str]] = weakref.WeakKeyDictionary()
_pure: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_NEUTRAL = (
    "logging.Logger",
    "logging.LoggerAdapter",
    "_thread.lock",
    "_thread.RLock",
    "graphflow.graph.context.RunLogger",
)
"""Types of objects that a function may close over without any effect on what it returns."""


def code_fingerprint(fn: Any, *, follows: bool = True) -> str:
    """The fingerprint of a callable or class, in hex: the same in every process, and for every Python where there is source.

    Parameters
    ----------
    follows
        Whether the user's functions that it uses count too.
    """
    try:
        known = _known.setdefault(fn, {})
    except TypeError:
        # It cannot be kept: a partial of something unhashable, an object with slots.
        return _Reader(follows).read(fn)
    if follows not in known:
        known[follows] = _Reader(follows).read(fn)
    return known[follows]


def current_code(fn: Any, variables: Variables | None = None) -> tuple[str, list[str]]:
    """The fingerprint of a callable with the values that its closures and constants have now; and what it cannot tell.

    Returns
    -------
    The fingerprint, and the names of variables of surrounding functions whose values have no canonical form.
    """
    reader = _Reader(follows=True, variables=variables)
    return reader.read(fn), reader.unknown


def pure_code(fn: Any) -> str:
    """The fingerprint of a callable without the values of global constants."""
    try:
        known = _pure.get(fn)
    except TypeError:
        return _Reader(follows=True, has_constants=False).read(fn)
    if known is None:
        known = _pure[fn] = _Reader(follows=True, has_constants=False).read(fn)
    return known


def constants_digest(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A digest of the constant arguments of a call, in hex; empty if they cannot be told from others by their content.

    Files among them are not read here, on the driver: then nothing can be told either.
    """
    try:
        with files_later():
            data = Encoder(code_fingerprint).encode((tuple(args), dict(kwargs)))
    except Exception:
        return ""
    return blake2b(data, digest_size=DIGEST_NBYTES).hexdigest()


class _Reader:
    """Reads one callable and what it reaches.

    What is reached gets a number when it is first seen, and stands in other code as this number: so functions may use each
    other, and names of modules do not matter.
    """

    def __init__(
        self, follows: bool, *, variables: Variables | None = None, has_constants: bool = True
    ) -> None:
        self._follows = follows
        self._first = Variables() if variables is None else variables
        self._has_constants = has_constants
        self._numbers: dict[int, int] = {}
        self._queue: list[Any] = []
        self._encoder = Encoder(self._reference)
        self._out = blake2b(digest_size=DIGEST_NBYTES)
        self._variables: set[tuple[int, str]] = set()
        self.unknown: list[str] = []
        """The variables of surrounding functions that cannot be told."""

    def read(self, root: Any) -> str:
        self._reference(root)
        at = 0
        while at < len(self._queue):
            self._one(self._queue[at])
            at += 1
        return self._out.hexdigest()

    def _put(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            self._out.update(b"%d:" % len(data) + data)

    def _reference(self, target: Any) -> str:
        """What stands for a function or class where it is used; it is read later."""
        target = bare(target)
        number = self._numbers.get(id(target))
        if number is None:
            if self._queue and (len(self._queue) >= MAX_REACHED or not self._follows or not is_own(target)):
                return f"{getattr(target, '__module__', '')}.{_name_of(target)}"
            number = self._numbers[id(target)] = len(self._queue)
            # Kept alive by the queue, so that its id stays its own.
            self._queue.append(target)
        return f"#{number}"

    def _one(self, target: Any) -> None:
        if isinstance(target, types.FunctionType):
            self._function(target)
        elif isinstance(target, type):
            self._class(target)
        elif isinstance(target, types.MethodType):
            owner = target.__self__ if isinstance(target.__self__, type) else type(target.__self__)
            self._put(
                "method",
                self._reference(target.__func__),
                self._reference(owner),
                self._value(target.__self__),
            )
        elif isinstance(target, functools.partial):
            self._put("partial", self._reference(target.func), self._value((target.args, target.keywords)))
        elif isinstance(target, types.BuiltinFunctionType):
            self._put("builtin", str(target.__module__), target.__qualname__)
        else:
            # An object that can be called.
            self._put(
                "object",
                self._reference(type(target)),
                self._value(vars(target) if hasattr(target, "__dict__") else None),
            )

    def _function(self, fn: types.FunctionType) -> None:
        code = fn.__code__
        read = read_code(code, fn.__globals__)
        used = read.names
        self._put(read.kind, read.text)
        self._put("defaults", self._value(fn.__defaults__), self._value(fn.__kwdefaults__))
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            try:
                found = self._used(cell.cell_contents, used, is_closure=True)
                if found == _untold(cell.cell_contents) and not _is_neutral(cell.cell_contents):
                    self.unknown.append(name)
                self._put("closure", name, found)
            except ValueError:
                self._put("closure", name, "empty")
        self._globals(fn.__globals__, used, own)

    def _class(self, kind: type) -> None:
        if not is_own(kind):
            self._put("class", kind.__module__, kind.__qualname__)
            return
        path, space = _place_of(kind)
        functions = sorted(
            (name, fn)
            for name, value in vars(kind).items()
            if isinstance(fn := bare(value), types.FunctionType)
        )
        if kind in _classes:
            read = _classes[kind]
        else:
            node = class_node(kind.__qualname__, path, space, [fn.__code__ for _, fn in functions])
            read = None if node is None else (dump(node), frozenset(names_in(node)))
            _classes[kind] = read
        if read is None:
            self._put("class", kind.__module__, kind.__qualname__)
            for name, fn in functions:
                self._put(name, self._reference(fn))
        else:
            self._put("class", read[0])
        for name, value in sorted(vars(kind).items()):
            if not name.startswith("__") and is_constant(value):
                self._put("constant", name, self._constant(value))
        if read is not None:
            self._globals(space, read[1], set())
        for base in kind.__bases__:
            if base is not object:
                self._put("base", self._reference(base))

    def _globals(self, space: Mapping[str, Any], used: Iterable[str], own: set[str]) -> None:
        names = set(used)
        for name in sorted(names - own):
            if name in space and not (name == "__name__" or name == "__file__"):
                found = self._used(self._first.first(space, name, space[name]), names, is_closure=False)
                if found:
                    self._put("global", name, found)
                else:
                    self._variable(space, name)

    def _variable(self, space: Mapping[str, Any], name: str) -> None:
        """Add a global that is neither code nor a constant: its definition counts, as its value may change at run time.

        Its value counts only where the definition cannot be read.
        """
        if (id(space), name) in self._variables:
            return
        self._variables.add((id(space), name))
        value = space[name]
        if is_own(type(value)):
            self._put("instance", name, self._reference(type(value)))
        tree = module_tree(space)
        if tree is None:
            self._put("variable", name, self._first.places.get((id(space), name)) or self._value(value))
            return
        made, origin = definition_of(tree, name)
        for node in made:
            self._put("variable", name, dump(node))
            self._globals(space, names_in(node), {name})
        if origin is not None:
            module = origin_module(origin, space)
            if module is not None and not is_installed(module) and origin[2] in vars(module):
                self._put("from", name, origin[2])
                self._variable(vars(module), origin[2])

    def _used(self, value: Any, used: Iterable[str], *, is_closure: bool) -> str | bytes:
        """What a name that code uses stands for; empty where that is not followed."""
        value = bare(value)
        if isinstance(value, types.ModuleType):
            if is_installed(value) or not self._follows:
                return value.__name__
            parts = []
            for name in sorted(used):
                if name not in vars(value):
                    continue
                inner = bare(vars(value)[name])
                if is_code(inner):
                    if is_own(inner):
                        parts.append(f"{name}={self._reference(inner)}")
                elif is_constant(inner):
                    inner = self._first.first(vars(value), name, inner)
                    parts.append(f"{name}={self._constant(inner).hex()}")
                elif isinstance(inner, types.ModuleType):
                    if not is_installed(inner) and value.__name__ == inner.__name__.rpartition(".")[0]:
                        parts.append(f"{name}={self._used(inner, used, is_closure=False)!s}")
                elif not name.startswith("__"):
                    self._variable(vars(value), name)
            return f"module({','.join(parts)})"
        if is_code(value):
            return self._reference(value)
        if is_closure:
            return self._value(value)
        return self._constant(value) if is_constant(value) else ""

    def _constant(self, value: Any) -> bytes:
        return self._value(value) if self._has_constants else b"constant"

    def _value(self, value: Any) -> bytes:
        try:
            return self._encoder.encode(value)
        except Exception:
            return _untold(value)


def _untold(value: Any) -> bytes:
    """What stands for a value without a canonical form."""
    return f"a {type(value).__qualname__}".encode("utf-8", "surrogatepass")


def _is_neutral(value: Any) -> bool:
    return f"{type(value).__module__}.{type(value).__qualname__}" in _NEUTRAL


# -- what is looked at ---------------------------------------------------------------------------------------


def _name_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _place_of(kind: type) -> tuple[str | None, Mapping[str, Any]]:
    """The file of a class, and what its names mean: as its own functions know it, which may have another module's name."""
    for value in vars(kind).values():
        fn = bare(value)
        if (
            isinstance(fn, types.FunctionType)
            and fn.__module__ == kind.__module__
            and os.path.exists(fn.__code__.co_filename)
        ):
            return fn.__code__.co_filename, fn.__globals__
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None), vars(module) if module is not None else {}
