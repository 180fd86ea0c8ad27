"""Where a run is shown: the console on stderr, and how it shows progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from graphflow.common.escaping import is_printable, printable

__all__ = ["EscapingConsole", "ProgressMode", "choose_progress", "make_console", "time_text"]


class ProgressMode(StrEnum):
    """How a run is shown while it runs."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    OFF = "off"


class EscapingConsole(Console):
    """A console that shows what is not printable as escapes, wherever it stands; its own colours stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or is_printable(segment.text):
                yield segment
            else:
                yield segment._replace(text=printable(segment.text))


def make_console(*, stdout: bool = False, stream: Any = None) -> Console:
    """Return a console on stderr, on stdout, or on another stream.

    Colour follows `NO_COLOR`, `FORCE_COLOR` and `TERM=dumb`. Lines are cut to a width on a terminal only.
    """
    stream = stream or (sys.stdout if stdout else sys.stderr)
    is_terminal = stream.isatty()
    return EscapingConsole(
        file=stream,
        highlight=False,
        emoji=False,  # names and values may look like some
        soft_wrap=not is_terminal,
        width=None if is_terminal else 160,
        no_color=True if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" else None,
    )


def time_text(at: datetime | None, *, stream: Any = None, timespec: str = "seconds") -> str:
    """Return a time for people: in this machine's zone where the stream (stdout by default) is a terminal, else in UTC."""
    if at is None:
        return ""
    stream = stream or sys.stdout
    if stream.isatty():
        return at.astimezone().replace(tzinfo=None).isoformat(sep=" ", timespec=timespec)
    # A moment to the millisecond is read by programs too.
    sep = " " if timespec == "seconds" else "T"
    return at.astimezone(UTC).isoformat(sep=sep, timespec=timespec).replace("+00:00", "Z")


def choose_progress(
    asked: ProgressMode, *, is_terminal: bool, environ: Mapping[str, str] = os.environ
) -> ProgressMode:
    """Return the mode that `auto` means here: live on a capable terminal, plain lines elsewhere."""
    if asked is not ProgressMode.AUTO:
        return asked
    is_plain = not is_terminal or environ.get("TERM") == "dumb"
    return ProgressMode.PLAIN if is_plain else ProgressMode.LIVE
