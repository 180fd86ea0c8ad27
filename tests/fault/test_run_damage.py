"""Packs and histories that were damaged after their driver had died: found, and never believed."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows
import pytest

SIZE = 8
GIVEN: dict[str, Any] = {
    "name": "pipeline",
    "run_id": "run-1",
    "parameters": {"size": SIZE},
    "backend": "threads:2",
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 8
    path.chmod(0o600)
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[: len(content) // 2])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_each_damaged_pack_runs_its_own_items_again_and_no_others(
    damage: Callable[[Path], None], new_stage: Callable[[str], Any]
) -> None:
    clean = new_stage("clean")
    last = clean.drive(rules="", **GIVEN).result()["hits"]["batch.pack.before"]
    stage = new_stage("damaged")
    # It dies before the value of the last task is anywhere.
    assert stage.drive(rules=f"batch.pack.before:kill@{last - 1}", **GIVEN).wait() == -signal.SIGKILL
    seen = stage.look("run-1")
    good = stage.home.with_name("good")
    shutil.copytree(stage.home, good)
    names = flows.names(SIZE)
    done = {names[node][index] for node in names for index in seen["done"].get(node, ())}
    assert seen["packs"]
    for name, places in seen["packs"].items():
        shutil.rmtree(stage.home)
        shutil.copytree(good, stage.home)
        before = stage.counts()
        damage(stage.home / "runs" / "run-1" / "results" / name)
        found = stage.drive(**GIVEN).result()
        assert found["state"] == "Completed", found
        assert found["value"] == flows.plain(SIZE)
        after = stage.counts()
        again = {item for item in done if after[item] > before[item]}
        own = {names[node][index] for node, index in places if node in names}
        if len(own) < len(places) or not places:
            # The value that stands for what a task returned: only the task can record its calls again.
            own.add("fan")
        assert again <= own, f"{again - own} ran again, although {name} holds {own}"
        # Every fourth `shake` fails once.
        ran = {item: after[item] - before[item] for item in again}
        assert all(count <= 1 + item.startswith("shake") for item, count in ran.items()), ran
        assert stage.look("run-1")["wrong"] == []


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "driver.lock" not in path.name and not path.name.endswith("-shm")
    }


@pytest.mark.parametrize("place", ["begin", "middle", "all"])
def test_a_damaged_history_is_refused_and_left_as_it_is(stage: Any, place: str) -> None:
    driver = stage.drive(rules="journal.commit.before:kill@12", **GIVEN)
    assert driver.wait() == -signal.SIGKILL
    folder = stage.home / "runs" / "run-1"
    good = stage.home.parent / "good"
    shutil.copytree(folder, good)
    for path in (folder / "run.db", folder / "run.db-wal"):
        content = bytearray(path.read_bytes())
        if place == "all":
            content[:] = b"\x5a" * len(content)
        elif content:
            at = 20 if place == "begin" else len(content) // 2
            content[at : at + 200] = b"\xff" * 200
        path.write_bytes(content)
    before, counts = digests(folder), stage.counts()
    found = stage.drive(**GIVEN).result()
    assert found["refused"] == "HistoryDamaged", found
    assert ("run.db" in found["message"] and "was not changed" in found["message"]) or "damaged" in found[
        "message"
    ]
    assert stage.counts() == counts
    assert digests(folder) == before
    shutil.rmtree(folder)
    shutil.copytree(good, folder)
    found = stage.drive(**GIVEN).result()
    assert found["value"] == flows.plain(SIZE)
