"""`graphflow key`: the key that histories and results are signed with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphflow.cli.documents import Outcome, dumped, tell
from graphflow.cli.exits import errors_become_exit_codes
from graphflow.cli.terminal import OutputFormat, write_data
from graphflow.common.signing import export_key, import_key, known_keys, rotate_key
from graphflow.errors import SettingsError

if TYPE_CHECKING:
    from graphflow.common.signing import KeyInfo

__all__ = ["key"]

SCHEMA = "graphflow.keys/1"

key = typer.Typer(
    help="Show, change and share the key that signs histories and results.\n\n"
    "Keep it secret: anyone who has it can sign results that are unpickled here. Only `export` prints it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@key.command()
def show(
    output: Annotated[OutputFormat, typer.Option("--output", "-o", help="Output format.")] = (
        OutputFormat.TABLE
    ),
) -> None:
    """List the keys by their fingerprints."""
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
def rotate(output: Outcome = OutputFormat.TABLE) -> None:
    """Create a new signing key; signatures of the old one stay valid.

    Running processes keep using the old key and refuse what the new one signs: restart them.
    Other machines that share a store need the new key; use `graphflow key export`.
    """
    with errors_become_exit_codes():
        _say("signs now", rotate_key(), output)


@key.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="FILE|-", help="A file with an exported key; - for standard input.")
    ] = "-",
    only_accept: Annotated[
        bool,
        typer.Option("--only-accept", help="Accept its signatures, but keep signing with the current key."),
    ] = False,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Import the key of another machine, so that both accept each other's results."""
    with errors_become_exit_codes():
        what = "is accepted" if only_accept else "signs now"
        _say(what, import_key(_text(source), signs=not only_accept), output)


@key.command()
def export(output: Outcome = OutputFormat.TABLE) -> None:
    """Print the signing key; keep it secret.

    For `graphflow key import` or GRAPHFLOW_SECRET_KEY on another machine.
    """
    with errors_become_exit_codes():
        text = export_key()
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": "graphflow.exported_key/1", "key": text}))
    else:
        write_data(text)


def _text(source: str) -> str:
    if source == "-":
        return sys.stdin.read()
    try:
        return Path(source).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise SettingsError(f"the key in {source} cannot be read: {type(error).__name__}") from error


def _say(what: str, info: KeyInfo, output: OutputFormat) -> None:
    tell(
        f"key {info.fingerprint} {what} ({info.place})",
        output,
        "graphflow.key/1",
        fingerprint=info.fingerprint,
        place=info.place,
        signs=info.signs,
    )
