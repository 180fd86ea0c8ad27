"""What happened to a run and its nodes, and when."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from graphflow.model.states import Code
from graphflow.records.replay import Replay

__all__ = ["PastEvent", "events_of", "level_number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """Something that happened to a run or a node: it moved to a `state`, was taken by a driver, was asked for something.

    `kind` is `run`, `node`, `driver`, `request` or `change`.
    """

    at: datetime
    kind: str
    node: str = ""
    state: str = ""
    message: str = ""


def events_of(replay: Replay) -> list[PastEvent]:
    """All that happened to a run and its nodes, oldest first."""
    found = [
        (
            at,
            PastEvent(at=_at(at), kind="driver", message=f"{life.reason} on {life.host}, pid {life.pid}"),
        )
        for at, life in zip(replay.begun, replay.lives, strict=True)
    ]
    found += [
        (
            moved.at,
            PastEvent(at=_at(moved.at), kind="run", state=_name(moved.code), message=moved.message),
        )
        for moved in replay.transitions
    ]
    for node in replay.nodes.values():
        name = node.entry.name
        found += [
            (
                moved.at,
                PastEvent(
                    at=_at(moved.at),
                    kind="node",
                    node=name,
                    state=_name(moved.code),
                    message=moved.message,
                ),
            )
            for moved in node.transitions
        ]
        found += [
            (at, PastEvent(at=_at(at), kind="change", node=name, message=_shown(values)))
            for at, values in node.changes
        ]
    for at, answer in replay.answers:
        text = " ".join(part for part in (answer.kind, _shown(answer.body)) if part)
        message = f"{text}: {answer.error}" if answer.error else text
        found.append((at, PastEvent(at=_at(at), kind="request", message=message)))
    return [event for _, event in sorted(found, key=lambda pair: pair[0])]


def level_number(level: int | str | None) -> int:
    """A level of the log as a number; `ValueError` for a name that there is not."""
    if level is None:
        return 0
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise ValueError(
            f"there is no level {level!r}; the levels are DEBUG, INFO, WARNING, ERROR and CRITICAL"
        )
    return names[level.upper()]


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _name(code: int) -> str:
    return Code(code).state_name


def _shown(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
