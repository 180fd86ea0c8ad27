"""Commands with `--api`: asked of a server, and shown as the same documents, or as plain tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from graphflow.cli.addressed import check_local
from graphflow.cli.documents import ListFormat, dumped, parse_data, tell, write_documents
from graphflow.cli.exits import ExitCode
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.stored import show_list
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.display.consoles import make_console

if TYPE_CHECKING:
    from graphflow.client.connections import Connection


def _refuse(**given: Any) -> None:
    """End a command whose options are given that only the home can do."""
    for value in given.values():
        if value:
            check_local()


# -- runs ----------------------------------------------------------------------------------------------------


def runs_ls(
    gf: Connection,
    *,
    flow: str | None,
    state: list[str] | None,
    since: str | None,
    deployment: str | None,
    tag: str | None,
    limit: int,
    before: str | None,
    output: ListFormat,
) -> None:
    """List runs."""
    _refuse(before=before)
    runs = gf.runs(flow=flow, state=state, since=since, deployment=deployment, tag=tag, limit=limit)
    found = [run.head.model_dump(mode="json") for run in runs]
    columns = ("id", "name", "flow", "state", "started", "duration_seconds", "why")
    _list(columns, found, output, "graphflow.run_header/1")


def runs_show(gf: Connection, *, run: str, index: int | None, node: str | None, output: OutputFormat) -> None:
    """Show a run, or an item."""
    found = gf.run(run)
    if index is not None or node is not None:
        place = index or 0
        page = gf._caller.call(
            "runs.items", run=found.id, node=node, start=place, limit=1, details=True
        ).items
        if not page:
            say_error(f"the node has no item {place}")
            raise typer.Exit(ExitCode.USAGE)
        write_data(dumped(_whole(page[0]), indent=2))
        return
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.run/1", **found.view.model_dump(mode="json")}, indent=2))
        return
    view = found.view
    write_data(f"{view.flow}  run {view.id}  {view.name}: {view.state.name} {view.state.message}".rstrip())
    if view.why:
        write_data(view.why)
    rows = [
        {"node": each.name, "state": each.state, "width": each.width, "items": _counts(each.counts)}
        for each in view.nodes
    ]
    _list(("node", "state", "width", "items"), rows, ListFormat.TABLE, "")


def runs_items(
    gf: Connection,
    *,
    run: str,
    node: str | None,
    state: list[str] | None,
    start: int,
    stop: int | None,
    limit: int,
    values: bool,
    output: ListFormat,
) -> None:
    """List items."""
    found: list[dict[str, Any]] = []
    following: int | None = start
    while following is not None and len(found) < limit:
        page = gf._caller.call(
            "runs.items",
            run=run,
            node=node,
            state=state or None,
            start=following,
            stop=stop,
            limit=min(500, limit - len(found)),
            values=values,
        )
        found += [_whole(each) for each in page.items]
        following = page.next
    columns = (
        "index",
        "label",
        "state",
        "attempts",
        "started",
        "duration_seconds",
        "value" if values else "error",
    )
    for each in found if output is ListFormat.TABLE else ():
        each["error"] = (each.get("exception") or {}).get("message")
        each["value"] = dumped(each.get("value")) if values else None
    _list(columns, found, output, "graphflow.item/1")


def runs_failures(
    gf: Connection, *, run: str, node: str | None, limit: int, verbose: bool, output: ListFormat
) -> None:
    """List failed items."""
    found = [_whole(each) for each in gf.run(run).failures(node, limit=min(limit, 500))]
    for each in found if output is ListFormat.TABLE else ():
        error = each.get("exception") or {}
        each["error"] = error.get("traceback" if verbose else "message")
    _list(("node", "index", "label", "state", "attempts", "error"), found, output, "graphflow.item/1")


def runs_logs(
    gf: Connection,
    *,
    run: str,
    follow: bool,
    node: str | None,
    index: int | None,
    level: str | None,
    tail: int | None,
    output: ListFormat,
) -> None:
    """Print a log."""
    _refuse(follow=follow)
    lines = [each.model_dump(mode="json") for each in gf.run(run).logs(node=node, index=index, level=level)]
    lines = lines[-tail:] if tail else lines
    if output is not ListFormat.TABLE:
        write_documents(lines, output, "graphflow.log_line/1")
        return
    for each in lines:
        who = (
            "flow"
            if not each["node"]
            else each["node"]
            if each["index"] is None
            else f"{each['node']}[{each['index']}]"
        )
        write_data(f"{each['at']} {who} {each['message']}")


def runs_cancel(gf: Connection, *, run: str, force: bool, output: OutputFormat) -> None:
    """Cancel a run."""
    found = gf.run(run)
    found.cancel(force=force)
    _asked(found.id, "cancel", "is being cancelled", output, force=force)


def runs_pause(gf: Connection, *, run: str, output: OutputFormat) -> None:
    """Pause a run."""
    found = gf.run(run)
    found.pause()
    _asked(found.id, "pause", "is paused", output)


def runs_resume(gf: Connection, *, run: str, output: OutputFormat, **others: Any) -> None:
    """Resume a run: by its driver, or by a worker."""
    _refuse(**{name: others[name] for name in ("rerun_changed", "force", "param", "target", "backend")})
    found = gf.run(run)
    found.resume()
    _asked(found.id, "resume", "continues", output)


def runs_retry(gf: Connection, *, run: str, output: OutputFormat, **others: Any) -> None:
    """Let a worker run again what failed."""
    _refuse(**{name: others[name] for name in ("node", "index", "param", "target", "backend")})
    found = gf.run(run)
    found.retry()
    _asked(found.id, "retry", "waits for a worker, which runs again what failed", output)


def runs_rerun(gf: Connection, *, run: str, output: OutputFormat) -> None:
    """Repeat a run."""
    found = gf.run(run)
    made = found.rerun()
    text = f"run {made.id} repeats run {found.id}"
    tell(text, output, "graphflow.made_run/1", run=made.id, of=found.id)


# -- deployments ---------------------------------------------------------------------------------------------


def deploy_ls(gf: Connection, *, flow: str, output: ListFormat) -> None:
    """List deployments."""
    found = [
        each.model_dump(mode="json", exclude={"parameter_schema"}) for each in gf.deployments.list(flow=flow)
    ]
    _list(("deployment", "pool", "is_paused", "next"), found, output, "graphflow.deployment/1")


def deploy_show(gf: Connection, *, name: str, output: OutputFormat) -> None:
    """Show a deployment."""
    document = gf.deployments[name].view.model_dump(mode="json")
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.deployment/1", **document}, indent=2))
        return
    rows = [
        {"": key, " ": value if isinstance(value, str) else dumped(value)}
        for key, value in document.items()
        if value
    ]
    _list(("", " "), rows, ListFormat.TABLE, "")


def deploy_run(
    gf: Connection,
    *,
    name: str,
    param: list[str] | None,
    params: str | None,
    wait: bool,
    at: str | None,
    key: str | None,
    tag: list[str] | None,
    output: OutputFormat,
    **_: Any,
) -> None:
    """Make a run, and wait for it."""
    deployment = gf.deployments[name]
    properties: Mapping[str, Any] = deployment.view.parameter_schema.get("properties", {})
    texts = [each for each, schema in properties.items() if schema.get("type") == "string"]
    given = parse_parameters(param or [], mapping=params, texts=texts)
    made = deployment.make(given, idempotency_key=key, due=at, tags=tag or ())
    if made.run is None:
        say_error(f"skipped: {made.why}")
        raise typer.Exit(ExitCode.FAILED)
    if not wait:
        verb = "made" if made.is_new else "is there already"
        text = f"run {made.run} of {made.deployment} {verb}"
        tell(
            text, output, "graphflow.made_run/1", run=made.run, deployment=made.deployment, is_new=made.is_new
        )
        return
    run = gf.run(made.run)
    run.wait()
    is_good = run.state_name == "Completed"
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.run/1", **run.view.model_dump(mode="json")}, indent=2))
    else:
        _say(f"run {run.id} {run.state_name}: {run.view.state.message}".rstrip(": "))
        value = gf._caller.call("runs.result", run=run.id) if is_good else None
        if value is not None and (value.value is not None or value.value_repr is not None):
            write_data(value.value_repr or dumped(value.value))
    raise typer.Exit(ExitCode.COMPLETED if is_good else ExitCode.FAILED)


def deploy_pause(gf: Connection, *, name: str, schedule: str) -> None:
    """Pause a deployment."""
    found = gf.deployments[name]
    found.pause(schedule=schedule)
    _say(f"{found.view.deployment} is paused")


def deploy_resume(gf: Connection, *, name: str, schedule: str, catchup: bool) -> None:
    """Let a deployment go on."""
    found = gf.deployments[name]
    found.resume(schedule=schedule, catchup=catchup)
    _say(f"{found.view.deployment} goes on: next at {found.view.next or 'no time: it has no schedule'}")


# -- events, workers, pools ------------------------------------------------------------------------------------


def events_ls(
    gf: Connection, *, type: str, subject: str, since: str | None, limit: int, output: ListFormat
) -> None:
    """List events."""
    found = [
        _event(each)
        for each in gf.events.list(type=type, subject=subject, since=since, limit=min(limit, 500))
    ]
    if output is ListFormat.TABLE:
        for each in found:
            each["data"] = dumped(each["data"]) if each["data"] else ""
    _list(("time", "type", "subject", "data"), found, output, "graphflow.event/1")


def events_tail(gf: Connection, *, type: str, subject: str, output: ListFormat, count: int | None) -> None:
    """Follow events."""
    if output is ListFormat.JSON:
        raise typer.BadParameter("events are followed one by one; use -o jsonl")
    for shown, event in enumerate(gf.events.follow(type=type, subject=subject), start=1):
        document = _event(event)
        if output is ListFormat.JSONL:
            write_data(dumped({"schema": "graphflow.event/1", **document}))
        else:
            data = dumped(document["data"]) if document["data"] else ""
            write_data("  ".join((document["time"], document["type"], document["subject"], data)))
        if shown == count:
            return


def events_emit(
    gf: Connection, *, type: str, subject: str, data: str | None, id: str | None, output: OutputFormat
) -> None:
    """Write an event."""
    given = gf.events.emit(type, subject=subject, data=parse_data(data), id=id)
    tell(f"event {given} is written", output, "graphflow.event/1", id=given, type=type, subject=subject)


def worker_ls(gf: Connection, *, output: ListFormat) -> None:
    """List workers."""
    found = [each.model_dump(mode="json") for each in gf.workers()]
    columns = ("name", "pool", "state", "busy", "slots", "labels", "host", "pid", "started")
    _list(columns, found, output, "graphflow.worker/1")


def pool_ls(gf: Connection, *, output: ListFormat) -> None:
    """List pools."""
    found = [each.model_dump(mode="json") for each in gf.pools]
    for each in found if output is ListFormat.TABLE else ():
        each["queues"] = [of["name"] for of in each["queues"]]
    columns = ("name", "size", "is_paused", "claimed", "waiting", "backend", "queues")
    _list(columns, found, output, "graphflow.pool/1")


# -- parts ---------------------------------------------------------------------------------------------------


def _list(
    columns: Sequence[str], documents: Sequence[Mapping[str, Any]], output: ListFormat, schema: str
) -> None:
    show_list(columns, documents, output, schema)


def _whole(view: Any) -> dict[str, Any]:
    """Return an item without the fields that were not asked for."""
    found: dict[str, Any] = view.model_dump(mode="json", exclude_unset=True)
    return found


def _event(view: Any) -> dict[str, Any]:
    found: dict[str, Any] = view.model_dump(mode="json", exclude={"seq"})
    return found


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())


def _asked(run: str, request: str, text: str, output: OutputFormat, **more: Any) -> None:
    tell(f"run {run} {text}", output, "graphflow.request/1", run=run, request=request, **more)


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
