"""`graphflow serve` with its port, and commands that are sent to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

FLOW = """
from graphflow import flow, task

@task
def double(x):
    return 2 * x

@flow(backend="inline")
def doubles(n: int):
    return double.map(range(n))
"""


def graphflow(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graphflow", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_commands_are_sent_to_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs.py").write_text(FLOW)
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    made = graphflow("token", "create", "ci", "--role", "operator")
    token = made.stdout.strip()
    assert re.fullmatch(r"gf_[\w-]{43}", token), made
    command = [sys.executable, "-m", "graphflow", "serve", str(tmp_path / "jobs.py"), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        try:
            told = []
            for line in served.stderr:
                told.append(line)
                if line.startswith("stop:"):
                    break
            link = re.search(r"(http://127\.0\.0\.1:(\d+))/#token=gf_", "".join(told))
            assert link is not None, told
            sent = {"GRAPHFLOW_API_TOKEN": token, "GRAPHFLOW_HOME": str(tmp_path / "elsewhere")}
            api = ("--api", link[1])
            done = graphflow(
                *api, "deploy", "run", "doubles/jobs", "-p", "n=4", "--wait", "-o", "json", **sent
            )
            assert done.returncode == 0, done
            run = json.loads(done.stdout)
            assert run["nodes"][0]["counts"] == {"Completed": 4}
            items = ("runs", "items", run["id"], "--values", "-o", "json")
            assert json.loads(graphflow(*api, *items, **sent).stdout) == json.loads(graphflow(*items).stdout)
            assert not (tmp_path / "elsewhere").exists()
            assert graphflow(*api, "deploy", "rm", "doubles/jobs", **sent).returncode == 2
            second = graphflow("serve", "--no-worker", "--port", link[2])
            assert (second.returncode, f":{link[2]} is in use" in second.stderr) == (3, True)
        finally:
            served.send_signal(signal.SIGTERM)
            served.stderr.read()
            served.wait(60)
    assert served.returncode == 0


def test_pages_alone_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-m", "graphflow", "ui", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        try:
            told = []
            for line in served.stderr:
                told.append(line)
                if line.startswith("stop:"):
                    break
            link = re.search(r"(http://\S+)/#token=(\S+)", "".join(told))
            assert link is not None, told
            sent = {"Authorization": f"Bearer {link[2]}"}
            page = urllib3.request("GET", f"{link[1]}/runs", headers=sent, timeout=60)
            assert page.status == 200 and b"No run was made here yet." in page.data
            refused = urllib3.request("POST", f"{link[1]}/api/v1/runs/x/cancel", headers=sent, timeout=60)
            assert refused.status == 403 and b"read-only" in refused.data
        finally:
            served.send_signal(signal.SIGTERM)
            served.stderr.read()
            served.wait(60)
    assert served.returncode == 0
