"""The result store of a local disk."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.errors import ResultDamaged, ResultStoreError, ValueUnavailable
from graphflow.ports import ResultStore
from graphflow.results.stores import local
from graphflow.results.stores.local import LocalStore

KEY = bytes(range(32))
IS_ROOT = os.geteuid() == 0
NOBODY = 65_534


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "runs" / "r1" / "results", key=KEY)


def test_an_object_reads_as_it_was_written(store: LocalStore) -> None:
    assert list(store.names()) == []
    assert store.publish("one", [b"abc", b"", b"defgh"]) == 8
    assert store.read("one", 0, 8) == b"abcdefgh"
    assert store.read("one", 2, 3) == b"cde"
    assert store.read("one", -3, 2) == b"fg"
    assert store.read("one", 8, 0) == b""
    assert store.publish("empty", []) == 0
    assert sorted(store.names()) == ["empty", "one"]
    assert isinstance(store, ResultStore)


def test_its_folder_is_made_at_the_first_publish_for_its_owner_alone(store: LocalStore) -> None:
    folder = Path(store.folder)
    assert not folder.parent.exists()
    store.publish("one", [b"x"])
    for each in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "one").stat().st_mode) == 0o600


def test_what_was_removed_is_gone_and_may_be_removed_again(store: LocalStore) -> None:
    store.publish("one", [b"x"])
    store.delete(["one", "two"])
    store.delete(["one"])
    assert list(store.names()) == []
    with pytest.raises(ResultDamaged, match="is gone"):
        store.read("one", 0, 1)


def test_a_missing_or_shorter_object_is_damaged(store: LocalStore) -> None:
    with pytest.raises(ResultDamaged, match="one is gone"):
        store.read("one", 0, 1)
    store.publish("one", [b"abc"])
    for offset, nbytes in ((0, 4), (3, 1), (4, 0), (-4, 1), (-1, 2)):
        with pytest.raises(ResultDamaged, match="has 3 bytes"):
            store.read("one", offset, nbytes)
    # Whoever asks for a value hears that it is not there.
    assert issubclass(ResultDamaged, ValueUnavailable)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a//b",
        "a/",
        "a/../b",
        "a/./b",
        "a/.b",
        "/etc/passwd",
        "a\\b",
        ".hidden",
        "a\0b",
        "a\nb",
        "x" * 201,
        "a/" + "x" * 201,
        "a/b/" * 200 + "c",
        "\ud800",
        "a\x7f",
    ],
)
def test_a_name_cannot_leave_the_folder(store: LocalStore, name: str) -> None:
    for action in (
        lambda: store.publish(name, [b"x"]),
        lambda: store.read(name, 0, 1),
        lambda: store.delete([name]),
    ):
        with pytest.raises(ResultStoreError, match="cannot name a result"):
            action()
    assert not Path(store.folder).exists()


def test_links_are_neither_followed_nor_written_through(store: LocalStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"secret")
    store.publish("real", [b"x"])
    link = Path(store.folder) / "link"
    link.symlink_to(target)
    with pytest.raises(ResultDamaged):
        store.read("link", 0, 6)
    assert list(store.names()) == ["real"]
    store.publish("link", [b"mine"])
    assert target.read_bytes() == b"secret"
    assert store.read("link", 0, 4) == b"mine"
    assert not link.is_symlink()


def test_what_is_no_file_is_damaged_and_does_not_block(store: LocalStore) -> None:
    store.publish("one", [b"x"])
    (Path(store.folder) / "folder").mkdir()
    os.mkfifo(Path(store.folder) / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ResultDamaged, match="is not a regular file|is gone"):
            store.read(name, 0, 1)


def test_it_survives_pickling_and_never_shows_its_key(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, key=KEY, older_keys=[b"k" * 32], is_shared=True)
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store and hash(copy) == hash(store)
    assert (copy.folder, copy.keys, copy.is_shared) == (str(tmp_path), (KEY, b"k" * 32), True)
    # References to many columns share one store.
    assert pickle.loads(pickle.dumps(store)) is copy
    for text in (repr(store), str(store), store.url):
        assert repr(KEY)[2:12] not in text and "kkkk" not in text and str(tmp_path) in text
    assert store != LocalStore(tmp_path, key=KEY)


def test_a_write_that_fails_leaves_nothing_behind(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("before", [b"x"])
    for name in ("fsync", "replace", "write"):

        def fails(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(local.os, name, fails)
            with pytest.raises(
                ResultStoreError, match=r"one \(3 bytes\) cannot be written to .*No space left"
            ) as info:
                store.publish("one", [b"abc"])
        assert store.folder in str(info.value)
        assert os.listdir(store.folder) == ["before"]


FULL = """
import os, resource, sys
sys.path.insert(0, sys.argv[2])
from graphflow.errors import ResultStoreError
from graphflow.results.stores.local import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = LocalStore(sys.argv[1], key=bytes(32))
store.publish("small", [b"x" * 1_000])
try:
    store.publish("large", [b"x" * 90_000, b"y" * 90_000])
except ResultStoreError as error:
    print(error)
print(sorted(os.listdir(sys.argv[1])))
store.publish("small-2", [b"x" * 1_000])
"""


def test_a_disk_that_takes_no_more_is_a_clear_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "full"), os.getcwd()],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("the result large (180,000 bytes) cannot be written to")
    assert "File too large" in lines[0] and "GRAPHFLOW_HOME" in lines[0]
    assert lines[1] == "['small']"
    assert sorted(os.listdir(tmp_path / "full")) == ["small", "small-2"]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere/results")):
        with pytest.raises(ResultStoreError, match="cannot be written to"):
            LocalStore(folder, key=KEY).publish("one", [b"x"])


@pytest.fixture
def without_root() -> Iterator[Path]:
    """A folder of somebody whose rights count: root may write everywhere."""
    folder = Path(tempfile.mkdtemp(prefix="graphflow-test-"))
    if not IS_ROOT:
        yield folder
        shutil.rmtree(folder)
        return
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_a_read_only_folder_is_a_clear_error(without_root: Path) -> None:
    store = LocalStore(without_root / "results", key=KEY)
    store.publish("one", [b"x"])
    os.chmod(store.folder, 0o500)
    with pytest.raises(ResultStoreError, match="Permission denied"):
        store.publish("two", [b"x"])
    with pytest.raises(ResultStoreError, match="cannot be removed"):
        store.delete(["one"])
    assert store.read("one", 0, 1) == b"x"
    os.chmod(store.folder, 0o700)
    os.chmod(Path(store.folder) / "one", 0)
    with pytest.raises(ResultStoreError, match="cannot be read") as info:
        store.read("one", 0, 1)
    assert not isinstance(info.value, ResultDamaged)


def test_several_threads_may_make_the_folder_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stores = [LocalStore(tmp_path / "a" / "b", key=KEY) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda pair: pair[1].publish(f"n{pair[0]}", [b"x"]), enumerate(stores)))
    assert len(list(stores[0].names())) == 16


# -- names with slashes, claims, listings ------------------------------------------------------------------


def test_folders_below_it_are_made_for_its_owner_alone(store: LocalStore) -> None:
    store.publish("a/b/one", [b"x"])
    for each in ("a", "a/b"):
        assert stat.S_IMODE((Path(store.folder) / each).stat().st_mode) == 0o700
    assert stat.S_IMODE((Path(store.folder) / "a" / "b" / "one").stat().st_mode) == 0o600


def test_links_to_folders_lead_nowhere(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "one").write_bytes(b"secret")
    store.publish("real/one", [b"x"])
    (Path(store.folder) / "link").symlink_to(outside)
    with pytest.raises(ResultDamaged):
        store.read("link/one", 0, 6)
    for write in (lambda: store.publish("link/two", [b"x"]), lambda: store.create("link/two", b"x")):
        with pytest.raises(ResultStoreError):
            write()
    store.delete(["link/one"])
    assert list(store.names()) == ["real/one"]
    assert os.listdir(outside) == ["one"]


def test_what_is_hidden_is_not_listed(store: LocalStore) -> None:
    store.publish("a/one", [b"x"])
    folder = Path(store.folder)
    (folder / ".hidden").write_bytes(b"x")
    (folder / "a" / ".one.1.tmp").write_bytes(b"x")
    (folder / ".folder").mkdir()
    (folder / ".folder" / "two").write_bytes(b"x")
    os.mkfifo(folder / "a" / "pipe")
    assert list(store.names()) == ["a/one"]


def test_a_claim_that_fails_leaves_nothing_behind(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish("claims/before", [b"x"])
    for name in ("fsync", "link", "write"):

        def fails(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(local.os, name, fails)
            with pytest.raises(ResultStoreError, match="No space left"):
                store.create("claims/one", b"abc")
        assert os.listdir(f"{store.folder}/claims") == ["before"]


def test_a_file_system_without_hard_links_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(local.os, "link", fails)
    with pytest.raises(ResultStoreError, match=r"nothing can be claimed in .*has no hard links"):
        store.create("claims/one", b"abc")
    assert list(store.names()) == []


def test_a_link_that_was_made_although_it_is_denied_is_ones_own(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def repeats(*args: object, **kwargs: object) -> None:
        # As a network file system does that sends a request twice.
        link(*args, **kwargs)  # type: ignore[arg-type]
        link(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(local.os, "link", repeats)
    assert store.create("claims/one", b"mine") is True
    assert store.create("claims/one", b"other") is False
    assert os.listdir(f"{store.folder}/claims") == ["one"]


def test_large_reads_are_made_in_threads(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "CONCURRENT_NBYTES", 10)
    for number in range(5):
        store.publish(f"n/{number}", [bytes([number]) * 100])
    found = store.read_many([(f"n/{number}", 0, 100) for number in range(6)])
    assert found[:5] == [bytes([number]) * 100 for number in range(5)]
    assert isinstance(found[5], ResultDamaged)


def test_a_folder_that_cannot_be_listed_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResultStoreError, match="cannot be listed"):
        list(LocalStore(tmp_path / "file", key=KEY).names())
    with pytest.raises(ResultStoreError, match="cannot be written"):
        LocalStore(tmp_path / "file", key=KEY).check()
