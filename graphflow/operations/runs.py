"""Runs: listed, looked into and controlled, without their code."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from graphflow.common.moments import parse_moment
from graphflow.errors import ParameterError, RequestRefused
from graphflow.model.asked import AskedChanges
from graphflow.model.views import (
    Done,
    EventList,
    ItemPage,
    ItemView,
    LinePage,
    LineView,
    MadeRun,
    NodeList,
    RunHead,
    RunPage,
    RunView,
    ValueView,
)
from graphflow.operations.events import event_view
from graphflow.operations.home import Home
from graphflow.runs.documents import (
    item_document,
    line_document,
    listed_document,
    run_document,
    value_document,
)
from graphflow.runs.recorded import RecordedRun
from graphflow.runs.selections import items_of, value_of

__all__ = [
    "cancel",
    "events",
    "failures",
    "items",
    "list_runs",
    "logs",
    "nodes",
    "pause",
    "rerun",
    "result",
    "resume",
    "retry",
    "show",
    "update",
]

Limit = Annotated[int, Field(ge=1, le=500)]
Place = Annotated[int, Field(ge=0, le=2**53)]


def list_runs(
    home: Home,
    *,
    flow: str | None = None,
    state: list[str] | None = None,
    since: str | None = None,
    deployment: str | None = None,
    tag: str | None = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> RunPage:
    """List runs, newest first; `deployment` is `flow/name`."""
    found = home.runs.runs(
        flow=flow,
        state=state,
        since=None if since is None else parse_moment(since),
        limit=limit + 1,
        before=cursor,
        deployment=deployment,
        tag=tag,
    )
    page = [RunHead.model_validate(listed_document(each)) for each in found[:limit]]
    return RunPage(runs=page, next=page[-1].id if len(found) > limit else None)


def show(home: Home, *, run: str) -> RunView:
    """Show a run with its launches, and its nodes with counts and failures."""
    return RunView.model_validate(run_document(home.runs.run(run), values=False))


def nodes(home: Home, *, run: str) -> NodeList:
    """List the nodes of a run."""
    return NodeList(nodes=show(home, run=run).nodes)


def items(
    home: Home,
    *,
    run: str,
    node: str | None = None,
    state: list[str] | None = None,
    start: Place = 0,
    stop: Place | None = None,
    limit: Limit = 50,
    values: bool = False,
    details: bool = False,
) -> ItemPage:
    """List items of a node, by default of the only map, in map order."""
    chosen = items_of(home.runs.run(run), node, state, start, stop)
    page = [_item(each, values=values, details=details) for each in chosen[:limit]]
    return ItemPage(items=page, next=chosen[limit].index if len(chosen) > limit else None)


def failures(home: Home, *, run: str, node: str | None = None, limit: Limit = 500) -> ItemPage:
    """List items that failed, with their history and log."""
    found = home.runs.run(run)
    if node is not None:
        found.nodes[node]
    listed = (each for of in found.nodes if node in (None, of.name) for each in of.failures())
    return ItemPage(items=[_item(each, details=True) for each in islice(listed, limit)])


def logs(
    home: Home,
    *,
    run: str,
    node: str | None = None,
    index: Place | None = None,
    level: str | None = None,
    after: Place = 0,
    limit: Annotated[int, Field(ge=1, le=5_000)] = 500,
) -> LinePage:
    """List lines of a run's log among the `limit` that were recorded after the first `after` ones."""
    found = home.runs.run(run)
    if node is not None:
        found.nodes[node]
    lines = found.logs.where(node=node, index=index, level=level, after=after, most=limit)
    page = [LineView.model_validate(line_document(each)) for each in lines]
    following = max(after, min(after + limit, len(found.logs)))
    return LinePage(lines=page, next=following, dropped=found.logs.dropped)


def events(home: Home, *, run: str, after: Place = 0, limit: Limit = 50) -> EventList:
    """List the events of a run, oldest first; `after` is the number of the last one that is known."""
    found = home.runs.run(run)
    listed = home.stores.events.after(after, subject=found.id, limit=limit)
    return EventList(events=[event_view(each) for each in listed])


def result(home: Home, *, run: str, node: str | None = None, index: Place | None = None) -> ValueView:
    """Return the value of a run, of a node or of an item; it is restored where this runs."""
    found = home.runs.run(run)
    try:
        value = value_of(found, node, index)
    except (ValueError, KeyError, IndexError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("graphflow"):
            raise
        raise RequestRefused(
            f"run {found.name} has no such value: {type(error).__name__}: {error}"
        ) from error
    return ValueView(run=found.id, node=node, index=index, **value_document(value))


def cancel(home: Home, *, run: str, force: bool = False) -> Done:
    """Cancel a run: running items finish, unless forced; the rest are cancelled."""
    found = home.runs.run(run)
    found.cancel(force=force)
    return _done(home, found, "cancel", force=force)


def pause(home: Home, *, run: str) -> Done:
    """Pause a run: start no new batches until it is resumed."""
    found = home.runs.run(run)
    found.pause()
    return _done(home, found, "pause")


def resume(home: Home, *, run: str) -> Done:
    """Resume a paused run, or let a worker finish what a deployment's run that ended lacks."""
    found = home.runs.run(run)
    if not found.is_over:
        found.resume()
    else:
        home.stores.fires.retry(found.id, why="it was resumed")
    return _done(home, found, "resume")


def retry(home: Home, *, run: str, failed: bool = True) -> Done:
    """Let a worker run again what failed in a deployment's run that ended, and what depends on it."""
    if not failed:
        raise ParameterError(
            "failed=false leaves nothing to retry; chosen items need the code: graphflow runs retry"
        )
    found = home.runs.run(run)
    found.check_free()
    home.stores.fires.retry(found.id, why="it was retried")
    return _done(home, found, "retry")


def rerun(home: Home, *, run: str, idempotency_key: str | None = None) -> MadeRun:
    """Make another run of a deployment's run: the same parameters and the same version of its source."""
    found = home.runs.run(run)
    header = home.stores.work.header(found.id)
    if header is None or not header.plan.deployment_id:
        raise RequestRefused(
            f"run {found.id} was not made for a deployment; run its flow again with `graphflow run`"
        )
    made = home.stores.fires.again(header, request_key=idempotency_key)
    if made.run_id is None:
        raise RequestRefused(f"run {found.id} cannot run again: {made.why}")
    _done(home, found, "rerun", made=made.run_id)
    return MadeRun(run=made.run_id, deployment=found.plan.deployment, is_new=made.is_new)


def update(home: Home, *, run: str, changes: AskedChanges) -> Done:
    """Change the options of a map, or a task's policies, during the run."""
    found = home.runs.run(run)
    found.update(changes.node, **changes.options)
    return _done(
        home, found, "update", node=changes.node, options=json.loads(json.dumps(dict(changes.options)))
    )


def _done(home: Home, found: RecordedRun, verb: str, **data: Any) -> Done:
    home.stores.catalog.audit(
        f"run-{verb}",
        found.id,
        at=home.stores.clock.wall(),
        related={"flow": found.flow_name, "deployment": found.plan.deployment},
        data=data,
    )
    return Done(run=found.id, request=verb)


def _item(item: Any, *, values: bool = False, details: bool = False) -> ItemView:
    return ItemView.model_validate(item_document(item, values=values, details=details))
