"""Looking for all that is wrong with a history."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from graphflow.errors import GraphflowError, HistoryError
from graphflow.histories.readers import RunReader
from graphflow.histories.seals import Seal
from graphflow.ports import History
from graphflow.records import RunHeader

__all__ = ["check_run", "verify_all"]


def verify_all(history: History, run_ids: Collection[str] = ()) -> dict[str, list[str]]:
    """What is wrong with each of these runs, or of all; an empty list where nothing is."""
    wrong: dict[str, list[str]] = {}
    for run_id in run_ids or [header.id for header in history.runs()]:
        try:
            wrong[run_id] = history.verify(run_id)
        except GraphflowError as error:
            wrong[run_id] = [str(error)]
    return wrong


def check_run(
    folder: Path, seal: Seal, *, run_id: str, header: RunHeader | None, is_driven: bool
) -> list[str]:
    """All that is wrong with a run's folder, compared with what the catalog says of it."""
    wrong: list[str] = []
    if header is None:
        wrong.append(f"the catalog does not know run {run_id}, whose folder is {folder}")
    try:
        with RunReader(folder, seal, run_id=run_id) as reader:
            wrong += reader.faults()
            wrong += _differences(reader, header, is_driven)
    except HistoryError as error:
        wrong.append(str(error))
    return wrong


def _differences(reader: RunReader, header: RunHeader | None, is_driven: bool) -> list[str]:
    if header is None:
        return []
    wrong: list[str] = []
    row = reader.row
    pairs = {"name": (header.name, row.name), "flow": (header.flow_name, row.flow_name)}
    for what, (listed, written) in pairs.items():
        if listed != written:
            wrong.append(f"the catalog says that its {what} is {listed!r}; it is {written!r}")
    if header.epoch < row.epoch:
        wrong.append(f"the catalog knows {header.epoch} drivers of it; there were {row.epoch}")
    return wrong
