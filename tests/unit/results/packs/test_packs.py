"""The format of packs: what is written reads as it was, and nothing else is believed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from graphflow.errors import ResultDamaged, ResultStoreError
from graphflow.model.reports import Stored, stored_ref
from graphflow.results.packs import packs
from graphflow.results.packs.format import END, MAGIC, key_id
from graphflow.results.packs.packs import (
    Section,
    build,
    check_pack,
    damaged,
    new_name,
    open_pack,
    publish,
    read_section,
    verify,
)
from graphflow.results.stores.local import LocalStore
from graphflow.runner.columns import load_column

KEY = bytes(range(32))
DATA = Path(__file__).parents[3] / "data"
VERSION_PLACES = (-72, -71)
"""Where a trailer has the version."""
COLUMNS = {0: [1, "two", None, {"three": 3.0}], 7: [b"x" * 300, None, (1, 2), []]}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "results", key=KEY)


def sections() -> list[Section]:
    return [
        Section(node=0, data=pickle.dumps(COLUMNS[0], protocol=5), count=4),
        Section(node=7, data=pickle.dumps(COLUMNS[7], protocol=5), count=4, missing=[1]),
    ]


def written(store: LocalStore, run_id: str = "run-1") -> list[Stored]:
    return publish(store, sections(), run_id=run_id, batch=12, epoch=3)


def test_a_pack_reads_as_it_was_written(store: LocalStore) -> None:
    first, second = written(store)
    assert first.name == second.name and list(store.names()) == [first.name]
    assert [pickle.loads(read_section(store, each)) for each in (first, second)] == list(COLUMNS.values())
    assert (first.missing, second.missing) == ((), (1,))
    pack = check_pack(store, first.name, run_id="run-1")
    assert (pack.run_id, pack.batch, pack.epoch, pack.nodes) == ("run-1", 12, 3, (0, 7))
    assert [each.stored for each in pack.sections] == [first, second]
    assert pack.nbytes == (Path(store.folder) / first.name).stat().st_size
    assert verify(store, first, second) and verify(store, first) and verify(store)


def test_a_ref_to_a_stored_column_gives_its_values(store: LocalStore) -> None:
    refs = [stored_ref(each, store) for each in written(store)]
    assert [load_column(ref, "a result") for ref in refs] == list(COLUMNS.values())
    assert refs[0].id != refs[1].id
    copy = pickle.loads(pickle.dumps(refs[1]))
    assert load_column(copy, "a result") == COLUMNS[7]


def test_no_two_packs_have_one_name() -> None:
    assert len({new_name(3, 12) for _ in range(50)}) == 50


def test_the_format_is_what_it_was(tmp_path: Path) -> None:
    golden = (DATA / "pack-v2.pack").read_bytes()
    parts, stored = build(
        sections(), name="golden.pack", run_id="run-1", batch=12, epoch=3, created=1_700_000_000.5, key=KEY
    )
    assert b"".join(parts) == golden
    store = LocalStore(tmp_path, key=KEY)
    store.publish("golden.pack", [golden])
    pack = check_pack(store, "golden.pack", run_id="run-1")
    assert pack.created == 1_700_000_000.5 and [each.stored for each in pack.sections] == stored
    assert [pickle.loads(read_section(store, each)) for each in stored] == list(COLUMNS.values())


# -- damage --------------------------------------------------------------------------------------------------


def test_a_flip_of_any_bit_is_found(store: LocalStore) -> None:
    first, second = written(store)
    path = Path(store.folder) / first.name
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ResultStoreError) as info:
            check_pack(store, first.name)
        # A version that is not known is told as such.
        assert isinstance(info.value, ResultDamaged) or at - len(whole) in VERSION_PLACES
        assert first.name in str(info.value)
        for each in (first, second):
            if each.offset <= at < each.offset + each.nbytes:
                assert not verify(store, each) and damaged(store, [first, second]) == [each]
                with pytest.raises(ResultDamaged, match=f"{first.name} .*is damaged"):
                    read_section(store, each)
            else:
                assert verify(store, each)


def test_a_pack_that_was_cut_off_anywhere_is_found(store: LocalStore) -> None:
    stored = written(store)
    path = Path(store.folder) / stored[0].name
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ResultDamaged):
            check_pack(store, stored[0].name)
        for each in stored:
            if size < each.offset + each.nbytes:
                assert not verify(store, each)
                with pytest.raises(ResultDamaged):
                    read_section(store, each)
    for longer in (whole + b"x", b"x" + whole):
        path.write_bytes(longer)
        with pytest.raises(ResultDamaged):
            check_pack(store, stored[0].name)


def test_nothing_of_a_damaged_pack_is_unpickled(store: LocalStore, tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return open, (str(tmp_path / "planted"), "w")

    (stored,) = publish(
        store, [Section(node=0, data=pickle.dumps([1] * 100), count=100)], run_id="r", batch=1, epoch=1
    )
    path = Path(store.folder) / stored.name
    data = bytearray(path.read_bytes())
    payload = pickle.dumps([Planted()])[: stored.nbytes]
    data[stored.offset : stored.offset + len(payload)] = payload
    path.write_bytes(data)
    with pytest.raises(ResultDamaged):
        load_column(stored_ref(stored, store), "a result")
    assert not (tmp_path / "planted").exists()


def test_a_pack_that_is_gone_is_damaged(store: LocalStore) -> None:
    stored = written(store)
    store.delete([stored[0].name])
    assert damaged(store, stored) == stored
    with pytest.raises(ResultDamaged, match="is gone"):
        read_section(store, stored[0])
    with pytest.raises(ResultDamaged, match="is gone"):
        open_pack(store, stored[0].name)


def test_swapped_packs_are_found(store: LocalStore) -> None:
    (one,) = publish(store, [Section(node=0, data=pickle.dumps([1]), count=1)], run_id="r", batch=1, epoch=1)
    (two,) = publish(store, [Section(node=0, data=pickle.dumps([2]), count=1)], run_id="r", batch=2, epoch=1)
    first, second = (Path(store.folder) / each.name for each in (one, two))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for each in (one, two):
        assert not verify(store, each)
        with pytest.raises(ResultDamaged):
            read_section(store, each)
        with pytest.raises(ResultDamaged, match="another pack"):
            open_pack(store, each.name)


def test_a_pack_of_another_run_is_refused(store: LocalStore) -> None:
    stored = written(store, "run-1")
    assert open_pack(store, stored[0].name, run_id="run-1")
    with pytest.raises(ResultDamaged, match="belongs to another run, run-1, not to run-2"):
        open_pack(store, stored[0].name, run_id="run-2")


def test_a_foreign_key_is_refused_and_an_older_one_accepted(store: LocalStore) -> None:
    stored = written(store)
    foreign = LocalStore(store.folder, key=b"f" * 32)
    assert damaged(foreign, stored) == stored
    with pytest.raises(ResultDamaged):
        read_section(foreign, stored[0])
    with pytest.raises(ResultDamaged, match="another key"):
        open_pack(foreign, stored[0].name)
    rotated = LocalStore(store.folder, key=b"f" * 32, older_keys=[KEY])
    assert verify(rotated, *stored)
    assert check_pack(rotated, stored[0].name)
    assert key_id(KEY) != key_id(b"f" * 32) and KEY not in (Path(store.folder) / stored[0].name).read_bytes()


def test_a_newer_format_is_refused_with_what_to_do(store: LocalStore) -> None:
    name = written(store)[0].name
    path = Path(store.folder) / name
    data = bytearray(path.read_bytes())
    data[VERSION_PLACES[0]] = 3
    path.write_bytes(data)
    with pytest.raises(ResultStoreError, match=r"newer graphflow \(format 3, this one knows 2\)") as info:
        open_pack(store, name)
    assert not isinstance(info.value, ResultDamaged)


def test_an_older_format_is_refused_with_what_to_do(store: LocalStore) -> None:
    store.publish("first", [MAGIC + bytes(1_000) + b"\nGFEND\r\n"])
    name = written(store)[0].name
    path = Path(store.folder) / name
    data = bytearray(path.read_bytes())
    data[VERSION_PLACES[0]] = 1
    path.write_bytes(data)
    for each in ("first", name):
        with pytest.raises(
            ResultStoreError, match=rf"{each} .*format 1\), .*format 2 only; remove it"
        ) as info:
            open_pack(store, each)
        assert not isinstance(info.value, ResultDamaged)


def test_foreign_files_are_no_packs(store: LocalStore) -> None:
    for content in (
        b"",
        b"x",
        b"x" * 1_000,
        MAGIC + bytes(1_000),
        bytes(1_000) + END,
    ):
        store.publish("foreign", [content])
        with pytest.raises(ResultDamaged):
            open_pack(store, "foreign")


def test_many_packs_are_verified_in_pieces(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "CHUNK_NBYTES", 16)
    stored = [each for _ in range(20) for each in written(store)]
    assert damaged(store, stored) == []
    bad = [stored[3], stored[10]]
    for each in bad:
        path = Path(store.folder) / each.name
        data = bytearray(path.read_bytes())
        data[each.offset + each.nbytes - 1] ^= 1
        path.write_bytes(data)
    assert damaged(store, stored) == bad
    assert not verify(store, *stored)
