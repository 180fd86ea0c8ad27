"""No backend opens a port that another machine can reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import psutil
from graphflow import backends, flow, task
from graphflow.backends.automatic.candidates import Thresholds
from graphflow.backends.automatic.switching import LocalBackend


@task
def pid(x):
    return os.getpid()


@flow
def body():
    pids = {future.result() for future in pid.map(range(50))}
    here = psutil.Process()
    tree = [here, *here.children(recursive=True)]
    ports = [each.laddr for one in tree for each in one.net_connections("inet") if each.status == "LISTEN"]
    return {"elsewhere": sorted(pids - {here.pid}), "addresses": [each.ip for each in ports]}


print(json.dumps(body.with_options(backend=eval(sys.argv[1]))()))
"""


@pytest.mark.parametrize(
    "backend, has_workers",
    [
        ("'inline'", False),
        ("'threads'", False),
        ("'processes:2'", True),
        ("LocalBackend(2, thresholds=Thresholds(moves_all=True))", True),
        ("backends.dask(cluster_class='distributed.LocalCluster', cluster_kwargs={'n_workers': 1})", True),
    ],
)
def test_every_port_of_a_run_is_on_the_loopback_interface(
    tmp_path: Path, backend: str, has_workers: bool
) -> None:
    script = tmp_path / "ports.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), backend],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "GRAPHFLOW_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert bool(found["elsewhere"]) == has_workers, "tasks did not run where the test wants them"
    assert bool(found["addresses"]) == has_workers
    assert [each for each in found["addresses"] if not ip_address(each).is_loopback] == []
