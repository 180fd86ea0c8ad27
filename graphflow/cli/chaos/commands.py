"""`graphflow chaos`: kill a flow's processes at random, resume it, and compare its value."""

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
from graphflow.cli.terminal import OutputFormat, only_data_on_stdout, say_error, write_data
from graphflow.common.wording import count_text
from graphflow.display.consoles import make_console
from graphflow.launching.targets import load_flow

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
        typer.Argument(
            help="The flow: file.py:flow, package.module:flow, or a file with one flow.", metavar="TARGET"
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, as for `graphflow run`."),
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", metavar="JSON|@FILE", help="All parameters as one JSON object.")
    ] = None,
    kills: Annotated[int, typer.Option("--kills", min=1, help="Number of processes to kill.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Seed for the random choice of failpoints.")] = 0,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="SPEC", callback=_checked_backend, help="As for `graphflow run`."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="Output format.")
    ] = OutputFormat.TABLE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not report each kill.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Full tracebacks.")] = False,
) -> None:
    """Kill a flow's processes at random, resume it, and compare its value.

    The flow runs once undisturbed, then repeatedly: its driver, or a worker process that it started, kills itself
    with SIGKILL at a random failpoint (before or after something is written, sent or reported), and a new launch resumes
    the run. Histories and results go to a temporary folder, but the tasks are the real ones, with all their side effects.

    Exit codes: 0 the value was the same each time, 1 it was not, or a run could not be resumed, 2 wrong usage, 3 cannot load
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
                    "--params - (stdin) cannot be read again for each launch; use a file: --params @FILE"
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
            console.print(f"histories and results were kept in {folder}", markup=False)
    raise typer.Exit(ExitCode.FAILED if report.problems else ExitCode.COMPLETED)


def _show(report: ChaosReport, console: Console) -> None:
    workers = len(report.kills) - report.drivers_killed
    console.print(
        f"{count_text(len(report.kills), 'kill')} ({count_text(report.drivers_killed, 'driver')}, {count_text(workers, 'worker')}) in {count_text(report.runs, 'run')} and "
        f"{count_text(report.launches, 'launch', 'launches')}, at {count_text(len({kill.failpoint for kill in report.kills}), 'distinct failpoint')}",
        markup=False,
    )
    if report.again:
        table = Table("task", "items running at a kill", "most kills of one item", box=None, pad_edge=False)
        for task, count in sorted(report.again.items(), key=lambda each: -each[1]):
            table.add_row(task, f"{count:,}", str(report.most[task]))
        console.print(table)
        console.print(
            "These items may have been executed more than once: make their side effects idempotent (task_context().idempotency_key)",
            markup=False,
        )
    if not report.problems and report.runs:
        console.print("every run completed with the same value as the undisturbed run", markup=False)
