"""`graphflow chaos`: kill a flow at random, go on with it, and see whether it gives the same."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from graphflow.cli.backend_option import parse_backend
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.parameters import parse_parameters
from graphflow.cli.targets import load_flow
from graphflow.cli.terminal import (
    OutputFormat,
    make_console,
    only_data_on_stdout,
    say_error,
    write_data,
)

if TYPE_CHECKING:
    from graphflow.cli.chaos.trials import ChaosReport

__all__ = ["chaos"]

SCHEMA = "graphflow.chaos/1"


def _checked_backend(text: str | None) -> str | None:
    if text is not None:
        parse_backend(text)
    return text


def chaos(
    target: Annotated[
        str,
        typer.Argument(help="file.py:flow, package.module:flow, or a file with one flow.", metavar="TARGET"),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as for `graphflow run`."),
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", metavar="JSON|@FILE", help="All parameters as one JSON object.")
    ] = None,
    kills: Annotated[int, typer.Option("--kills", min=1, help="How many processes are killed.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="What the places are drawn with.")] = 0,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="SPEC", callback=_checked_backend, help="As for `graphflow run`."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="What stdout gets.")
    ] = OutputFormat.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not tell of each kill.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Full tracebacks.")] = False,
) -> None:
    """Kill a flow at random, go on with it, and see whether it gives the same value.

    The flow runs once undisturbed, then again and again: its driver, or a worker process that it started, kills itself
    with SIGKILL at a random boundary (before or after something is written, sent or told), and another launch of the run goes
    on. Histories and results go to a temporary folder; but the tasks are the real ones, and what they do outside is done.

    Exit codes: 0 the value was the same each time, 1 it was not or a run could not be resumed, 2 wrong usage, 3 cannot load
    the flow or invalid parameters.
    """
    from graphflow.cli.chaos.launch import LaunchOrder  # help must not load the engine
    from graphflow.cli.chaos.trials import Trials

    console = make_console()
    with errors_become_exit_codes(is_verbose=verbose):
        with only_data_on_stdout():
            flow = load_flow(target)
            if params == "-":
                raise typer.BadParameter(
                    "--params - cannot be read again for each launch; give a file: --params @FILE"
                )
            flow._parameters((), parse_parameters(param or [], mapping=params, function=flow.fn))
        folder = Path(tempfile.mkdtemp(prefix="graphflow-chaos-"))
        try:
            report = Trials(
                folder,
                lambda run_id, place: LaunchOrder(
                    target=target,
                    run_id=run_id,
                    place=place,
                    pairs=param or [],
                    params=params,
                    backend=backend,
                ),
                kills=kills,
                seed=seed,
                say=lambda line: None if quiet else console.print(line, markup=False),
            ).run()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not report.problems:
            shutil.rmtree(folder, ignore_errors=True)
        if output is OutputFormat.JSON:
            document = {**asdict(report), "schema": SCHEMA, "seed": seed}
            write_data(json.dumps(document, ensure_ascii=False))
        else:
            _show(report, make_console(stdout=True))
        for problem in report.problems:
            say_error(problem)
        if report.problems:
            console.print(f"what is left of it is in {folder}", markup=False)
    raise typer.Exit(ExitCode.FAILED if report.problems else ExitCode.COMPLETED)


def _show(report: ChaosReport, console: Console) -> None:
    workers = len(report.kills) - report.drivers_killed
    console.print(
        f"{len(report.kills)} kills ({report.drivers_killed} of drivers, {workers} of workers) in {report.runs} runs and "
        f"{report.launches} launches, at {len({kill.failpoint for kill in report.kills})} kinds of boundaries",
        markup=False,
    )
    if report.again:
        table = Table("task", "items under way at a kill", "most kills of one item", box=None, pad_edge=False)
        for task, count in sorted(report.again.items(), key=lambda each: -each[1]):
            table.add_row(task, f"{count:,}", str(report.most[task]))
        console.print(table)
        console.print(
            "These may have been executed more than once: what they do outside must bear that (task_context().idempotency_key)",
            markup=False,
        )
    if not report.problems and report.runs:
        console.print("every run completed, with the value of the undisturbed one", markup=False)
