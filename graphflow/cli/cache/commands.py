"""`graphflow cache`: list, inspect, verify, compact and remove cached results."""

from __future__ import annotations

import reprlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli.cache.release import release
from graphflow.cli.cache.tables import (
    entry_of,
    moment,
    nbytes_text,
    show_entry,
    show_rows,
    stat_of,
    stat_row,
)
from graphflow.cli.cache.why import why
from graphflow.cli.documents import ListFormat, write_documents
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.runs.tables import short_time
from graphflow.cli.terminal import make_console, say_error
from graphflow.common.wording import count_text
from graphflow.errors import GraphflowError
from graphflow.runs.documents import time_text

if TYPE_CHECKING:
    from graphflow.cache.looking import Entry
    from graphflow.ports import ResultStore

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
def _opened(storage: str | None) -> Iterator[ResultStore]:
    """Open the store; turn errors into exit codes, and wrong names into usage errors."""
    from graphflow.results.stores.opening import (  # help must not load numpy or fsspec
        default_store_url,
        open_store,
    )

    with errors_become_exit_codes():
        try:
            yield open_store(default_store_url() if storage is None else storage)
        except ValueError as error:
            if isinstance(error, GraphflowError):
                raise
            say_error(str(error))
            raise typer.Exit(ExitCode.USAGE) from None


def _folders(store: ResultStore, tasks: list[str] | None) -> list[str]:
    """Return the folders of tasks; a name that matches none is an error."""
    from graphflow.cache.collecting import folders_of

    found = folders_of(store)
    if not tasks:
        return found
    chosen: dict[str, None] = {}
    for task in tasks:
        name = f"cache/{task.removeprefix('cache/')}"
        fitting = [each for each in found if each == name] or [
            each for each in found if each.startswith(name)
        ]
        if not fitting:
            say_error(
                f"no cached results of a task {task!r} in {store.url}; list the tasks with `graphflow cache ls`"
            )
            raise typer.Exit(ExitCode.NOT_FOUND)
        chosen.update(dict.fromkeys(fitting))
    return list(chosen)


@cache.command()
def ls(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """List tasks with cached results: their number of objects, size, and last write."""
    with _opened(storage) as store:
        folders = set(_folders(store, task))
        found: dict[str, list[Any]] = {each: [0, 0, 0.0] for each in sorted(folders)}
        for each in store.entries("cache/"):
            sums = found.get("/".join(each.name.split("/")[:2]))
            if sums is not None:
                sums[:] = sums[0] + 1, sums[1] + each.nbytes, max(sums[2], each.modified)
        if output is ListFormat.TABLE:
            rows = (
                [folder.partition("/")[2], f"{objects:,}", nbytes_text(nbytes), short_time(moment(modified))]
                for folder, (objects, nbytes, modified) in found.items()
            )
            show_rows(("task", "objects", "size", "last written"), rows, make_console(stdout=True))
        else:
            write_documents(
                (
                    {
                        "task": folder.partition("/")[2],
                        "objects": objects,
                        "nbytes": nbytes,
                        "modified": time_text(moment(modified)),
                    }
                    for folder, (objects, nbytes, modified) in found.items()
                ),
                output,
            )


@cache.command()
def stat(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """Count each task's cached results: valid, expired, superseded, damaged."""
    from graphflow.cache.collecting import stat_folder

    with _opened(storage) as store:
        now = time.time()
        found = (stat_folder(store, folder, now=now) for folder in _folders(store, task))
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
            write_documents(map(stat_of, found), output)


def _entries(store: ResultStore, prefix: str, tasks: list[str] | None) -> list[Entry]:
    from graphflow.cache.looking import entries_of

    now = time.time()
    found = [
        entry for folder in _folders(store, tasks) for entry in entries_of(store, folder, prefix, now=now)
    ]
    if not found:
        say_error(f"no cached value in {store.url} has a key that begins with {prefix!r}")
        raise typer.Exit(ExitCode.NOT_FOUND)
    return sorted(found, key=lambda each: (each.folder, each.key, not each.is_current, -each.made.created))


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
    with _opened(storage) as store:
        found = _entries(store, key, task)
        page = found[:limit]
        if output is ListFormat.TABLE:
            console = make_console(stdout=True)
            for entry in page:
                show_entry(entry, console, _value_text(store, entry) if value else None)
        else:
            write_documents(
                (
                    entry_of(entry) | ({"value_repr": _value_text(store, entry)} if value else {})
                    for entry in page
                ),
                output,
            )
        if len(found) > limit:
            _say(f"{len(found) - limit:,} more; give more digits of the key, or raise --limit")


def _value_text(store: ResultStore, entry: Entry) -> str:
    from graphflow.cache.looking import value_of

    short = reprlib.Repr()
    short.maxstring = short.maxother = 200
    short.maxlist = short.maxtuple = short.maxdict = 10
    try:
        return short.repr(value_of(store, entry))
    except GraphflowError as error:
        return f"({error})"


@cache.command()
def verify(task: Tasks = None, storage: Storage = None, output: Output = ListFormat.TABLE) -> None:
    """Verify that cached results are intact; nothing is unpickled.

    Exit codes: 0 all intact, 1 something is damaged.
    """
    from graphflow.cache.collecting import verify_folder

    with _opened(storage) as store:
        count = wrong = 0
        documents: list[dict[str, Any]] = []
        for folder in _folders(store, task):
            for name, problem in verify_folder(store, folder):
                count += 1
                wrong += bool(problem)
                documents.append({"object": name, "problem": problem})
        if output is ListFormat.TABLE:
            for each in documents:
                if each["problem"]:
                    make_console(stdout=True).print(each["problem"], markup=False, soft_wrap=True)
        else:
            write_documents(documents, output)
        _say(f"{count_text(count, 'pack')} verified, {wrong:,} damaged")
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
    from graphflow.cache.compacting import compact as put_together

    with _opened(storage) as store:
        documents = []
        for folder in _folders(store, task):
            done = put_together(store, folder, now=time.time(), grace_seconds=grace)
            documents.append(
                {
                    "task": folder.partition("/")[2],
                    "packs_read": done.read,
                    "packs_written": len(done.written),
                    "packs_removed": done.removed,
                    "packs_waiting": done.waiting,
                    "values_expired": done.expired,
                    "values_superseded": done.superseded,
                    "packs_damaged": done.damaged,
                }
            )
            if output is ListFormat.TABLE:
                waiting = f", {done.waiting:,} kept for the grace time of {grace:g} s" if done.waiting else ""
                _say(
                    f"{folder.partition('/')[2]}: {count_text(done.read, 'pack')} read, {len(done.written):,} written, "
                    f"{done.removed:,} removed{waiting}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output)


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
    from graphflow.cache.collecting import collect

    with _opened(storage) as store:
        documents = []
        for folder in _folders(store, task):
            done = collect(store, folder, now=time.time(), grace_seconds=grace, removes_damaged=damaged)
            documents.append(
                {
                    "task": folder.partition("/")[2],
                    "packs": done.packs,
                    "large_values": done.blobs,
                    "damaged": done.damaged,
                    "leftovers": done.leftovers,
                    "nbytes": done.nbytes,
                    "kept": done.kept,
                }
            )
            if output is ListFormat.TABLE:
                _say(
                    f"{folder.partition('/')[2]}: removed {count_text(done.packs, 'pack')}, {count_text(done.blobs, 'large value')}, "
                    f"{done.damaged:,} damaged, {count_text(done.leftovers, 'unfinished file')}; {nbytes_text(done.nbytes)}"
                )
        if output is not ListFormat.TABLE:
            write_documents(documents, output)


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
) -> None:
    """Remove cached results of tasks, or of single keys; they are recomputed when needed."""
    from graphflow.cache.compacting import forget_keys

    with _opened(storage) as store:
        folders = _folders(store, task)
        keys: dict[str, set[bytes]] = {}
        for prefix in key or ():
            for entry in _entries(store, prefix, task):
                keys.setdefault(entry.folder, set()).add(entry.key)
        objects = {} if key else {folder: list(store.names(f"{folder}/")) for folder in folders}
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("stdin is not a terminal, so there is no way to confirm; use --yes")
            for folder in keys or objects:
                what = (
                    count_text(len(keys[folder]), "key")
                    if key
                    else count_text(len(objects[folder]), "object")
                )
                _say(f"{folder.partition('/')[2]}  {what}")
            typer.confirm("Remove them permanently?", abort=True, err=True)
        for folder, chosen in keys.items():
            count = forget_keys(store, folder, sorted(chosen), now=time.time())
            _say(f"{folder.partition('/')[2]}: removed {count_text(count, 'value')}")
        for folder, names in objects.items():
            # Large values last: a pack whose values are gone is damaged, and one that is gone is not.
            store.delete(sorted(names, key=lambda name: "/blobs/" in name))
            _say(f"{folder.partition('/')[2]}: removed {count_text(len(names), 'object')}")


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
