"""Stores of other file systems of fsspec: what is written there appears whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from graphflow.errors import ResultStoreError
from graphflow.results.stores.connections import MOST, _known
from graphflow.results.stores.remote import FsspecStore
from graphflow.results.stores.retries import Retries

KEY = bytes(range(32))
QUICK = Retries(attempts=3, base_seconds=0.001)


@pytest.fixture
def store(tmp_path: Path) -> FsspecStore:
    return FsspecStore(f"local://{tmp_path}/results", key=KEY, retries=QUICK)


@pytest.mark.parametrize("name", ["pipe_file", "mv"])
def test_a_put_that_fails_leaves_what_was_there(
    store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    store.publish("a/one", [b"before"])
    calls: list[str] = []

    def fails(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, name, fails)
    with pytest.raises(
        ResultStoreError, match=r"one \(5 bytes\) cannot be written to local://.*No space left"
    ):
        store.publish("a/one", [b"after"])
    assert len(calls) == 1
    assert store.read("a/one", 0, 6) == b"before"
    assert os.listdir(tmp_path / "results" / "a") == ["one"]


def test_a_folder_that_was_removed_meanwhile_is_made_again(store: FsspecStore, tmp_path: Path) -> None:
    store.publish("a/one", [b"x"])
    os.unlink(tmp_path / "results" / "a" / "one")
    os.rmdir(tmp_path / "results" / "a")
    store.publish("a/two", [b"y"])
    assert list(store.names()) == ["a/two"]


def test_a_store_in_memory_is_of_this_process(tmp_path: Path) -> None:
    store = FsspecStore("memory://here", key=KEY)
    assert store.is_in_process and not store.is_shared
    other = FsspecStore("s3://bucket", key=KEY)
    assert not other.is_in_process and other.is_shared


def test_connections_are_few(tmp_path: Path) -> None:
    for number in range(MOST + 10):
        list(FsspecStore(f"memory://many-{number}", key=KEY).names())
    assert len(_known) <= MOST
