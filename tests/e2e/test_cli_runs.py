"""`graphflow runs` and `graphflow fsck`: runs of earlier, and runs of other processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import graphflow
from graphflow.cli.exits import ExitCode
from graphflow.testing.waiting import eventually

FLOWS = """
from pathlib import Path
from graphflow import flow, get_run_logger, task
from graphflow.backends import threads

@task(retries=1)
def load(x):
    with open("executions", "a") as file:
        file.write(f"{x}\\n")
    if x % 4 == 3 and not Path("mended").exists():
        raise ValueError(f"bad {x}")
    get_run_logger().info("loaded %d", x)
    return x * 10

@task
def add(x):
    return x + 1

@flow(backend=threads(1))
def crawl(n: int = 8):
    return add.map(load.map(range(n)))

@task
def answer():
    return {"a": 42}

@flow(backend=threads(1))
def simple():
    return answer()
"""

WAITING = """
from pathlib import Path
from graphflow import flow, task
from graphflow.backends import threads
from graphflow.testing.waiting import eventually

@task(log_prints=True)
def wait(x):
    print("item", x)
    Path(f"begun-{x}").touch()
    if x:
        eventually(Path("go").exists)
    return x

@flow(backend=threads(1))
def waiting(n: int = 8):
    return wait.with_options(batch_size=1).map(range(n))
"""

Cli = Callable[..., Any]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Histories of this test alone."""
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def flows(folder: Path) -> Path:
    (folder / "flows.py").write_text(FLOWS, encoding="utf-8")
    return folder


@pytest.fixture
def failed(flows: Path, cli: Cli) -> str:
    """The id of a run that failed."""
    assert cli("run", "flows.py:crawl", "-q").code == ExitCode.FAILED
    return run_id()


def run_id() -> str:
    with graphflow.history() as history:
        return history.run("@latest").id


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


# -- looking ---------------------------------------------------------------------------------------------------


def test_nothing_is_listed_where_nothing_ran(cli: Cli) -> None:
    assert cli("runs", "ls").code == 0
    assert json.loads(cli("runs", "ls", "-o", "json").out) == []
    done = cli("runs", "show", "@latest")
    assert (done.code == ExitCode.NOT_FOUND and "there is no run" in done.err) or "no run matches" in done.err


def test_runs_are_listed_filtered_and_paged(failed: str, cli: Cli) -> None:
    assert cli("run", "flows.py:simple", "-q").out == '{"a": 42}\n'
    newest = run_id()
    listed = lines(cli("runs", "ls", "-o", "jsonl").out)
    assert [(each["id"], each["flow"], each["state"]) for each in listed] == [
        (newest, "simple", "Completed"),
        (failed, "crawl", "Failed"),
    ]
    assert TIME.fullmatch(listed[0]["created"]) and listed[0]["pid"] == os.getpid()
    table = cli("runs", "ls", "--limit", "1")
    assert newest in table.out and failed not in table.out and f"--before {newest}" in table.err
    rest = json.loads(cli("runs", "ls", "--before", newest, "-o", "json").out)
    assert [each["id"] for each in rest] == [failed]
    assert failed in cli("runs", "ls", "--flow", "crawl", "--state", "failed", "--since", "1h").out
    assert cli("runs", "ls", "--state", "Crashed", "-o", "jsonl").out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ls", "--state", "Done"], "unknown state 'Done'; the states are Pending"),
        (["ls", "--since", "soon"], "'soon' is not a time"),
        (["ls", "--limit", "0"], "--limit"),
        (["items", "@latest"], "has 2 maps (load, add); choose a node"),
        (["items", "@latest", "loda"], "this run has no node 'loda'; its nodes: load, add"),
        (["items", "@latest", "load", "--state", "x"], "unknown state 'x'"),
        (["show", "@latest", "--node", "load", "--index", "99"], "there is no item 99"),
        (["logs", "@latest", "-f", "-o", "json"], "use -o jsonl"),
        (["logs", "@latest", "--level", "loud"], "unknown level 'loud'"),
        (["logs", "@latest", "--node", "x"], "no node 'x'"),
        (["result", "@latest", "--index", "3"], "--index 3 needs a node"),
        (["retry", "@latest", "--failed", "--node", "load"], "not both"),
        (["retry", "@latest", "--node", "load", "--index", "8"], "there is no item 8"),
        (["retry", "@latest", "--node", "load", "--index", "x"], "'x' in 'x' is not a map index"),
        (["retry", "@latest", "--index", "1"], "has 2 maps"),
        (["update", "@latest", "load", "x"], "is not a setting"),
        (["rm", "@latest"], "no way to confirm; use --yes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_told_and_nothing_is_done(
    arguments: list[str], says: str, failed: str, cli: Cli, flows: Path
) -> None:
    before = (flows / "executions").read_text()
    done = cli("runs", *arguments)
    assert done.code == ExitCode.USAGE and says in done.err.replace("\n", " "), done.err
    assert (flows / "executions").read_text() == before and run_id() == failed


def test_a_run_is_shown_with_what_failed(failed: str, cli: Cli) -> None:
    shown = cli("runs", "show", failed[:15])
    assert shown.code == 0 and "parameters: n=8" in shown.out and "2 × ValueError: bad #" in shown.out
    assert "items 3, 7" in shown.out and "2 dependent task runs did not start" in shown.out
    document = json.loads(cli("runs", "show", "@latest-failed", "-o", "json").out)
    assert document["schema"] == "graphflow.run/1" and document["state"]["name"] == "Failed"
    assert [node["counts"] for node in document["nodes"]] == [
        {"Completed": 6, "Failed": 2},
        {"Completed": 6, "UpstreamFailed": 2},
    ]
    assert [launch["reason"] for launch in document["launches"]] == ["start"]
    assert [each["index"] for each in document["nodes"][0]["failures"]] == [3, 7]


def test_items_are_listed_in_pages_with_their_values(failed: str, cli: Cli) -> None:
    first = cli("runs", "items", failed, "load", "--limit", "2", "--values")
    assert "load[1]" in first.out and "10" in first.out and "6 more; use --start 2" in first.err
    documents = lines(cli("runs", "items", failed, "add", "--start", "2", "--values", "-o", "jsonl").out)
    assert [each["index"] for each in documents] == [2, 3, 4, 5, 6, 7]
    assert (
        documents[0]["value"] == 21 and documents[0]["state"] == "Completed" and documents[0]["attempts"] == 1
    )
    assert documents[1]["value"] is None and documents[1]["exception"]["type"] == "UpstreamFailed"
    assert TIME.fullmatch(documents[0]["started"])
    chosen = lines(
        cli("runs", "items", failed, "load", "--state", "Failed", "--stop", "5", "-o", "jsonl").out
    )
    assert [each["index"] for each in chosen] == [3]


def test_one_item_is_shown_with_all_that_happened_to_it(failed: str, cli: Cli) -> None:
    shown = cli("runs", "show", failed, "--node", "load", "--index", "3").out
    assert "load[3]: Failed, 2 attempts" in shown and "AwaitingRetry  ValueError: bad 3" in shown
    assert "inputs x=3" in shown and 'raise ValueError(f"bad {x}")' in shown
    item = json.loads(cli("runs", "show", failed, "--node", "load", "--index", "3", "-o", "json").out)
    assert [each["state"] for each in item["history"]] == [
        "Pending",
        "Running",
        "AwaitingRetry",
        "Retrying",
        "Failed",
    ]


def test_failures_are_grouped_for_people_and_listed_as_json(failed: str, cli: Cli) -> None:
    assert "2 × ValueError: bad #" in cli("runs", "failures", failed).out
    assert cli("runs", "failures", failed, "--node", "add").out == "2 dependent task runs did not start\n"
    found = lines(cli("runs", "failures", failed, "--node", "load", "-o", "jsonl").out)
    assert [each["exception"]["message"] for each in found] == ["bad 3", "bad 7"]
    assert found[0]["inputs"] == "x=3" and "Traceback" in found[0]["exception"]["traceback"]
    assert len(lines(cli("runs", "failures", failed, "--limit", "3", "-o", "jsonl").out)) == 3


def test_the_log_is_printed(failed: str, cli: Cli) -> None:
    printed = cli("runs", "logs", failed).out.splitlines()
    assert len(printed) == 6 and printed[0].endswith("INFO load[0] loaded 0")
    assert cli("runs", "logs", failed, "--tail", "1").out.endswith("loaded 6\n")
    found = lines(cli("runs", "logs", failed, "--node", "load", "--index", "5", "-o", "jsonl").out)
    assert [(each["message"], each["index"], each["level"]) for each in found] == [("loaded 5", 5, 20)]
    assert TIME.fullmatch(found[0]["at"])
    assert len(json.loads(cli("runs", "logs", failed, "-o", "json").out)) == 6
    assert cli("runs", "logs", failed, "-f", "--level", "ERROR").out == ""


def test_results_are_printed(failed: str, cli: Cli) -> None:
    assert cli("runs", "result", failed, "--node", "add", "--index", "2").out == "21\n"
    gone = cli("runs", "result", failed, "--node", "load", "--index", "3")
    assert gone.code == ExitCode.FAILED and gone.err == "error: ValueError: bad 3\n"
    whole = cli("runs", "result", failed)
    assert whole.code == ExitCode.FAILED and "error: MapFailed: 2 of 8 items of load failed" in whole.err
    cli("run", "flows.py:simple", "-q")
    assert cli("runs", "result", "@latest").out == '{"a": 42}\n'


def test_watching_a_run_that_ended_tells_how(failed: str, cli: Cli) -> None:
    seen = cli("runs", "watch", failed)
    assert seen.code == ExitCode.FAILED and "2 × ValueError: bad #" in seen.err and seen.out == ""
    cli("run", "flows.py:simple", "-q")
    assert cli("runs", "watch", "@latest", "-q").code == 0


# -- going on ----------------------------------------------------------------------------------------------------


def executed(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "executions").read_text().split()]


def test_a_failed_run_is_retried_with_mended_code_and_only_what_failed_runs(
    failed: str, cli: Cli, flows: Path
) -> None:
    before = len(executed(flows))
    (flows / "mended").touch()
    done = cli("runs", "retry", failed, "-q")
    assert done.code == 0, done.err
    assert json.loads(done.out) == [10 * x + 1 for x in range(8)]
    assert executed(flows)[before:] == [3, 7]
    document = json.loads(cli("runs", "show", failed, "-o", "json").out)
    assert [launch["reason"] for launch in document["launches"]] == ["start", "retry"]


def test_single_items_are_retried(failed: str, cli: Cli, flows: Path) -> None:
    before = len(executed(flows))
    (flows / "mended").touch()
    done = cli("runs", "retry", failed, "--node", "load", "--index", "0,3:5", "-q")
    assert sorted(executed(flows)[before:]) == [0, 3, 4] and done.code == ExitCode.FAILED
    assert cli("runs", "result", failed, "--node", "add", "--index", "3").out == "31\n"


def test_a_run_is_resumed_from_wherever_its_flow_is_now(
    failed: str, cli: Cli, flows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (flows / "mended").touch()
    (flows / "flows.py").rename(flows / "moved.py")
    for name in [name for name in sys.modules if name == "flows"]:
        monkeypatch.delitem(sys.modules, name)
    lost = cli("runs", "resume", failed)
    assert lost.code == ExitCode.CANNOT_LOAD and "--target file.py:flow" in lost.err
    done = cli("runs", "resume", failed, "--target", "moved.py:crawl", "-q", "-o", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["value"] == [10 * x + 1 for x in range(8)]


def test_a_removed_run_is_gone(failed: str, cli: Cli, home: Path) -> None:
    done = cli("runs", "rm", failed, "--yes")
    assert done.code == 0 and not (home / "runs" / failed).exists()
    assert cli("runs", "show", failed).code == ExitCode.NOT_FOUND


def test_damage_is_found(failed: str, cli: Cli, home: Path) -> None:
    whole = cli("fsck")
    assert whole.code == 0 and whole.out == "" and whole.err == "1 run verified, 0 damaged\n"
    pack = next((home / "runs" / failed / "results").glob("*.pack"))
    pack.unlink()
    found = cli("fsck", failed, "-o", "json")
    assert found.code == ExitCode.FAILED and pack.name in json.loads(found.out)[0]["problems"][0]
    file = home / "runs" / failed / "run.db"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    damaged = cli("fsck")
    assert damaged.code == ExitCode.FAILED and failed in damaged.out
    assert cli("runs", "show", failed).code == ExitCode.INFRASTRUCTURE


# -- runs of other processes ---------------------------------------------------------------------------------------


@pytest.fixture
def driven(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a flow, whose second item waits for a file `go`."""
    (folder / "waiting.py").write_text(WAITING, encoding="utf-8")
    command = [sys.executable, "-m", "graphflow", "run", "waiting.py:waiting", "-q"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            eventually((folder / "begun-1").exists)
            yield process
        finally:
            (folder / "go").touch()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def background(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "graphflow", "runs", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_is_watched_and_its_log_followed_from_another_terminal(
    driven: subprocess.Popen[str], folder: Path
) -> None:
    watching = background("watch", "@latest", "--progress", "plain", folder=folder)
    following = background("logs", "@latest", "-f", folder=folder)
    with watching, following:
        assert following.stdout is not None and watching.stderr is not None
        assert following.stdout.readline().endswith("INFO wait[0] item 0\n")
        assert watching.stderr.readline().startswith("wait  ")
        (folder / "go").touch()
        out, _ = following.communicate(timeout=60)
        assert following.returncode == 0 and "item 7" in out
        _, err = watching.communicate(timeout=60)
        assert watching.returncode == 0 and "Completed" in err
    assert driven.wait(60) == 0


def test_who_watches_can_stop_and_the_run_goes_on(driven: subprocess.Popen[str], folder: Path) -> None:
    with background("watch", "@latest", "--progress", "plain", folder=folder) as watching:
        assert watching.stderr is not None
        watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)
        assert watching.returncode == ExitCode.INTERRUPTED
    assert driven.poll() is None


def test_a_run_is_paused_changed_and_resumed_from_another_process(
    driven: subprocess.Popen[str], cli: Cli, folder: Path
) -> None:
    paused = cli("runs", "pause", "@latest")
    assert paused.code == 0 and "is paused" in paused.err
    assert lines(cli("runs", "ls", "-o", "jsonl").out)[0]["state"] == "Paused"
    (folder / "go").touch()
    assert not (folder / "begun-7").exists()
    assert cli("runs", "update", "@latest", "wait", "max_concurrency=1").code == 0
    refused = cli("runs", "update", "@latest", "wait", "colour=red")
    assert refused.code == ExitCode.FAILED and "has no option 'colour'" in refused.err
    assert cli("runs", "resume", "@latest").code == 0
    assert driven.wait(60) == 0 and (folder / "begun-7").exists()


def test_a_run_is_cancelled_from_another_process(
    driven: subprocess.Popen[str], cli: Cli, folder: Path
) -> None:
    assert cli("runs", "cancel", "@latest").code == 0
    (folder / "go").touch()
    assert driven.wait(60) == ExitCode.FAILED and not (folder / "begun-7").exists()
    assert lines(cli("runs", "ls", "-o", "jsonl").out)[0]["state"] == "Cancelled"
    again = cli("runs", "cancel", "@latest")
    assert (
        again.code == ExitCode.FAILED
        and "has already ended (Cancelled), so it cannot be asked to cancel" in again.err
    )


@pytest.mark.parametrize("command", [["resume"], ["retry"], ["rm", "--yes"]], ids=lambda each: each[0])
def test_a_run_that_has_a_driver_is_left_alone(
    command: list[str], driven: subprocess.Popen[str], cli: Cli
) -> None:
    done = cli("runs", command[0], "@latest", *command[1:])
    assert done.code == ExitCode.HELD and str(driven.pid) in done.err and "lease" in done.err
    assert driven.poll() is None


def test_a_run_whose_driver_was_killed_is_resumed(
    driven: subprocess.Popen[str], cli: Cli, folder: Path
) -> None:
    driven.send_signal(signal.SIGKILL)
    driven.wait()
    assert eventually(lambda: lines(cli("runs", "ls", "-o", "jsonl").out)[0]["state"] == "Crashed")
    (folder / "begun-0").unlink()
    (folder / "go").touch()
    done = cli("runs", "resume", "@latest", "-q")
    assert done.code == 0 and done.out == "[0, 1, 2, 3, 4, 5, 6, 7]\n", done.err
    assert not (folder / "begun-0").exists(), "what was done is not done again"


def test_runs_that_the_catalog_has_lost_are_found_and_listed_again(failed: str, cli: Cli, home: Path) -> None:
    (home / "catalog.db").rename(home / "catalog.gone")
    found = cli("fsck")
    assert found.code == ExitCode.FAILED and f"{failed}  the catalog has lost this run" in found.out
    repaired = cli("fsck", "--repair")
    assert repaired.code == 0 and f"run {failed} is listed again" in repaired.err
    assert cli("runs", "show", failed).code == 0
    assert cli("fsck", "-o", "json").code == 0
