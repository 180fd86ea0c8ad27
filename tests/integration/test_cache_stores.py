"""Cache folders in every kind of store: the same values everywhere, few requests, and no harm from a server that fails."""

from __future__ import annotations

import logging
import os
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphflow.cache.cached import MISSING, CacheFolder
from graphflow.cache.collecting import collect, folders_of, stat_folder, verify_folder
from graphflow.cache.compacting import compact
from graphflow.errors import ResultStoreError
from graphflow.ports import ResultStore
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.remote import FsspecStore
from graphflow.results.stores.retries import Retries
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import Bucket

KEY = bytes(range(32))
FOLDER = "cache/square-0123456789abcdef"
QUICK = Retries(attempts=3, base_seconds=0.001)


@pytest.fixture(params=["disk", "memory", "files through fsspec", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ResultStore]:
    if request.param == "disk":
        yield LocalStore(tmp_path / "results", key=KEY)
    elif request.param == "memory":
        memory = FsspecStore(f"memory://{uuid.uuid4().hex}/results", key=KEY)
        yield memory
        memory.delete(memory.names())
    elif request.param == "files through fsspec":
        yield FsspecStore(f"local://{tmp_path}/results", key=KEY)
    else:
        bucket: Bucket = request.getfixturevalue("s3")
        yield FsspecStore(f"{bucket.url}/results", key=KEY)


@pytest.fixture
def behind_proxy(s3: Bucket, s3_proxy: S3Proxy) -> FsspecStore:
    options = {**s3.storage_options, "endpoint_url": s3_proxy.endpoint}
    return FsspecStore(f"{s3.url}/results", options, key=KEY, retries=QUICK)


def key(number: int) -> bytes:
    return struct.pack(">QQ", (number * 0x9E3779B97F4A7C15) % 2**64, number + 1)


def put(folder: CacheFolder, values: dict[int, Any]) -> str:
    return folder.publish(
        keys=b"".join(map(key, values)),
        values=list(values.values()),
        indices=list(values),
        run_id="run-1",
        node="square",
        created=time.time(),
        expires=None,
        parts={"x": b"".join(struct.pack("<I", number + 1) for number in values)},
    ).name


def get(folder: CacheFolder, *numbers: int) -> list[Any]:
    found = folder.find(b"".join(map(key, numbers)), now=0.0)
    values = dict(zip(found.positions, folder.load(found, found.positions), strict=True))
    return [values.get(position, MISSING) for position in range(len(numbers))]


def opened(store: ResultStore) -> CacheFolder:
    folder = CacheFolder(store, FOLDER)
    folder.refresh()
    return folder


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_values_are_the_same_in_every_store(store: ResultStore, caplog: pytest.LogCaptureFixture) -> None:
    assert get(opened(store), 1) == [MISSING] and folders_of(store) == []
    large = os.urandom(200_000)
    every: dict[int, Any] = {}
    for start in range(0, 40, 10):
        values = {number: (number, "x" * number) for number in range(start, start + 10)}
        put(CacheFolder(store, FOLDER), values)
        every |= values
    put(CacheFolder(store, FOLDER, large_nbytes=100_000), {100: large, 101: "y" * 300_000})
    every |= {100: large, 101: "y" * 300_000}
    reader = opened(store)
    assert get(reader, *every) == get(opened(store), *every) == list(every.values())
    done = compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert (done.read, len(done.written), done.removed) == (5, 1, 5)
    assert get(reader, *every) == get(opened(store), *every) == list(every.values())
    collect(store, FOLDER, now=time.time() + 1e6)
    assert [problem for _, problem in verify_folder(store, FOLDER)] == [""]
    found = stat_folder(store, FOLDER, now=time.time())
    assert (found.live, found.packs, found.blobs) == (42, 1, 2) and folders_of(store) == [FOLDER]
    assert get(opened(store), *every) == list(every.values()) and told(caplog) == []


def test_a_deleted_object_is_a_miss_in_every_store(
    store: ResultStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = put(CacheFolder(store, FOLDER), {1: "one", 2: os.urandom(100_000)})
    kept = put(CacheFolder(store, FOLDER), {3: "three"})
    reader = opened(store)
    store.delete([f"{FOLDER}/{name}"])
    assert get(reader, 1, 2, 3) == [MISSING, MISSING, "three"]
    assert get(reader, 1, 2, 3) == [MISSING, MISSING, "three"] and kept
    assert len(told(caplog)) == 1 and name in told(caplog)[0]


def test_an_all_hit_run_takes_a_few_requests(behind_proxy: FsspecStore, s3_proxy: S3Proxy) -> None:
    writer = CacheFolder(behind_proxy, FOLDER)
    for start in range(0, 20_000, 2_000):
        put(writer, {number: number for number in range(start, start + 2_000)})
    s3_proxy.forget()
    reader = opened(behind_proxy)
    for start in range(0, 20_000, 1_000):
        assert get(reader, *range(start, start + 1_000)) == list(range(start, start + 1_000))
    # One listing, and one request for all of each pack, since they are small.
    assert len(s3_proxy.seen()) == 1 + 10
    assert [each.method for each in s3_proxy.seen()].count("GET") == 11


@pytest.mark.parametrize("when", ["before", "halfway", "after"])
def test_a_put_that_fails_publishes_once_or_not_at_all(
    behind_proxy: FsspecStore, s3_proxy: S3Proxy, when: Any
) -> None:
    writer = CacheFolder(behind_proxy, FOLDER)
    s3_proxy.plan(Fault(method="PUT", when=when, times=1))
    put(writer, {1: "one"})
    assert get(opened(behind_proxy), 1) == ["one"] and len(list(behind_proxy.names())) == 1
    s3_proxy.plan(Fault(method="PUT", when=when, times=None))
    with pytest.raises(ResultStoreError, match=r"cannot be written to s3://"):
        put(writer, {1: "other", 2: "two"})
    s3_proxy.reset()
    # What nobody was told of may be there; a value is one that was published whole, or none.
    assert get(writer, 1, 2) == ["one", MISSING]
    assert get(opened(behind_proxy), 1, 2) in (["one", MISSING], ["other", "two"])


def test_a_listing_that_lags_makes_misses_and_nothing_worse(
    behind_proxy: FsspecStore, s3_proxy: S3Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CacheFolder(behind_proxy, FOLDER)
    put(writer, {1: "one"})
    put(writer, {2: os.urandom(90_000)})
    s3_proxy.lag_listings()
    name = put(writer, {3: "three"})
    writer.refresh()
    assert get(writer, 3) == ["three"]
    assert get(opened(behind_proxy), 1, 3) == ["one", MISSING]
    # Compaction knows two of the three, and its own pack is not listed: nothing is removed, or all that is removed moved.
    reader = opened(behind_proxy)
    compact(behind_proxy, FOLDER, now=time.time(), grace_seconds=0.0)
    collect(behind_proxy, FOLDER, now=time.time(), grace_seconds=3600.0)
    assert get(reader, 1) == ["one"]
    s3_proxy.catch_up()
    after = opened(behind_proxy)
    assert get(after, 1, 3) == ["one", "three"] and get(after, 2) != [MISSING] and name
    compact(behind_proxy, FOLDER, now=time.time(), grace_seconds=0.0)
    assert get(opened(behind_proxy), 1, 3) == ["one", "three"] and told(caplog) == []


def test_a_store_that_cannot_be_reached_is_told(behind_proxy: FsspecStore, s3_proxy: S3Proxy) -> None:
    folder = CacheFolder(behind_proxy, FOLDER)
    put(folder, {1: os.urandom(90_000)})
    found = folder.find(key(1), now=0.0)
    s3_proxy.plan(Fault(times=None, status=503, code="SlowDown"))
    for act in (folder.refresh, lambda: folder.load(found, [0]), lambda: put(folder, {2: 2})):
        with pytest.raises(ResultStoreError, match="SlowDown"):
            act()
    s3_proxy.reset()
    assert get(folder, 1) != [MISSING] and get(folder, 2) == [MISSING]
