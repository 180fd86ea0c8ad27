"""Find all that is wrong with the history of a run."""

from __future__ import annotations

from pathlib import Path

from graphflow.errors import HistoryError
from graphflow.histories.checks import is_final
from graphflow.histories.readers import RunReader
from graphflow.histories.seals import Seal
from graphflow.model.records import RunHeader

__all__ = ["check_run"]


def check_run(folder: Path, seal: Seal, *, run_id: str, header: RunHeader | None) -> list[str]:
    """Return all that is wrong with a run's folder, compared with what the catalog says of it."""
    wrong: list[str] = []
    if header is None:
        wrong.append(f"run {run_id} in folder {folder} is missing from the catalog; its row can be restored")
    try:
        with RunReader(folder, seal, run_id=run_id) as reader:
            wrong += reader.faults()
            if header is not None:
                wrong += _differences(reader, header)
    except HistoryError as error:
        wrong.append(str(error))
    # The same may have been found in two ways.
    return list(dict.fromkeys(wrong))


def _differences(reader: RunReader, header: RunHeader) -> list[str]:
    row, last = reader.row, reader.last_state()
    wrong = []
    for what, listed, written in (
        ("name", header.name, row.name),
        ("flow", header.flow_name, row.flow_name),
        ("beginning", header.created, row.created),
    ):
        if listed != written:
            wrong.append(
                f"the catalog has {listed!r} as the {what} of run {row.id}; its history has {written!r}"
            )
    if header.epoch < row.epoch:
        wrong.append(
            f"the catalog counts {header.epoch} drivers of run {row.id}; its history has {row.epoch}"
        )
    if header.lease is None and is_final(header.state):
        state = last[0] if last is not None and is_final(last[0]) else "Crashed"
        if header.state != state:
            end = "has no state" if last is None else f"ends with {last[0]}"
            wrong.append(f"the catalog has run {row.id} as {header.state}; its history {end}")
    return wrong
