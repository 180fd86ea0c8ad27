"""The progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from graphflow.cli.meter import NodeRow, format_eta, format_rate, format_seconds
from graphflow.cli.terminal import ProgressMode

__all__ = ["LiveProgress", "NoProgress", "PlainProgress", "Progress", "make_progress"]

_PLAIN_SECONDS = 10.0
_PLAIN_FRACTION = 0.05 - 1e-9  # 0.06 - 0.01 is a hair less than 0.05
_GLYPHS = {
    "Completed": ("✔", "green"),
    "Cached": ("✔", "green"),
    "Skipped": ("–", "dim"),
    "Cancelled": ("■", "yellow"),
    "Running": ("●", "cyan"),
    "Retrying": ("●", "cyan"),
}


class Progress(Protocol):
    """Shows rows. Call `start`, then `show` several times a second, then `stop`, all from one thread."""

    def start(self) -> None: ...
    def show(self, rows: Sequence[NodeRow], *, now: float) -> None: ...
    def say(self, text: str) -> None: ...
    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None: ...


def make_progress(mode: ProgressMode, console: Console) -> Progress:
    """Return the progress display of a chosen mode (not `auto`)."""
    match mode:
        case ProgressMode.LIVE:
            return LiveProgress(console)
        case ProgressMode.OFF:
            return NoProgress(console)
        case _:
            return PlainProgress(console)


class NoProgress:
    """Shows messages only."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        """Do nothing."""

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False)

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Do nothing."""


class PlainProgress(NoProgress):
    """Prints lines for a log: a node's line every 10 s or 5 %, and when its state changes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said: dict[int, tuple[float, float, str]] = {}

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Print the lines that are due."""
        for row in rows:
            if self._is_due(row, now):
                self._said[row.id] = (now, row.fraction or 0.0, row.state.name)
                self.say(plain_line(row))

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Print the last lines."""
        self.show(rows, now=now)

    def _is_due(self, row: NodeRow, now: float) -> bool:
        if row.started_nothing:
            return False
        at, fraction, state = self._said.get(row.id, (None, 0.0, ""))
        if at is None:
            return row.is_mapped or row.state.is_final()
        if row.state.is_final():
            return row.state.name != state
        moved = row.fraction is not None and row.fraction - fraction >= _PLAIN_FRACTION
        return moved or now - at >= _PLAIN_SECONDS


def plain_line(row: NodeRow) -> str:
    """Return a node in one line, such as `count  1,234/10,000 (12 %)  3 failed  410/s  ETA 0:21`."""
    parts = [row.name]
    if row.state.is_final():
        parts.append(row.state.name)
    if row.is_mapped:
        share = f" ({row.fraction:.0%})".replace("%", " %") if row.fraction is not None else ""
        parts.append(f"{_out_of(row)}{share}")
    parts += [f"{count:,} {name}" for name, count in _exceptional(row) if count]
    if row.is_mapped and row.rate:
        parts.append(format_rate(row.rate))
    if row.state.is_final():
        parts.append(format_seconds(row.seconds))
    elif row.eta_seconds is not None:
        parts.append(f"ETA {format_eta(row.eta_seconds)}")
    return "  ".join(part for part in parts if part)


class LiveProgress:
    """Draws a table in place: one line per node."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            auto_refresh=False,
            vertical_overflow="crop",
        )

    def start(self) -> None:
        """Start the live display."""
        self._live.start()

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Redraw the rows."""
        self._live.update(self._table(rows), refresh=True)

    def say(self, text: str) -> None:
        """Print one line above the table."""
        self._live.console.print(text, markup=False)

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Clear the table, which the summary replaces, and restore the terminal."""
        self._live.update(Text(""), refresh=True)
        self._live.transient = True
        self._live.stop()

    def _table(self, rows: Sequence[NodeRow]) -> Table | Group:
        shown, left_out = choose_rows(rows, room=max(3, self._console.size.height - 3))
        table = Table.grid(padding=(0, 2, 0, 0))
        for row in shown:
            glyph, style = _GLYPHS.get(row.state.name, ("○", "dim"))
            if row.state.is_failed() or row.state.is_crashed():
                glyph, style = "✘", "red"
            bar = ProgressBar(total=1.0, completed=row.fraction or 0.0, width=24) if row.is_mapped else ""
            notes = [f"{count:,} {name}" for name, count in _exceptional(row) if count]
            pace = format_rate(row.rate) if row.is_mapped else ""
            end = format_seconds(row.seconds) if row.state.is_final() else ""
            eta = f"ETA {format_eta(row.eta_seconds)}" if row.eta_seconds is not None else end
            table.add_row(
                Text(glyph, style=style), Text(row.name), bar, _out_of(row), "  ".join(notes), pace, eta
            )
        if not left_out:
            return table
        return Group(table, Text(f"… and {left_out:,} more nodes", style="dim"))


def choose_rows(rows: Sequence[NodeRow], *, room: int) -> tuple[list[NodeRow], int]:
    """Return the rows that fit, in order: running ones are chosen first, then the newest that ended, then the next to start."""
    if len(rows) <= room:
        return list(rows), 0

    def rank(pair: tuple[int, NodeRow]) -> tuple[int, int]:
        place, row = pair
        if row.state.is_running() or (row.done and not row.state.is_final()):
            return 0, place
        return (1, -place) if row.state.is_final() else (2, place)

    chosen = sorted(sorted(enumerate(rows), key=rank)[:room])
    return [row for _, row in chosen], len(rows) - room


def _out_of(row: NodeRow) -> str:
    return f"{row.done:,}/{'?' if row.width is None else format(row.width, ',')}"


def _exceptional(row: NodeRow) -> list[tuple[str, int]]:
    return [
        ("cached", row.cached),
        ("skipped", row.skipped),
        ("failed", row.failed),
        ("retrying", row.retrying),
        ("cancelled", row.cancelled),
    ]
