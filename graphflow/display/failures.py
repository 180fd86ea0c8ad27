"""Failures of a run in groups, so that a thousand equal ones take one paragraph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from graphflow.display.tracebacks import full_text

__all__ = ["FailureGroup", "FailureView", "describe", "group_failures", "merge_groups"]

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_INDICES_SHOWN = 8
_TEXTS_SHOWN = 5


class FailureView(Protocol):
    """The attributes of a failed item that the command line reads."""

    @property
    def index(self) -> int | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def inputs(self) -> str: ...
    @property
    def exception(self) -> BaseException: ...
    @property
    def attempts(self) -> int: ...
    @property
    def traceback(self) -> str: ...


@dataclass(slots=True)
class FailureGroup:
    """Failures of one node with one kind of exception from one place; the first stands for all."""

    node: str
    first: FailureView
    indices: list[int] = field(default_factory=list)
    count: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    """How often each distinct text of their exceptions occurs."""


def group_failures(node: str, failures: Iterable[FailureView]) -> list[FailureGroup]:
    """Return the groups of a node's failures, largest first.

    Two failures belong to one group if exception type, text (except for numbers) and innermost user frame are equal.
    """
    return merge_groups(
        FailureGroup(node, failure, [] if failure.index is None else [failure.index], 1)
        for failure in failures
    )


def merge_groups(parts: Iterable[FailureGroup]) -> list[FailureGroup]:
    """Merge equal groups of one node, and return them largest first."""
    groups: dict[tuple[str, str, str], FailureGroup] = {}
    for part in parts:
        group = groups.setdefault(_signature(part.first), FailureGroup(part.node, part.first))
        group.count += part.count
        group.texts[_text(part.first.exception)] += part.count
        group.indices += part.indices[: _INDICES_SHOWN + 1 - len(group.indices)]
    return sorted(groups.values(), key=lambda group: -group.count)


def describe(group: FailureGroup, *, is_verbose: bool = False) -> str:
    """Return a group as text: how many, what, where, the first one's inputs and traceback.

    Where the texts of the exceptions differ, the heading masks what differs, and the most frequent texts follow it.
    """
    first = group.first
    lines = [f"{group.count:,} × {_heading(group)}" if group.count > 1 else _heading(group)]
    if len(group.texts) > 1:
        lines += [
            f"    {count:,} × {text.partition(chr(10))[0]}"
            for text, count in group.texts.most_common(_TEXTS_SHOWN)
        ]
        if len(group.texts) > _TEXTS_SHOWN:
            lines.append(f"    … and {len(group.texts) - _TEXTS_SHOWN:,} more texts")
    lines.append(f"  in {group.node}{_places(group)}")
    details = [f"label {first.label!r}"] if first.label and first.label != group.node else []
    details += [f"inputs {first.inputs}"] if first.inputs else []
    details += [f"{first.attempts} attempts"] if first.attempts > 1 else []
    if details:
        which = f"first, #{first.index}: " if first.index is not None else ""
        lines.append(f"  {which}{', '.join(details)}")
    text = full_text(first.exception) if is_verbose else first.traceback
    lines += [f"  {line}" for line in text.rstrip().splitlines()]
    return "\n".join(lines)


def _heading(group: FailureGroup) -> str:
    error = group.first.exception
    name = str(getattr(error, "type_name", None) or type(error).__name__)
    text = _text(error)
    if len(group.texts) > 1:
        text = _NUMBERS.sub("#", text)
    return f"{name}: {text}" if text else name


def _text(error: BaseException) -> str:
    return str(getattr(error, "message", None) or error).strip()


def _places(group: FailureGroup) -> str:
    if not group.indices:
        return ""
    shown = ", ".join(str(index) for index in group.indices[:_INDICES_SHOWN])
    more = ", ..." if group.count > min(len(group.indices), _INDICES_SHOWN) else ""
    return f", {'item' if group.count == 1 else 'items'} {shown}{more}"


def _signature(failure: FailureView) -> tuple[str, str, str]:
    error = failure.exception
    name = str(getattr(error, "type_name", None) or type(error).__qualname__)
    return name, _NUMBERS.sub("#", str(error))[:200], _last_frame(failure.traceback.splitlines())


def _last_frame(lines: Sequence[str]) -> str:
    frames = [line for line in lines if line.lstrip().startswith('File "')]
    return frames[-1] if frames else ""
