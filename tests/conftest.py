"""What all tests share: histories and results go to a folder of the test run, never to the user's home.

`s3` gives a test a bucket of its own on a real server of S3's protocol, which is started when the first one asks for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from graphflow.testing.faults.s3proxy import S3Proxy
from graphflow.testing.faults.s3server import Bucket, S3Server

# A machine that does other work must fail nothing.
hypothesis_settings.register_profile(
    "graphflow", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
hypothesis_settings.load_profile("graphflow")

# Before graphflow is used anywhere, also in the processes that tests start.
os.environ["GRAPHFLOW_HOME"] = tempfile.mkdtemp(prefix="graphflow-home-")
# What scripts show after 10 s would depend on the machine. Tests of what is shown say what they want.
os.environ["GRAPHFLOW_PROGRESS"] = "off"
# Tests that serve at the same time would want one port, and commands must not go to a server of the user's.
os.environ["GRAPHFLOW_PORT"] = "0"
for name in ("GRAPHFLOW_API_URL", "GRAPHFLOW_API_TOKEN"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of this process."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket; the environment, also of processes that the test starts, has what reaches it."""
    bucket = s3_server.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture(scope="session")
def shared_s3_proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """One proxy for all tests of this process, so that they share connections."""
    proxy = S3Proxy(s3_server.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def s3_proxy(shared_s3_proxy: S3Proxy) -> Iterator[S3Proxy]:
    """A proxy before that server, without faults."""
    shared_s3_proxy.reset()
    yield shared_s3_proxy
    shared_s3_proxy.reset()
