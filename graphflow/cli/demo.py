"""`graphflow demo`: the same work by graphflow, again from its cache, and by a plain loop, with the time of each."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from graphflow.cli.backend_option import BackendSpec
from graphflow.cli.documents import dumped
from graphflow.cli.exits import ExitCode
from graphflow.cli.session import Manner, run_and_show
from graphflow.cli.terminal import OutputFormat, write_data
from graphflow.common.wording import count_text
from graphflow.display.consoles import make_console
from graphflow.display.meter import format_seconds

if TYPE_CHECKING:
    from graphflow.examples.wordcount import Counts
    from graphflow.runs.run import Run

__all__ = ["run_demo"]


def run_demo(
    *, folder: str | None, limit: int | None, backend: BackendSpec | None, manner: Manner
) -> ExitCode:
    """Count twice with graphflow and once with a plain loop, and print the answer and the times.

    Raises
    ------
    typer.BadParameter
        If there is no such folder, or no Python file in it.
    """
    from graphflow.examples import wordcount  # help must not load the engine

    place = folder or wordcount.standard_library()
    if not os.path.isdir(place):
        raise typer.BadParameter(f"there is no folder {place!r}", param_hint="'--folder'")
    files = len(wordcount.find_sources(place, limit))
    if not files and limit != 0:
        raise typer.BadParameter(f"there is no Python file below {place!r}", param_hint="'--folder'")
    console = make_console()
    spec = backend or BackendSpec(name="processes")
    console.print(f"words and syntax of {count_text(files, 'Python file')} in {place}", markup=False)
    answers: list[Counts] = []
    times: list[tuple[str, float]] = []

    def finish(run: Run) -> ExitCode:
        answers.append(run.value)
        return ExitCode.COMPLETED

    for name, refreshes in (("graphflow, first run", True), ("graphflow, from the cache", False)):
        begin = time.perf_counter()
        code = run_and_show(
            wordcount.word_count.with_options(refresh_cache=refreshes),
            {"folder": place, "limit": limit},
            backend=spec,
            manner=manner,
            finish=finish,
        )
        times.append((name, time.perf_counter() - begin))
        if code is not ExitCode.COMPLETED:
            return code
    console.print("the same in a plain loop, for comparison ...")
    begin = time.perf_counter()
    expected = wordcount.count_plainly(place, limit)
    times.insert(0, ("plain loop", time.perf_counter() - begin))
    if manner.output is OutputFormat.TABLE:
        _show_top(answers[0], make_console(stdout=True))
    _show_times(times, console)
    is_same = _is_same(answers, expected, console)
    if manner.output is OutputFormat.JSON:
        document = {
            "schema": "graphflow.demo/1",
            "is_same": is_same,
            "seconds": dict(times),
            "words": dict(answers[0].words.most_common(10)),
            "syntax": dict(answers[0].syntax.most_common(10)),
        }
        write_data(dumped(document, indent=2))
    return ExitCode.COMPLETED if is_same else ExitCode.FAILED


def _show_top(counts: Counts, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("word", "syntax"):
        table.add_column(name)
        table.add_column("times", justify="right")
    words, syntax = counts.words.most_common(10), counts.syntax.most_common(10)
    for place in range(max(len(words), len(syntax))):
        cells: list[str] = []
        for part in (words, syntax):
            cells += [part[place][0], f"{part[place][1]:,}"] if place < len(part) else ["", ""]
        table.add_row(*cells)
    console.print(table)


def _show_times(times: list[tuple[str, float]], console: Console) -> None:
    """Print the times, as measured just now from outside: starting and stopping the workers is part of them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("way")
    table.add_column("time", justify="right")
    table.add_column("speed-up", justify="right")
    plain = times[0][1]
    for name, seconds in times:
        table.add_row(name, format_seconds(seconds), f"{plain / seconds:.1f} ×")
    console.print(table)


def _is_same(answers: list[Counts], expected: Counts, console: Console) -> bool:
    is_same = all(tuple(answer) == tuple(expected) for answer in answers)
    console.print(f"same as a plain loop: {'yes' if is_same else 'no'}")
    for answer in answers:
        for name, found, right in zip(expected._fields, answer, expected, strict=True):
            differing = sorted(each for each in found.keys() | right.keys() if found[each] != right[each])
            if differing:
                count = count_text(len(differing), "different count")
                console.print(f"{name}: {count}, such as of {', '.join(differing[:5])}", markup=False)
    return is_same
