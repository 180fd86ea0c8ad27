"""`graphflow automations`, `notify` and `hooks`: what is done when something happens, and what starts from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import completing
from graphflow.cli.documents import ListFormat, Outcome, dumped, tell
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.stored import Listed, iso, opened_stores, show_list, show_table
from graphflow.cli.terminal import OutputFormat, say_error, write_data
from graphflow.common.durations import duration_text
from graphflow.errors import SettingsError

if TYPE_CHECKING:
    from graphflow.model.automated import Pattern
    from graphflow.model.happening import Happening
    from graphflow.orchestration.reactor import Tried
    from graphflow.orchestration.stores.rules import StoredRule

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
    with opened_stores() as stores:
        last = stores.rules.last_firings()
        documents = []
        for each in stores.rules.all():
            at, count = last.get(each.id, (None, 0))
            documents.append({**_document(each), "fired": count, "last_fired": iso(at)})
        columns = ("name", "watches", "then", "is_paused", "fired", "last_fired")
        if output is ListFormat.TABLE:
            documents = [{**each, "then": _then(each)} for each in documents]
        show_list(columns, documents, output, SCHEMA)


@automations.command()
def show(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Show an automation, and what it did last."""
    with opened_stores() as stores:
        stored = stores.rules.find(name)
        done = [
            {
                "at": iso(each.at),
                "action": each.kind,
                "target": each.body.get("target"),
                "state": each.state,
                "tries": each.tries,
                "error": each.error,
                "event": each.event_id,
                "id": each.id,
            }
            for each in stores.rules.actions(stored.id)
        ]
        document = {**_document(stored), "actions": done}
        if output is OutputFormat.JSON:
            write_data(dumped({"schema": SCHEMA, **document}, indent=2))
            return
        rows = [
            (field, document[field])
            for field in ("name", "watches", "description", "is_paused", "revision", "since", "made_by")
        ]
        show_table(("", ""), [*rows, ("then", _then(document))])
        show_table(
            ("at", "action", "target", "state", "tries", "error"),
            [
                [each[field] for field in ("at", "action", "target", "state", "tries", "error")]
                for each in done
            ],
        )


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
    with opened_stores() as stores:
        from graphflow.orchestration.reactor import try_event

        tried = try_event(stores, event, name)
        if output is OutputFormat.JSON:
            found = [_tried(each) for each in tried]
            write_data(dumped({"schema": "graphflow.tried/1", "automations": found}, indent=2))
            return
        rows = []
        for each in tried:
            rows.append((each.automation, "would fire" if each.fires else "would not fire", each.why))
            rows += [
                ("", f"  {of.body.get('kind')} {of.body.get('target', '')}", of.error or _told(of.body))
                for of in each.actions
            ]
        show_table(("automation", "", ""), rows)


@automations.command()
def pause(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Pause an automation: what happens meanwhile it does not see."""
    with opened_stores() as stores:
        stored = stores.rules.pause(name, True)
        tell(f"the automation {name} is paused", output, SCHEMA, **_document(stored))


@automations.command()
def resume(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Let an automation go on from now."""
    with opened_stores() as stores:
        stored = stores.rules.pause(name, False)
        tell(f"the automation {name} goes on", output, SCHEMA, **_document(stored))


@automations.command()
def rm(name: Name, output: Outcome = OutputFormat.TABLE) -> None:
    """Remove an automation; what it has to send is still sent."""
    with opened_stores() as stores:
        stored = stores.rules.remove(name)
        tell(f"the automation {name} is removed", output, SCHEMA, **_document(stored))


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
    with opened_stores() as stores:
        documents = [
            {**each.model_dump(mode="json"), "made_by": made_by} for each, made_by in stores.hooks.all()
        ]
        show_list(
            ("name", "kind", "deployment", "is_paused", "made_by"), documents, output, "graphflow.hook/1"
        )


@hooks.command("rm")
def remove_hook(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A hook.")],
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Remove a hook."""
    with opened_stores() as stores:
        stores.hooks.remove(name)
        tell(f"the hook {name} is removed", output, "graphflow.hook/1", name=name)


def _document(stored: StoredRule) -> dict[str, Any]:
    of = stored.automation
    fields = of.model_dump(mode="json", exclude={"name", "is_paused", "description"})
    return {
        "id": stored.id,
        "name": of.name,
        "description": of.description,
        "watches": _watches(stored),
        "is_paused": of.is_paused,
        "revision": stored.revision,
        "since": iso(stored.since),
        "made_by": stored.made_by,
        **fields,
    }


def _watches(stored: StoredRule) -> str:
    of = stored.automation
    each = f" for each {', '.join(of.for_each)}" if of.for_each else ""
    if of.absent is not None:
        after = "" if of.after is None else f" after {_pattern(of.after)}"
        return (
            f"no {_pattern(of.absent.pattern)} within {duration_text(of.absent.within_seconds)}{after}{each}"
        )
    within = "" if of.within_seconds is None else f", {of.count} within {duration_text(of.within_seconds)}"
    return f"{'' if of.when is None else _pattern(of.when)}{within}{each}"


def _pattern(pattern: Pattern) -> str:
    where = [f"{path}={'|'.join(map(str, values))}" for path, values in pattern.where.items()]
    return " ".join([" or ".join(pattern.type), *where])


def _then(document: Mapping[str, Any]) -> str:
    return "; ".join(f"{each['kind']} {each['target']}" for each in document["then"])


def _tried(each: Tried) -> dict[str, Any]:
    actions = [{"state": of.state, "error": of.error, **of.body} for of in each.actions]
    return {"automation": each.automation, "fires": each.fires, "why": each.why, "actions": actions}


def _told(body: Mapping[str, Any]) -> str:
    return dumped(
        {name: value for name, value in body.items() if name not in ("kind", "automation", "depth", "target")}
    )


def _event(file: str) -> Happening:
    import time

    from graphflow.model.happening import Happening

    try:
        said = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
        if isinstance(said, list) and len(said) == 1:
            said = said[0]
        if not isinstance(said, dict) or not isinstance(said.get("type"), str):
            raise ValueError("an event is an object with a type")
        kept = {name: said[name] for name in ("type", "subject", "related", "data") if name in said}
        return Happening(
            seq=0,
            id=str(said.get("id", "trial")),
            time=time.time(),
            source=said.get("source", "trial"),
            **kept,
        )
    except (OSError, ValueError) as error:
        say_error(
            f'{file} is not an event: {error}; use, for example, {{"type": "graphflow.run.failed", "subject": "..."}}'
        )
        raise typer.Exit(ExitCode.USAGE) from None
