"""Exit codes, and how an error becomes one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from graphflow.cli.terminal import say_error
from graphflow.display.tracebacks import full_text
from graphflow.errors import (
    BackendError,
    DeploymentError,
    GraphflowError,
    HistoryError,
    LeaseHeld,
    LeaseLost,
    NotFound,
    ParameterError,
    ResultStoreError,
    ScheduleError,
    SettingsError,
    TargetError,
)

__all__ = ["ExitCode", "code_of", "errors_become_exit_codes", "system_text"]


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    CANNOT_LOAD = 3
    NOT_FOUND = 4
    INFRASTRUCTURE = 5
    HELD = 9
    INTERRUPTED = 130
    TERMINATED = 143


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an error."""
    match error:
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BackendError() | HistoryError() | ResultStoreError():
            return ExitCode.INFRASTRUCTURE
        case LeaseHeld() | LeaseLost():
            return ExitCode.HELD
        case NotFound():
            return ExitCode.NOT_FOUND
        case TargetError() | ParameterError() | SettingsError() | ScheduleError() | DeploymentError():
            return ExitCode.CANNOT_LOAD
        case _:
            return ExitCode.FAILED


@contextmanager
def errors_become_exit_codes(*, is_verbose: bool = False) -> Iterator[None]:
    """Print an error of graphflow as text, with a traceback only if asked, and exit with its code."""
    try:
        yield
    except KeyboardInterrupt:
        say_error("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except GraphflowError as error:
        say_error(str(error), details=full_text(error) if is_verbose else "")
        raise typer.Exit(code_of(error)) from None
    except OSError as error:
        if error.errno == errno.EPIPE or error.filename is None:
            raise  # Of the output, which `main` cannot write any more.
        say_error(system_text(error), details=full_text(error) if is_verbose else "")
        raise typer.Exit(ExitCode.INFRASTRUCTURE) from None


def system_text(error: OSError) -> str:
    """Return what an error of the system means, in one line."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what
