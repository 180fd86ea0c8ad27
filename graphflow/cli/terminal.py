"""The two streams: data goes to stdout, progress and messages to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from rich.console import Console

__all__ = [
    "OutputFormat",
    "ProgressMode",
    "choose_progress",
    "make_console",
    "only_data_on_stdout",
    "say_error",
    "write_data",
]


class OutputFormat(StrEnum):
    """How a command writes its data to stdout."""

    TABLE = "table"
    JSON = "json"


class ProgressMode(StrEnum):
    """How a run is shown while it runs."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


def make_console(*, stdout: bool = False) -> Console:
    """Return a console on stderr, or on stdout.

    Colour follows `NO_COLOR`, `FORCE_COLOR` and `TERM=dumb`. Lines are cut to a width on a terminal only.
    """
    stream = sys.stdout if stdout else sys.stderr
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        emoji=False,  # names and values may look like some
        soft_wrap=not is_terminal,
        width=None if is_terminal else 160,
        no_color=True if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" else None,
    )


def choose_progress(
    asked: ProgressMode, *, is_terminal: bool, environ: Mapping[str, str] = os.environ
) -> ProgressMode:
    """Return the mode that `auto` means here: live on a capable terminal, plain lines in a log, in CI and elsewhere."""
    if asked is not ProgressMode.AUTO:
        return asked
    is_plain = not is_terminal or bool(environ.get("CI")) or environ.get("TERM") == "dumb"
    return ProgressMode.PLAIN if is_plain else ProgressMode.LIVE


@contextmanager
def only_data_on_stdout() -> Iterator[None]:
    """Redirect what user code prints to stderr, including child processes.

    So stdout can be piped: it carries the value, or the JSON document, and nothing else.
    """
    stdout, descriptor = sys.stdout, _descriptor_of_stdout()
    stdout.flush()
    saved = None if descriptor is None else os.dup(descriptor)
    if descriptor is not None:
        os.dup2(2, descriptor)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        if descriptor is not None and saved is not None:
            os.dup2(saved, descriptor)
            os.close(saved)


def _descriptor_of_stdout() -> int | None:
    """Return 1 if stdout is the process's own; None if a test or a notebook has replaced it."""
    try:
        return 1 if sys.stdout.fileno() == 1 else None
    except (AttributeError, OSError, ValueError):
        return None


def say_error(text: str, *, details: str = "") -> None:
    """Print one error on stderr, `details` (a traceback) before it."""
    console = make_console()
    if details:
        console.print(details.rstrip(), markup=False)
    console.print("error:", style="bold red", end=" ")
    console.print(text, markup=False)


def write_data(text: str) -> None:
    """Print a line of data on stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()
