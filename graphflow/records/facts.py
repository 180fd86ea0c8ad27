"""The bodies of all records but those of items and errors: small facts as JSON, with a version before it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from graphflow.model.records import (
    Alias,
    Answer,
    Dispatch,
    Dispatches,
    Ended,
    EntryDep,
    Kind,
    Launch,
    Lost,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.model.reports import LogRecord
from graphflow.records.packing import Packer, Unpacker, pressed, unpressed

__all__ = [
    "Change",
    "LogLines",
    "decode_fact",
    "encode_dispatches",
    "encode_fact",
    "encode_log",
    "encode_ranged",
    "fact_of",
]

VERSION = 1
_LOG_FIELDS = tuple(each.name for each in fields(LogRecord))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLines:
    """Lines of the log, and how many more were not kept."""

    lines: Sequence[LogRecord]
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Options or policies of a node were changed."""

    node: int
    values: Mapping[str, Any]


def encode_fact(value: Any) -> bytes:
    """Return a small fact's body: a JSON object."""
    return bytes([VERSION]) + _JSON.encode(value).encode("ascii")


def _plain(value: Any) -> Any:
    """Return what JSON does not know: an array or a range as a list, a set in order, all else as a text."""
    if isinstance(value, (array, range, set, frozenset)):
        listed = list(value)
        return sorted(listed, key=str) if isinstance(value, (set, frozenset)) else listed
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


_JSON = json.JSONEncoder(separators=(",", ":"), default=_plain)


def encode_ranged(value: Dispatch | Ended) -> bytes:
    """Return the body of a fact about many items; a range stands in the record's header."""
    given = fact_of(value)
    del given["indices"]
    if not given.get("is_bundle", True):
        del given["is_bundle"]
    out = Packer(VERSION)
    out.json(given)
    out.ints(value.indices)
    return out.data()


def encode_dispatches(dispatches: Sequence[Dispatch]) -> bytes:
    """Return the body of a fact about several batches of the same nodes."""
    out = Packer(VERSION)
    out.json(list(dispatches[0].nodes))
    out.number(len(dispatches))
    for each in dispatches:
        out.number(2 * each.batch + each.is_fresh)
        out.number(len(each.indices))
        out.ints(each.indices)
    return out.data()


def _decode_dispatches(body: bytes) -> Dispatches:
    come = Unpacker(body)
    nodes = tuple(int(node) for node in come.json())
    found: list[Dispatch] = []
    for _ in range(come.number()):
        number = come.number()
        indices = come.ints(come.number())
        found.append(Dispatch(batch=number // 2, nodes=nodes, indices=indices, is_fresh=bool(number % 2)))
    come.end()
    return Dispatches(tuple(found))


# -- each kind -------------------------------------------------------------------------------------------------


def fact_of(value: Any) -> dict[str, Any]:
    """Return a record's value as a JSON object."""
    kind = type(value)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(each.name for each in fields(kind))
    made = {name: getattr(value, name) for name in names}
    if kind is NodeEntry:
        made["deps"] = [[dep.upstream, dep.kind, dep.argument, dep.index] for dep in value.deps]
    return made


_FIELDS: dict[type, tuple[str, ...]] = {}


def _node(given: dict[str, Any]) -> NodeEntry:
    deps = tuple(
        EntryDep(upstream=upstream, kind=kind, argument=argument, index=index)
        for upstream, kind, argument, index in given.pop("deps")
    )
    parent = given.pop("parent")
    sources = tuple(given.pop("sources"))
    return NodeEntry(**given, deps=deps, sources=sources, parent=None if parent is None else tuple(parent))


_MAKERS: Mapping[int, Callable[[dict[str, Any]], Any]] = {
    Kind.LAUNCH: lambda given: Launch(**given),
    Kind.NODE: _node,
    Kind.STATE: lambda given: Transition(**given),
    Kind.LOST: lambda given: Lost(**given),
    Kind.ALIAS: lambda given: Alias(**given),
    Kind.ANSWER: lambda given: Answer(**given),
}


def decode_fact(record: Record) -> Any:
    """Return the value of a record of such a kind; `KeyError`, `TypeError` or `ValueError` where it is none."""
    if record.kind == Kind.LOG:
        return _decode_log(record.body)
    if record.kind in (Kind.DISPATCH, Kind.ENDED):
        come = Unpacker(record.body)
        given, indices = come.json(), come.ints(record.count)
        come.end()
        if record.kind == Kind.ENDED:
            return Ended(**given, indices=indices)
        return Dispatch(**{**given, "nodes": tuple(given["nodes"])}, indices=indices)
    if record.kind == Kind.DISPATCHES:
        return _decode_dispatches(record.body)
    given = json.loads(record.body[1:])
    if not isinstance(given, dict):
        raise ValueError("it is not a JSON object")
    if record.kind == Kind.CHANGE:
        return Change(node=record.node, values=given)
    return _MAKERS[record.kind](given)


# -- the log ---------------------------------------------------------------------------------------------------


def encode_log(lines: Sequence[LogRecord], dropped: int) -> bytes:
    """Return lines of the log, field by field."""
    out = Packer(VERSION)
    out.number(dropped)
    out.blob(pressed([[getattr(line, name) for line in lines] for name in _LOG_FIELDS] if lines else []))
    return out.data()


def _decode_log(body: bytes) -> LogLines:
    come = Unpacker(body)
    dropped = come.number()
    rows = unpressed(come.blob())
    come.end()
    lines = [LogRecord(**dict(zip(_LOG_FIELDS, row, strict=True))) for row in zip(*rows, strict=True)]
    return LogLines(lines=lines, dropped=dropped)
