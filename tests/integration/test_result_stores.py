"""The contract of result stores over all kinds of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.ports import ResultStore
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.remote import FsspecStore
from graphflow.testing.contracts.stores import ResultStoreContract
from graphflow.testing.faults.s3server import Bucket

KEYS = (bytes(range(32)), bytes(range(100, 132)))


class TestLocalFolder(ResultStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ResultStore:
        return LocalStore(tmp_path / "a folder" / "results", key=KEYS[0], older_keys=KEYS[1:])


class TestMemory(ResultStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[ResultStore]:
        store = FsspecStore(f"memory://{uuid.uuid4().hex}/results", key=KEYS[0], older_keys=KEYS[1:])
        yield store
        store.delete(store.names())


class TestFilesThroughFsspec(ResultStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ResultStore:
        return FsspecStore(f"local://{tmp_path}/a folder/results", key=KEYS[0], older_keys=KEYS[1:])


class TestS3(ResultStoreContract):
    @pytest.fixture
    def store(self, s3: Bucket) -> ResultStore:
        return FsspecStore(f"{s3.url}/a prefix/results", key=KEYS[0], older_keys=KEYS[1:])
