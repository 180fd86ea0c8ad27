"""A run in a few lines, for lists: how many items of its largest nodes stand where, and what failed first.

It stands beside the run in the catalog, as JSON of 4 kB at most, so that a list reads no history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphflow.model.states import FINAL_CODES, Code, Counts
from graphflow.records.known import KnownNode, KnownRun

__all__ = ["MAX_NBYTES", "MAX_NODES", "NodeSummary", "RunSummary", "summary_of"]

MAX_NBYTES = 4_000
MAX_NODES = 50
MAX_KINDS = 5
MAX_NAME = 100
MAX_TEXT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSummary:
    """A node: its number of items (None while unknown), how many are in which state, when it began and ended."""

    name: str
    width: int | None
    counts: Mapping[str, int]
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run: its largest nodes, largest first, what all others have together, the first kinds of failures, and why it failed."""

    nodes: Sequence[NodeSummary] = ()
    other_nodes: int = 0
    other_counts: Mapping[str, int] = field(default_factory=dict)
    failures: Sequence[str] = ()
    message: str = ""

    @property
    def counts(self) -> Counts:
        """Items of all nodes by state name."""
        found = Counts(self.other_counts)
        for node in self.nodes:
            found.update(node.counts)
        return found

    def text(self) -> str:
        """Return it as JSON; nodes that do not fit are counted among the others."""
        nodes, count, counts = [*self.nodes], self.other_nodes, Counts(self.other_counts)
        while True:
            rows = [[each.name, each.width, dict(each.counts), each.started, each.ended] for each in nodes]
            document = {
                "nodes": rows,
                "others": [count, dict(counts)],
                "failures": list(self.failures),
                "message": self.message,
            }
            text = json.dumps(document, separators=(",", ":"))
            if len(text) <= MAX_NBYTES or not nodes:
                return text
            # A quarter at a time: each try costs as much as the rest.
            for _ in range(max(1, len(nodes) // 4)):
                counts.update(nodes.pop().counts)
                count += 1

    @classmethod
    def of_text(cls, text: str) -> RunSummary | None:
        """Return what a text says; None where it is no summary, or that of another version."""
        try:
            given: Any = json.loads(text)
            count, counts = given["others"]
            return cls(
                nodes=tuple(
                    NodeSummary(name=name, width=width, counts=of, started=started, ended=ended)
                    for name, width, of, started, ended in given["nodes"]
                ),
                other_nodes=int(count),
                other_counts=dict(counts),
                failures=tuple(given["failures"]),
                message=str(given["message"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


def summary_of(run: KnownRun, *, message: str = "", with_failures: bool = True) -> RunSummary:
    """Return the summary of a run. O(nodes), and O(batches with failures) where the kinds of these are asked for."""
    known = [run.known(number) for number in run.numbers()]
    shown = [node for node in known if not node.is_builtin]
    # Equally large ones stay in the order of their calls.
    shown.sort(key=lambda node: -node.size)
    counts = {node.number: node.counts() for node in shown}
    others = Counts()
    for node in shown[MAX_NODES:]:
        others.update(counts[node.number])
    failed = [node for node in shown if counts[node.number].failed]
    return RunSummary(
        nodes=tuple(_node(node, counts[node.number]) for node in shown[:MAX_NODES]),
        other_nodes=max(0, len(shown) - MAX_NODES),
        other_counts=others,
        failures=tuple(_kinds(failed)) if with_failures else (),
        message=message[:MAX_TEXT],
    )


def _node(node: KnownNode, counts: Counts) -> NodeSummary:
    running = [moved.at for moved in node.transitions if moved.code == Code.RUNNING]
    last = node.transitions[-1] if node.transitions else None
    return NodeSummary(
        name=node.name[:MAX_NAME],
        width=node.width if node.is_mapped else 1,
        counts=dict(counts),
        started=round(running[0], 3) if running else None,
        ended=round(last.at, 3) if last is not None and last.code in FINAL_CODES else None,
    )


def _kinds(nodes: Sequence[KnownNode]) -> list[str]:
    """Return the first different failures, as `node: type: text`."""
    found: list[str] = []
    for node in nodes:
        for _, record in node.history.first_errors(MAX_KINDS):
            found.append(f"{node.name[:MAX_NAME]}: {record.type_name}: {record.message}"[:MAX_TEXT])
            if len(found) == MAX_KINDS:
                return found
    return found
