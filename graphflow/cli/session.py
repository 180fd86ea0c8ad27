"""One run on the command line, from its start to its exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from graphflow.cli.backend_option import BackendSpec, opened
from graphflow.cli.documents import dumped
from graphflow.cli.execute import Begin, Interrupts, run_flow
from graphflow.cli.exits import ExitCode, code_of
from graphflow.cli.terminal import OutputFormat, only_data_on_stdout, write_data
from graphflow.common import settings
from graphflow.display.consoles import ProgressMode, choose_progress, make_console
from graphflow.display.meter import Meter, rows_of
from graphflow.display.printing import Printing
from graphflow.display.progress import make_progress
from graphflow.display.scripts import runs_in_caller
from graphflow.display.summary import show_end, show_failures
from graphflow.runs.documents import run_document, value_text

if TYPE_CHECKING:
    from graphflow.authoring.flows import Flow
    from graphflow.runs.run import Run

__all__ = ["Manner", "run_and_show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a run is shown."""

    output: OutputFormat = OutputFormat.TABLE
    progress: ProgressMode = ProgressMode.AUTO
    is_quiet: bool = False
    is_verbose: bool = False


def run_and_show(
    flow: Flow[Any, Any],
    parameters: Mapping[str, Any],
    *,
    backend: BackendSpec | None = None,
    manner: Manner,
    finish: Callable[[Run], ExitCode] | None = None,
    begin: Begin | None = None,
) -> ExitCode:
    """Run a flow, show its progress and outcome, and return the exit code.

    `finish` replaces writing the value: it is called with a completed run while the backend is
    still open, and returns the exit code. `begin` starts the run, if it is not simply a new one.
    """
    console = make_console()
    asked = ProgressMode.OFF if manner.is_quiet else manner.progress
    if asked is ProgressMode.AUTO:
        asked = ProgressMode(settings.progress())
    # A debugger in an inline run needs the terminal for itself.
    chosen_backend = flow.options.backend or settings.backend() if backend is None else backend.name
    is_live_possible = console.is_terminal and not runs_in_caller(chosen_backend)
    mode = choose_progress(asked, is_terminal=is_live_possible)
    interrupts = Interrupts()
    progress = make_progress(mode, console)
    printing = Printing(is_quiet=manner.is_quiet)
    printing.above = progress if mode is ProgressMode.LIVE else None
    with opened(backend) as chosen, _logs_on(console, manner):
        with only_data_on_stdout(), printing.installed():
            run = run_flow(
                flow,
                parameters,
                backend=chosen,
                progress=progress,
                interrupts=interrupts,
                begin=begin,
            )
        code = _code_of_run(run, interrupts)
        if not manner.is_quiet:
            rows = rows_of(run, Meter(), counts_retries=True)
            show_end(run, rows, console, is_verbose=manner.is_verbose)
        elif not run.state.is_completed():
            show_failures(run, console, is_verbose=manner.is_verbose)
        if finish is not None and code is ExitCode.COMPLETED:
            return finish(run)
        _write_result(run, manner)
        return code


def _write_result(run: Run, manner: Manner) -> None:
    if manner.output is OutputFormat.JSON:
        write_data(dumped(run_document(run), indent=2))
    elif run.state.is_completed() and run.value is not None:
        write_data(value_text(run.value))


def _code_of_run(run: Run, interrupts: Interrupts) -> ExitCode:
    if run.state.is_completed():
        return ExitCode.COMPLETED
    if interrupts.count:
        return ExitCode.TERMINATED if interrupts.is_terminated else ExitCode.INTERRUPTED
    if run.exception is not None and code_of(run.exception) is ExitCode.INFRASTRUCTURE:
        return ExitCode.INFRASTRUCTURE
    return ExitCode.FAILED


class _ConsoleHandler(logging.Handler):
    """Prints log records on the console, so that they do not tear a live table."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.print(self.format(record), markup=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def _logs_on(console: Console, manner: Manner) -> Iterator[None]:
    """Show graphflow's log records on stderr: the user's from INFO, the others from WARNING."""
    logger = logging.getLogger("graphflow")
    handler = _ConsoleHandler(console)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level = logging.ERROR if manner.is_quiet else logging.DEBUG if manner.is_verbose else logging.INFO
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
