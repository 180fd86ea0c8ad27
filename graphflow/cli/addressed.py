"""Whether a command works in the home here, or is sent to a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import typer

from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.terminal import say_error
from graphflow.common import settings

if TYPE_CHECKING:
    from graphflow.client.connections import Connection

__all__ = ["URL_VARIABLE", "check_local", "connected", "offers_remote", "server_url"]

URL_VARIABLE = "GRAPHFLOW_API_URL"
P = ParamSpec("P")


def server_url() -> str:
    """Return the server that commands are sent to; empty for the home here."""
    with errors_become_exit_codes():
        return settings.api_server()[0]


def check_local() -> None:
    """End a command that needs the home, or code, where a server was named."""
    if server_url():
        say_error(
            f"this command, or an option of it, needs the home itself, and cannot be sent to {server_url()}; run it there, or leave"
            f" out --api and {URL_VARIABLE}, or use a profile without api.url"
        )
        raise typer.Exit(ExitCode.USAGE)


def offers_remote(remote: Callable[..., None]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate a command with what it does where a server is named: a function of the connection and its options."""

    def decorate(command: Callable[P, None]) -> Callable[P, None]:
        @wraps(command)
        def either(*args: P.args, **options: P.kwargs) -> None:
            if not server_url():
                command(*args, **options)
                return
            with connected() as connection:
                remote(connection, **options)

        return either

    return decorate


@contextmanager
def connected() -> Iterator[Connection]:
    """Connect to the server that was named, else to the home here; turn errors into exit codes."""
    from graphflow.client.connections import connect  # help must not load it

    with errors_become_exit_codes():
        try:
            with connect() as connection:
                yield connection
        except TimeoutError as error:
            say_error(str(error))
            raise typer.Exit(ExitCode.FAILED) from None
