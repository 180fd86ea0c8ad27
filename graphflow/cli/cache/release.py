"""`graphflow cache release`: let an item run again of which nobody knows whether it has run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import make_console
from graphflow.errors import GraphflowError

__all__ = ["release"]


def release(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The key, or its beginning, as the error names it.")
    ],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", "-s", metavar="URL", help="Where the task's results go; the default otherwise."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let an Indeterminate item of a task with run_once run again: find out first that it has not done its work.

    Exit codes: 0 done, 2 no such claim or several, 5 the store cannot be reached, 9 the item is being executed.
    """
    from graphflow.runs.caches import caches  # help must not load numpy or fsspec

    with errors_become_exit_codes():
        found = caches(storage)
        try:
            item = found.unsettled(key)
        except ValueError as error:
            if isinstance(error, GraphflowError):
                raise
            raise typer.BadParameter(str(error), param_hint="KEY") from None
        console = make_console()
        claim = item.claim
        if claim is not None:
            index = "" if claim.index is None else f"[{claim.index}]"
            began = datetime.fromtimestamp(claim.at, UTC).isoformat(timespec="seconds")
            console.print(
                f"{claim.node}{index} was begun by run {claim.run_id} on {claim.holder.host} at {began}",
                markup=False,
            )
        if not yes:
            typer.confirm("Has it surely not done its work, and may it run again?", abort=True, err=True)
        found.release(item)
        console.print("released: it runs again when it is asked for", markup=False)
