"""Fingerprints of code: what a function does, as far as that can be seen from its source and what it uses.

A fingerprint is made of the normalised syntax trees of the function and of the user's own functions and classes that it
reaches, with defaults, closures and constants. Comments, docstrings, positions, annotations and the decorators of the
function itself are no part of it.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from graphflow.canonical import Encoder
from graphflow.origins import is_installed

__all__ = ["code_fingerprint", "constants_digest", "current_code"]

DIGEST_NBYTES = 16
MAX_REACHED = 1_000
"""Of more functions than that, the others are not looked at."""
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type(...))
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_known: weakref.WeakKeyDictionary[Any, dict[bool, str]] = weakref.WeakKeyDictionary()
_NEUTRAL = (
    "logging.Logger",
    "logging.LoggerAdapter",
    "_thread.lock",
    "_thread.RLock",
    "graphflow.context.RunLogger",
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
    """A digest of the constant arguments of a call, in hex; empty if they cannot be told from others by their content."""
    try:
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
            self._put("method", self._reference(target.__func__), self._value(target.__self__))
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
        node = _node_of(code, fn.__globals__)
        if node is not None:
            self._put("source", _dump(node))
            used = _names_in(node)
        else:
            self._put("code", _dump_code(code))
            used = set(_names_of(code))
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
        path, space = _place_of(kind)
        node = _class_node(kind, path, space)
        if node is None:
            self._put("class", kind.__module__, kind.__qualname__)
            if _is_own(kind):
                for name, value in sorted(vars(kind).items()):
                    if isinstance(value, types.FunctionType | staticmethod | classmethod):
                        self._put(name, self._reference(value))
            return
        self._put("class", _dump(node))
        self._globals(space, _names_in(node), set())
        for base in kind.__bases__:
            if base is not object:
                self._put("base", self._reference(base))

    def _globals(self, space: Mapping[str, Any], used: set[str], own: set[str]) -> None:
        for name in sorted(used - own):
            if name in space and not (name == "__name__" or name == "__file__"):
                found = self._used(space[name], used, is_closure=False)
                if found:
                    self._put("global", name, found)

    def _used(self, value: Any, used: set[str], *, is_closure: bool) -> str | bytes:
        """What a name that code uses stands for; empty where that is not followed."""
        value = _bare(value)
        if isinstance(value, types.ModuleType):
            if is_installed(value) or not self._follows:
                return value.__name__
            parts = []
            for name in sorted(used):
                inner = _bare(vars(value).get(name))
                if _is_code(inner) and _is_own(inner):
                    parts.append(f"{name}={self._reference(inner)}")
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
        elif type(value).__module__ in ("graphflow.tasks", "graphflow.flows"):
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
        module = sys.modules.get(value.__module__ or "")
        return module is None or not is_installed(module)
    if isinstance(value, types.BuiltinFunctionType):
        return False
    module = sys.modules.get((value if isinstance(value, type) else type(value)).__module__ or "")
    return module is None or not is_installed(module)


def _is_constant(value: Any) -> bool:
    if type(value) in (tuple, frozenset):
        return all(map(_is_constant, value))
    return type(value) in _CONSTANTS


def _name_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


# -- source ------------------------------------------------------------------------------------------------


def _node_of(code: types.CodeType, space: Mapping[str, Any]) -> ast.AST | None:
    """The syntax tree of a function; None where there is no source, or several functions could be meant."""
    nodes = _functions_of("".join(linecache.getlines(code.co_filename, dict(space))))
    if code.co_name == "<lambda>":
        found = [node for node in nodes.get(code.co_firstlineno, ()) if _is_lambda_of(node, code)]
    else:
        found = [
            node
            for node in nodes.get(code.co_firstlineno, ())
            if getattr(node, "name", None) == code.co_name and _has_parameters(node, code)
        ]
    return found[0] if len(found) == 1 else None


@functools.lru_cache(maxsize=64)
def _functions_of(source: str) -> dict[int, list[ast.AST]]:
    """The functions of a file by the line on which they begin, with their decorators."""
    found: dict[int, list[ast.AST]] = {}
    tree = _parsed(source)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            found.setdefault(line, []).append(node)
        elif isinstance(node, ast.Lambda):
            found.setdefault(node.lineno, []).append(node)
    return found


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _has_parameters(node: ast.AST, code: types.CodeType) -> bool:
    """Whether a function of the source takes what the code takes: a file may have been edited since it was loaded."""
    arguments: ast.arguments = node.args  # type: ignore[attr-defined]
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [_unmangled(each) for each in names] == [
        _unmangled(each) for each in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    ]


def _unmangled(name: str) -> str:
    head, _, tail = name.partition("__")
    return f"__{tail}" if head.startswith("_") and tail and not tail.endswith("__") else name


def _is_lambda_of(node: ast.AST, code: types.CodeType) -> bool:
    if not isinstance(node, ast.Lambda) or not _has_parameters(node, code):
        return False
    body = node.body
    first, last = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    for line, end_line, column, end_column in code.co_positions():
        # Python notes no width for what has no place in the text.
        if line is None or end_line is None or column is None or end_column is None or column == end_column:
            continue
        if not (first <= (line, column) and (end_line, end_column) <= last):
            return False
    return True


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


def _class_node(kind: type, path: str | None, space: Mapping[str, Any]) -> ast.AST | None:
    if path is None or not _is_own(kind):
        return None
    tree: ast.AST | None = _parsed("".join(linecache.getlines(path, dict(space))))
    for part in kind.__qualname__.split("."):
        if tree is None:
            return None
        wanted = (ast.ClassDef, *_FUNCTIONS)
        if part == "<locals>":
            continue
        tree = next(
            (
                node
                for node in reversed(list(ast.walk(tree)))
                if isinstance(node, wanted) and node.name == part and node is not tree
            ),
            None,
        )
    return tree if isinstance(tree, ast.ClassDef) else None


def _names_in(node: ast.AST) -> set[str]:
    """The names and attributes that source uses, where it counts."""
    found: set[str] = set()
    left: list[Any] = [value for _, value in _fields(node, is_root=True)]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, ast.AST):
            if isinstance(each, ast.Name):
                found.add(each.id)
            elif isinstance(each, ast.Attribute):
                found.add(each.attr)
            left += [value for _, value in _fields(each, is_root=False)]
    return found


def _dump(root: ast.AST) -> str:
    """A syntax tree as text: what Python versions write in different ways is left out."""
    return "".join(_dumped(root, is_root=True))


def _dumped(node: Any, *, is_root: bool = False) -> Iterator[str]:
    if isinstance(node, list):
        yield "["
        for each in node:
            yield from _dumped(each)
            yield ","
        yield "]"
    elif not isinstance(node, ast.AST):
        yield f"{type(node).__name__}:{_canonical_text(node)}"
    elif isinstance(node, ast.Constant):
        yield f"Constant({type(node.value).__name__}:{_canonical_text(node.value)})"
    else:
        yield f"{type(node).__name__}("
        for name, value in _fields(node, is_root):
            yield f"{name}="
            yield from _dumped(value)
            yield ";"
        yield ")"


def _fields(node: ast.AST, is_root: bool) -> Iterable[tuple[str, Any]]:
    for name, value in sorted(ast.iter_fields(node)):
        if value is None or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
            continue
        if name == "decorator_list" and is_root:
            continue
        if (name == "returns" and isinstance(node, _FUNCTIONS)) or (
            name == "annotation" and isinstance(node, ast.arg)
        ):
            continue
        if name == "name" and is_root and isinstance(node, _FUNCTIONS):
            continue
        if name == "body" and isinstance(node, _DOCUMENTED):
            value = _without_docstring(value)
        if name == "values" and isinstance(node, ast.JoinedStr):
            # Python 3.12 ends some format specifications with an empty text.
            value = [each for each in value if not (isinstance(each, ast.Constant) and each.value == "")]
        yield name, value


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        body = body[1:]
    return body or [ast.Pass()]


def _canonical_text(value: Any) -> str:
    if isinstance(value, frozenset):
        return f"{{{','.join(sorted(map(_canonical_text, value)))}}}"
    return repr(value)


# -- where there is no source -------------------------------------------------------------------------------


def _dump_code(code: types.CodeType) -> str:
    doc = code.co_consts[0] if code.co_consts and isinstance(code.co_consts[0], str) else None
    constants = []
    for place, each in enumerate(code.co_consts):
        if isinstance(each, types.CodeType):
            constants.append(_dump_code(each))
        elif not (place == 0 and each is doc):
            constants.append(f"{type(each).__name__}:{_canonical_text(each)}")
    return (
        f"{code.co_argcount},{code.co_posonlyargcount},{code.co_kwonlyargcount},{code.co_flags}:{constants}:"
        f"{code.co_names}:{code.co_varnames}:{code.co_freevars}:{code.co_code.hex()}"
    )


def _names_of(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names_of(each)
