"""`graphflow cache release`: allow an `Indeterminate` item, which may or may not have run, to run again."""

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
        str, typer.Argument(metavar="KEY", help="The cache key, or its beginning, as in the error's text.")
    ],
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", "-s", metavar="URL", help="The task's result store, if not the default one."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Allow an Indeterminate item of a run_once task to run again.

    Check first that it has not done its work: graphflow cannot know.

    Exit codes: 0 released, 2 no such claim or several, 5 the store cannot be reached, 9 the item is being executed.
    """
    from graphflow.cache.claims import once_claims  # help must not load numpy or fsspec
    from graphflow.results.stores.opening import default_store_url, open_store

    with errors_become_exit_codes():
        store = open_store(storage or default_store_url())
        known = once_claims(store)
        matching = [each for each in known if each.startswith(key.lower())]
        if len(matching) != 1:
            many = f"{len(matching)} claims begin" if matching else "no claim begins"
            raise typer.BadParameter(
                f"{many} with {key} in {store.url}; give the key as the error shows it", param_hint="KEY"
            )
        claims = known[matching[0]]
        key_bytes = bytes.fromhex(matching[0])
        try:
            claim = claims.find(key_bytes)
        except ResultStoreError:
            # It is damaged, so its holder is unknown.
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
                f"{claim.node}{index} was started by run {claim.run_id} on {claim.holder.host} at {began}",
                markup=False,
            )
        if not yes:
            typer.confirm(
                "Are you sure that it has not done its work, and should it run again?", abort=True, err=True
            )
        claims.give_back([key_bytes])
        console.print("released; it runs again the next time it is needed", markup=False)
