"""`graphflow worker`, `graphflow pool`, `graphflow serve`: what runs deployments, and where."""

from __future__ import annotations

import signal
from enum import StrEnum
from typing import Annotated, Any

import typer

from graphflow.cli import completing, remote
from graphflow.cli.addressed import offers_remote
from graphflow.cli.documents import ListFormat
from graphflow.cli.exits import ExitCode
from graphflow.cli.stored import Listed, iso, opened_stores, show_list
from graphflow.cli.terminal import only_data_on_stdout
from graphflow.common.durations import duration_seconds
from graphflow.display.consoles import make_console

__all__ = ["pause_all", "pool", "resume_all", "serve", "ui", "worker"]

worker = typer.Typer(
    help="Start and list workers: processes that run what is sent to a pool.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
pool = typer.Typer(
    help="Look after pools: who may run what, and how many at once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class OnStop(StrEnum):
    """What a worker does with its runs when it is told to stop."""

    HAND_OVER = "hand-over"
    FINISH = "finish"


Slots = Annotated[
    int | None, typer.Option("--slots", min=1, help="How many runs at once (default: one per processor).")
]
Grace = Annotated[
    str, typer.Option("--grace", metavar="TIME", help="How long runs may take to be handed over at the end.")
]
Stop = Annotated[
    OnStop, typer.Option("--on-stop", help="At SIGTERM or Ctrl-C, hand runs over, or let them finish.")
]
PoolName = Annotated[str, typer.Argument(metavar="POOL", help="The pool.", autocompletion=completing.pools)]


@worker.command()
def start(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[POOL]", help="The pool; made if it is new.", autocompletion=completing.pools
        ),
    ] = "default",
    slots: Slots = None,
    queue: Annotated[
        list[str] | None, typer.Option("--queue", metavar="NAME", help="Only this queue; can be repeated.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="TEXT", help="What it has, for runs that need it; can be repeated."),
    ] = None,
    worker_name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Its name (default: host and pid).")
    ] = "",
    grace: Grace = "30s",
    on_stop: Stop = OnStop.HAND_OVER,
) -> None:
    """Run what is sent to a pool, each run in a process of its own, until SIGTERM or Ctrl-C.

    Then runs are handed over to other workers, which resume them; a second signal kills them. Schedules are fired by
    `graphflow serve`.
    """
    with opened_stores() as stores:
        from graphflow.authoring.serving import default_slots, run_service
        from graphflow.orchestration.worker import WorkerOptions

        options = WorkerOptions(
            pool=name,
            slots=slots or default_slots(),
            queues=tuple(queue or ()),
            labels=tuple(label or ()),
            name=worker_name,
            grace_seconds=duration_seconds(grace),
            waits_for_runs=on_stop is OnStop.FINISH,
        )
        number = run_service(stores, options, [], has_clock=False, name="worker")
    raise typer.Exit(_code(number))


@worker.command("ls")
@offers_remote(remote.worker_ls)
def list_workers(output: Listed = ListFormat.TABLE) -> None:
    """List the workers that are there."""
    with opened_stores() as stores:
        documents = [
            {
                "name": each.name,
                "pool": each.pool,
                "state": each.state,
                "busy": each.busy,
                "slots": each.slots,
                "labels": list(each.labels),
                "host": each.host,
                "pid": each.pid,
                "started": iso(each.started),
                "seen": iso(each.seen),
                "versions": dict(each.versions),
                "id": each.id,
            }
            for each in stores.pools.workers()
        ]
        columns = ("name", "pool", "state", "busy", "slots", "labels", "host", "pid", "started")
        show_list(columns, documents, output, "graphflow.worker/1")


def serve(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Files whose deployments, or flows, are stored first.",
            autocompletion=completing.targets,
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--pool", help="The pool of the worker.", autocompletion=completing.pools)
    ] = "default",
    slots: Slots = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Fire schedules, and run nothing here.")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="TEXT", help="What the worker has, for runs that need it."),
    ] = None,
    grace: Grace = "30s",
    on_stop: Stop = OnStop.HAND_OVER,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Where the API listens; elsewhere than on this machine, a token must be there first.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65_535,
            envvar="GRAPHFLOW_PORT",
            help="The port of the API; 0 takes a free one.",
        ),
    ] = 8790,
    proxy: Annotated[
        str,
        typer.Option(
            "--proxy",
            metavar="URL",
            help="The address of a proxy before it, such as https://flows.example.org.",
        ),
    ] = "",
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", metavar="PATH", help="What the proxy's paths begin with, such as /graphflow."
        ),
    ] = "",
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Refuse all changes that are asked for over the API.")
    ] = False,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the API alone, without pages.")] = False,
) -> None:
    """Fire schedules, run what is due, and serve the API, in one process, until SIGTERM or Ctrl-C.

    The link that it prints signs you in, as an admin, while it runs; make tokens for programs with `graphflow token create`.
    A file that deploys or serves flows is stored as it says; of another one each flow is stored under the file's name,
    without a schedule. More workers may run beside it, and more than one `serve`.
    """
    with opened_stores() as stores:
        from graphflow.authoring.serving import default_slots, run_service
        from graphflow.launching.deploying import deployments_of
        from graphflow.operations.home import open_home
        from graphflow.orchestration.worker import WorkerOptions
        from graphflow.server.running import ApiServer, ServerOptions

        with only_data_on_stdout():
            made = [each for file in files or () for each in deployments_of(file)]
        options = None
        if not no_worker:
            options = WorkerOptions(
                pool=name,
                slots=slots or default_slots(),
                labels=tuple(label or ()),
                grace_seconds=duration_seconds(grace),
                waits_for_runs=on_stop is OnStop.FINISH,
            )
        # The API has connections of its own, so that a slow answer delays no claim.
        with open_home() as home:
            beside = ApiServer(
                home,
                ServerOptions(
                    host=host,
                    port=port,
                    proxy=proxy,
                    prefix=prefix,
                    is_read_only=read_only,
                    has_pages=not no_ui,
                ),
            )
            stored = [stores.plans.put(each.model)[0] for each in made]
            number = run_service(stores, options, stored or stores.plans.all(), beside=beside)
    raise typer.Exit(_code(number))


def ui(
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65_535,
            envvar="GRAPHFLOW_PORT",
            help="The port of the pages; 0 takes a free one.",
        ),
    ] = 8790,
) -> None:
    """Serve pages of runs on this machine, read-only: no schedule fires and nothing runs here. Ctrl-C ends it.

    The link that it prints signs you in.
    """
    with opened_stores():
        from graphflow.operations.home import open_home
        from graphflow.orchestration.service import Signals
        from graphflow.server.running import ApiServer, ServerOptions

        with open_home() as home, Signals(lambda: None) as signals:
            server = ApiServer(home, ServerOptions(port=port, is_read_only=True))
            server.start()
            try:
                for line in [*server.lines(), "stop: Ctrl-C"]:
                    _say(line)
                number = signals.wait()
            finally:
                server.stop()
    raise typer.Exit(_code(number))


def _code(number: int) -> int:
    # Being told to stop is how these end.
    return ExitCode.COMPLETED if number in (signal.SIGINT, signal.SIGTERM) else ExitCode.FAILED


@pool.command("ls")
@offers_remote(remote.pool_ls)
def list_pools(output: Listed = ListFormat.TABLE) -> None:
    """List pools and their queues."""
    with opened_stores() as stores:
        documents: list[dict[str, Any]] = []
        for each in stores.pools.all():
            queues = [
                {"name": of.name, "priority": of.priority, "size": of.size, "is_paused": of.is_paused}
                for of in each.queues
            ]
            documents.append(
                {
                    "name": each.name,
                    "size": each.size,
                    "is_paused": each.is_paused,
                    "claimed": each.claimed,
                    "waiting": each.waiting,
                    "backend": each.backend,
                    "env": dict(each.env),
                    "queues": queues if output is not ListFormat.TABLE else [of["name"] for of in queues],
                }
            )
        columns = ("name", "size", "is_paused", "claimed", "waiting", "backend", "queues")
        show_list(columns, documents, output, "graphflow.pool/1")


@pool.command()
def create(
    name: PoolName,
    size: Annotated[
        int | None, typer.Option("--size", min=0, help="How many runs at once; no limit by default.")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", metavar="SPEC", help="Where its runs compute, unless they say.")
    ] = "",
) -> None:
    """Make a pool."""
    with opened_stores() as stores:
        stores.pools.ensure(name)
        stores.pools.change(name, size=size, backend=_checked(backend))
        _say(f"the pool {name} is there; start a worker: graphflow worker start {name}")


@pool.command("set")
def set_pool(
    name: PoolName,
    size: Annotated[
        str | None, typer.Option("--size", metavar="N|none", help="How many runs at once; none for no limit.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="SPEC", help="Where its runs compute.")
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option(
            "--queue", metavar="NAME", help="Change this queue of the pool instead; made if it is new."
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", help="The queue's priority; smaller ones first.")
    ] = None,
) -> None:
    """Change a pool, or a queue of it."""
    changes: dict[str, Any] = {}
    if size is not None:
        changes["size"] = _size(size)
    if queue is None:
        if priority is not None:
            raise typer.BadParameter("--priority is of a queue; use it with --queue NAME")
        if backend is not None:
            changes["backend"] = backend
    else:
        if backend is not None:
            raise typer.BadParameter("--backend is of a pool; leave out --queue")
        if priority is not None:
            changes["priority"] = priority
    with opened_stores() as stores:
        if queue is None:
            _checked(backend or "")
            stores.pools.change(name, **changes)
        else:
            stores.pools.change_queue(name, queue, **changes)
        _say(f"the pool {name} is changed")


@pool.command("pause")
def pause_pool(
    name: PoolName,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="Only this queue of it.")
    ] = None,
) -> None:
    """Claim nothing of a pool, or of a queue of it; what runs goes on."""
    _pause_pool(name, queue, True)


@pool.command("resume")
def resume_pool(
    name: PoolName,
    queue: Annotated[
        str | None, typer.Option("--queue", metavar="NAME", help="Only this queue of it.")
    ] = None,
) -> None:
    """Let a pool, or a queue of it, go on."""
    _pause_pool(name, queue, False)


def _pause_pool(name: str, queue: str | None, is_paused: bool) -> None:
    with opened_stores() as stores:
        if queue is None:
            stores.pools.change(name, is_paused=is_paused)
        else:
            stores.pools.change_queue(name, queue, is_paused=is_paused)
        what = f"the pool {name}" if queue is None else f"the queue {queue} of the pool {name}"
        _say(f"{what} {'is paused' if is_paused else 'goes on'}")


def pause_all() -> None:
    """Pause everything: nothing fires, and nothing is claimed; what runs goes on."""
    with opened_stores() as stores:
        stores.events.pause_all(True)
        _say("everything is paused; `graphflow resume-all` lets it go on")


def resume_all() -> None:
    """Let everything go on; times that were missed are caught up by the policy of each schedule."""
    with opened_stores() as stores:
        stores.events.pause_all(False)
        _say("everything goes on")


def _size(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdigit():
        raise typer.BadParameter(f"{text!r} is not a size; use a number of runs, or none for no limit")
    return int(text)


def _checked(backend: str) -> str:
    if backend:
        from graphflow.backends import check_spec

        check_spec(backend)
    return backend


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
