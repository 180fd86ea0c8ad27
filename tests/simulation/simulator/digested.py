"""What a history's digests say, beside what all of its records say."""

from __future__ import annotations

from typing import Any

from graphflow.ports import History
from graphflow.records.rebuilding import known_replay
from graphflow.records.replay import Replay
from graphflow.records.replayed_node import ReplayedNode
from simulator.ledger import Violation

__all__ = ["check_digests"]


def check_digests(history: History, run_id: str, whole: Replay) -> bool:
    """Check that a reader who uses digests knows just what one knows who reads all records; return whether it used any.

    Raises
    ------
    Violation
        At the first figure that differs.
    """
    found = known_replay(history, run_id)
    _compare("the run", _of_run(found), _of_run(whole))
    for number, node in whole.nodes.items():
        _compare(node.name, _of_node(found.nodes[number]), _of_node(node))
    return found.folded is not None


def _compare(what: str, found: dict[str, Any], whole: dict[str, Any]) -> None:
    for name, value in whole.items():
        if found[name] != value:
            raise Violation(f"by its digests, {name} of {what} is {found[name]!r}; by its records {value!r}")


def _of_run(replay: Replay) -> dict[str, Any]:
    return {
        "launches": replay.launches,
        "lasts": replay.lasts,
        "transitions": replay.transitions,
        "records": replay.records,
        "batches": replay.batches,
        "errors": replay.error_count,
        "flights": {batch: (flight.nodes, [*flight.out]) for batch, flight in replay.flying().items()},
        "log": replay.history.logs,
        "nodes": [*replay.nodes],
    }


def _of_node(node: ReplayedNode) -> dict[str, Any]:
    history = node.history
    places = [(index, history.find(index)) for index in range(node.size)]
    return {
        "entry": node.entry,
        "states": node.states,
        "attempts": node.attempts,
        "width": node.width,
        "code": node.code,
        "counts": node.counts(),
        "transitions": node.transitions,
        "died": node.died(),
        "aliases": node.aliases,
        "info": node.info,
        "began": history.began,
        "errors": [*history.errors()],
        "first errors": history.first_errors(5),
        "digests": node.digests(0, node.size),
        "missing": node.missing(),
        "stored": {
            (each.name, each.offset) for segment in history.segments() if (each := segment.step.stored)
        },
        "times": [found and (found[0].started, found[0].step.starts[found[1]]) for _, found in places],
        "ended": [history.ended_at(index) for index, _ in places],
        "last errors": [history.last_error(index) for index, _ in places],
        "valued": b"" if node.aliases else node.valued(0, node.size),
    }
