"""What commands about deployments, workers and events have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from graphflow.cli import completing
from graphflow.cli.addressed import check_local
from graphflow.cli.documents import ListFormat, write_documents
from graphflow.cli.exits import errors_become_exit_codes
from graphflow.common.durations import duration_text
from graphflow.common.times import moment
from graphflow.display.consoles import make_console

if TYPE_CHECKING:
    from graphflow.orchestration.stores.opening import Stores
    from graphflow.orchestration.stores.plans import Stored, StoredSchedule

__all__ = [
    "DeploymentName",
    "Listed",
    "deployment_document",
    "iso",
    "opened_stores",
    "schedule_document",
    "schedule_text",
    "show_table",
]

Listed = Annotated[ListFormat, typer.Option("--output", "-o", help="Output format.")]
DeploymentName = Annotated[
    str,
    typer.Argument(
        metavar="FLOW/NAME",
        help="A deployment: flow/name, or its name alone where that is clear.",
        autocompletion=completing.deployments,
    ),
]


@contextmanager
def opened_stores() -> Iterator[Stores]:
    """Open the catalog; turn errors into exit codes."""
    from graphflow.orchestration.stores.opening import open_stores  # help must not load it

    check_local()
    with errors_become_exit_codes(), open_stores() as stores:
        yield stores


def iso(at: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    return None if at is None else moment(at).isoformat(timespec="seconds").replace("+00:00", "Z")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on stdout."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*["" if each is None else str(each) for each in row])
    make_console(stdout=True).print(table, markup=False)


def show_list(
    columns: Sequence[str], documents: Sequence[Mapping[str, Any]], output: ListFormat, schema: str
) -> None:
    """Print documents, or a table of some of their fields."""
    if output is ListFormat.TABLE:
        show_table(columns, [[_cell(each.get(name)) for name in columns] for each in documents])
    else:
        write_documents(documents, output, schema)


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def schedule_text(stored: StoredSchedule) -> str:
    """Return a schedule in one line."""
    of = stored.schedule
    extras = [of.zone]
    if of.catchup != "latest":
        extras.append(f"catchup {of.catchup}")
    if of.jitter_seconds:
        extras.append(f"jitter {duration_text(of.jitter_seconds)}")
    if of.is_paused:
        extras.append("paused")
    return f"{of.kind} {of.spec} ({', '.join(extras)})"


def schedule_document(stored: StoredSchedule, deployment: str) -> dict[str, Any]:
    """Return a schedule as a document."""
    return {
        "id": stored.id,
        "deployment": deployment,
        **stored.schedule.model_dump(mode="json"),
        "next": iso(stored.next_nominal),
        "next_due": iso(stored.next_due),
    }


def deployment_document(stored: Stored) -> dict[str, Any]:
    """Return a deployment as a document."""
    fields = stored.deployment.model_dump(mode="json", exclude={"schedules", "parameter_schema"})
    return {
        "id": stored.id,
        "deployment": stored.deployment.full_name,
        **fields,
        "revision": stored.revision,
        "created": iso(stored.created),
        "updated": iso(stored.updated),
        "next": iso(stored.next_due),
        "schedules": [schedule_document(each, stored.deployment.full_name) for each in stored.schedules],
    }
