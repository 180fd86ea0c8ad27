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
from graphflow.model.cache_policies import files_later

__all__ = ["code_fingerprint", "constants_digest", "current_code"]

DIGEST_NBYTES = 16
MAX_REACHED = 1_000
"""Of more functions than that, the others are not looked at."""
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
_classes: weakref.WeakKeyDictionary[type, tuple[str, frozenset[str]] | None] = weakref.WeakKeyDictionary()
"""The sources of classes and the names that they use; None where there is none."""
_known: weakref.WeakKeyDictionary[Any, dict[bool, str]] = weakref.WeakKeyDictionary()
_SCRIPTS = ("__main__", "__mp_main__")
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


def current_code(fn: Any) -> tuple[str, list[str]]:
    """The fingerprint of a callable with the values that its closures and constants have now; and what it cannot tell.

    Returns
    -------
    The fingerprint, and the names of variables of surrounding functions whose values have no canonical form.
    """
    reader = _Reader(follows=True)
    return reader.read(fn), reader.unknown


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

    def __init__(self, follows: bool) -> None:
        self._follows = follows
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
        target = _bare(target)
        number = self._numbers.get(id(target))
        if number is None:
            if self._queue and (len(self._queue) >= MAX_REACHED or not self._follows or not _is_own(target)):
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
        kind, text, used = read_code(code, fn.__globals__)
        self._put(kind, text)
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
        if not _is_own(kind):
            self._put("class", kind.__module__, kind.__qualname__)
            return
        path, space = _place_of(kind)
        functions = sorted(
            (name, fn)
            for name, value in vars(kind).items()
            if isinstance(fn := _bare(value), types.FunctionType)
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
            if not name.startswith("__") and _is_constant(value):
                self._put("constant", name, self._value(value))
        if read is not None:
            self._globals(space, read[1], set())
        for base in kind.__bases__:
            if base is not object:
                self._put("base", self._reference(base))

    def _globals(self, space: Mapping[str, Any], used: Iterable[str], own: set[str]) -> None:
        names = set(used)
        for name in sorted(names - own):
            if name in space and not (name == "__name__" or name == "__file__"):
                found = self._used(space[name], names, is_closure=False)
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
        if _is_own(type(value)):
            self._put("instance", name, self._reference(type(value)))
        tree = module_tree(space)
        if tree is None:
            self._put("variable", name, self._value(value))
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
        value = _bare(value)
        if isinstance(value, types.ModuleType):
            if is_installed(value) or not self._follows:
                return value.__name__
            parts = []
            for name in sorted(used):
                if name not in vars(value):
                    continue
                inner = _bare(vars(value)[name])
                if _is_code(inner):
                    if _is_own(inner):
                        parts.append(f"{name}={self._reference(inner)}")
                elif _is_constant(inner):
                    parts.append(f"{name}={self._value(inner).hex()}")
                elif not isinstance(inner, types.ModuleType) and not name.startswith("__"):
                    self._variable(vars(value), name)
            return f"module({','.join(parts)})"
        if _is_code(value):
            return self._reference(value)
        if is_closure or _is_constant(value):
            return self._value(value)
        return ""

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


def _bare(value: Any) -> Any:
    """The function behind a task, a flow or what a class body wraps."""
    while True:
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, property):
            return value.fget
        elif type(value).__module__ in ("graphflow.authoring.tasks", "graphflow.authoring.flows"):
            value = value.fn
        elif isinstance(value, functools._lru_cache_wrapper):
            value = value.__wrapped__
        else:
            return value


def _is_code(value: Any) -> bool:
    return isinstance(
        value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type | functools.partial
    )


def _is_own(value: Any) -> bool:
    """Whether code is the user's: no part of Python or of what is installed."""
    value = getattr(value, "__func__", value)
    if isinstance(value, functools.partial):
        return True
    if isinstance(value, types.FunctionType):
        if value.__module__ in _SCRIPTS:
            # On a worker, the script that was started is another one.
            return True
        module = sys.modules.get(value.__module__ or "")
        return module is None or not is_installed(module)
    if isinstance(value, types.BuiltinFunctionType):
        return False
    of = (value if isinstance(value, type) else type(value)).__module__
    if of in _SCRIPTS:
        return True
    module = sys.modules.get(of or "")
    return module is None or not is_installed(module)


def _is_constant(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_is_constant, value))
    return type(value) in _CONSTANTS


def _name_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _place_of(kind: type) -> tuple[str | None, Mapping[str, Any]]:
    """The file of a class, and what its names mean: as its own functions know it, which may have another module's name."""
    for value in vars(kind).values():
        fn = _bare(value)
        if (
            isinstance(fn, types.FunctionType)
            and fn.__module__ == kind.__module__
            and os.path.exists(fn.__code__.co_filename)
        ):
            return fn.__code__.co_filename, fn.__globals__
    module = sys.modules.get(kind.__module__)
    return getattr(module, "__file__", None), vars(module) if module is not None else {}
