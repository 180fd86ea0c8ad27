"""Disks that are full, and places that cannot be written, under a whole run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

LARGE = 400_000
LIMIT = 320 << 10


def wrong_names(home: Path) -> list[str]:
    """Objects that were not written whole, and those that were left half-written."""
    return [
        path.name
        for path in home.rglob("results/*")
        if path.name.endswith(".tmp") or path.stat().st_size >= LARGE
    ]


def test_a_disk_that_is_full_for_the_history_crashes_the_run_which_can_be_resumed(stage: Any) -> None:
    given = {"name": "big_map", "run_id": "run-1", "parameters": {"width": 80_000}}
    found = stage.drive(call="limited", nbytes=LIMIT, **given).result()
    assert found["state"] == "Crashed", found
    assert found["error"] in ("HistoryError", "LeaseLost") and "full" in found["message"]
    assert "run.db" in found["message"]
    seen = stage.look("run-1")
    assert seen["wrong"] == []
    before = stage.counts()
    found = stage.drive(**given).result()
    assert found["state"] == "Completed"
    assert found["value"] == sum(3 * x + 1 for x in range(80_000))
    after = stage.counts()
    done = seen["done"].get("work", [])
    assert len(done) < 80_000
    assert all(after[str(item)] == before[str(item)] for item in done)
    assert sorted(map(int, after)) == list(range(80_000))


def test_a_disk_that_is_full_for_results_crashes_the_run_which_can_be_resumed(stage: Any) -> None:
    given = {
        "name": "bulky",
        "run_id": "run-1",
        "parameters": {"size": 12, "sizes": [10, 10, 10, 10, 10, 10, 10, 10, LARGE]},
    }
    found = stage.drive(call="limited", nbytes=LIMIT, **given).result()
    assert found["state"] == "Crashed", found
    assert found["error"] == "ResultStoreError"
    assert "cannot be written" in found["message"] and "free some space" in found["message"]
    assert wrong_names(stage.home) == []
    seen = stage.look("run-1")
    assert seen["wrong"] == []
    before = stage.counts()
    found = stage.drive(**given).result()
    assert found["state"] == "Completed" and found["value"] == 11 * 10 + LARGE
    after = stage.counts()
    done = seen["done"].get("grow", [])
    assert 8 not in done
    assert all(after[f"grow {item}"] == before[f"grow {item}"] for item in done)


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(stage: Any) -> None:
    stage.home.write_text("a file, not a folder")
    found = stage.drive("gated", "run-1", parameters={"size": 3}).result()
    assert found["refused"] in ("HistoryError", "SettingsError")
    assert str(stage.home) in found["message"] and "GRAPHFLOW_HOME" in found["message"]
    assert stage.counts() == {}
    assert stage.home.read_text() == "a file, not a folder"


def test_no_room_for_a_new_run_is_told_before_anything_runs(stage: Any) -> None:
    found = stage.drive("gated", "run-1", parameters={"size": 3}, call="limited", nbytes=4096).result()
    assert found["refused"] in ("HistoryError", "SettingsError", "ResultStoreError"), found
    assert "full" in found["message"] or "large" in found["message"], found
    assert stage.counts() == {}
    found = stage.drive("gated", "run-1", parameters={"size": 3}).result()
    assert found["value"] == 5


def test_results_that_lose_their_folder_crash_the_run_which_can_be_resumed(stage: Any) -> None:
    gate = stage.home.parent / "gate"
    os.mkfifo(gate)
    driver = stage.drive("gated", "run-1", parameters={"size": 20, "gate": str(gate)})
    with open(gate, "w"):
        # The pipe opens when `hold` executes: its value has nowhere to go any more.
        folder = stage.home / "runs" / "run-1" / "results"
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("no folder")
    found = driver.result()
    assert found["state"] == "Crashed" and found["error"] == "ResultStoreError", found
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)
    found = stage.drive("gated", "run-1", parameters={"size": 20, "gate": str(gate)})
    with open(gate, "w"):
        pass
    assert found.result()["value"] == sum(x * x for x in range(20))
    counts = stage.counts()
    assert counts == {**{f"step {x}": 1 for x in range(20)}, "hold": 2}
