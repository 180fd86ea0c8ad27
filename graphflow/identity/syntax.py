"""The source of code that is loaded, as syntax trees and as text that is the same for all versions of Python.

Source counts only where compiling it gives the code that is loaded: a file may have been edited since. Otherwise the code
itself stands for it, as this version of Python has it.
"""

from __future__ import annotations

import ast
import dataclasses
import dis
import functools
import linecache
import os
import sys
import time
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = [
    "CodeText",
    "class_node",
    "definition_of",
    "dump",
    "module_tree",
    "names_in",
    "origin_module",
    "read_code",
]

_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BEGAN = time.time()
_MOST_READ = 10_000
_trees: dict[str, tuple[float, ast.Module | None]] = {}
"""The syntax trees of modules, with the time of the file's last change."""
_read: dict[int, CodeText] = {}
"""What was read of code objects, by their ids."""
_CHANGING = frozenset(
    [
        "add",
        "append",
        "appendleft",
        "clear",
        "difference_update",
        "discard",
        "extend",
        "extendleft",
        "fill",
        "insert",
        "intersection_update",
        "move_to_end",
        "pop",
        "popitem",
        "popleft",
        "put",
        "remove",
        "reverse",
        "rotate",
        "setdefault",
        "sort",
        "subtract",
        "symmetric_difference_update",
        "update",
    ]
)
"""Methods of containers that change them."""
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CodeText:
    """What was read of a code object.

    Attributes
    ----------
    code
        The code itself, so that its id stays its own.
    kind, text
        "source" or "code", and what stands for it.
    names
        Names and attributes that it uses.
    variables
        Names that it looks up outside itself and the functions around it.
    changes
        What it assigns to, fills or empties there, as dotted names: `("settings", "TABLE")`.
    """

    code: types.CodeType
    kind: str
    text: str
    names: frozenset[str]
    variables: frozenset[str]
    changes: frozenset[tuple[str, ...]]


def read_code(code: types.CodeType, space: Mapping[str, Any]) -> CodeText:
    """Return what stands for a code object, and what it uses."""
    known = _read.get(id(code))
    if known is None:
        node = _node_of(code, space)
        is_source = node is not None
        variables, changes = set(), set()
        for each in _codes_in(code):
            for step in dis.get_instructions(each):
                if step.opname in _LOADS:
                    variables.add(str(step.argval))
                elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                    changes.add((str(step.argval),))
        known = CodeText(
            code=code,
            kind="source" if is_source else "code",
            text=dump(node) if node is not None else _dump_code(code),
            names=frozenset(names_in(node) if node is not None else _names_of(code)),
            variables=frozenset(variables),
            changes=frozenset(changes.union(_changes_in(node) if node is not None else ())),
        )
        if len(_read) >= _MOST_READ:
            _read.clear()
        _read[id(code)] = known
    return known


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes_in(each)


def _changes_in(root: ast.AST) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names of what source changes in place; whether they are variables outside is not known here."""
    for node in ast.walk(root):
        target: ast.expr | None = None
        if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            target = node
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _CHANGING
        ):
            target = node.func.value
        names: list[str] = []
        while isinstance(target, ast.Subscript | ast.Attribute):
            # What is within an element is not a variable.
            names = [] if isinstance(target, ast.Subscript) else [*names, target.attr]
            target = target.value
        if isinstance(target, ast.Name):
            path = (target.id, *reversed(names))
            yield from (path[:size] for size in range(1, len(path) + 1))


def _node_of(code: types.CodeType, space: Mapping[str, Any]) -> ast.AST | None:
    """Return the syntax tree of a function; None if there is no source, or it is not the one that was loaded."""
    source = _source_of(code.co_filename, space)
    if not _is_source_of(source, code):
        # The file was edited since somebody read it, or since it was loaded.
        linecache.checkcache(code.co_filename)
        source = _source_of(code.co_filename, space)
        if not _is_source_of(source, code):
            return None
    nodes = _functions_of(source)
    if code.co_name == "<lambda>":
        found = [node for node in nodes.get(code.co_firstlineno, ()) if _is_lambda_of(node, code)]
    else:
        found = [
            node
            for node in nodes.get(code.co_firstlineno, ())
            if getattr(node, "name", None) == code.co_name and _has_parameters(node, code)
        ]
    return found[0] if len(found) == 1 else None


def _source_of(path: str, space: Mapping[str, Any]) -> str:
    return "".join(linecache.getlines(path, dict(space)))


def _is_source_of(source: str, code: types.CodeType) -> bool:
    """Return whether compiling the source gives this code."""
    return any(
        _is_same_code(each, code)
        for each in _codes_of(source).get((code.co_qualname, code.co_firstlineno), ())
    )


@functools.lru_cache(maxsize=64)
def _codes_of(source: str) -> dict[tuple[str, int], list[types.CodeType]]:
    """Return the code objects of a file, by name and first line."""
    found: dict[tuple[str, int], list[types.CodeType]] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            left = [compile(source, "<source>", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    while left:
        code = left.pop()
        found.setdefault((code.co_qualname, code.co_firstlineno), []).append(code)
        left += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return found


def _is_same_code(one: types.CodeType, other: types.CodeType) -> bool:
    return (
        one.co_code == other.co_code
        and one.co_names == other.co_names
        and one.co_varnames == other.co_varnames
        and one.co_freevars == other.co_freevars
        and len(one.co_consts) == len(other.co_consts)
        and all(
            _is_same_code(mine, yours)
            if isinstance(mine, types.CodeType) and isinstance(yours, types.CodeType)
            else type(mine) is type(yours) and _canonical_text(mine) == _canonical_text(yours)
            for mine, yours in zip(one.co_consts, other.co_consts, strict=True)
        )
    )


def module_tree(space: Mapping[str, Any]) -> ast.Module | None:
    """Return the syntax tree of a module that was not edited since this program began; None where there is none."""
    path = space.get("__file__")
    if not isinstance(path, str):
        return None
    try:
        changed = os.stat(path).st_mtime
    except OSError:
        return None
    if changed > _BEGAN:
        return None
    known = _trees.get(path)
    if known is None or known[0] != changed:
        known = _trees[path] = changed, _parsed(_source_of(path, space))
    return known[1]


def definition_of(tree: ast.Module, name: str) -> tuple[list[ast.stmt], tuple[int, str, str] | None]:
    """Return the statements of a module that give a name its value; and where it is imported from: level, module and name there."""
    made: list[ast.stmt] = []
    origin = None
    left: list[ast.stmt] = list(reversed(tree.body))
    while left:
        node = left.pop()
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(
                isinstance(each, ast.Name) and each.id == name for top in targets for each in ast.walk(top)
            ):
                made.append(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    origin = node.level, node.module or "", alias.name
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inner = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            for handler in getattr(node, "handlers", ()):
                inner += handler.body
            left += reversed(inner)
    return made, origin


def origin_module(origin: tuple[int, str, str], space: Mapping[str, Any]) -> types.ModuleType | None:
    level, module, _ = origin
    if level:
        package = str(space.get("__package__") or "")
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - level + 1])
        module = f"{base}.{module}" if base and module else base or module
    return sys.modules.get(module)


@functools.lru_cache(maxsize=64)
def _functions_of(source: str) -> dict[int, list[ast.AST]]:
    """Return the functions of a file by the line on which they begin, with their decorators."""
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
    """Return whether a function of the source takes what the code takes: a file may have been edited since it was loaded."""
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


def class_node(
    name: str, path: str | None, space: Mapping[str, Any], codes: Iterable[types.CodeType]
) -> ast.AST | None:
    """Return the syntax tree of a class of a file; None where there is none, or where it is not the one that was loaded.

    Parameters
    ----------
    codes
        Of its functions, which must be those of the file.
    """
    if path is None:
        return None
    linecache.checkcache(path)
    source = _source_of(path, space)
    if not all(_is_source_of(source, code) for code in codes if code.co_filename == path):
        return None
    tree: ast.AST | None = _parsed(source)
    for part in name.split("."):
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


def names_in(node: ast.AST) -> set[str]:
    """Return the names and attributes that source uses, where it counts."""
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


def dump(root: ast.AST) -> str:
    """Return a syntax tree as text: what Python versions write in different ways is left out."""
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
    for each in _codes_in(code):
        yield from each.co_names
