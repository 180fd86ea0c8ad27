"""Failpoints that the environment plans for a process."""

from __future__ import annotations

import os
import subprocess
import sys

from graphflow.common import failpoints


def test_the_environment_plans_for_a_process_and_those_that_it_starts() -> None:
    code = "from graphflow.common.failpoints import failpoint; failpoint('batch.begin'); print('still there')"

    def ended(rules: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, failpoints.VARIABLE: rules},
        )

    assert ended("batch.begin:exit").returncode == failpoints.EXIT_CODE
    assert ended("batch.begin:kill").returncode == -9
    assert ended("batch.begin:kill@2").stdout == "still there\n"
    wrong = ended("batch.begin:explode")
    assert "GRAPHFLOW_FAILPOINTS: unknown failpoint action 'explode'" in wrong.stderr
