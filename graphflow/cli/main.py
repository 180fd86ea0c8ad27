"""The `graphflow` command."""

from __future__ import annotations

import io
import platform
import sys
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli.backend_option import BackendSpec, parse_backend
from graphflow.cli.bench import bench
from graphflow.cli.cache.commands import cache
from graphflow.cli.chaos.commands import chaos
from graphflow.cli.demo import check_against_plain_loop, show_top_words
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.keys import key
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.runs.commands import fsck, runs
from graphflow.cli.session import Manner, run_and_show
from graphflow.cli.targets import load_flow
from graphflow.cli.terminal import (
    OutputFormat,
    ProgressMode,
    make_console,
    only_data_on_stdout,
    write_data,
)

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.runs.run import Run

__all__ = ["app", "main"]

app = typer.Typer(
    name="graphflow",
    help="Fan Python functions out over large lists on Dask, and keep the books of every item.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes half the time: rich's needs a Markdown parser and a lexer
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")
app.add_typer(runs, name="runs")
app.add_typer(cache, name="cache")
app.add_typer(key, name="key")
app.command()(fsck)
app.command()(chaos)


class GraphFormat(StrEnum):
    """How a graph is written."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


Target = Annotated[
    str,
    typer.Argument(help="file.py:flow, package.module:flow, or a file with one flow.", metavar="TARGET"),
]
Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter: JSON, else text; NAME:=JSON forces JSON; NAME=@FILE is a file's text.",
    ),
]
Params = Annotated[
    str | None,
    typer.Option(
        "--params", metavar="JSON|@FILE|-", help="All parameters as one JSON object; -p wins over it."
    ),
]
BackendOption = Annotated[
    BackendSpec | None,
    typer.Option(
        "--backend",
        parser=parse_backend,
        metavar="SPEC",
        help="local[:N] (the default), inline, threads[:N], processes[:N], tcp://..., tls://..., or a scheduler file "
        "(.json).",
    ),
]
Progress = Annotated[ProgressMode, typer.Option("--progress", help="How to show a run while it runs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Full tracebacks, and graphflow's debug log.")]


@app.command()
def run(
    target: Target,
    param: Pairs = None,
    params: Params = None,
    backend: BackendOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="What stdout gets: the value, or the run as JSON.")
    ] = OutputFormat.TABLE,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            help="An id of your own: where there is such a run already, it is resumed, or shown if it completed.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            "-s",
            metavar="URL",
            help="Where results and the cache go: a folder, or a URL such as s3://bucket/prefix.",
        ),
    ] = None,
    refresh_cache: Annotated[
        bool, typer.Option("--refresh-cache", help="Make results anew, and use none that was cached.")
    ] = False,
    progress: Progress = ProgressMode.AUTO,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a flow and wait for it.

    The value goes to stdout, everything else to stderr. The first Ctrl-C starts no new items and lets
    the running ones end; the second cancels.

    Exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cannot load the flow or invalid parameters,
    5 the backend, the history or the result store cannot be reached or broke, 9 the run has a driver already,
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
        begin = None if run_id is None else partial(_begin_with_id, run_id)
        code = run_and_show(flow, parameters, backend=backend, manner=manner, begin=begin)
    raise typer.Exit(code)


def _begin_with_id(run_id: str, flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Run:
    run: Run = flow._with_id(run_id, (), parameters, starts=True)
    return run


@app.command()
def graph(
    target: Target,
    format: Annotated[
        GraphFormat, typer.Option("--format", "-f", help="How to write it.")
    ] = GraphFormat.TEXT,
    param: Pairs = None,
    params: Params = None,
    verbose: Verbose = False,
) -> None:
    """Print the graph of a flow without running it."""
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


@app.command()
def demo(
    folder: Annotated[
        str | None, typer.Option("--folder", help="Where to count; the standard library by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Only the first N files.")] = None,
    backend: BackendOption = None,
    progress: Progress = ProgressMode.AUTO,
    verbose: Verbose = False,
) -> None:
    """Count the words of the Python standard library on a local Dask cluster, and check the answer."""
    from graphflow.examples.wordcount import standard_library, word_count  # help must not load the engine

    place = folder or standard_library()
    console = make_console()

    def finish(run: Run) -> ExitCode:
        show_top_words(run.value, make_console(stdout=True))
        is_same = check_against_plain_loop(run.value, console, folder=place, limit=limit)
        return ExitCode.COMPLETED if is_same else ExitCode.FAILED

    with errors_become_exit_codes(is_verbose=verbose):
        console.print(f"word count over the Python files in {place}", markup=False)
        code = run_and_show(
            word_count,
            {"folder": place, "limit": limit},
            backend=backend or BackendSpec(name="processes"),
            manner=Manner(progress=progress, is_verbose=verbose),
            finish=finish,
        )
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Print the versions of graphflow, Python, and what graphflow stands on."""
    write_data(f"graphflow {_installed('graphflow')}")
    write_data(f"python {platform.python_version()}")
    for package in ("dask", "distributed", "cloudpickle", "pydantic", "networkx"):
        write_data(f"{package} {_installed(package)}")


def _load(target: str) -> Flow[Any, Any]:
    with only_data_on_stdout():
        return load_flow(target)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run the command line; the entry point of `graphflow` and of `python -m graphflow`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding has not is shown as an escape, and ends no command.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="graphflow")
