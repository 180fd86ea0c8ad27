"""`graphflow automations`, `notify` and `hooks`: what is done when something happens, and what starts from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import completing
from graphflow.cli.addressed import connected
from graphflow.cli.documents import ListFormat, Outcome, dumped, tell
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.stored import Listed, show_list, show_table
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.errors import SettingsError

if TYPE_CHECKING:
    from graphflow.model.views import AutomationView

__all__ = ["automations", "hooks", "notify"]

SCHEMA = "graphflow.automation/1"
automations = typer.Typer(
    help="Look after automations: what is done when something happens, or does not. `deploy apply` stores them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
notify = typer.Typer(help="Try notifications.", no_args_is_help=True, rich_markup_mode=None)
hooks = typer.Typer(
    help="Look after hooks: addresses that take webhooks. `deploy apply` stores them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="An automation.", autocompletion=completing.automations),
]


@automations.command()
def ls(output: Listed = ListFormat.TABLE) -> None:
    """List automations."""
    with connected() as gf:
        documents = [_document(each) for each in gf.automations]
    for each in documents if output is ListFormat.TABLE else ():
        each["then"] = _then(each)
    columns = ("name", "watches", "then", "is_paused", "fired", "last_fired")
    show_list(columns, documents, output, SCHEMA)


@automations.command()
def show(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Show an automation, and what it did last."""
    with connected() as gf:
        document = gf.automations[name].model_dump(mode="json")
    if output is OutputFormat.JSON:
        write_data(dumped({"schema": SCHEMA, **document}, indent=2))
        return
    fields = ("name", "watches", "description", "is_paused", "revision", "since", "made_by")
    show_table(("", ""), [*((field, document[field]) for field in fields), ("then", _then(document))])
    columns = ("at", "action", "target", "state", "tries", "error")
    show_table(columns, [[each[field] for field in columns] for each in document["actions"]])


@automations.command()
def test(
    file: Annotated[
        str,
        typer.Argument(
            metavar="EVENT.json", help="An event as JSON, as `events ls -o json` has it; - for stdin."
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--only", metavar="NAME", help="Only this automation.", autocompletion=completing.automations
        ),
    ] = "",
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Say what automations would do for an event; nothing is done or sent."""
    event = _event(file)
    with connected() as gf:
        tried = [each.model_dump(mode="json") for each in gf.automations.test(event, automation=name)]
    if output is OutputFormat.JSON:
        found = [{**each, "actions": [_flat(of) for of in each["actions"]]} for each in tried]
        write_data(dumped({"schema": "graphflow.tried/1", "automations": found}, indent=2))
        return
    rows = []
    for each in tried:
        rows.append((each["automation"], "would fire" if each["fires"] else "would not fire", each["why"]))
        rows += [
            (
                "",
                f"  {of['body'].get('kind')} {of['body'].get('target', '')}",
                of["error"] or _told(of["body"]),
            )
            for of in each["actions"]
        ]
    show_table(("automation", "", ""), rows)


@automations.command()
def pause(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Pause an automation: what happens meanwhile it does not see."""
    with connected() as gf:
        found = gf.automations.pause(name)
    tell(f"the automation {name} is paused", output, SCHEMA, **_document(found))


@automations.command()
def resume(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Let an automation go on from now."""
    with connected() as gf:
        found = gf.automations.resume(name)
    tell(f"the automation {name} goes on", output, SCHEMA, **_document(found))


@automations.command()
def rm(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Remove an automation; what it has to send is still sent."""
    with connected() as gf:
        found = gf.automations.remove(name)
    tell(f"the automation {name} is removed", output, SCHEMA, **_document(found))


@notify.command("test")
def test_notification(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A notification.", autocompletion=completing.notifications),
    ],
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Send a notification now, to all addresses of a name."""
    with errors_become_exit_codes():
        from graphflow.orchestration import notifying

        if name not in notifying.names():
            # It says which there are, and where to write one.
            notifying.addresses_of(name)
        try:
            notifying.notify(
                name, title="graphflow: a test", text="This was sent by `graphflow notify test`."
            )
        except notifying.NotSent as error:
            raise SettingsError(str(error)) from None
        tell(f"sent to {name}", output, "graphflow.notified/1", name=name)


@hooks.command("ls")
def list_hooks(output: Listed = ListFormat.TABLE) -> None:
    """List hooks."""
    with connected() as gf:
        documents = [each.model_dump(mode="json") for each in gf.hooks]
    columns = ("name", "kind", "deployment", "is_paused", "made_by")
    show_list(columns, documents, output, "graphflow.hook/1")


@hooks.command("rm")
def remove_hook(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A hook.")],
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Remove a hook."""
    with connected() as gf:
        gf.hooks.remove(name)
    tell(f"the hook {name} is removed", output, "graphflow.hook/1", name=name)


def _document(view: AutomationView) -> dict[str, Any]:
    return view.model_dump(mode="json", exclude={"actions"})


def _then(document: Mapping[str, Any]) -> str:
    return "; ".join(f"{each['kind']} {each['target']}" for each in document["then"])


def _flat(action: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": action["state"], "error": action["error"], **action["body"]}


def _told(body: Mapping[str, Any]) -> str:
    return dumped(
        {name: value for name, value in body.items() if name not in ("kind", "automation", "depth", "target")}
    )


def _event(file: str) -> dict[str, Any]:
    try:
        said = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
        if isinstance(said, list) and len(said) == 1:
            said = said[0]
        if not isinstance(said, dict) or not isinstance(said.get("type"), str):
            raise ValueError("an event is an object with a type")
    except (OSError, ValueError) as error:
        say_error(
            f'{file} is not an event: {error}; use, for example, {{"type": "graphflow.run.failed", "subject": "..."}}'
        )
        raise typer.Exit(ExitCode.USAGE) from None
    known = ("id", "type", "source", "subject", "related", "data")
    return {name: said[name] for name in known if name in said}
