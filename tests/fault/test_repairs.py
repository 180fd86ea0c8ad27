"""Damaged homes that are repaired: each run goes on to the right result, and nothing runs again that was kept."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import flows
import pytest

from graphflow.common import failpoints

SIZE = 12
DAMAGES = int(os.environ.get("GRAPHFLOW_TEST_DAMAGES", "40"))
"""How many random damages are tried; 200 takes a few minutes."""
FIRST = int(os.environ.get("GRAPHFLOW_TEST_FIRST_DAMAGE", "0"))
GIVEN: dict[str, Any] = {"name": "pipeline", "parameters": {"size": SIZE}, "backend": "threads:2"}
RUNS = {"ended": "", "early": "journal.commit.before:kill@9", "late": "batch.pack.before:kill@11"}


def damaged(content: bytes, random_: random.Random) -> bytes:
    """Damage as disks and people do it."""
    at = random_.randrange(len(content) or 1)
    kind = random_.choice(["bit", "cut", "zeros", "noise", "empty", "page"])
    if kind == "bit":
        return content[:at] + bytes([content[at] ^ (1 << random_.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "empty":
        return b""
    if kind == "zeros":
        return content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]
    size = 4096 if kind == "page" else 100
    at -= at % 4096 if kind == "page" else 0
    return (content[:at] + random_.randbytes(size) + content[at + size :])[: len(content)]


def targets(home: Path) -> dict[str, list[Path]]:
    runs = home / "runs"
    return {
        "run.db": sorted(runs.glob("*/run.db")),
        "run.db-wal": sorted(each for each in runs.glob("*/run.db-wal") if each.stat().st_size),
        "catalog.db": [home / "catalog.db"],
        "anchor": sorted(runs.glob("*/anchor")),
        "secret.key": [home / "secret.key"],
        "value": sorted(each for each in runs.glob("*/results/*") if each.is_file()),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_a_repair_each_run_goes_on_to_the_right_result(new_stage: Any) -> None:
    stage = new_stage("all")
    for run_id, rules in RUNS.items():
        child = stage.drive(run_id=run_id, rules=rules, **GIVEN)
        assert child.wait() == (-signal.SIGKILL if rules else 0)
    good = stage.home.with_name("good")
    shutil.copytree(stage.home, good)
    places = targets(good)
    assert all(places.values()), places
    names = flows.names(SIZE)
    told_of_loss = again_of = 0
    for seed in range(FIRST, DAMAGES):
        random_ = random.Random(seed)
        kind = sorted(places)[seed % len(places)]
        path = random_.choice(places[kind])
        shutil.rmtree(stage.home)
        shutil.copytree(good, stage.home, ignore=shutil.ignore_patterns("*-shm"))
        place = stage.home / path.relative_to(good)
        place.chmod(0o600)
        if random_.random() < 0.1:
            place.unlink()
        else:
            place.write_bytes(damaged(place.read_bytes(), random_))
        what = f"seed {seed}: {place.relative_to(stage.home)}"
        found = stage.start("repair").result()
        assert found["error"] == "", (what, found)
        told = found["told"]
        for run_id in RUNS:
            seen = stage.look(run_id)
            assert seen["wrong"] == [], (what, seen["wrong"], told)
            done = {
                names[node][index]
                for node in names
                for index in seen["done"].get(node, ())
                if index < len(names[node])
            }
            before = stage.counts()
            run = stage.drive(run_id=run_id, **GIVEN).result()
            assert run.get("state") == "Completed", (what, run_id, run, told)
            assert run["value"] == flows.plain(SIZE), (what, run_id, run)
            again = {item for item, count in stage.counts().items() if count > before.get(item, 0)}
            again_of += len(again)
            if kind != "value":
                assert not again & done, (what, run_id, again & done, told)
            if run_id == "ended" and again and kind != "value":
                assert told.get(run_id), (what, again)
                told_of_loss += 1
            assert stage.look(run_id)["wrong"] == [], what
    assert told_of_loss < DAMAGES / 4


@pytest.mark.parametrize("name", [each for each in failpoints.NAMES if each.startswith("repair.")])
def test_a_repair_that_is_killed_is_repeated(stage: Any, name: str) -> None:
    assert stage.drive(run_id="early", rules=RUNS["early"], **GIVEN).wait() == -signal.SIGKILL
    folder = stage.home / "runs" / "early"
    log = folder / "run.db-wal"
    content = log.read_bytes()
    log.write_bytes(content[: len(content) // 2])
    with contextlib.suppress(FileNotFoundError):
        (folder / "run.db-shm").unlink()
    assert stage.start("repair", rules=f"{name}:kill").wait() == -signal.SIGKILL
    told = stage.start("repair").result()["told"]["early"]
    assert stage.look("early")["wrong"] == []
    assert (
        log.with_name(next(folder.glob("run.db-wal.damaged-*")).name).read_bytes()
        == content[: len(content) // 2]
    )
    assert any("run.db-wal.damaged-" in text for text in told) or name == "repair.placed", told
    run = stage.drive(run_id="early", **GIVEN).result()
    assert run["value"] == flows.plain(SIZE)


def test_a_key_that_is_gone_comes_back_from_its_copy_and_without_one_nothing_is_believed(stage: Any) -> None:
    assert stage.drive(run_id="ended", **GIVEN).wait() == 0
    key = stage.home / "secret.key"
    content = key.read_bytes()
    key.unlink()
    assert stage.look("ended")["wrong"] == []
    assert key.read_bytes() == content
    key.write_bytes(bytes(32))
    (stage.home / "secret.key.copy").unlink()
    found = stage.start("repair").result()
    assert any("another key" in text and "backup" in text for text in found["told"]["ended"]), found
    refused = stage.drive(run_id="ended", **GIVEN).result()
    assert refused["refused"] == "HistoryDamaged"
