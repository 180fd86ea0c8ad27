"""A run as a Markdown table: a row per workload and size, a column per peer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from graphflow.bench.lines import BenchError, Line, newest
from graphflow.bench.show import figure_of, keys_in_order, peers_in_order, text_of, title_of
from graphflow.bench.workloads import Figure

__all__ = ["markdown_table"]

_READ_AS = {
    Figure.PER_ITEM: "per item",
    Figure.SHARE_OF_IDEAL: "of ideal",
    Figure.TIMES_IDEAL: "× ideal",
    Figure.SECONDS: "in all",
}


def markdown_table(lines: Sequence[Line], *, workloads: Sequence[str] = ()) -> str:
    """Return the table, what is missing in it and why, and where it was measured.

    Raises
    ------
    BenchError
        If nothing of the workloads that were asked for is there.
    """
    chosen = [line for line in lines if not workloads or {line.workload, line.key} & set(workloads)]
    if not chosen:
        there = ", ".join(keys_in_order(lines))
        raise BenchError(f"there are no measurements of {', '.join(workloads)}; there are {there}")
    found = newest(chosen)
    peers = peers_in_order(line for line in found.values() if line.is_ok)
    head = ["workload", "n", "figure", *peers]
    rows = [
        [f"{key}: {title_of(key)}", f"{n:,}", _READ_AS[figure_of(key)], *_cells(found, key, n, peers)]
        for key in keys_in_order(found.values())
        for n in sorted({n for other, _, n in found if other == key})
    ]
    parts = [_markdown(head, rows)]
    if missing := _missing(found.values()):
        parts.append("\n".join(missing))
    parts.append(_origin(list(found.values())))
    return "\n\n".join(parts) + "\n"


def _cells(found: dict[tuple[str, str, int], Line], key: str, n: int, peers: Sequence[str]) -> list[str]:
    return [text_of(found[key, peer, n]) if (key, peer, n) in found else "" for peer in peers]


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    aligned = ["---", "--:", "---", *["--:"] * (len(head) - 3)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, aligned, *rows))


def _missing(lines: Iterable[Line]) -> list[str]:
    """Return one line per reason; reasons that differ in their numbers only are one."""
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line.reason:
            reason = re.sub(r"about [\d,]+ s, and the limit is ([\d.]+) s", r"more than \1 s", line.reason)
            reasons[f"{line.status}: {reason}"][line.peer].append(f"{line.key} {line.n:,}")
    return [
        f"* {reason}: {'; '.join(f'{peer} ({_shortened(places)})' for peer, places in by_peer.items())}"
        for reason, by_peer in reasons.items()
    ]


def _shortened(places: Sequence[str]) -> str:
    return ", ".join(places) if len(places) <= 4 else f"{', '.join(places[:3])} and {len(places) - 3} more"


def _origin(lines: Sequence[Line]) -> str:
    versions = {name: version for line in lines for name, version in line.versions.items()}
    ordered = ["python", "graphflow", *sorted(versions.keys() - {"python", "graphflow"})]
    machines = dict.fromkeys(
        f"{line.machine.get('cpus')} cores, {line.machine.get('system')} {line.machine.get('arch')}"
        for line in lines
    )
    repeats = sorted({line.repeats for line in lines if line.is_ok}) or [0]
    times = str(repeats[0]) if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
    sentences = [
        f"Medians of {times}, warm unless it says cold; {'; '.join(machines)}",
        ", ".join(f"{name} {versions[name]}" for name in ordered if name in versions),
        *(f"commit {commit}" for commit in dict.fromkeys(line.commit for line in lines) if commit),
    ]
    commands = "\n".join(f"    {command}" for command in dict.fromkeys(line.command for line in lines))
    return f"{'; '.join(sentences)}.\n\n{commands}"
