"""`graphflow token`: what programs and people use the API with."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from graphflow.cli.documents import ListFormat, Outcome, dumped
from graphflow.cli.stored import Listed, iso, opened_stores, show_list
from graphflow.cli.terminal import OutputFormat, write_data
from graphflow.common.durations import duration_seconds
from graphflow.display.consoles import make_console

__all__ = ["token"]

SCHEMA = "graphflow.token/1"
token = typer.Typer(
    help="Make, list and remove tokens of the API that `graphflow serve` has.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class RoleName(StrEnum):
    """What a token may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@token.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, which events of what it does have.")],
    role: Annotated[
        RoleName,
        typer.Option(
            "--role", help="viewer sees all, operator runs and controls, admin changes deployments too."
        ),
    ] = RoleName.VIEWER,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="How long it holds, such as 30d (default: no end)."),
    ] = None,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Make a token, and print it: it is stored as a digest, and cannot be shown again."""
    with opened_stores() as stores:
        seconds = None if expires is None else duration_seconds(expires)
        stored, text = stores.tokens.create(name, role.value, expires_seconds=seconds)
        if output is OutputFormat.JSON:
            document: dict[str, Any] = {"schema": SCHEMA, "name": name, "role": role.value, "token": text}
            write_data(dumped({**document, "expires": iso(stored.expires)}, indent=2))
        else:
            make_console().print(
                f"token {name} ({role.value}); it is not shown again:", markup=False, soft_wrap=True
            )
            write_data(text)


@token.command()
def ls(output: Listed = ListFormat.TABLE) -> None:
    """List tokens, without their texts."""
    with opened_stores() as stores:
        documents = [
            {"name": each.name, "role": each.role, "created": iso(each.created), "expires": iso(each.expires)}
            for each in stores.tokens.all()
        ]
        show_list(("name", "role", "created", "expires"), documents, output, SCHEMA)


@token.command()
def rm(name: Annotated[str, typer.Argument(metavar="NAME", help="The token.")]) -> None:
    """Remove a token: it is refused from now on."""
    with opened_stores() as stores:
        stores.tokens.remove(name)
        make_console().print(f"the token {name} is removed", markup=False, soft_wrap=True)
