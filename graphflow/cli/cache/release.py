"""`graphflow cache release`: allow an `Indeterminate` item, which may or may not have run, to run again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from graphflow.cli.documents import Outcome, tell
from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import OutputFormat
from graphflow.display.consoles import make_console, time_text
from graphflow.errors import GraphflowError

__all__ = ["release"]


def release(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The cache key, or its beginning, as in the error's text.")
    ],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", "-s", metavar="URL", help="The task's result store, if not the default one."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Allow an Indeterminate item of a run_once task to run again.

    Check first that it has not done its work: graphflow cannot know.

    Exit codes: 0 released, 2 no such claim or several, 5 the store cannot be reached, 9 the item is being executed.
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
            began = time_text(datetime.fromtimestamp(claim.at, UTC))
            console.print(
                f"{claim.node}{index} was started by run {claim.run_id} on {claim.holder.host} at {began}",
                markup=False,
            )
        if not yes:
            typer.confirm(
                "Are you sure that it has not done its work, and should it run again?", abort=True, err=True
            )
        found.release(item)
        text = "released; it runs again the next time it is needed"
        tell(text, output, "graphflow.released/1", key=item.key)
