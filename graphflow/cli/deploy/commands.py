"""`graphflow deploy`: store flows with schedules, run them, and look after them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import completing, remote
from graphflow.cli.addressed import offers_remote
from graphflow.cli.documents import ListFormat, Outcome, dumped, tell
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.runs.texts import parse_since
from graphflow.cli.runs.watch import watch_run
from graphflow.cli.stored import (
    DeploymentName,
    Listed,
    deployment_document,
    iso,
    opened_stores,
    schedule_text,
    show_list,
    show_table,
)
from graphflow.cli.terminal import OutputFormat, only_data_on_stdout, write_data
from graphflow.display.consoles import ProgressMode, choose_progress, make_console

if TYPE_CHECKING:
    from graphflow.orchestration.stores.fires import Made

__all__ = ["deploy"]

SCHEMA = "graphflow.deployment/1"

deploy = typer.Typer(
    help="Store flows with a name, parameters and schedules; run them, and look after them.\n\n"
    "`graphflow serve`, or a worker beside one, runs what is due.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Catchup(StrEnum):
    """Which missed times run after all."""

    LATEST = "latest"
    NONE = "none"
    ALL = "all"


class Collision(StrEnum):
    """What happens to one run more than a deployment may have."""

    QUEUE = "queue"
    QUEUE_LATEST = "queue-latest"
    SKIP = "skip"
    CANCEL_RUNNING = "cancel-running"


Pairs = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as for `graphflow run`."),
]


@deploy.command()
def create(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="The flow: file.py:flow, package.module:flow, or a file with one flow.",
            autocompletion=completing.targets,
        ),
    ],
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="The name of the deployment.")],
    cron: Annotated[
        list[str] | None,
        typer.Option("--cron", help='A cron expression, such as "0 2 * * *"; can be repeated.'),
    ] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="An interval, such as 15m.")] = None,
    rrule: Annotated[str | None, typer.Option("--rrule", help="A recurrence rule (RFC 5545).")] = None,
    at: Annotated[str | None, typer.Option("--at", help="A single moment, such as 2026-12-24T18:00.")] = None,
    tz: Annotated[
        str | None,
        typer.Option("--tz", metavar="ZONE", help="The time zone, such as Europe/Paris (default: UTC)."),
    ] = None,
    catchup: Annotated[
        Catchup | None, typer.Option("--catchup", help="Which missed times run after all (default: latest).")
    ] = None,
    jitter: Annotated[
        str | None, typer.Option("--jitter", metavar="TIME", help="Up to so much later each run is due.")
    ] = None,
    param: Pairs = None,
    pool: Annotated[
        str, typer.Option("--pool", help="The pool whose workers run it.", autocompletion=completing.pools)
    ] = "default",
    queue: Annotated[str, typer.Option("--queue", help="The queue within the pool.")] = "default",
    priority: Annotated[int, typer.Option("--priority", help="Within its queue; smaller ones first.")] = 0,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, metavar="N", help="How many runs are active at once."),
    ] = None,
    on_collision: Annotated[
        Collision | None,
        typer.Option("--on-collision", help="What happens to one run more (default: queue)."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="TEXT", help="What the limit is counted by, such as customer={customer}."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", metavar="SPEC", help="Where its runs compute.", autocompletion=completing.backends
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="A variable of its runs' environment."),
    ] = None,
    need: Annotated[
        list[str] | None, typer.Option("--need", metavar="LABEL", help="A label that a worker must have.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag of its runs; can be repeated.")
    ] = None,
    description: Annotated[str | None, typer.Option("--description", help="What it is for.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Your own name of the version.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Store it paused.")] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Store a deployment in place of the one of its name."""
    with errors_become_exit_codes():
        from graphflow.authoring.deployments import Deployment  # help must not load it
        from graphflow.launching.deploying import flow_and_source

        with only_data_on_stdout():
            flow, source = flow_and_source(target)
        options: dict[str, Any] = {
            "source": source,
            "cron": cron or None,
            "interval": interval,
            "rrule": rrule,
            "at": at,
            "timezone": tz,
            "catchup": None if catchup is None else catchup.value,
            "jitter": jitter,
            "parameters": parse_parameters(param or [], function=flow.fn),
            "work_pool_name": pool,
            "work_queue_name": queue,
            "priority": priority,
            "concurrency_limit": concurrency,
            "on_collision": None if on_collision is None else on_collision.value,
            "concurrency_key": key,
            "backend": backend,
            "env": _pairs(env or []),
            "needs": need or [],
            "tags": tag or [],
            "description": description,
            "version": version,
            "paused": paused,
        }
        made = Deployment.build_from_flow(flow, name, **options)  # type: ignore[arg-type,unused-ignore]
    with opened_stores() as stores:
        stored, verb = stores.plans.put(made.model)
        lines = [f"{verb}: {stored.deployment.full_name}, in the pool {pool}"]
        for each in stored.schedules:
            lines.append(
                f"  {schedule_text(each)}: next at {iso(each.next_nominal) or 'never, it is paused'}"
            )
        if stored.schedules and tz is None and not rrule and not interval:
            lines.append("  times are in UTC; use --tz ZONE for another zone")
        if not any(each.pool == pool for each in stores.pools.workers()):
            lines.append(f"  no worker of the pool {pool} is there; start one: {_start(pool)}")
        tell("\n".join(lines), output, SCHEMA, change=verb, **deployment_document(stored))


def _start(pool: str) -> str:
    return "graphflow serve" if pool == "default" else f"graphflow worker start {pool}"


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--env")
        found[name] = value
    return found


@deploy.command("apply")
def apply_(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="The file (default: graphflow.toml, or pyproject.toml with [tool.graphflow]).",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if there is a difference.")
    ] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Make what is stored what a file says: show the plan, ask, and do it.

    Deployments that were made from the file, and are not in it any more, are removed; no others.
    """
    with opened_stores() as stores:
        from graphflow.launching.deploying import carry_out, plan_of

        with only_data_on_stdout():
            plan = plan_of(stores, file)
        changes = [each.document() for each in plan.changes]
        if output is OutputFormat.TABLE:
            for each in plan.changes:
                make_console(stdout=True).print(each.text(), markup=False, soft_wrap=True)
            if not plan.changes:
                make_console().print(f"nothing to do: all is as {plan.file} says", markup=False)
        if check or not plan.changes:
            if output is OutputFormat.JSON:
                write_data(
                    dumped({"schema": "graphflow.plan/1", "changes": changes, "applied": False}, indent=2)
                )
            raise typer.Exit(ExitCode.FAILED if plan.changes else ExitCode.COMPLETED)
        if not yes and not typer.confirm("apply?", err=True):
            raise typer.Exit(ExitCode.FAILED)
        carry_out(stores, plan)
        if output is OutputFormat.JSON:
            write_data(dumped({"schema": "graphflow.plan/1", "changes": changes, "applied": True}, indent=2))


@deploy.command()
@offers_remote(remote.deploy_ls)
def ls(
    flow: Annotated[str, typer.Option("--flow", metavar="NAME", help="Only of this flow.")] = "",
    output: Listed = ListFormat.TABLE,
) -> None:
    """List deployments."""
    with opened_stores() as stores:
        found = stores.plans.all(flow_name=flow)
        if output is not ListFormat.TABLE:
            show_list((), [deployment_document(each) for each in found], output, SCHEMA)
            return
        rows = [
            [
                each.deployment.full_name,
                each.deployment.pool,
                "; ".join(schedule_text(of) for of in each.schedules),
                "paused" if each.deployment.is_paused else iso(each.next_due),
            ]
            for each in found
        ]
        show_table(("deployment", "pool", "schedules", "next"), rows)


@deploy.command()
@offers_remote(remote.deploy_show)
def show(name: DeploymentName, output: Outcome = OutputFormat.TABLE) -> None:
    """Show a deployment."""
    with opened_stores() as stores:
        stored = stores.plans.find(name)
        document = deployment_document(stored)
        document["parameter_schema"] = stored.deployment.parameter_schema
        if output is OutputFormat.JSON:
            write_data(dumped({"schema": SCHEMA, **document}, indent=2))
            return
        of = stored.deployment
        source = of.source
        rows = [
            ("deployment", of.full_name),
            ("revision", f"{stored.revision}, since {iso(stored.updated)}"),
            ("source", f"{source.place} ({source.version or 'no version'})"),
            ("parameters", dumped(dict(of.parameters))),
            ("pool", f"{of.pool}, queue {of.queue}, priority {of.priority}"),
            ("concurrency", _concurrency_text(of.concurrency)),
            ("backend", of.backend),
            ("needs", ", ".join(of.needs)),
            ("tags", ", ".join(of.tags)),
            ("description", of.description),
            ("made by", of.made_by),
            ("paused", "yes" if of.is_paused else ""),
        ]
        rows += [
            ("schedule", f"{schedule_text(each)}: next at {iso(each.next_nominal) or 'never'}")
            for each in stored.schedules
        ]
        show_table(("", ""), [row for row in rows if row[1]])


def _concurrency_text(concurrency: Any) -> str:
    if concurrency is None:
        return ""
    key = f" for each {concurrency.key}" if concurrency.key else ""
    return f"{concurrency.limit}{key}, then {concurrency.on_collision}"


@deploy.command()
@offers_remote(remote.deploy_run)
def run(
    name: DeploymentName,
    param: Pairs = None,
    params: Annotated[
        str | None,
        typer.Option(
            "--params", metavar="JSON|@FILE|-", help="All parameters as one JSON object; -p overrides it."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end, as `graphflow run` does.")
    ] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it is due (default: now).")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key makes no second run.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag of the run.")] = None,
    progress: Annotated[
        ProgressMode, typer.Option("--progress", help="How to show progress.")
    ] = ProgressMode.AUTO,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no summary.")] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Make a run of a deployment; workers run it.

    Exit codes with --wait: 0 completed, 1 failed. Ctrl-C stops waiting, not the run.
    """
    with opened_stores() as stores:
        from graphflow.orchestration.parameters import check_parameters, text_names

        stored = stores.plans.find(name)
        texts = text_names(stored.deployment)
        given = parse_parameters(param or [], mapping=params, texts=texts)
        check_parameters(stored.deployment, given)
        due = None if at is None else parse_since(at)
        made = stores.fires.run(stored, given, origin="user", due=due, request_key=key, tags=tag or ())
        if made.run_id is None:
            make_console().print(f"skipped: {made.why}", markup=False)
            raise typer.Exit(ExitCode.FAILED)
        if not wait:
            _tell_made(made, stored.deployment.full_name, output)
            return
        pool = stored.deployment.pool
        if not any(each.pool == pool for each in stores.pools.workers()):
            _say(f"no worker of the pool {pool} is there; the run waits for one: {_start(pool)}")
    _wait(made.run_id, progress, quiet, output)


def _tell_made(made: Made, name: str, output: OutputFormat) -> None:
    verb = "made" if made.is_new else "is there already"
    text = f"run {made.run_id} of {name} {verb}; follow it: graphflow runs watch {made.run_id}"
    tell(text, output, "graphflow.made_run/1", run=made.run_id, deployment=name, is_new=made.is_new)


def _wait(run_id: str, progress: ProgressMode, quiet: bool, output: OutputFormat) -> None:
    from graphflow.display.progress import make_progress
    from graphflow.runs.documents import run_document, value_text
    from graphflow.runs.history import history

    with errors_become_exit_codes(), history() as runs:
        console = make_console()
        mode = choose_progress(ProgressMode.OFF if quiet else progress, is_terminal=console.is_terminal)
        found = runs.run(run_id)
        code = watch_run(found, make_progress(mode, console), console, is_quiet=quiet)
        if output is OutputFormat.JSON:
            write_data(dumped(run_document(found), indent=2))
        elif found.state.is_completed() and found.value is not None:
            write_data(value_text(found.value))
    raise typer.Exit(code)


@deploy.command()
@offers_remote(remote.deploy_pause)
def pause(
    name: DeploymentName,
    schedule: Annotated[str, typer.Option("--schedule", metavar="SLUG", help="Only this schedule.")] = "",
) -> None:
    """Pause a deployment, or one of its schedules: nothing fires, and runs that wait stay waiting."""
    with opened_stores() as stores:
        stored = stores.plans.pause(stores.plans.find(name).deployment.full_name, True, slug=schedule)
        _say(f"{stored.deployment.full_name} is paused")


@deploy.command()
@offers_remote(remote.deploy_resume)
def resume(
    name: DeploymentName,
    schedule: Annotated[str, typer.Option("--schedule", metavar="SLUG", help="Only this schedule.")] = "",
    catchup: Annotated[
        bool,
        typer.Option(
            "--catchup", help="Count the times since it was paused as missed, instead of leaving them out."
        ),
    ] = False,
) -> None:
    """Let a deployment, or one of its schedules, go on from now."""
    with opened_stores() as stores:
        full_name = stores.plans.find(name).deployment.full_name
        stored = stores.plans.pause(full_name, False, slug=schedule, catches_up=catchup)
        _say(f"{full_name} goes on: next at {iso(stored.next_due) or 'no time: it has no schedule'}")


@deploy.command()
def rm(name: DeploymentName) -> None:
    """Remove a deployment with its schedules; its runs stay."""
    with opened_stores() as stores:
        stored = stores.plans.remove(stores.plans.find(name).deployment.full_name)
        _say(f"{stored.deployment.full_name} is removed")


@deploy.command()
def fires(
    name: DeploymentName,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows.")] = 50,
    output: Listed = ListFormat.TABLE,
) -> None:
    """List what became of the times of a deployment's schedules, newest first: runs, skipped and missed ones."""
    with opened_stores() as stores:
        documents = [
            {
                "schedule": each.slug,
                "nominal": iso(each.nominal),
                "outcome": each.outcome,
                "count": each.count,
                "run": each.run_id,
                "at": iso(each.at),
            }
            for each in stores.plans.fires(stores.plans.find(name), limit=limit)
        ]
        show_list(
            ("schedule", "nominal", "outcome", "count", "run", "at"), documents, output, "graphflow.fire/1"
        )


@deploy.command()
def backfill(
    name: DeploymentName,
    from_: Annotated[str, typer.Option("--from", metavar="TIME", help="The first time, such as 2026-01-01.")],
    to: Annotated[str, typer.Option("--to", metavar="TIME", help="The last time.")],
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="SLUG", help="Of this schedule (default: the only one).")
    ] = "",
    again: Annotated[
        int,
        typer.Option("--again", min=0, metavar="N", help="Run also what has run, as repetition number N."),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=0, metavar="N", help="So many backfilled runs of it at once, from now on."
        ),
    ] = None,
    missing_only: Annotated[
        bool, typer.Option("--missing-only", help="Leave out the times that have a run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the times, and make no run.")] = False,
    output: Listed = ListFormat.TABLE,
) -> None:
    """Make the runs of a range of a schedule's times; what has run is not run again, unless --again says so."""
    with opened_stores() as stores:
        from graphflow.orchestration.backfilling import backfill as fill

        stored = stores.plans.find(name)
        filled = fill(
            stores,
            stored,
            parse_since(from_),
            parse_since(to),
            slug=schedule,
            again=again,
            makes_runs=not dry_run,
            limit=limit,
            is_missing_only=missing_only,
        )
        documents = [
            {"nominal": iso(each.nominal), "run": each.run_id, "is_new": each.is_new, "why": each.why}
            for each in filled
        ]
        show_list(("nominal", "run", "is_new", "why"), documents, output, "graphflow.backfilled/1")
        new = sum(each.is_new for each in filled)
        _say(f"{new} of {len(filled)} runs {'would be' if dry_run else 'are'} new")


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
