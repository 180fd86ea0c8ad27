"""Ordinary items on many slots for a long time, in virtual time: what grown slices keep, and what they do not cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graphflow.core import batching
from graphflow.core.batching import MAX_GROWN_SECONDS, OVERRUN, TELL_SECONDS
from graphflow.histories.sqlite import SqliteHistory
from graphflow.model.states import Code
from graphflow.records.replay import Replay
from simulator.long_runs import Shape, run

ORDINARY = Shape(items=24_000, slots=8, seconds=0.1)
WIDE = Shape(items=40_000, slots=500, seconds=1.0)


def long_run(folder: Path, shape: Shape = ORDINARY, *, on_disk: bool = False, **more: Any) -> dict[str, Any]:
    return run(replace(shape, **more), folder, on_disk=on_disk)


@pytest.mark.parametrize("seed", range(4))
def test_slices_grow_and_keep_what_is_promised(tmp_path: Path, seed: int) -> None:
    found = long_run(tmp_path, losses=0.05, pause_at=150.0, seed=seed)
    assert 1.0 < found["max_slice_seconds"] <= OVERRUN * MAX_GROWN_SECONDS
    # An item begins after at most two batches per slot of later ones.
    assert found["begun_after_later_items"] <= 2 * found["slots"] * found["max_batch"]
    # A worker's death costs what was not told yet, and the item that it executed.
    assert found["losses"] > 0
    assert found["max_repeated_seconds"] <= TELL_SECONDS + 2.1 * found["item_seconds"]
    assert found["began_while_paused"] == 0


def test_the_history_of_a_long_run_has_few_records_and_all_items(tmp_path: Path) -> None:
    found = long_run(tmp_path, on_disk=True)
    assert found["share_of_ideal"] > 0.99
    assert found["records"] < found["reports"] / 1.5
    assert found["history_bytes_per_item"] <= 50
    history = SqliteHistory(tmp_path)
    (header,) = history.runs()
    replay = Replay()
    for entry in history.read(header.id):
        replay.add(entry)
    node = replay.nodes[0]
    assert bytes(node.states) == bytes([Code.COMPLETED]) * found["items"]
    assert sum(len(segment.indices) for segment in node.history.segments()) == found["items"]
    starts = [segment.started for segment in node.history.segments()]
    assert max(starts) - min(starts) > 100
    history.close()


def test_many_slots_do_not_keep_their_driver_busy(tmp_path: Path) -> None:
    found = long_run(tmp_path, WIDE)
    assert found["share_of_ideal"] > 0.95
    assert found["batches"] < found["items"] / 1.2
    assert found["records"] < found["batches"] / 2


def test_runs_without_growth_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_GROWN_SECONDS", 0.0)
    found = long_run(tmp_path)
    assert found["max_slice_seconds"] == 0.0
    assert found["batches"] > 4_000
