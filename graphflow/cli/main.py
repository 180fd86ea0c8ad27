"""The `graphflow` command."""

from __future__ import annotations

import errno
import io
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import completing
from graphflow.cli.addressed import URL_VARIABLE
from graphflow.cli.automations import automations, hooks, notify
from graphflow.cli.backend_option import BackendSpec, parse_backend
from graphflow.cli.bench import bench
from graphflow.cli.cache.commands import cache
from graphflow.cli.chaos.commands import chaos
from graphflow.cli.config.commands import config
from graphflow.cli.demo import run_demo
from graphflow.cli.deploy.commands import deploy
from graphflow.cli.doctor import doctor
from graphflow.cli.documents import Outcome, dumped
from graphflow.cli.events import events
from graphflow.cli.exits import ExitCode, errors_become_exit_codes, system_text
from graphflow.cli.forecasts import show_forecast
from graphflow.cli.grouped import GroupedCommands
from graphflow.cli.keys import key
from graphflow.cli.limits import limits, rates
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.runs.commands import fsck, runs
from graphflow.cli.schedule import schedule
from graphflow.cli.session import Manner, run_and_show
from graphflow.cli.terminal import OutputFormat, only_data_on_stdout, say_error, write_data
from graphflow.cli.tokens import token
from graphflow.cli.workers import pause_all, pool, resume_all, serve, ui, worker
from graphflow.display.consoles import ProgressMode, make_console
from graphflow.display.scripts import display, shown_elsewhere
from graphflow.display.tracebacks import full_text
from graphflow.launching.targets import load_flow

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.runs.run import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="graphflow",
    cls=GroupedCommands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time: rich's needs a Markdown parser and a lexer
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUN_AND_LOOK, ORCHESTRATE, RESULTS, TOOLS = "Run and look", "Deploy and schedule", "Results", "Tools"


class GraphFormat(StrEnum):
    """The format of a printed graph."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


Target = Annotated[
    str,
    typer.Argument(
        help="The flow: file.py:flow, package.module:flow, or a file with one flow.",
        metavar="TARGET",
        autocompletion=completing.targets,
    ),
]
Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter, parsed as JSON if possible, else text. NAME:=JSON requires JSON; NAME=@FILE reads a text file.",
    ),
]
Params = Annotated[
    str | None,
    typer.Option(
        "--params", metavar="JSON|@FILE|-", help="All parameters as one JSON object; -p overrides it."
    ),
]
BackendOption = Annotated[
    BackendSpec | None,
    typer.Option(
        "--backend",
        parser=parse_backend,
        metavar="SPEC",
        autocompletion=completing.backends,
        help="Where to run: local[:N], inline, threads[:N], processes[:N], tcp://..., tls://..., or a scheduler file "
        "(.json).",
    ),
]
Progress = Annotated[ProgressMode, typer.Option("--progress", help="How to show progress.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no summary.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show full tracebacks and graphflow's debug log.")
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        write_data(f"graphflow {_installed('graphflow')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show graphflow's version and exit."
        ),
    ] = False,
    api: Annotated[
        str | None,
        typer.Option(
            "--api",
            metavar="URL",
            help="Ask this server instead of the home here; its token is in GRAPHFLOW_API_TOKEN (default: GRAPHFLOW_API_URL, else api.url of your profile).",
        ),
    ] = None,
) -> None:
    """Run Python functions over large lists on Dask, and keep a durable record of every item."""
    if api is not None:
        os.environ[URL_VARIABLE] = api


@app.command(rich_help_panel=RUN_AND_LOOK)
def run(
    target: Target,
    param: Pairs = None,
    params: Params = None,
    backend: BackendOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="Output format: the value, or the run as JSON.")
    ] = OutputFormat.TABLE,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            help="Your own id for the run. An existing run with this id is resumed, or shown if it has completed.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            "-s",
            metavar="URL",
            help="Where to store results and the cache: a folder, or a URL such as s3://bucket/prefix.",
        ),
    ] = None,
    refresh_cache: Annotated[
        bool, typer.Option("--refresh-cache", help="Recompute everything; ignore cached results.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Run no task: show what would be taken from the cache and what would be executed.",
        ),
    ] = False,
    progress: Progress = ProgressMode.AUTO,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a flow and wait for it.

    The value goes to stdout, everything else to stderr. After the first Ctrl-C no new items are started, and
    the running ones finish; the second cancels them.

    Exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cannot load the flow or invalid parameters,
    5 the backend, the history or the result store failed or cannot be reached, 9 the run already has a driver,
    130 interrupted, 143 terminated.
    """
    manner = Manner(output=output, progress=progress, is_quiet=quiet, is_verbose=verbose)
    with errors_become_exit_codes(is_verbose=verbose):
        flow = _load(target)
        if storage is not None:
            flow = flow.with_options(result_storage=storage)
        if refresh_cache:
            flow = flow.with_options(refresh_cache=True)
        parameters = parse_parameters(param or [], mapping=params, function=flow.fn)
        if dry_run:
            show_forecast(flow, parameters, output)
            return
        begin = None if run_id is None else partial(_begin_with_id, run_id)
        code = run_and_show(flow, parameters, backend=backend, manner=manner, begin=begin)
    raise typer.Exit(code)


def _begin_with_id(run_id: str, flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Run:
    run: Run = flow._with_id(run_id, (), parameters, starts=True)
    return run


app.add_typer(runs, name="runs", rich_help_panel=RUN_AND_LOOK)


@app.command(rich_help_panel=RUN_AND_LOOK)
def graph(
    target: Target,
    format: Annotated[GraphFormat, typer.Option("--format", "-f", help="Output format.")] = GraphFormat.TEXT,
    param: Pairs = None,
    params: Params = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="Output format; json is short for --format json.")
    ] = OutputFormat.TABLE,
    verbose: Verbose = False,
) -> None:
    """Print the graph of a flow without running it."""
    if output is OutputFormat.JSON:
        format = GraphFormat.JSON
    with errors_become_exit_codes(is_verbose=verbose):
        flow = _load(target)
        parameters = parse_parameters(param or [], mapping=params, function=flow.fn)
        with only_data_on_stdout():
            built = flow.graph(**parameters)
        match format:
            case GraphFormat.MERMAID:
                text = built.to_mermaid()
            case GraphFormat.DOT:
                text = built.to_dot()
            case GraphFormat.JSON:
                text = built.to_json()
            case GraphFormat.TEXT:
                text = built.to_text()
    write_data(text)


app.command(rich_help_panel=ORCHESTRATE)(serve)
app.command(rich_help_panel=ORCHESTRATE)(ui)
app.add_typer(deploy, name="deploy", rich_help_panel=ORCHESTRATE)
app.add_typer(schedule, name="schedule", rich_help_panel=ORCHESTRATE)
app.add_typer(worker, name="worker", rich_help_panel=ORCHESTRATE)
app.add_typer(pool, name="pool", rich_help_panel=ORCHESTRATE)
app.add_typer(limits, name="limits", rich_help_panel=ORCHESTRATE)
app.add_typer(rates, name="rates", rich_help_panel=ORCHESTRATE)
app.add_typer(events, name="events", rich_help_panel=ORCHESTRATE)
app.add_typer(token, name="token", rich_help_panel=ORCHESTRATE)
app.add_typer(automations, name="automations", rich_help_panel=ORCHESTRATE)
app.add_typer(notify, name="notify", rich_help_panel=ORCHESTRATE)
app.add_typer(hooks, name="hooks", rich_help_panel=ORCHESTRATE)
app.command("pause-all", rich_help_panel=ORCHESTRATE)(pause_all)
app.command("resume-all", rich_help_panel=ORCHESTRATE)(resume_all)
app.add_typer(cache, name="cache", rich_help_panel=RESULTS)
app.command(rich_help_panel=RESULTS)(fsck)
app.add_typer(key, name="key", rich_help_panel=RESULTS)


@app.command(rich_help_panel=TOOLS)
def demo(
    folder: Annotated[
        str | None, typer.Option("--folder", help="The folder to count (default: the standard library).")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Count only the first N files.")] = None,
    backend: BackendOption = None,
    output: Outcome = OutputFormat.TABLE,
    progress: Progress = ProgressMode.AUTO,
    verbose: Verbose = False,
) -> None:
    """Count words and syntax of the standard library on a local Dask cluster, again from the cache, and in a plain loop.

    The answers are compared, and the times shown. The default backend of this command is processes.
    """
    manner = Manner(output=output, progress=progress, is_verbose=verbose)
    with errors_become_exit_codes(is_verbose=verbose):
        code = run_demo(folder=folder, limit=limit, backend=backend, manner=manner)
    raise typer.Exit(code)


app.add_typer(config, name="config", rich_help_panel=TOOLS)
app.command(rich_help_panel=TOOLS)(doctor)
app.add_typer(bench, name="bench", rich_help_panel=TOOLS)
app.command(rich_help_panel=TOOLS)(chaos)


@app.command(rich_help_panel=TOOLS)
def version(output: Outcome = OutputFormat.TABLE) -> None:
    """Print the versions of graphflow, Python and the main dependencies."""
    versions = {"graphflow": _installed("graphflow"), "python": platform.python_version()}
    versions |= {
        package: _installed(package)
        for package in ("dask", "distributed", "cloudpickle", "pydantic", "networkx")
    }
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.versions/1", "versions": versions}, indent=2))
        return
    for package, number in versions.items():
        write_data(f"{package} {number}")


def _load(target: str) -> Flow[Any, Any]:
    before = display.begun
    with only_data_on_stdout(), shown_elsewhere():
        flow = load_flow(target)
    if display.begun > before:
        console = make_console()
        console.print(
            f"note: {target} ran a flow while it was imported; put the call under `if __name__ == '__main__':`",
            markup=False,
            soft_wrap=True,
        )
    return flow


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run the command line; the entry point of `graphflow` and of `python -m graphflow`."""
    # Somebody may have closed them (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding has not is shown as an escape, and ends no command.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="graphflow")
    except OSError as error:
        text = (
            f"the output cannot be written: {system_text(error)}" if _is_output(error) else system_text(error)
        )
        _end(text, ExitCode.INFRASTRUCTURE)
    except Exception as error:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            say_error("", details=full_text(error))
        _end(
            f"{type(error).__name__}: {error}; this is a bug in graphflow: please report it, with the traceback that -v shows",
            ExitCode.FAILED,
        )


def _is_output(error: OSError) -> bool:
    return error.filename is None and error.errno in (
        errno.ENOSPC,
        errno.EFBIG,
        errno.EIO,
        errno.EDQUOT,
        errno.EBADF,
    )


def _end(text: str, code: ExitCode) -> None:
    """End with one line on stderr, and never with what Python would say at its end of streams that cannot be flushed."""
    with suppress(OSError):
        say_error(text)
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(devnull, stream.fileno())
    sys.exit(code)
