"""Result stores in several processes: forked ones, and such that were started anew."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from graphflow.ports import ResultStore
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.remote import FsspecStore
from graphflow.results.stores.retries import Retries
from graphflow.testing.faults.processes import Script
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import Bucket

KEY = bytes(range(32))
PROCESSES = 4
ROUNDS = 3
QUICK = Retries(base_seconds=0.001)

# Newer Pythons warn of forks while threads run, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(params=["disk", "s3", "s3 that forgets to say so"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    if request.param == "disk":
        return LocalStore(tmp_path / "results", key=KEY)
    s3: Bucket = request.getfixturevalue("s3")
    if request.param == "s3":
        return FsspecStore(f"{s3.url}/x", key=KEY)
    proxy: S3Proxy = request.getfixturevalue("s3_proxy")
    options = {**s3.storage_options, "endpoint_url": proxy.endpoint}
    store = FsspecStore(f"{s3.url}/x", options, key=KEY, retries=QUICK)
    assert store.can_create
    proxy.plan(
        Fault(method="PUT", path="claims", when="after", status=500, code="InternalError", times=PROCESSES)
    )
    return store


def claim(number: int, store: ResultStore, barrier: Any, queue: Any) -> None:
    try:
        won = []
        for at in range(ROUNDS):
            barrier.wait(60)
            won.append(store.create(f"claims/{at}", f"process {number}".encode()))
        queue.put((number, won))
    except BaseException as error:
        queue.put((number, repr(error)))
        raise


def test_of_several_processes_one_makes_a_claim(store: ResultStore) -> None:
    # The parent's connections and threads are there when the others are forked.
    store.publish("before", [b"x"])
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=claim, args=(number, store, barrier, queue)) for number in range(PROCESSES)
    ]
    for each in processes:
        each.start()
    found: dict[int, Any] = dict(queue.get(timeout=60) for _ in processes)
    for each in processes:
        each.join(60)
    for at in range(ROUNDS):
        (winner,) = [number for number, won in found.items() if won[at] is True]
        token = f"process {winner}".encode()
        assert store.read(f"claims/{at}", 0, len(token)) == token
    assert store.read("before", 0, 1) == b"x"


STARTED = """
import pickle, sys
store = pickle.loads(bytes.fromhex(sys.argv[1]))
print(store.url)
store.publish("from/there", [b"hello"])
print(store.read_many([("from/here", 0, 5)]))
print(store.create("claims/one", b"theirs"))
"""


def test_a_store_that_was_sent_works_without_the_environment(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name)
    store = FsspecStore(f"{s3.url}/x", s3.storage_options, key=KEY)
    store.publish("from/here", [b"hello"])
    assert store.create("claims/one", b"mine")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    script = Script(STARTED, pickle.dumps(store).hex())
    assert script.hear() == store.url
    assert script.end() == ["[b'hello']", "False"], script.errors
    assert store.read("from/there", 0, 5) == b"hello"


def test_a_crash_between_link_and_end_leaves_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path, key=KEY)
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setenv("GRAPHFLOW_FAILPOINTS", "store.link.after:kill")
    script = Script(STARTED, pickle.dumps(store).hex())
    store.publish("from/here", [b"hello"])
    script.end()
    assert script.process.returncode == -9
    assert store.read("claims/one", 0, 6) == b"theirs"
    assert store.create("claims/one", b"mine") is False
    assert sorted(store.names()) == ["claims/one", "from/here", "from/there"]
