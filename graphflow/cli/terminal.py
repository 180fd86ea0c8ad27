"""The two streams: data goes to stdout, progress and messages to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from graphflow.common.escaping import printable
from graphflow.display.consoles import make_console

__all__ = ["OutputFormat", "only_data_on_stdout", "say_error", "write_data"]


class OutputFormat(StrEnum):
    """How a command writes its data to stdout."""

    TABLE = "table"
    JSON = "json"


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
    text = printable(text)
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()
