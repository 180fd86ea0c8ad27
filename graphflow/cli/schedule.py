"""`graphflow schedule`: what schedules will do, also on the days on which clocks change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphflow.cli.documents import ListFormat, Outcome, dumped
from graphflow.cli.exits import ExitCode, errors_become_exit_codes
from graphflow.cli.runs.texts import parse_since
from graphflow.cli.stored import Listed, iso, opened_stores, schedule_document, show_list, show_table
from graphflow.cli.terminal import OutputFormat, say_error, write_data

if TYPE_CHECKING:
    from graphflow.model.deployed import Schedule
    from graphflow.orchestration.timing.preview import Preview, PreviewedFire

__all__ = ["schedule"]

schedule = typer.Typer(
    help="Show what schedules will do, also on the days on which clocks change.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@schedule.command()
def preview(
    cron: Annotated[
        str | None, typer.Argument(metavar="[CRON]", help='A cron expression, such as "0 2 * * *".')
    ] = None,
    interval: Annotated[str | None, typer.Option("--interval", help="An interval, such as 15m.")] = None,
    rrule: Annotated[str | None, typer.Option("--rrule", help="A recurrence rule (RFC 5545).")] = None,
    at: Annotated[str | None, typer.Option("--at", help="A single moment.")] = None,
    tz: Annotated[
        str, typer.Option("--tz", metavar="ZONE", help="The time zone, such as Europe/Paris.")
    ] = "UTC",
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=1_000, help="How many times.")] = 10,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TIME", help="From this time on (default: now).")
    ] = None,
    output: Outcome = OutputFormat.TABLE,
) -> None:
    """Show the next times of a schedule, and what it does when the clocks of its zone change."""
    with errors_become_exit_codes():
        from graphflow.model.deployed import Schedule  # help must not load it
        from graphflow.orchestration.timing.preview import preview as previewed
        from graphflow.orchestration.timing.times import check_schedule

        given: dict[str, str | None] = {"cron": cron, "interval": interval, "rrule": rrule, "at": at}
        kinds: list[Any] = [kind for kind, spec in given.items() if spec is not None]
        if len(kinds) != 1:
            say_error("use one of: a cron expression, --interval, --rrule, --at")
            raise typer.Exit(ExitCode.USAGE)
        wanted = Schedule(kind=kinds[0], spec=given[kinds[0]] or "", zone=tz)
        begin = time.time() if after is None else parse_since(after)
        check_schedule(wanted, begin)
        found = previewed(wanted, begin, count=count)
        if output is OutputFormat.JSON:
            write_data(dumped(_document(wanted, found), indent=2))
        else:
            _show(wanted, found)


def _show(of: Schedule, found: Preview) -> None:
    write_data(f"{found.explanation} ({of.zone})")
    show_table((of.zone, "UTC", ""), [_row(each) for each in found.fires])
    for change, fires in found.changes:
        write_data(change)
        if fires:
            show_table((of.zone, "UTC", ""), [_row(each) for each in fires])
        else:
            write_data("  no fire on that day")


def _row(fire: PreviewedFire) -> tuple[str, str, str]:
    hours, minutes = divmod(abs(round(fire.offset_seconds / 60)), 60)
    offset = f"{'-' if fire.offset_seconds < 0 else '+'}{hours:02d}:{minutes:02d}"
    return f"{fire.local:%a %Y-%m-%d %H:%M:%S} {offset}", f"{fire.utc:%Y-%m-%d %H:%M:%S}Z", fire.note


def _document(of: Schedule, found: Preview) -> dict[str, Any]:
    def fire(each: PreviewedFire) -> dict[str, Any]:
        local = each.local.isoformat()
        return {"utc": iso(each.at), "local": local, "offset_seconds": each.offset_seconds, "note": each.note}

    return {
        "schema": "graphflow.preview/1",
        "kind": of.kind,
        "spec": of.spec,
        "zone": of.zone,
        "explanation": found.explanation,
        "fires": [fire(each) for each in found.fires],
        "changes": [
            {"change": change, "fires": [fire(each) for each in fires]} for change, fires in found.changes
        ],
    }


@schedule.command()
def ls(output: Listed = ListFormat.TABLE) -> None:
    """List the schedules of all deployments."""
    with opened_stores() as stores:
        documents = [
            schedule_document(each, stored.deployment.full_name)
            for stored in stores.plans.all()
            for each in stored.schedules
        ]
        columns = ("deployment", "slug", "kind", "spec", "zone", "catchup", "is_paused", "next")
        show_list(columns, documents, output, "graphflow.schedule/1")
