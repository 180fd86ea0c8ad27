"""The progress of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graphflow.display.consoles import ProgressMode
from graphflow.display.meter import NodeRow, format_eta, format_rate, format_seconds
from graphflow.model.looks import LOOKS, kind_of

__all__ = ["LiveProgress", "NoProgress", "PlainProgress", "Progress", "make_progress"]

_PLAIN_SECONDS = 10.0
_PLAIN_FRACTION = 0.05 - 1e-9  # 0.06 - 0.01 is a hair less than 0.05
_PLAIN_LINES = 30


class Progress(Protocol):
    """Shows rows. `start`, then `show` some times a second, then `stop`; never two at once."""

    def start(self) -> None: ...
    def show(self, rows: Sequence[NodeRow], *, now: float) -> None: ...
    def say(self, text: str) -> None: ...
    def print_text(self, text: str, *, label: str = "") -> None: ...
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
    """Shows messages only, and what tasks print."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self) -> None:
        """Do nothing."""

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def print_text(self, text: str, *, label: str = "") -> None:
        """Print lines of user code, on a terminal with a label before them."""
        label = f"{label}  " if label and self._console.is_terminal else ""
        self._console.file.write(f"{label}{text}\n")
        self._console.file.flush()

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Do nothing."""


class PlainProgress(NoProgress):
    """Prints lines for a log: a node's line every 10 s, and unless `is_sparse` every 5 % and when its state changes."""

    def __init__(self, console: Console, *, is_sparse: bool = False) -> None:
        super().__init__(console)
        self._is_sparse = is_sparse
        self._said: dict[int, tuple[float, float, str]] = {}

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Print the lines that are due; of many at a time, the first ones and the number of the others."""
        due = [row for row in rows if self._is_due(row, now)]
        for row in due:
            self._said[row.id] = (now, row.fraction or 0.0, row.state.name)
        for row in due[:_PLAIN_LINES]:
            self.say(plain_line(row))
        if len(due) > _PLAIN_LINES:
            self.say(f"... and {len(due) - _PLAIN_LINES:,} more nodes")

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Print the last lines."""
        self.show(rows, now=now)

    def _is_due(self, row: NodeRow, now: float) -> bool:
        if row.started_nothing:
            return False
        at, fraction, state = self._said.get(row.id, (None, 0.0, ""))
        if self._is_sparse:
            return not row.state.is_final() and (at is None or now - at >= _PLAIN_SECONDS)
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
            # What is printed meanwhile comes as whole lines, by `say` and `print_text`.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def start(self) -> None:
        """Start the live display."""
        self._live.start()

    def show(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Redraw the rows."""
        self._live.update(self._table(rows), refresh=True)

    def say(self, text: str) -> None:
        """Print one line above the table."""
        self._console.print(text, markup=False, soft_wrap=True)

    def print_text(self, text: str, *, label: str = "") -> None:
        """Print lines of user code above the table, in their own colours, a label before them."""
        head = Text(f"{label}  " if label else "", style="dim")
        self._console.print(Text.assemble(head, Text.from_ansi(text)), soft_wrap=True)

    def stop(self, rows: Sequence[NodeRow], *, now: float) -> None:
        """Clear the table, which the summary replaces, and restore the terminal."""
        self._live.update(Text(""), refresh=True)
        self._live.transient = True
        self._live.stop()

    def _table(self, rows: Sequence[NodeRow]) -> Table | Group:
        shown, left_out = choose_rows(rows, room=max(3, self._console.size.height - 3))
        table = live_table(shown, width=self._console.width)
        if not left_out:
            return table
        return Group(table, Text(f"… and {left_out:,} more nodes", style="dim"))


def live_table(rows: Sequence[NodeRow], *, width: int) -> Table:
    """Return a line per node that is at most `width` wide: columns are left out before a number is cut, then names are cut."""
    lines = [_cells(row) for row in rows]
    columns = [name for name in _COLUMNS if name == "bar" or any(cells[name].plain for cells in lines)]
    bar = _BAR_WIDTH if any(row.is_mapped for row in rows) else 0
    widths = {name: max((cells[name].cell_len for cells in lines), default=0) for name in columns}
    widths["bar"] = bar

    def total() -> int:
        kept = [widths[name] for name in columns if widths[name]]
        return sum(kept) + 2 * len(kept)

    if total() > width:
        widths["bar"] = min(bar, _NARROW_BAR)
    for name in ("pace", "notes", "bar", "end", "failed"):
        if total() > width and name in columns:
            columns.remove(name)
        # A name is cut before more is left out than the pace, but not so far that it says nothing.
        shortest = _SHORT_NAME if name == "failed" else _MEDIUM_NAME
        if widths["name"] > shortest:
            widths["name"] = max(shortest, widths["name"] - max(0, total() - width))
    table = Table.grid(padding=(0, 2, 0, 0))
    columns = [name for name in columns if widths[name]]
    for name in columns:
        table.add_column(no_wrap=True, min_width=min(widths[name], width), max_width=widths[name])
    for row, cells in zip(rows, lines, strict=True):
        cells["name"].truncate(widths["name"], overflow="ellipsis")
        if row.is_mapped and "bar" in columns:
            cells["bar"] = bar_of(row, widths["bar"])
        table.add_row(*[cells[name] for name in columns])
    return table


_COLUMNS = ("glyph", "name", "bar", "count", "failed", "notes", "pace", "end")
_BAR_WIDTH, _NARROW_BAR, _MEDIUM_NAME, _SHORT_NAME = 24, 10, 12, 6


def _cells(row: NodeRow) -> dict[str, Text]:
    look = LOOKS.get(kind_of(row.state.name), LOOKS["pending"])
    notes = [f"{count:,} {name}" for name, count in _exceptional(row) if count and name != "failed"]
    end = format_seconds(row.seconds) if row.state.is_final() else ""
    return {
        "glyph": Text(look.glyph, style=look.colour),
        "name": Text(row.name),
        "bar": Text(""),
        "count": Text(_out_of(row)),
        "failed": Text(f"{row.failed:,} failed" if row.failed else "", style=LOOKS["failed"].colour),
        "notes": Text("  ".join(notes)),
        "pace": Text(format_rate(row.rate) if row.is_mapped else ""),
        "end": Text(f"ETA {format_eta(row.eta_seconds)}" if row.eta_seconds is not None else end),
    }


def bar_of(row: NodeRow, width: int) -> Text:
    """Return a bar in the colours of the states of the node's items; each state that there is has at least one cell."""
    bar = Text()
    for kind, cells in segments(row, width):
        bar.append(("─" if kind == "pending" else "━") * cells, style=LOOKS[kind].colour)
    return bar


def segments(row: NodeRow, width: int) -> list[tuple[str, int]]:
    """Return kinds of states and their numbers of cells, which are `width` together."""
    counts = {
        "completed": row.completed,
        "cached": row.cached,
        "skipped": row.skipped,
        "failed": row.failed - row.blocked,
        "blocked": row.blocked,
        "cancelled": row.cancelled,
        "retrying": row.retrying,
    }
    known = sum(counts.values())
    counts["pending"] = max(0, row.width - known) if row.width is not None else max(known, 1)
    whole = sum(counts.values())
    if not whole:
        return [("completed", width)]
    cells = {kind: max(1, width * count // whole) for kind, count in counts.items() if count}
    # What rounding gave or took is the largest one's.
    cells[max(cells, key=cells.__getitem__)] += width - sum(cells.values())
    return [(kind, number) for kind, number in cells.items() if number > 0]


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
