"""Packs that grow: columns of many batches in one file, each readable as soon as it is told."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.model.reports import Stored
from graphflow.results.packs import growing
from graphflow.results.packs.growing import GrowingPacks
from graphflow.results.packs.packs import check_pack, read_section
from graphflow.results.packs.sections import Section
from graphflow.results.stores.local import LocalStore

RUN = "run"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "results", key=bytes(32))


def append(packs: GrowingPacks, store: Any, *texts: bytes, run_id: str = RUN, batch: int = 1) -> list[Stored]:
    sections = [Section(node=at, data=text, count=1) for at, text in enumerate(texts)]
    return packs.append(store, sections, run_id=run_id, batch=batch, epoch=3)


def test_batches_share_a_file_and_each_column_is_found(store: LocalStore) -> None:
    packs = GrowingPacks()
    stored = [each for batch in range(5) for each in append(packs, store, b"a%d" % batch, b"bb%d" % batch)]
    assert len(list(store.names())) == 1
    found = [read_section(store, each) for each in stored]
    assert found == [text for batch in range(5) for text in (b"a%d" % batch, b"bb%d" % batch)]


def test_a_column_that_was_changed_is_damaged_and_no_other(store: LocalStore, tmp_path: Path) -> None:
    packs = GrowingPacks()
    first, second = (append(packs, store, text)[0] for text in (b"one", b"two"))
    path = tmp_path / "results" / first.name
    data = bytearray(path.read_bytes())
    data[second.offset] ^= 1
    path.write_bytes(data)
    assert read_section(store, first) == b"one"
    with pytest.raises(ResultDamaged, match="differ"):
        read_section(store, second)


def test_runs_have_files_of_their_own_which_close_with_them(store: LocalStore) -> None:
    packs = GrowingPacks()
    names = {append(packs, store, b"x", run_id=run)[0].name for run in ("a", "b", "a")}
    assert len(names) == 2
    packs.close("a")
    assert append(packs, store, b"x", run_id="a")[0].name not in names
    packs.close()


def test_few_files_are_open_and_full_ones_are_closed(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "MAX_OPEN", 2)
    packs = GrowingPacks()
    before = len(os.listdir("/dev/fd"))
    for run in range(10):
        append(packs, store, b"x", run_id=f"run{run}")
    assert len(os.listdir("/dev/fd")) <= before + 2
    monkeypatch.setattr(growing, "MAX_NBYTES", 20)
    assert len({append(packs, store, b"0123456789")[0].name for _ in range(6)}) == 6


def test_large_columns_and_other_stores_get_a_pack_per_batch(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "MAX_LOT_NBYTES", 4)
    packs = GrowingPacks()
    (stored,) = append(packs, store, b"12345")
    assert check_pack(store, stored.name, run_id=RUN).nodes == (0,)


def test_what_is_appended_to_a_removed_file_would_be_lost_so_another_is_begun(
    store: LocalStore, tmp_path: Path
) -> None:
    packs = GrowingPacks()
    first = append(packs, store, b"one")[0]
    (tmp_path / "results" / first.name).unlink()
    second = append(packs, store, b"two")[0]
    assert second.name != first.name and read_section(store, second) == b"two"


def test_many_threads_write_together(store: LocalStore) -> None:
    packs, found = GrowingPacks(), dict[int, list[Stored]]()

    def work(number: int) -> None:
        found[number] = [append(packs, store, b"%d-%d" % (number, at))[0] for at in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, stored in found.items():
        assert [read_section(store, each) for each in stored] == [b"%d-%d" % (number, at) for at in range(20)]
    assert len(list(store.names())) == 1


def test_a_write_that_fails_tells_all_that_waited_and_the_next_goes_elsewhere(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = GrowingPacks()
    first = append(packs, store, b"one")[0]

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ResultStoreError, match="No space left"):
            append(packs, store, b"two")
    third = append(packs, store, b"three")[0]
    assert third.name != first.name
    assert [read_section(store, each) for each in (first, third)] == [b"one", b"three"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_writes_to_a_file_of_its_own(store: LocalStore, tmp_path: Path) -> None:
    packs = GrowingPacks()
    first = append(packs, store, b"one")[0]
    pid = os.fork()
    if not pid:
        try:
            (tmp_path / "name").write_text(append(packs, store, b"child")[0].name)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    second = append(packs, store, b"two")[0]
    assert second.name == first.name != (tmp_path / "name").read_text()
    assert [read_section(store, each) for each in (first, second)] == [b"one", b"two"]
