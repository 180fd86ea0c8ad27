"""What to type after a run: the commands that show its failures, retry them, or resume it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphflow.common import settings
from graphflow.common.wording import count_text
from graphflow.errors import ValueUnavailable

if TYPE_CHECKING:
    from graphflow.runs.run import Run

__all__ = ["counted_failures", "next_steps"]

_FAILED = ("Failed", "TimedOut", "Crashed", "Indeterminate")


def counted_failures(run: Run) -> str:
    """Return how many items or tasks of a run failed by themselves, such as `3 failures`; empty if none did."""
    try:
        nodes = run.nodes
    except ValueUnavailable:
        return ""
    count = sum(node.counts.get(name, 0) for node in nodes if not node.is_builtin for name in _FAILED)
    return count_text(count, "failure") if count else ""


def next_steps(run: Run, *, width: int = 160) -> list[str]:
    """Return commands, with what they do where that fits, for how the run ended; none where nothing is recorded on disk."""
    if settings.history_kind() == "memory":
        return []
    failed = counted_failures(run)
    steps: list[tuple[str, str]] = []
    if run.state.is_completed():
        if failed:
            steps.append((f"graphflow runs failures {run.id}", f"show {failed} that the flow handled"))
            steps.append((f"graphflow runs retry {run.id} --failed", "retry them"))
    elif failed and not run.state.is_cancelled():
        steps.append((f"graphflow runs failures {run.id}", f"show {failed}"))
        steps.append((f"graphflow runs retry {run.id} --failed", "retry what failed, and what depends on it"))
    else:
        steps.append((f"graphflow runs resume {run.id}", "run what is missing, keep what is done"))
    widest = max((len(command) for command, _ in steps), default=0)
    lines = [f"  {command:<{widest}}  # {what}" for command, what in steps]
    fits = all(len(line) <= width for line in lines)
    return lines if fits else [f"  {command}" for command, _ in steps]
