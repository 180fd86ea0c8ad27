"""`graphflow runs`: list, inspect, follow, control and resume runs, from any terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import completing, remote
from graphflow.cli.addressed import check_local, offers_remote
from graphflow.cli.backend_option import BackendSpec, parse_backend
from graphflow.cli.documents import ListFormat, Outcome, dumped, tell, write_documents
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.runs.again import resume_run, retry_run
from graphflow.cli.runs.tables import line_text, show_head, show_item, show_items, show_runs
from graphflow.cli.runs.texts import parse_indices, parse_settings, parse_since
from graphflow.cli.runs.watch import follow_log, watch_run
from graphflow.cli.session import Manner
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.common.wording import count_text
from graphflow.display.consoles import ProgressMode, choose_progress, make_console
from graphflow.display.meter import Meter
from graphflow.display.progress import make_progress
from graphflow.display.summary import show_failures, show_summary
from graphflow.runs.documents import item_document, line_document, listed_document, run_document, value_text
from graphflow.runs.saving import check_suffix, save_value
from graphflow.runs.selections import items_of, value_of

if TYPE_CHECKING:
    from graphflow.model.reports import LogRecord
    from graphflow.runs.history import RunHistory

__all__ = ["fsck", "runs"]

ITEM_SCHEMA, LINE_SCHEMA, FSCK_SCHEMA = "graphflow.item/1", "graphflow.log_line/1", "graphflow.fsck/1"
REQUEST_SCHEMA = "graphflow.request/1"

runs = typer.Typer(
    help="List, inspect, follow, control and resume runs.\n\n"
    "RUN is a run id, a unique prefix of one, a run name, @latest or @latest-failed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run id, a unique prefix of one, a run name, @latest or @latest-failed.",
        autocompletion=completing.run_ids,
    ),
]
Output = Annotated[ListFormat, typer.Option("--output", "-o", help="Output format.")]
NodeOption = Annotated[
    str | None,
    typer.Option("--node", metavar="NAME", help="Only this node.", autocompletion=completing.nodes),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="TARGET", help="Where to find the flow, if it has moved, such as file.py:flow."
    ),
]
Backend = Annotated[
    BackendSpec | None,
    typer.Option(
        "--backend",
        parser=parse_backend,
        metavar="SPEC",
        help="Where to run, as for `graphflow run`.",
        autocompletion=completing.backends,
    ),
]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A secret that the run began with, as for `graphflow run`: secrets are not stored.",
    ),
]
Value = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="Output format: the value, or the run as JSON.")
]
Progress = Annotated[ProgressMode, typer.Option("--progress", help="How to show progress.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no summary.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show full tracebacks and graphflow's debug log.")
]


@contextmanager
def _history(*, is_verbose: bool = False) -> Iterator[RunHistory]:
    """Open the histories; turn errors into exit codes, and wrong names and states into usage errors."""
    from graphflow.runs.history import history  # help must not load the engine

    check_local()
    with errors_become_exit_codes(is_verbose=is_verbose), history() as found:
        try:
            yield found
        except (ValueError, KeyError, IndexError) as error:
            if type(error) not in (ValueError, KeyError, IndexError):
                raise
            say_error(str(error.args[0] if error.args else error))
            raise typer.Exit(ExitCode.USAGE) from None
        except TimeoutError as error:
            say_error(str(error))
            raise typer.Exit(ExitCode.FAILED) from None


@runs.command()
@offers_remote(remote.runs_ls)
def ls(
    flow: Annotated[
        str | None,
        typer.Option(
            "--flow", metavar="NAME", help="Only runs of this flow.", autocompletion=completing.flow_names
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="STATE", help="Only runs in this state, such as Failed; can be repeated."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="WHEN",
            help="Only runs created since: 90s, 2h or 7d ago, or a time such as 2026-01-31T12:00Z.",
        ),
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option(
            "--deployment",
            metavar="FLOW/NAME",
            help="Only runs of this deployment.",
            autocompletion=completing.deployments,
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only runs with this tag.")] = None,
    limit: Limit = 50,
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="RUN", help="Only runs older than this one (the next page)."),
    ] = None,
    output: Output = ListFormat.TABLE,
) -> None:
    """List runs, newest first."""
    with _history() as history:
        older = None if before is None else history.run(before)
        found = history.runs(
            flow=flow,
            state=state,
            since=None if since is None else parse_since(since),
            limit=limit + 1,
            before=older,
            deployment=deployment,
            tag=tag,
        )
        page = found[:limit]
        if output is ListFormat.TABLE:
            show_runs(page, make_console(stdout=True))
            if len(found) > limit:
                _say(f"more runs: use --before {page[-1].id}")
        else:
            write_documents(map(listed_document, page), output, "graphflow.run_header/1")


@runs.command()
@offers_remote(remote.runs_show)
def show(
    run: RunArgument,
    index: Annotated[
        int | None, typer.Option("--index", min=0, help="Show one item: its states, log and traceback.")
    ] = None,
    node: NodeOption = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="Output format.")
    ] = OutputFormat.TABLE,
) -> None:
    """Show a run's state, nodes and failures, or one item in full."""
    with _history() as history:
        found = history.run(run)
        console = make_console(stdout=True)
        if index is not None or node is not None:
            item = items_of(found, node)[index or 0]
            if output is OutputFormat.JSON:
                write_data(dumped(item_document(item, details=True), indent=2))
            else:
                show_item(item, console)
        elif output is OutputFormat.JSON:
            write_data(dumped(run_document(found), indent=2))
        else:
            show_head(found, console)
            show_summary(found, Meter().read(found.nodes, now=time.time(), counts_retries=True), console)
            if any(node.counts.failed for node in found.nodes):
                show_failures(found, console)


@runs.command()
def report(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "report.html"
    ),
    no_plots: Annotated[
        bool, typer.Option("--no-plots", help="Leave out plots, and the 1.3 MB that draw them.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a run as one HTML page that opens offline."""
    with _history() as history:
        place = history.run(run).report(output, has_plots=not no_plots, overwrites=overwrite)
        _say(f"{place} ({place.stat().st_size:,} bytes)")


@runs.command()
def watch(
    run: RunArgument,
    progress: Progress = ProgressMode.AUTO,
    quiet: Quiet = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Show a run's progress, as `graphflow run` does, until it ends.

    Exit codes: 0 if the run completed, 1 if not. Ctrl-C stops watching, not the run.
    """
    with _history() as history:
        console = make_console()
        asked = ProgressMode.OFF if quiet else progress
        mode = choose_progress(asked, is_terminal=console.is_terminal)
        found = history.run(run)
        code = watch_run(found, make_progress(mode, console), console, is_quiet=quiet)
        if output is OutputFormat.JSON:
            write_data(dumped(run_document(found), indent=2))
    raise typer.Exit(code)


@runs.command()
@offers_remote(remote.runs_logs)
def logs(
    run: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log until the run ends.")
    ] = False,
    node: NodeOption = None,
    index: Annotated[int | None, typer.Option("--index", min=0, help="Only this item.")] = None,
    level: Annotated[
        str | None,
        typer.Option("--level", metavar="LEVEL", help="Only this level or above, such as WARNING."),
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Show only the last N lines.")] = None,
    output: Output = ListFormat.TABLE,
) -> None:
    """Print the log of a run and its tasks, in the order of recording."""
    if follow and output is ListFormat.JSON:
        raise typer.BadParameter("--follow cannot be combined with -o json; use -o jsonl")
    with _history() as history:
        found = history.run(run)
        if node is not None:
            found.nodes[node]

        def choose(after: int) -> list[LogRecord]:
            return [*found.logs.where(node=node, index=index, level=level, after=after)]

        def write(line: LogRecord) -> None:
            if output is ListFormat.TABLE:
                write_data(line_text(line))
            else:
                write_data(dumped({"schema": LINE_SCHEMA, **line_document(line)}))

        skipped = 0 if tail is None else max(0, len(choose(0)) - tail)
        if follow:
            is_first = iter([True])
            follow_log(
                found,
                lambda after: choose(after)[skipped:] if next(is_first, False) else choose(after),
                write,
            )
        elif output is ListFormat.JSON:
            write_documents(map(line_document, choose(0)[skipped:]), output, LINE_SCHEMA)
        else:
            for line in choose(0)[skipped:]:
                write(line)
        if found.logs.dropped:
            _say(f"{count_text(found.logs.dropped, 'more line')} not kept, because there were too many")


@runs.command()
@offers_remote(remote.runs_items)
def items(
    run: RunArgument,
    node: Annotated[
        str | None,
        typer.Argument(
            metavar="NODE",
            help="A node (default: the run's only map).",
            autocompletion=completing.nodes,
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only items in this state; can be repeated."),
    ] = None,
    start: Annotated[
        int, typer.Option("--start", min=0, help="Only items with this map index or above.")
    ] = 0,
    stop: Annotated[
        int | None, typer.Option("--stop", min=0, help="Only items below this map index.")
    ] = None,
    limit: Limit = 100,
    values: Annotated[bool, typer.Option("--values", help="Show the values too.")] = False,
    output: Output = ListFormat.TABLE,
) -> None:
    """List items of a node, in map order."""
    with _history() as history:
        chosen = items_of(history.run(run), node, state, start, stop)
        page = chosen[:limit]
        if output is ListFormat.TABLE:
            shown = [_value_shown(item_document(item, values=True)) for item in page] if values else None
            show_items(page, make_console(stdout=True), values=shown)
            if len(chosen) > limit:
                _say(f"{len(chosen) - limit:,} more; use --start {chosen[limit].index}")
        else:
            write_documents((item_document(item, values=values) for item in page), output, ITEM_SCHEMA)


def _value_shown(document: dict[str, Any]) -> str:
    if "value_error" in document:
        return str(document["value_error"])
    return str(document.get("value_repr") or value_text(document["value"]))


@runs.command()
@offers_remote(remote.runs_failures)
def failures(
    run: RunArgument,
    node: NodeOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of items, in JSON.")] = 1_000,
    verbose: Verbose = False,
    output: Output = ListFormat.TABLE,
) -> None:
    """Show failures: grouped by exception as text, item by item as JSON."""
    with _history() as history:
        found = history.run(run)
        if node is not None:
            found.nodes[node]
        if output is ListFormat.TABLE:
            show_failures(found, make_console(stdout=True), is_verbose=verbose, only=node)
        else:
            listed = (item for each in found.nodes if node in (None, each.name) for item in each.failures())
            write_documents(
                (item_document(item, details=True) for item in islice(listed, limit)), output, ITEM_SCHEMA
            )


@runs.command()
def result(
    run: RunArgument,
    node: NodeOption = None,
    index: Annotated[int | None, typer.Option("--index", min=0, help="Only this item of the node.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Write the value to this file: .json, .jsonl (a list, a line per item) or .pickle.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists; it keeps its mode.")
    ] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Print the value of a run, a node or an item, as JSON or its repr.

    Exit codes: 0 printed or saved, 1 it failed, 2 the value cannot be saved in this format, 4 no such run or value, 5 it
    cannot be read.
    """
    if save is None and overwrite:
        raise typer.BadParameter("--overwrite says what --save does; use both")
    if save is not None:
        with _saving():
            check_suffix(save)
            if not overwrite and os.path.lexists(save):
                raise ValueError(f"{save} already exists; use another name, or --overwrite")
    with _history() as history:
        found = history.run(run)
        try:
            value = value_of(found, node, index)
        except (ValueError, KeyError, IndexError) as error:
            if node is not None and index is not None and index < len(found.nodes[node].items):
                raise _failed(error) from error
            raise
        except Exception as error:
            if _is_ours(error):
                raise
            raise _failed(error) from error
    if save is None and output is OutputFormat.JSON:
        document = {
            "schema": "graphflow.result/1",
            "run": found.id,
            "node": node,
            "index": index,
            "value": value,
        }
        write_data(dumped(document, indent=2))
    elif save is None:
        write_data(value_text(value))
    else:
        with _saving():
            _say(f"saved {save_value(value, save, overwrites=overwrite)}")


@contextmanager
def _saving() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--save") from error


def _failed(error: BaseException) -> typer.Exit:
    say_error(
        f"{getattr(error, 'type_name', None) or type(error).__name__}: {getattr(error, 'message', error)}"
    )
    return typer.Exit(ExitCode.FAILED)


def _is_ours(error: BaseException) -> bool:
    from graphflow.errors import GraphflowError

    return isinstance(error, GraphflowError)


@runs.command()
@offers_remote(remote.runs_rerun)
def rerun(run: RunArgument, output: Outcome = OutputFormat.TABLE) -> None:
    """Make another run of a deployment's run: the same parameters and the same version of its source."""
    from graphflow.cli.stored import opened_stores

    with _history() as history:
        found = history.run(run)
    if not found.plan.deployment_id:
        say_error(f"run {found.id} was not made for a deployment; run its flow again with `graphflow run`")
        raise typer.Exit(ExitCode.USAGE)
    with opened_stores() as stores:
        header = stores.work.header(found.id)
        made = None if header is None else stores.fires.again(header)
        if made is None or made.run_id is None:
            say_error(f"run {found.id} cannot run again: {made.why if made is not None else 'it is gone'}")
            raise typer.Exit(ExitCode.FAILED)
        text = f"run {made.run_id} repeats run {found.id}; follow it: graphflow runs watch {made.run_id}"
        tell(text, output, "graphflow.made_run/1", run=made.run_id, of=found.id)


# -- resuming a run -------------------------------------------------------------------------------------


@runs.command()
@offers_remote(remote.runs_resume)
def resume(
    run: RunArgument,
    rerun_changed: Annotated[
        bool,
        typer.Option("--rerun-changed", help="Rerun tasks whose code changed, and what depends on them."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Resume even if the flow's calls no longer match the recorded run."),
    ] = False,
    param: Secrets = None,
    target: Target = None,
    backend: Backend = None,
    output: Value = OutputFormat.TABLE,
    progress: Progress = ProgressMode.AUTO,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Resume a paused run, or finish the missing items of one that ended.

    Exit codes: those of `graphflow run`; 4 no such run, 9 it has a driver.
    """
    manner = Manner(output=output, progress=progress, is_quiet=quiet, is_verbose=verbose)
    with _history(is_verbose=verbose) as history:
        found = history.run(run)
        if found.state_name == "Paused" and found.lease_until is not None:
            found.resume()
            _say(f"run {found.id} continues in its own process")
            code = ExitCode.COMPLETED
        else:
            found.check_free()
            code = resume_run(
                found,
                target=target,
                backend=backend,
                manner=manner,
                pairs=param or (),
                rerun_changed=rerun_changed,
                force=force,
            )
    raise typer.Exit(code)


@runs.command()
@offers_remote(remote.runs_retry)
def retry(
    run: RunArgument,
    failed: Annotated[bool, typer.Option("--failed", help="All failed items (the default).")] = False,
    node: Annotated[
        str | None,
        typer.Option(
            "--node", metavar="NAME", help="All items of this node.", autocompletion=completing.nodes
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="LIST",
            help="These items of the node, or of the only map; 3,7:9 is 3, 7 and 8.",
        ),
    ] = None,
    param: Secrets = None,
    target: Target = None,
    backend: Backend = None,
    output: Value = OutputFormat.TABLE,
    progress: Progress = ProgressMode.AUTO,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Retry failed or chosen items of a run that ended, and what depends on them."""
    if failed and (node is not None or index is not None):
        raise typer.BadParameter("use either --failed, or --node and --index, not both")
    manner = Manner(output=output, progress=progress, is_quiet=quiet, is_verbose=verbose)
    indices = None if index is None else parse_indices(index)
    with _history(is_verbose=verbose) as history:
        found = history.run(run)
        found.check_free()
        if node is not None or indices is not None:
            chosen = items_of(found, node)
            wrong = [each for each in indices or () if each >= len(chosen)]
            if wrong:
                raise ValueError(
                    f"the node has {count_text(len(chosen), 'item')}; there is no item {wrong[0]}"
                )
        code = retry_run(
            found,
            target=target,
            backend=backend,
            manner=manner,
            pairs=param or (),
            node=node,
            indices=indices,
        )
    raise typer.Exit(code)


# -- requests to a run's driver ------------------------------------------------------------------------


@runs.command()
@offers_remote(remote.runs_pause)
def pause(run: RunArgument, output: Outcome = OutputFormat.TABLE) -> None:
    """Pause a run: start no new batches until it is resumed. Running batches finish."""
    with _history() as history:
        found = history.run(run)
        found.pause()
        text = f"run {found.id} is paused; resume it with `graphflow runs resume {found.id}`"
        tell(text, output, REQUEST_SCHEMA, run=found.id, request="pause")


@runs.command()
@offers_remote(remote.runs_cancel)
def cancel(
    run: RunArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Stop running items too, killing their workers if necessary.")
    ] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Cancel a run: running items finish, the rest are cancelled."""
    with _history() as history:
        found = history.run(run)
        found.cancel(force=force)
        text = f"run {found.id} is being cancelled{'' if force else '; running items finish first'}"
        tell(text, output, REQUEST_SCHEMA, run=found.id, request="cancel", force=force)


@runs.command()
def update(
    run: RunArgument,
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="A node of the run.", autocompletion=completing.nodes)
    ],
    settings: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=VALUE...", help="Options and policies, such as max_concurrency=4 retries=5."
        ),
    ],
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Change the options of a map, or a task's policies, during the run."""
    changes = parse_settings(settings)
    with _history() as history:
        found = history.run(run)
        found.nodes[node]
        found.update(node, **changes)
        text = f"{node}: {', '.join(settings)}"
        tell(text, output, REQUEST_SCHEMA, run=found.id, request="update", node=node, options=changes)


@runs.command()
def rm(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs to remove, with their results.",
            autocompletion=completing.run_ids,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Remove runs with their histories, logs and results."""
    with _history() as history:
        found = [history.run(each) for each in run]
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter("stdin is not a terminal, so there is no way to confirm; use --yes")
            for each in found:
                _say(f"{each.id}  {each.name}  {each.flow_name}  {each.state_name}")
            typer.confirm("Remove them permanently?", abort=True, err=True)
        for each in found:
            history.remove(each.id)
            if output is OutputFormat.TABLE:
                _say(f"removed {each.id}")
        if output is OutputFormat.JSON:
            ids = [each.id for each in found]
            write_data(dumped({"schema": "graphflow.removed/1", "runs": ids}, indent=2))


def fsck(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...]", help="Runs to verify (default: all).")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Keep what verifies of damaged histories and the catalog, so that runs can be resumed; what is lost runs again.",
        ),
    ] = False,
    output: Output = ListFormat.TABLE,
) -> None:
    """Verify that histories and stored results are intact.

    Exit codes: 0 all intact, 1 something is damaged.
    """
    with _history() as history:
        if repair:
            chosen_runs: list[str | None] = [*run] if run else [None]
            for asked in chosen_runs:
                for run_id, texts in history.repair(asked).items():
                    for text in texts:
                        _say(f"{run_id}  {text}" if run_id else text)
        lost = [] if run else history.unlisted()
        chosen = history.runs(limit=None) if not run else [history.run(each) for each in run]
        checked = ((each, history.verify(each.id)) for each in chosen)
        wrong = 0
        documents: list[dict[str, Any]] = []
        for each, problems in checked:
            wrong += bool(problems)
            if output is ListFormat.TABLE:
                for problem in problems:
                    write_data(f"{each.id}  {problem}")
            document = {"schema": FSCK_SCHEMA, "id": each.id, "name": each.name, "problems": problems}
            if output is ListFormat.JSONL:
                write_data(dumped(document))
            documents.append(document)
        for run_id in lost:
            problem = "the catalog has lost this run; `graphflow fsck --repair` lists it again"
            wrong += 1
            if output is ListFormat.TABLE:
                write_data(f"{run_id}  {problem}")
            documents.append({"schema": FSCK_SCHEMA, "id": run_id, "name": "", "problems": [problem]})
            if output is ListFormat.JSONL:
                write_data(dumped(documents[-1]))
        if output is ListFormat.JSON:
            write_data(dumped(documents, indent=2))
        _say(f"{count_text(len(documents), 'run')} verified, {wrong:,} damaged")
    raise typer.Exit(ExitCode.FAILED if wrong else ExitCode.COMPLETED)


def _say(text: str) -> None:
    make_console().print(text, markup=False, soft_wrap=True)
