"""Texts over documents, such as `{event.related.flow}`: names and dots alone, no attributes, calls or conversions."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphflow.errors import ParameterError

__all__ = ["check_text", "filled", "is_path", "value_at"]

MOST_CHARACTERS = 16_384
"""A text that was filled is cut there."""
_PATH = re.compile(r"[A-Za-z][\w-]*(\.[\w-]+)*")
_SPEC = re.compile(r"[<>^]?[+]?\d{0,3},?(\.\d{1,2})?[a-z%]?")
_MISSING = object()


def is_path(text: str) -> bool:
    """Return whether a text is names with dots between them."""
    return _PATH.fullmatch(text) is not None and not any(each.startswith("_") for each in text.split("."))


def value_at(document: Any, path: str, default: Any = None) -> Any:
    """Return what a document has at a path: of tables by name, of lists by place."""
    found = document
    for name in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(name, _MISSING)
        elif isinstance(found, Sequence) and not isinstance(found, str | bytes) and name.isdigit():
            found = found[int(name)] if len(name) < 9 and int(name) < len(found) else _MISSING
        else:
            found = _MISSING
        if found is _MISSING:
            return default
    return found


def check_text(value: Any, roots: Sequence[str]) -> None:
    """Check all texts of a value, to any depth: each name in braces is a path that begins with one of `roots`.

    Raises
    ------
    ParameterError
        If one is wrong.
    """
    for text in _leaves(value):
        for path, spec in _fields(text):
            if path.split(".")[0] not in roots:
                known = " or ".join(f"{{{each}.NAME}}" for each in roots)
                raise ParameterError(f"{{{path}}} is not known in {text!r}; use {known}")
            if not _SPEC.fullmatch(spec):
                raise ParameterError(
                    f"{spec!r} in {text!r} is not a format that is taken, such as .2f or >10"
                )


def filled(value: Any, document: Mapping[str, Any]) -> Any:
    """Return a value with the names in its texts replaced, to any depth. A text that is one name is the value itself.

    Raises
    ------
    ParameterError
        If the document has nothing at a path.
    """
    if isinstance(value, str):
        return _filled_text(value, document)
    if isinstance(value, Mapping):
        return {name: filled(each, document) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled(each, document) for each in value]
    return value


def _filled_text(text: str, document: Mapping[str, Any]) -> Any:
    fields = list(_fields(text))
    if len(fields) == 1 and text == f"{{{fields[0][0]}}}":
        return _found(document, fields[0][0], text)
    parts = []
    for literal, path, spec, _ in string.Formatter().parse(text):
        parts.append(literal)
        if path is not None:
            parts.append(_formatted(_found(document, path, text), spec or "", path))
    return "".join(parts)[:MOST_CHARACTERS]


def _found(document: Mapping[str, Any], path: str, text: str) -> Any:
    found = value_at(document, path, _MISSING)
    if found is _MISSING:
        above = path.rpartition(".")[0]
        beside = value_at(document, above) if above else document
        known = ", ".join(map(str, beside)) if isinstance(beside, Mapping) else ""
        raise ParameterError(f"there is no {path} for {text!r}" + (f"; {above} has {known}" if known else ""))
    return found


def _formatted(value: Any, spec: str, path: str) -> str:
    try:
        return format(value, spec) if spec else str(value)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"{path} cannot be written as {spec!r}: {error}") from None


def _fields(text: str) -> Iterator[tuple[str, str]]:
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ParameterError(
            f"the text {text!r} is wrong: {error}; a brace itself is written twice"
        ) from None
    for _, path, spec, conversion in parsed:
        if path is None:
            continue
        if conversion or not is_path(path):
            raise ParameterError(
                f"{{{path}{'!' + conversion if conversion else ''}}} is not taken in {text!r}; use names with dots, such as {{event.subject}}"
            )
        yield path, spec or ""


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
