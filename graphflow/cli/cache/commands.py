"""`graphflow cache`: what is cached in a result store, whether it is sound, and keeping it small."""

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
from graphflow.cli.documents import ListFormat, write_documents
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.runs.tables import short_time
from graphflow.cli.terminal import make_console, say_error
from graphflow.common.times import moment
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
    help="Cached results: list, look at, verify, keep small, remove.\n\n"
    "TASK is the name of a task's folder or its beginning, as `graphflow cache ls` tells it.",
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
        help="The result store: a folder or a URL such as s3://bucket/prefix. By default GRAPHFLOW_RESULT_STORAGE, else the "
        "folder `results` of GRAPHFLOW_HOME.",
    ),
]
Tasks = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK...]", help="Only these tasks; all if left out.")
]
Output = Annotated[ListFormat, typer.Option("--output", "-o", help="What stdout gets.")]
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
    """List the tasks of which results are cached: how many objects, how large, and when the last one was written."""
    with _opened(storage) as caches:
        found = caches.tasks(task or ())
        if output is ListFormat.TABLE:
            rows = (
                [each.task, f"{each.objects:,}", nbytes_text(each.nbytes), short_time(moment(each.modified))]
                for each in found
            )
            show_rows(("task", "objects", "size", "last written"), rows, make_console(stdout=True))
        else:
            write_documents(map(task_document, found), output)


@cache.command()
def stat(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """Tell tasks' cached results in numbers: how many count, have expired, were superseded, are damaged."""
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
            write_documents(map(stat_document, found), output)


@cache.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key in hexadecimal, or its beginning.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="TASK", help="Only of this task; more than once.")
    ] = None,
    value: Annotated[
        bool, typer.Option("--value", help="The value too; it is verified, and then unpickled.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = MOST_SHOWN,
    storage: Storage = None,
    output: Output = ListFormat.TABLE,
) -> None:
    """Show values by key: where each is, when and by which run it was made, when it expires, what its key was made of.

    Exit codes: 0 if there is one, 4 if there is none.
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
            )
        if len(found) > limit:
            _say(f"{len(found) - limit:,} more: say more of the key, or --limit")


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
    """Read all cached results and compare them with what was written; nothing is unpickled.

    Exit codes: 0 all is well, 1 something is damaged.
    """
    with _opened(storage) as caches:
        documents = [{"object": name, "problem": problem} for name, problem in caches.verify(task or ())]
        wrong = sum(bool(each["problem"]) for each in documents)
        if output is ListFormat.TABLE:
            for each in documents:
                if each["problem"]:
                    make_console(stdout=True).print(each["problem"], markup=False, soft_wrap=True)
        else:
            write_documents(documents, output)
        _say(f"{len(documents):,} packs verified, {wrong:,} damaged")
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
            help="So long old objects stay beside the new ones, for runs that know the old ones only.",
        ),
    ] = 300.0,
    output: Output = ListFormat.TABLE,
) -> None:
    """Put many small objects together to a few. Runs may go on meanwhile.

    Old objects are removed by a later `compact` or `gc`, when the grace time is over.
    """
    with _opened(storage) as caches:
        documents = []
        for name, done in caches.compact(task or (), grace_seconds=grace):
            documents.append(compacted_document(name, done))
            if output is ListFormat.TABLE:
                waiting = f", {done.waiting:,} wait for the grace time of {grace:g} s" if done.waiting else ""
                _say(
                    f"{name}: {done.read:,} packs read, {len(done.written):,} written, "
                    f"{done.removed:,} removed{waiting}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output)


@cache.command()
def gc(
    task: Tasks = None,
    storage: Storage = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0.0, help="Younger objects stay.")
    ] = 3600.0,
    damaged: Annotated[bool, typer.Option("--damaged", help="Remove damaged objects too.")] = False,
    output: Output = ListFormat.TABLE,
) -> None:
    """Remove what is of no use: expired and superseded results, and what killed runs left behind."""
    with _opened(storage) as caches:
        documents = []
        for name, done in caches.collect(task or (), grace_seconds=grace, removes_damaged=damaged):
            documents.append(collected_document(name, done))
            if output is ListFormat.TABLE:
                _say(
                    f"{name}: removed {done.packs:,} packs, {done.blobs:,} large values, "
                    f"{done.damaged:,} damaged ones, {done.leftovers:,} unfinished files; {nbytes_text(done.nbytes)}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output)


@cache.command()
def rm(
    task: Annotated[list[str], typer.Argument(metavar="TASK...", help="Tasks of which all results go.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY", help="Only the values of keys that begin so; more than once."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage: Storage = None,
) -> None:
    """Remove cached results of tasks, or of single keys of them; they are made again when they are needed."""
    with _opened(storage) as caches:
        chosen = caches.removal(task, key or ())
        what = "keys" if key else "objects"
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("nobody can be asked here: say --yes")
            for name, count in chosen.counts.items():
                _say(f"{name}  {count:,} {what}")
            typer.confirm("Remove them for good?", abort=True, err=True)
        for name, count in caches.remove(chosen):
            _say(f"{name}: removed {count:,} {'values' if key else what}")


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
