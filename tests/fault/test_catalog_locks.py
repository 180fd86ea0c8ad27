"""The catalog locked by a process that is stopped, or busy: runs begin, resume and end without it, and it follows later."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

import flows
import pytest

SIZE = 8
ENV = {"TEST_PATIENCE_SECONDS": "0.2"}
GIVEN: dict[str, Any] = {
    "name": "pipeline",
    "parameters": {"size": SIZE},
    "backend": "threads:2",
    "env": ENV,
}


def test_a_process_that_is_stopped_in_the_catalog_holds_nobody_up(
    stage: Any, wait_until: Callable[..., None]
) -> None:
    assert stage.drive(run_id="before", rules="batch.pack.before:kill@3", **GIVEN).wait() == -signal.SIGKILL
    sleeper = stage.drive(run_id="sleeper", rules="history.create.moved:pause", **GIVEN)
    wait_until(lambda: sleeper.is_stopped)
    new = stage.drive(run_id="new", **GIVEN)
    resumed = stage.drive(run_id="before", **GIVEN)
    for driver in (new, resumed):
        assert driver.result()["value"] == flows.plain(SIZE)
        assert f"process {sleeper.pid} keeps it locked, and is stopped" in driver.output()
    # They are known by their ids, though no list has them.
    seen = stage.look("new", verifies=False)
    assert seen["state"] == "Completed"
    assert stage.look("before", verifies=False)["state"] == "Completed"
    sleeper.send(signal.SIGCONT)
    assert sleeper.result()["value"] == flows.plain(SIZE)
    for run_id in ("new", "before", "sleeper"):
        seen = stage.look(run_id)
        assert (seen["state"], seen["wrong"]) == ("Completed", []), run_id
    assert not (stage.home / "unlisted").exists()


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_driver_without_a_row_is_seen_by_others_and_is_listed_when_the_catalog_is_free(
    stage: Any, tmp_path: Any, wait_until: Callable[..., None], mode: str
) -> None:
    os.mkfifo(tmp_path / "gate")
    given = {"name": "gated", "parameters": {"size": 5, "gate": str(tmp_path / "gate")}, "env": ENV}
    killed = stage.drive(run_id="first", rules="driver.report.received:kill@1", **given)
    assert killed.wait() == -signal.SIGKILL
    catalog = sqlite3.connect(stage.home / "catalog.db", isolation_level=None)
    catalog.execute(f"BEGIN {mode}")
    short = {**given, "env": {**ENV, "GRAPHFLOW_LEASE_SECONDS": "1"}}
    drivers = {"first": stage.drive(run_id="first", **given), "second": stage.drive(run_id="second", **short)}
    wait_until(lambda: stage.counts().get("hold", 0) == 2)
    for run_id, driver in drivers.items():
        refused = stage.drive(run_id=run_id, **given).result()
        assert refused["refused"] == "LeaseHeld", (run_id, refused)
        assert f"process {driver.pid} on " in refused["message"]
    catalog.execute("ROLLBACK")
    wait_until(
        lambda: catalog.execute("SELECT COUNT(*) FROM lease WHERE run_id = 'second'").fetchone() == (1,)
    )
    assert catalog.execute("SELECT state FROM run WHERE id = 'second'").fetchone() == ("Running",)
    catalog.close()
    for run_id, driver in drivers.items():
        if not driver.has_ended:
            wait_until(lambda driver=driver: driver.has_ended or bool(open_gate(tmp_path / "gate")))
        assert driver.result()["value"] == sum(x * x for x in range(5)), run_id
        assert stage.look(run_id)["wrong"] == []
    assert stage.counts()["hold"] == 2


def open_gate(gate: Any) -> None:
    """Let one who waits at the gate go on, if there is one."""
    try:
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return
