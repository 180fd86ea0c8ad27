"""`graphflow cache`: list, inspect, verify, compact and remove cached results."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from graphflow.cli.cache.release import release
from graphflow.cli.cache.tables import nbytes_text, show_entry, show_rows, stat_row
from graphflow.cli.cache.why import why
from graphflow.cli.documents import ListFormat, Outcome, dumped, write_documents
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.common.times import moment
from graphflow.common.wording import count_text
from graphflow.display.consoles import make_console, time_text
from graphflow.errors import GraphflowError
from graphflow.runs.cache_documents import (
    collected_document,
    compacted_document,
    entry_document,
    stat_document,
    task_document,
)

if TYPE_CHECKING:
    from graphflow.runs.caches import Caches, Entry

__all__ = ["cache"]

cache = typer.Typer(
    help="List, inspect, verify, compact and remove cached results.\n\n"
    "TASK is the name of a task's folder, or its beginning, as `graphflow cache ls` lists it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

cache.command()(why)
cache.command()(release)

Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="The result store: a folder or a URL such as s3://bucket/prefix. Default: GRAPHFLOW_RESULT_STORAGE, or the "
        "folder `results` of GRAPHFLOW_HOME.",
    ),
]
Tasks = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK...]", help="Only these tasks (default: all).")
]
Output = Annotated[ListFormat, typer.Option("--output", "-o", help="Output format.")]
MOST_SHOWN = 20


@contextmanager
def _opened(storage: str | None) -> Iterator[Caches]:
    """The cached results of a store; errors become exit codes, and wrong names wrong usage."""
    from graphflow.runs.caches import caches  # help must not load numpy or fsspec

    with errors_become_exit_codes():
        try:
            yield caches(storage)
        except ValueError as error:
            if isinstance(error, GraphflowError):
                raise
            say_error(str(error))
            raise typer.Exit(ExitCode.USAGE) from None


@cache.command()
def ls(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """List tasks with cached results: their number of objects, size, and last write."""
    with _opened(storage) as caches:
        found = caches.tasks(task or ())
        if output is ListFormat.TABLE:
            rows = (
                [each.task, f"{each.objects:,}", nbytes_text(each.nbytes), time_text(moment(each.modified))]
                for each in found
            )
            show_rows(("task", "objects", "size", "last written"), rows, make_console(stdout=True))
        else:
            write_documents(map(task_document, found), output, "graphflow.cache_task/1")


@cache.command()
def stat(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """Count each task's cached results: valid, expired, superseded, damaged."""
    with _opened(storage) as caches:
        found = caches.stat(task or ())
        if output is ListFormat.TABLE:
            columns = (
                "task",
                "values",
                "packs",
                "large",
                "size",
                "expired",
                "superseded",
                "damaged",
                "newest",
            )
            show_rows(columns, map(stat_row, found), make_console(stdout=True))
        else:
            write_documents(map(stat_document, found), output, "graphflow.cache_stat/1")


@cache.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key in hexadecimal, or its beginning.")],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="TASK", help="Only values of this task; can be repeated."),
    ] = None,
    value: Annotated[
        bool, typer.Option("--value", help="Show the value too; it is verified, then unpickled.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of values.")] = MOST_SHOWN,
    storage: Storage = None,
    output: Output = ListFormat.TABLE,
) -> None:
    """Show cached values by key.

    Each with its location, when and by which run it was made, when it expires, and what its key was made of.

    Exit codes: 0 found, 4 no such value.
    """
    with _opened(storage) as caches:
        found = caches.entries(key, task or ())
        page = found[:limit]
        if output is ListFormat.TABLE:
            console = make_console(stdout=True)
            for entry in page:
                show_entry(entry, console, _value_text(caches, entry) if value else None)
        else:
            write_documents(
                (
                    entry_document(entry) | ({"value_repr": _value_text(caches, entry)} if value else {})
                    for entry in page
                ),
                output,
                "graphflow.cache_entry/1",
            )
        if len(found) > limit:
            _say(f"{len(found) - limit:,} more; give more digits of the key, or raise --limit")


def _value_text(caches: Caches, entry: Entry) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxlist = short.maxtuple = short.maxdict = 10
    try:
        return short.repr(caches.value(entry))
    except GraphflowError as error:
        return f"({error})"


@cache.command()
def verify(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """Verify that cached results are intact; nothing is unpickled.

    Exit codes: 0 all intact, 1 something is damaged.
    """
    with _opened(storage) as caches:
        documents = [{"object": name, "problem": problem} for name, problem in caches.verify(task or ())]
        wrong = sum(bool(each["problem"]) for each in documents)
        if output is ListFormat.TABLE:
            for each in documents:
                if each["problem"]:
                    make_console(stdout=True).print(each["problem"], markup=False, soft_wrap=True)
        else:
            write_documents(documents, output, "graphflow.cache_pack/1")
        _say(f"{count_text(len(documents), 'pack')} verified, {wrong:,} damaged")
    raise typer.Exit(ExitCode.FAILED if wrong else ExitCode.COMPLETED)


# -- keeping it small ------------------------------------------------------------------------------------------


@cache.command()
def compact(
    task: Tasks = None,
    storage: Storage = None,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            min=0.0,
            help="How long to keep replaced objects for runs that still read them.",
        ),
    ] = 300.0,
    output: Output = ListFormat.TABLE,
) -> None:
    """Merge many small objects into a few. Safe while runs are active.

    The replaced objects are removed by a later `compact` or `gc`, once the grace time has passed.
    """
    with _opened(storage) as caches:
        documents = []
        for name, done in caches.compact(task or (), grace_seconds=grace):
            documents.append(compacted_document(name, done))
            if output is ListFormat.TABLE:
                waiting = f", {done.waiting:,} kept for the grace time of {grace:g} s" if done.waiting else ""
                _say(
                    f"{name}: {count_text(done.read, 'pack')} read, {len(done.written):,} written, "
                    f"{done.removed:,} removed{waiting}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output, "graphflow.cache_compacted/1")


@cache.command()
def gc(
    task: Tasks = None,
    storage: Storage = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0.0, help="Keep objects younger than this.")
    ] = 3600.0,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove damaged objects too.")] = False,
    output: Output = ListFormat.TABLE,
) -> None:
    """Remove expired and superseded results, and leftovers of killed runs."""
    with _opened(storage) as caches:
        documents = []
        for name, done in caches.collect(task or (), grace_seconds=grace, removes_damaged=damaged):
            documents.append(collected_document(name, done))
            if output is ListFormat.TABLE:
                _say(
                    f"{name}: removed {count_text(done.packs, 'pack')}, {done.blobs:,} large values, "
                    f"{done.damaged:,} damaged, {count_text(done.leftovers, 'unfinished file')}; {nbytes_text(done.nbytes)}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output, "graphflow.cache_collected/1")


@cache.command()
def rm(
    task: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Tasks whose cached results are removed.")
    ],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Only values whose key begins with this; can be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    storage: Storage = None,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Remove cached results of tasks, or of single keys; they are recomputed when needed."""
    with _opened(storage) as caches:
        chosen = caches.removal(task, key or ())
        what = "keys" if key else "objects"
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("stdin is not a terminal, so there is no way to confirm; use --yes")
            for name, count in chosen.counts.items():
                _say(f"{name}  {count:,} {what}")
            typer.confirm("Remove them permanently?", abort=True, err=True)
        removed: dict[str, int] = {}
        for name, count in caches.remove(chosen):
            removed[name] = count
            if output is OutputFormat.TABLE:
                _say(f"{name}: removed {count_text(count, 'value' if key else what.removesuffix('s'))}")
        if output is OutputFormat.JSON:
            document = {"schema": "graphflow.cache_removed/1", "what": what, "tasks": removed}
            write_data(dumped(document, indent=2))


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
