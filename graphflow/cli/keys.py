"""`graphflow key`: the key that histories and results are signed with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import OutputFormat, make_console, write_data
from graphflow.common.signing import export_key, import_key, known_keys, rotate_key
from graphflow.errors import SettingsError

if TYPE_CHECKING:
    from graphflow.common.signing import KeyInfo

__all__ = ["key"]

SCHEMA = "graphflow.keys/1"

key = typer.Typer(
    help="The key that histories and results are signed with: look, change, share.\n\n"
    "Whoever has it can sign results that are unpickled here. It is shown by `export` alone.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@key.command()
def show(
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="What stdout gets.")] = (
        OutputFormat.TABLE
    ),
) -> None:
    """Tell which keys there are, by their fingerprints."""
    with errors_become_exit_codes():
        found = known_keys()
        if output is OutputFormat.JSON:
            documents = [
                {"fingerprint": each.fingerprint, "place": each.place, "signs": each.signs} for each in found
            ]
            write_data(json.dumps({"schema": SCHEMA, "keys": documents}))
            return
        for each in found:
            write_data(f"{each.fingerprint}  {'signs  ' if each.signs else 'accepts'}  {each.place}")


@key.command()
def rotate() -> None:
    """Make a new key that signs from now on; what the old one signed is still believed.

    Processes that run now go on with the old key, and refuse what the new one signs: start them again.
    Other machines that share a store need the new key: `graphflow key export`.
    """
    with errors_become_exit_codes():
        _say("signs now", rotate_key())


@key.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="FILE|-", help="A file with an exported key; - is the standard input.")
    ] = "-",
    only_accept: Annotated[
        bool, typer.Option("--only-accept", help="Believe what it signed, but sign with the present one.")
    ] = False,
) -> None:
    """Take the key of another machine, so that both believe each other's results."""
    with errors_become_exit_codes():
        _say("is accepted" if only_accept else "signs now", import_key(_text(source), signs=not only_accept))


@key.command()
def export() -> None:
    """Write the key that signs to stdout, for `graphflow key import` or GRAPHFLOW_SECRET_KEY elsewhere. Keep it secret."""
    with errors_become_exit_codes():
        write_data(export_key())


def _text(source: str) -> str:
    if source == "-":
        return sys.stdin.read()
    try:
        return Path(source).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SettingsError(f"the key in {source} cannot be read: {type(error).__name__}") from error


def _say(what: str, info: KeyInfo) -> None:
    make_console().print(f"key {info.fingerprint} {what} ({info.place})", markup=False, highlight=False)
