"""`graphflow bench`: measure graphflow beside its peers, and compare the measurements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.terminal import say_error, write_data
from graphflow.common.files import open_file
from graphflow.display.consoles import make_console

if TYPE_CHECKING:
    from graphflow.bench.compare import Row

__all__ = ["bench"]

bench = typer.Typer(
    help="Compare graphflow's speed with the alternatives'.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Results = Annotated[
    Path, typer.Argument(help="A file written by `graphflow bench run --output`.", metavar="RESULTS")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")]
Threshold = Annotated[
    float, typer.Option("--threshold", help="The ratio above which a median counts as changed.")
]
Workloads = Annotated[list[str] | None, typer.Argument(help="W1 to W8; all by default.", metavar="WORKLOAD")]


def _sizes(text: str) -> list[int]:
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers above 0; use, for example, 100,10000"
        )
    return [int(part) for part in parts]


@contextmanager
def _bad_input_is_a_usage_error() -> Iterator[None]:
    """Report what is wrong with an argument or a file, and exit with code 2."""
    from graphflow.bench.lines import BenchError

    try:
        yield
    except BenchError as error:
        say_error(str(error))
        raise typer.Exit(ExitCode.USAGE) from None


@bench.command()
def run(
    workloads: Workloads = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="Measure only this peer; can be repeated.")
    ] = None,
    sizes: Annotated[
        list[int] | None,
        typer.Option(
            "--sizes", parser=_sizes, metavar="N,N,...", help="Numbers of items, separated by commas."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Warm runs per measurement.")] = 3,
    slots: Annotated[int, typer.Option("--slots", help="Worker processes of each peer.")] = 2,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Use small sizes and one repeat, to check that it works.")
    ] = False,
    limit: Annotated[
        float, typer.Option("--limit", help="Skip measurements whose runs would take longer than this.")
    ] = 60.0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Stop a measurement after this many seconds.")
    ] = 600.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the lines to this file.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure the workloads, and print one JSON line per workload, peer and size.

    Lines go to stdout, progress to stderr. A measurement that was skipped has a line with the reason.

    Exit codes: 0 measured, 1 a measurement broke or gave a wrong result, 2 wrong usage, 130 interrupted.
    """
    from graphflow.bench.harness import check, run_benchmark
    from graphflow.bench.plan import Asked
    from graphflow.bench.show import progress_of

    asked = Asked(
        workloads=workloads or (),
        peers=peer or (),
        sizes=_flat(sizes),
        repeats=1 if smoke else repeats,
        slots=slots,
        is_smoke=smoke,
        limit_seconds=limit,
        timeout_seconds=timeout,
    )
    console = make_console()
    is_bad = False
    with errors_become_exit_codes(), _bad_input_is_a_usage_error(), ExitStack() as stack:
        check(asked)
        file = stack.enter_context(_opened(output, overwrite)) if output is not None else None
        for line in run_benchmark(asked):
            write_data(line.to_json())
            if file is not None:
                file.write(line.to_json() + "\n")
                file.flush()
            console.print(progress_of(line), markup=False)
            is_bad |= line.status in ("error", "wrong")
    raise typer.Exit(ExitCode.FAILED if is_bad else ExitCode.COMPLETED)


def _flat(sizes: object) -> list[int]:
    """Flatten the list that Typer makes of the parser's list."""
    return [n for each in sizes for n in each] if isinstance(sizes, list) else []


def _opened(path: Path, overwrites: bool) -> TextIO:
    from graphflow.bench.lines import BenchError

    try:
        return open_file(path, overwrites=overwrites)
    except ValueError as error:
        raise BenchError(str(error)) from error


def _write(path: Path, text: str, overwrites: bool) -> None:
    with _opened(path, overwrites) as file:
        file.write(text)


@bench.command()
def compare(
    before: Results,
    after: Annotated[
        Path | None,
        typer.Argument(
            help="A later run; without it, the peers of one run are compared with graphflow.", metavar="AFTER"
        ),
    ] = None,
    threshold: Threshold = 1.1,
) -> None:
    """Show two runs side by side, or the peers of one run beside graphflow.

    Medians of warm runs are compared; a ratio above the threshold is slower.

    Exit codes: 0 nothing got slower, 1 something got slower than the threshold or no longer works,
    2 wrong usage. With one file it is 0.
    """
    with errors_become_exit_codes(), _bad_input_is_a_usage_error():
        from graphflow.bench.compare import against_base, differences
        from graphflow.bench.compare import compare as compare_runs
        from graphflow.bench.lines import read_lines

        old = read_lines(before)
        if after is None:
            _show(against_base(old, threshold=threshold), names=("graphflow", "peer"))
            raise typer.Exit(ExitCode.COMPLETED)
        new = read_lines(after)
        rows = compare_runs(old, new, threshold=threshold)
        for difference in differences(old, new):
            make_console().print(f"not the same: {difference}", markup=False, style="yellow")
        _show(rows, names=("before", "after"))
        worse = [row for row in rows if row.is_worse]
    if worse:
        compared_rows = sum(row.verdict != "missing" for row in rows)
        write_data(f"{len(worse)} of {compared_rows} got slower (threshold {threshold:g})")
    raise typer.Exit(ExitCode.FAILED if worse else ExitCode.COMPLETED)


def _show(rows: list[Row], *, names: tuple[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from graphflow.bench.show import format_seconds

    styles = {"slower": "red", "broken": "red", "faster": "green"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("workload", "peer"):
        table.add_column(name)
    for name in ("n", *names, "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        if row.verdict == "missing":
            continue
        times = [format_seconds(each) if each is not None else "–" for each in (row.before, row.after)]
        ratio = f"{row.ratio:,.2f}" if row.ratio is not None else "–"
        verdict = Text(row.verdict, style=styles.get(row.verdict, ""))
        table.add_row(row.key, row.peer, f"{row.n:,}", *times, ratio, verdict)
    console = make_console(stdout=True)
    console.print(table)
    if missing := len(rows) - table.row_count:
        console.print(f"{missing} more were not measured on both sides")


@bench.command()
def chart(
    results: Results,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Output file: .html (works offline) or .svg.", metavar="FILE"),
    ],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Workload to draw.")] = "W1",
    overwrite: Overwrite = False,
) -> None:
    """Draw µs per item against the number of items, a line per peer.

    Exit codes: 0 drawn, 2 wrong usage.
    """
    with errors_become_exit_codes(), _bad_input_is_a_usage_error():
        from graphflow.bench.chart import chart_of
        from graphflow.bench.lines import BenchError, read_lines

        kind = output.suffix.lower()
        if kind not in (".html", ".svg"):
            raise BenchError(f"{str(output)!r} ends in neither .html nor .svg; use one of these")
        drawn = chart_of(read_lines(results), workload=workload)
        if kind == ".svg":
            from graphflow.bench.svg import svg_of

            _write(output, svg_of(drawn), overwrite)
        else:
            from graphflow.bench.html import html_of

            _write(output, html_of(drawn), overwrite)


@bench.command()
def table(
    results: Results,
    workloads: Annotated[
        list[str] | None, typer.Argument(help="Include only these; all by default.", metavar="WORKLOAD")
    ] = None,
) -> None:
    """Print a run as a Markdown table, with the machine, the versions and the command.

    Exit codes: 0 printed, 2 wrong usage.
    """
    with errors_become_exit_codes(), _bad_input_is_a_usage_error():
        from graphflow.bench.lines import read_lines
        from graphflow.bench.table import markdown_table

        text = markdown_table(read_lines(results), workloads=workloads or ())
    write_data(text)
