"""What all tests share: histories and results go to a folder of the test run, never to the user's home."""

from __future__ import annotations

import os
import tempfile

# Before graphflow is used anywhere, also in the processes that tests start.
os.environ["GRAPHFLOW_HOME"] = tempfile.mkdtemp(prefix="graphflow-home-")
