"""`graphflow events`: what happened in a home, in the order in which it became durable."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli import remote
from graphflow.cli.addressed import offers_remote
from graphflow.cli.documents import ListFormat, Outcome, dumped, parse_data, tell
from graphflow.cli.runs.texts import parse_since
from graphflow.cli.stored import Listed, iso, opened_stores, show_table
from graphflow.cli.terminal import OutputFormat, write_data

if TYPE_CHECKING:
    from graphflow.model.happening import Happening

__all__ = ["events"]

SCHEMA = "graphflow.event/1"
POLL_SECONDS = 0.2

events = typer.Typer(
    help="List, follow and write events: of runs, schedules, workers, and your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Type = Annotated[
    str, typer.Option("--type", metavar="TYPE", help="Only this type; `graphflow.run.*` for all of runs.")
]
Subject = Annotated[
    str, typer.Option("--subject", metavar="TEXT", help="Only about this, such as a run's id.")
]


@events.command()
@offers_remote(remote.events_ls)
def ls(
    type: Type = "*",
    subject: Subject = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only since then: 2h ago, or a time.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows: the last ones.")] = 50,
    output: Listed = ListFormat.TABLE,
) -> None:
    """List events, oldest first."""
    begin = 0.0 if since is None else parse_since(since)
    with opened_stores() as stores:
        found = stores.events.last(type=type, subject=subject, since=begin, limit=limit)
        if output is ListFormat.TABLE:
            show_table(("time", "type", "subject", "data"), [_row(each) for each in found])
        elif output is ListFormat.JSONL:
            for each in found:
                write_data(dumped(_document(each)))
        else:
            write_data(dumped([_document(each) for each in found], indent=2))


@events.command()
@offers_remote(remote.events_tail)
def tail(
    type: Type = "*",
    subject: Subject = "",
    output: Listed = ListFormat.TABLE,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, help="End after so many events (default: go on until Ctrl-C)."),
    ] = None,
) -> None:
    """Follow events from now on, until Ctrl-C."""
    if output is ListFormat.JSON:
        raise typer.BadParameter("events are followed one by one; use -o jsonl")
    with opened_stores() as stores:
        last = stores.events.last(limit=1)
        seq, shown = (last[0].seq if last else 0), 0
        while True:
            for each in stores.events.after(seq, type=type, subject=subject):
                seq = each.seq
                write_data(
                    dumped(_document(each)) if output is ListFormat.JSONL else "  ".join(map(str, _row(each)))
                )
                shown += 1
                if count is not None and shown >= count:
                    return
            time.sleep(POLL_SECONDS)


@events.command()
@offers_remote(remote.events_emit)
def emit(
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Words with dots, such as shop.order.paid.")],
    subject: Annotated[str, typer.Option("--subject", metavar="TEXT", help="What it is about.")] = "",
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="A JSON object.")] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Of your own: the same id is written once.")
    ] = None,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Write an event of your own."""
    with opened_stores() as stores:
        given = stores.events.emit(type, subject=subject, data=parse_data(data), id=id)
        tell(f"event {given} is written", output, SCHEMA, id=given, type=type, subject=subject)


def _row(event: Happening) -> tuple[Any, ...]:
    told = {name: value for name, value in event.data.items() if value not in ("", None)}
    return iso(event.time), event.type, event.subject, dumped(told) if told else ""


def _document(event: Happening) -> dict[str, Any]:
    return {"schema": SCHEMA, **event.document()}
