"""Which store a place means, with which options and keys."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from graphflow.common import settings
from graphflow.errors import ResultStoreError
from graphflow.results.stores.local import LocalStore
from graphflow.results.stores.opening import default_store_url, open_store
from graphflow.results.stores.remote import FsspecStore

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    for name in ("GRAPHFLOW_RESULT_STORAGE", "GRAPHFLOW_RESULT_STORAGE_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def options_of(store: object) -> dict[str, object]:
    assert isinstance(store, FsspecStore)
    return store._options


def test_a_place_is_a_folder_or_a_url(tmp_path: Path) -> None:
    for place in (tmp_path / "x", str(tmp_path / "x"), (tmp_path / "x").as_uri()):
        store = open_store(place, path="runs/1")
        assert isinstance(store, LocalStore) and store.folder == str(tmp_path / "x" / "runs" / "1")
    store = open_store("s3://bucket/x/", path="runs/1")
    assert isinstance(store, FsspecStore) and store.url == "s3://bucket/x/runs/1"
    assert store.is_shared and not open_store("memory://x").is_shared
    assert not (tmp_path / "x").exists()


def test_what_is_no_place_is_refused(tmp_path: Path) -> None:
    for place, path in (
        ("", ""),
        ("s3://", ""),
        ("s3://b", "../x"),
        (str(tmp_path), "../x"),
        ("s3://b", ".x"),
    ):
        with pytest.raises(ResultStoreError):
            open_store(place, path=path)
    with pytest.raises(ResultStoreError, match="a folder has no storage_options; 'key' given"):
        open_store(tmp_path, storage_options={"key": "canary"})


def test_it_is_signed_with_the_keys_of_the_installation() -> None:
    from graphflow.common.signing import rotate_key

    first = settings.secret_key()
    rotate_key()
    for place in ("/nowhere", "s3://bucket"):
        assert tuple(open_store(place).keys) == (settings.secret_key(), first)
        assert tuple(open_store(place, key=KEY).keys) == (KEY,)
        assert tuple(open_store(place, key=KEY, older_keys=[first]).keys) == (KEY, first)
        store = open_store(place, allow_unsigned=True)
        assert isinstance(store, LocalStore | FsspecStore) and store.allow_unsigned
        assert pickle.loads(pickle.dumps(store)).allow_unsigned
        assert store != open_store(place)


def test_options_are_found_again_by_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"key": "k", "secret": "s"}
    open_store("s3://found-again/x", path="runs/1", storage_options=options)
    store = open_store("s3://found-again/x/", path="runs/2")
    assert options_of(store) == options and store.url == "s3://found-again/x/runs/2"
    assert options_of(open_store("s3://found-again/other")) == {}
    # Said again, they are other ones; none at all is said, too.
    assert options_of(open_store("s3://found-again/x", storage_options={"key": "l"})) == {"key": "l"}
    assert options_of(open_store("s3://found-again/x")) == {"key": "l"}
    assert options_of(open_store("s3://found-again/x", storage_options={})) == {}
    assert options_of(open_store("s3://found-again/x")) == {}
    # Credentials of a URL are found by the URL as it is shown.
    shown = open_store("sftp://me:word@host/x").url
    assert shown == "sftp://***@host/x"
    store = open_store(shown)
    assert isinstance(store, FsspecStore) and store._location.url == "sftp://me:word@host/x"


def test_options_of_the_environment_are_for_urls_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE_OPTIONS", '{"endpoint_url": "http://x"}')
    assert options_of(open_store("s3://bucket-1")) == {"endpoint_url": "http://x"}
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", "gs://bucket")
    assert options_of(open_store("s3://bucket-2")) == {}
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", "s3://bucket")
    assert options_of(open_store("s3://bucket-2")) == {"endpoint_url": "http://x"}
    assert options_of(open_store("s3://bucket-2", storage_options={})) == {}
    assert isinstance(open_store("/nowhere"), LocalStore)


def test_the_default_place_is_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_store_url() == str(tmp_path / "home" / "results")
    monkeypatch.setenv("GRAPHFLOW_RESULT_STORAGE", "s3://bucket/x")
    assert default_store_url() == "s3://bucket/x"


def test_an_unknown_protocol_is_told_when_it_is_used() -> None:
    store = open_store("nosuch://x")
    with pytest.raises(ResultStoreError, match="nosuch://x cannot be opened.*Protocol not known"):
        store.check()


def test_a_pickle_is_small_shared_and_shows_nothing() -> None:
    store = open_store("s3://pickled/x", storage_options={"key": "canary", "client_kwargs": {"a": [1]}})
    copies = [pickle.loads(pickle.dumps(store, protocol=5)) for _ in range(3)]
    assert all(copy is copies[0] for copy in copies) and copies[0] == store
    assert options_of(copies[0]) == options_of(store)
    assert "canary" not in repr(store) and "canary" not in repr(store.__reduce__())
    assert len(pickle.dumps(store, protocol=5)) < 1000
