"""`graphflow cache release`: let an item run again of which nobody knows whether it has run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import make_console
from graphflow.errors import LeaseHeld, ResultStoreError

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
    from graphflow.cache.claims import once_claims  # help must not load numpy or fsspec
    from graphflow.results.stores.opening import default_store_url, open_store

    with errors_become_exit_codes():
        store = open_store(storage or default_store_url())
        known = once_claims(store)
        matching = [each for each in known if each.startswith(key.lower())]
        if len(matching) != 1:
            many = f"{len(matching)} claims begin" if matching else "no claim begins"
            raise typer.BadParameter(f"{many} with {key} in {store.url}", param_hint="KEY")
        claims = known[matching[0]]
        key_bytes = bytes.fromhex(matching[0])
        try:
            claim = claims.find(key_bytes)
        except ResultStoreError:
            # It is damaged: it says nothing of who has it.
            claim = None
        console = make_console()
        if claim is not None:
            if claims.is_held(claim):
                raise LeaseHeld(
                    f"{claim.node} of run {claim.run_id} is being executed by process {claim.holder.pid} on "
                    f"{claim.holder.host}; wait for it"
                )
            index = "" if claim.index is None else f"[{claim.index}]"
            began = datetime.fromtimestamp(claim.at, UTC).isoformat(timespec="seconds")
            console.print(
                f"{claim.node}{index} was begun by run {claim.run_id} on {claim.holder.host} at {began}",
                markup=False,
            )
        if not yes:
            typer.confirm("Has it surely not done its work, and may it run again?", abort=True, err=True)
        claims.give_back([key_bytes])
        console.print("released: it runs again when it is asked for", markup=False)
