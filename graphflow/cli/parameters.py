"""Flow parameters from the command line: `-p name=value` and `--params`."""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from graphflow.common.secrets import is_secret_type
from graphflow.errors import ParameterError

__all__ = ["parse_parameters"]

_PAIR = re.compile(r"(?P<name>[^=:]+)(?P<sign>:=|=)(?P<value>.*)", re.DOTALL)


def parse_parameters(
    pairs: Sequence[str],
    *,
    mapping: str | None = None,
    function: Callable[..., Any] | None = None,
    texts: Collection[str] = (),
    read_stdin: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """Return the parameters of a run.

    Parameters
    ----------
    pairs
        `name=value` (JSON where it parses, else text), `name:=json`, or `name=@file` (the file's text).
    mapping
        JSON, `@file`, or `-` for stdin: a whole mapping. Pairs override it.
    function
        The flow's function. A parameter annotated as `str` stays text, so that
        `version=1` is `"1"` there.
    texts
        Names of others that stay text.
    read_stdin
        What `-` reads; `sys.stdin.read` by default.

    Raises
    ------
    ParameterError
        If an option does not parse or a file cannot be read; the text names the option.
    """
    parameters = {} if mapping is None else _parse_mapping(mapping, read_stdin or sys.stdin.read)
    hints = {**_hints_of(function), **dict.fromkeys(texts, str)}
    seen: set[str] = set()
    for pair in pairs:
        name, value = _parse_pair(pair, hints)
        if name in seen:
            raise ParameterError(f"-p {name}=... is given twice; give each parameter once")
        seen.add(name)
        parameters[name] = value
    return parameters


def _parse_mapping(text: str, read_stdin: Callable[[], str]) -> dict[str, Any]:
    source = "--params"
    if text == "-":
        text, source = read_stdin(), "--params - (stdin)"
    elif text.startswith("@"):
        text, source = _read(text[1:], option=f"--params {text}"), f"--params {text}"
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise ParameterError(
            f'{source} is not JSON: {error}; it must be an object such as {{"n": 10}}'
        ) from None
    if not isinstance(mapping, dict):
        raise ParameterError(f'{source} must be a JSON object such as {{"n": 10}}, not {_json_kind(mapping)}')
    return mapping


def _parse_pair(pair: str, hints: dict[str, Any]) -> tuple[str, Any]:
    match = _PAIR.fullmatch(pair)
    if match is None or not (name := match["name"].strip()):
        raise ParameterError(f"-p {pair!r} has no '='; use name=value, name:=json or name=@file")
    value = match["value"]
    if match["sign"] == ":=":
        try:
            return name, json.loads(value)
        except ValueError as error:
            raise ParameterError(
                f"-p {name}:=... must be JSON, but {_short(value)} is not: {error}; for text, use {name}=..."
            ) from None
    if value.startswith("@"):
        return name, _read(value[1:], option=f"-p {name}={value}")
    try:
        parsed = json.loads(value)
    except ValueError:
        return name, value
    return name, value if _stays_text(parsed, hints.get(name)) else parsed


def _stays_text(value: Any, hint: Any) -> bool:
    """Return whether a non-string JSON value is given for a parameter that accepts text but not this type."""
    if hint is None or isinstance(value, str):
        return False
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if is_union else (hint,)
    plain = {typing.get_origin(member) or member for member in members}
    if any(is_secret_type(member) for member in members):
        return not isinstance(value, dict)
    return str in plain and type(value) not in plain


def _hints_of(function: Callable[..., Any] | None) -> dict[str, Any]:
    if function is None:
        return {}
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that cannot be evaluated here helps nobody, and harms nobody
        return {
            name: str if parameter.annotation in (str, "str") else None
            for name, parameter in inspect.signature(function).parameters.items()
        }


def _read(name: str, *, option: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"{option}: cannot read the file {name!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"{option}: the file {name!r} is not UTF-8 text: {error}") from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _json_kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
