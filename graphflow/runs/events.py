"""What happened to a run and its nodes, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from graphflow.common.times import moment
from graphflow.model.records import Answer, Launch
from graphflow.model.states import State
from graphflow.runs.nodes import Node

__all__ = ["Event", "events_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a run or a node: it moved to a `state`, was taken by a driver, or received a request.

    `kind` is `run`, `node`, `driver`, `request` or `change`.
    """

    at: datetime
    kind: str
    node: str = ""
    state: str = ""
    message: str = ""


def events_of(
    *,
    launches: Iterable[Launch],
    states: Iterable[State],
    nodes: Iterable[Node],
    changes: Iterable[tuple[float, str, Mapping[str, Any]]],
    answers: Iterable[tuple[float, Answer]],
) -> list[Event]:
    """Return the events of a run and its nodes, oldest first.

    Parameters
    ----------
    answers
        With their times, in seconds since the epoch.
    states
        The states of the run.
    changes
        Options that were changed: time, name of the node, values.
    """
    found = [
        Event(
            at=moment(launch.began),
            kind="driver",
            message=f"{launch.reason} on {launch.host}, pid {launch.pid}",
        )
        for launch in launches
    ]
    found += [
        Event(at=state.timestamp, kind="run", state=state.name, message=state.message) for state in states
    ]
    for node in nodes:
        found += [
            Event(at=state.timestamp, kind="node", node=node.name, state=state.name, message=state.message)
            for state in node.history
        ]
    found += [
        Event(at=moment(at), kind="change", node=name, message=_shown(values)) for at, name, values in changes
    ]
    for at, answer in answers:
        text = " ".join(part for part in (answer.kind, _shown(answer.body)) if part)
        message = f"{text}: {answer.error}" if answer.error else text
        found.append(Event(at=moment(at), kind="request", message=message))
    return sorted(found, key=lambda event: event.at)


def _shown(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
