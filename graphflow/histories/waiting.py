"""What can be asked of a run that waits for a worker: it is done in the catalog alone."""

from __future__ import annotations

from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.records import RunHeader

__all__ = ["ask_waiting"]

PAUSED_BY_HAND = "it was paused; resume it to let it run"


def ask_waiting(catalog: SqliteCatalog, header: RunHeader, kind: str, *, at: float) -> str:
    """Cancel, pause or resume a run that no driver has; return what is wrong, or nothing."""
    run_id, work = header.id, header.work
    if work is None:
        return "it has ended"
    if kind == "cancel":
        # A worker that has claimed it meanwhile finds no work when it wants to begin.
        catalog.set_run(
            run_id,
            "Cancelled",
            at=at,
            ended=at,
            message="it was cancelled before it ran",
            key=f"cancelled.{work.epoch}",
        )
        return ""
    if kind == "pause":
        if work.state == "claimed":
            return "a worker is about to drive it; ask again in a moment"
        catalog.execute(statements.SET_WORK_STATE, ("paused", PAUSED_BY_HAND, run_id, "waiting"))
        catalog.set_run(run_id, "Paused", at=at, ended=None, message=PAUSED_BY_HAND, key=f"paused.{at:.3f}")
        return ""
    if kind == "resume":
        if work.state != "paused":
            return "it is not paused"
        catalog.execute(statements.SET_WORK_STATE, ("waiting", "", run_id, "paused"))
        state = "Resuming"
        catalog.set_run(run_id, state, at=at, ended=None, message="", key=f"{state.lower()}.{at:.3f}")
        return ""
    return f"it waits for a worker, and has no nodes yet, so it cannot be asked to {kind}"
