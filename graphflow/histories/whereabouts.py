"""Where a run's results went, as its history tells."""

from __future__ import annotations

from graphflow.model.records import Kind, Launch
from graphflow.ports import History
from graphflow.records.codec import decode

__all__ = ["results_of"]


def results_of(history: History, run_id: str) -> str:
    """Return where the results of a run went, as a URL without secrets; empty where that is not known."""
    for entry in history.read(run_id, kinds=(Kind.LAUNCH,)):
        launch = decode(entry.record)
        if isinstance(launch, Launch) and launch.results:
            return launch.results
    return ""
