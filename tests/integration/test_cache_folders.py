"""Cache folders: what was published is found and loaded as it was, and nothing else is believed."""

from __future__ import annotations

import logging
import os
import pickle
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphflow.cache import cached, listing, loading
from graphflow.cache.cached import MISSING, CacheFolder, cache_folder, forget_folders
from graphflow.cache.compacting import compact
from graphflow.common import failpoints
from graphflow.errors import ResultStoreError, SerializationError, SettingsError
from graphflow.results.stores.local import LocalStore

KEY = bytes(range(32))
FOLDER = "cache/square-0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "results", key=KEY)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget_folders()
    yield
    forget_folders()


def key(number: int) -> bytes:
    return struct.pack(">QQ", number * 0x9E3779B97F4A7C15 % 2**64, number + 1)


def keys(*numbers: int) -> bytes:
    return b"".join(map(key, numbers))


def put(folder: CacheFolder, values: dict[int, Any], **options: Any) -> cached.Published:
    given = {
        "run_id": "run-1",
        "node": "square",
        "created": 100.0,
        "expires": None,
        "parts": {"inputs:x": b"".join(struct.pack("<I", each) for each in values), "source": b"12345678"},
        **options,
    }
    return folder.publish(keys=keys(*values), values=list(values.values()), indices=list(values), **given)


def get(folder: CacheFolder, *numbers: int, now: float = 200.0) -> list[Any]:
    """Values by number, MISSING where there is none."""
    found = folder.find(keys(*numbers), now=now)
    positions = found.positions
    values = dict(zip(positions, folder.load(found, positions), strict=True))
    return [values.get(position, MISSING) for position in range(len(numbers))]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


VALUES: dict[int, Any] = {1: None, 2: "two", 3: [3, {"three": 3.0}], 4: (1, 2), 5: b"x" * 300, 6: {1, 2}}


def test_what_is_published_is_found_and_loaded_as_it_was(store: LocalStore) -> None:
    writer = CacheFolder(store, FOLDER)
    published = put(writer, VALUES)
    assert published.errors == {} and [each.name for each in store.entries()] == [
        f"{FOLDER}/{published.name}"
    ]
    reader = CacheFolder(store, FOLDER)
    assert get(reader, *VALUES) == [MISSING] * 6
    reader.refresh()
    for folder in (writer, reader):
        assert get(folder, *VALUES) == list(VALUES.values()) and len(folder) == 6
        assert get(folder, 6, 99, 2, 1, 6) == [{1, 2}, MISSING, "two", None, {1, 2}]
        found = folder.find(keys(99, 3), now=0.0)
        assert list(found.hits) == [0, 1] and found.positions == [1]
        made = found.made(1)
        assert (made.pack, made.run_id, made.node, made.index) == (published.name, "run-1", "square", 3)
        assert made.created == 100.0 and made.host
        with pytest.raises(LookupError, match="position 0 was not found"):
            found.made(0)


def test_positions_without_a_key_are_neither_published_nor_found(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    none = bytes(16)
    published = folder.publish(
        keys=key(1) + none + key(2),
        values=["a", "b", "c"],
        indices=[0, 1, 2],
        run_id="r",
        node="n",
        created=1.0,
        expires=None,
        parts={},
    )
    assert published.errors == {} and len(folder) == 2
    found = folder.find(none + key(2) + none, now=2.0)
    assert list(found.hits) == [0, 1, 0] and folder.load(found, [1]) == ["c"]
    assert folder.load(found, []) == [] and folder.load(found, [0]) == [MISSING]
    assert put(folder, {}).name == "" and folder.find(b"", now=0.0).hits == b""
    with pytest.raises(ValueError, match="17 bytes are not a whole number of keys"):
        folder.find(b"x" * 17, now=0.0)


def test_what_cannot_be_serialized_is_left_out_and_named(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    lock = threading.Lock()
    published = put(folder, {1: "one", 2: lock, 3: "three"})
    assert list(published.errors) == [1] and published.name
    assert isinstance(published.errors[1], SerializationError)
    assert "a lock cannot be serialized by 'pickle'" in str(published.errors[1])
    assert get(folder, 1, 2, 3) == ["one", MISSING, "three"]
    assert folder.find(key(3), now=0.0).made(0).index == 3
    nothing = put(folder, {4: lock})
    assert nothing.name == "" and list(nothing.errors) == [0] and len(list(store.names())) == 1
    with pytest.raises(SettingsError, match="unknown serializer 'xml'; use arrow, json, pickle"):
        put(folder, {4: 4}, serializer="xml")


def test_of_equal_keys_the_newest_counts_in_any_order_of_arrival(store: LocalStore) -> None:
    for values, created in (({1: "old"}, 10.0), ({1: "newest"}, 30.0), ({1: "newer"}, 20.0)):
        put(CacheFolder(store, FOLDER), values, created=created)
    reader = CacheFolder(store, FOLDER)
    reader.refresh()
    assert get(reader, 1) == ["newest"] and len(reader) <= 3
    one_by_one = CacheFolder(store, FOLDER)
    for each in range(20):
        put(one_by_one, {50 + each % 7: each}, created=float(each))
        one_by_one.refresh()
    assert get(one_by_one, 1, 50, 55, 56) == ["newest", 14, 19, 13]


def test_a_value_that_replaces_another_is_the_newer_one_though_the_clock_was_set_back(
    store: LocalStore,
) -> None:
    folder = CacheFolder(store, FOLDER)
    put(folder, {1: "old"}, created=1_000.0)
    put(folder, {1: "new", 2: "two"}, created=10.0)
    fresh = CacheFolder(store, FOLDER)
    fresh.refresh()
    assert get(folder, 1) == get(fresh, 1) == ["new"]


def test_expired_entries_are_misses_whatever_the_clock_does(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    put(folder, {1: "short"}, created=100.0, expires=110.0)
    put(folder, {2: "long"}, created=100.0)
    assert get(folder, 1, 2, now=109.9) == ["short", "long"]
    assert get(folder, 1, 2, now=110.0) == [MISSING, "long"]
    assert get(folder, 1, 2, now=-1e12) == ["short", "long"]
    assert get(folder, 1, 2, now=1e12) == [MISSING, "long"]


def test_keys_that_share_their_upper_half_are_told_apart(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    many = [struct.pack(">QQ", 7, low) for low in (1, 5, 9, 2**63, 2**64 - 1)]
    for chosen in (many[:3], many[3:]):
        folder.publish(
            keys=b"".join(chosen),
            values=chosen,
            indices=range(len(chosen)),
            run_id="r",
            node="n",
            created=1.0,
            expires=None,
            parts={},
        )
    asked = [*many, struct.pack(">QQ", 7, 4), struct.pack(">QQ", 8, 1), struct.pack(">QQ", 0, 5)] * 20
    found = folder.find(b"".join(asked), now=0.0)
    assert list(found.hits) == [1, 1, 1, 1, 1, 0, 0, 0] * 20
    assert folder.load(found, found.positions) == many * 20


def test_arrays_come_back_writable_and_their_own(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    small, large = np.arange(10.0), np.arange(50_000)
    put(folder, {1: small, 2: {"deep": large}, 3: large[:30_000]})
    for _ in range(2):
        one, two, three = get(folder, 1, 2, 3)
        assert (one == small).all() and (two["deep"] == large).all() and (three == large[:30_000]).all()
        for array in (one, two["deep"], three):
            array[:] = -1


def test_large_values_are_objects_of_their_own(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphflow.results.packs import blocks

    monkeypatch.setattr(blocks, "CHUNK_NBYTES", 50_000)
    folder = CacheFolder(store, FOLDER, large_nbytes=100_000)
    noise = np.random.default_rng(1).integers(0, 2**60, 30_000)
    values = {1: noise, 2: "x" * 300_000, 3: "small", 4: bytes(99_000)}
    put(folder, values)
    names = sorted(each.name for each in store.entries(f"{FOLDER}/blobs/"))
    sizes = sorted(each.nbytes for each in store.entries(f"{FOLDER}/blobs/"))
    # One is noise, the other gets much smaller.
    assert len(names) == 2 and sizes[0] < 10_000 and sizes[1] > 240_000
    reader = CacheFolder(store, FOLDER)
    reader.refresh()
    first, *others = get(reader, 1, 2, 3, 4)
    assert (first == noise).all() and others == ["x" * 300_000, "small", bytes(99_000)]
    first[0] = 1


def test_a_block_has_few_large_values_and_many_small_ones(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    values = {each: f"value {each}" * (1 if each % 1_000 else 20_000) for each in range(5_000)}
    put(folder, values)
    assert get(folder, *values) == list(values.values())
    (pack,) = folder._packs
    assert 5 < len(pack.sizes) < 60
    assert get(folder, 1_000, 1_001) == [values[1_000], values[1_001]]


@pytest.mark.parametrize("serializer", ["json", "compressed/pickle", "compressed/json"])
def test_values_are_kept_by_the_serializer_that_was_chosen(store: LocalStore, serializer: str) -> None:
    folder = CacheFolder(store, FOLDER)
    put(folder, {1: [1, 2.5, None], 2: {"a": "ü"}}, serializer=serializer)
    put(folder, {3: "by pickle"})
    assert get(folder, 1, 2, 3) == [[1, 2.5, None], {"a": "ü"}, "by pickle"]


def test_the_process_wide_folder_is_refreshed_once_per_token(store: LocalStore) -> None:
    first = cache_folder(store, FOLDER, "run-1")
    put(CacheFolder(store, FOLDER), {1: "one"})
    assert cache_folder(store, FOLDER, "run-1") is first and get(first, 1) == [MISSING]
    same = pickle.loads(pickle.dumps(store))
    assert cache_folder(same, FOLDER, "run-2") is first and get(first, 1) == ["one"]
    assert cache_folder(store, "cache/other", "run-2") is not first
    assert cache_folder(LocalStore(store.folder, key=b"f" * 32), FOLDER, "run-1") is not first


def test_several_threads_publish_find_and_load_at_once(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    wrong: list[Any] = []

    def work(start: int) -> None:
        for number in range(start, start + 30):
            put(folder, {number: number})
            if get(folder, number, start) != [number, start]:
                wrong.append(number)
            if number % 10 == 0:
                folder.refresh()

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 4_000, 1_000)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    # What threads publish at the same time may share a pack.
    assert not wrong and 0 < len(list(store.names())) <= 120
    fresh = CacheFolder(store, FOLDER)
    fresh.refresh()
    assert get(fresh, *range(2_000, 2_030)) == list(range(2_000, 2_030))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.dictionaries(
            st.integers(0, 30),
            st.recursive(
                st.none() | st.integers() | st.text() | st.binary(max_size=100) | st.floats(allow_nan=False),
                lambda each: st.lists(each) | st.dictionaries(st.text(), each),
                max_leaves=8,
            ),
            max_size=12,
        ),
        max_size=12,
    ),
    now=st.floats(0.0, 20.0),
    lifetime=st.none() | st.floats(0.0, 10.0),
)
def test_a_folder_is_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[dict[int, Any]],
    now: float,
    lifetime: float | None,
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"), key=KEY)
    folder = CacheFolder(store, FOLDER)
    model: dict[int, tuple[Any, float]] = {}
    for number, values in enumerate(runs):
        expires = None if lifetime is None else number + lifetime
        put(folder, values, created=float(number), expires=expires)
        model |= {each: (value, np.inf if expires is None else expires) for each, value in values.items()}
    fresh = CacheFolder(store, FOLDER)
    fresh.refresh()
    expected = [model[each][0] if each in model and model[each][1] > now else MISSING for each in range(31)]
    assert get(folder, *range(31), now=now) == expected
    assert get(fresh, *range(31), now=now) == expected


# -- damage --------------------------------------------------------------------------------------------------


def new_reader(store: LocalStore) -> CacheFolder:
    reader = CacheFolder(store, FOLDER)
    reader.refresh()
    return reader


def test_a_flip_of_any_bit_is_a_miss_and_never_another_value(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = put(CacheFolder(store, FOLDER), VALUES).name
    path = Path(store.folder) / FOLDER / name
    whole = path.read_bytes()
    misses = 0
    for at in range(len(whole)):
        caplog.clear()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        reader = new_reader(store)
        got = get(reader, *VALUES)
        again = get(reader, *VALUES)
        assert got == again
        if got != list(VALUES.values()):
            misses += 1
            assert got == [MISSING] * 6
            (line,) = told(caplog)
            assert name in line and line.endswith(": its results are recomputed")
        else:
            assert told(caplog) == []
    # The header, which no lookup needs, and the parts of keys are all that may differ unseen.
    path.write_bytes(whole)
    _, parts_nbytes, _ = new_reader(store)._packs[0].parts_place
    assert misses == len(whole) - 16 - parts_nbytes


def test_a_pack_that_was_cut_off_anywhere_is_a_miss(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    name = put(CacheFolder(store, FOLDER), VALUES).name
    path = Path(store.folder) / FOLDER / name
    whole = path.read_bytes()
    known = new_reader(store)
    for size in [*range(0, len(whole), 7), len(whole) + 1]:
        caplog.clear()
        path.write_bytes((whole + b"x")[:size])
        assert get(new_reader(store), *VALUES) == [MISSING] * 6
        assert len(told(caplog)) == 1 and name in told(caplog)[0]
    caplog.clear()
    path.write_bytes(whole[:20])
    # One who read its index before learns it when values are read.
    assert get(known, *VALUES) == [MISSING] * 6 and get(known, *VALUES) == [MISSING] * 6
    assert len(told(caplog)) == 1 and name in told(caplog)[0]


def test_damage_of_a_block_leaves_the_other_blocks(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CacheFolder(store, FOLDER)
    values = {each: bytes([each]) * 40_000 for each in range(10)}
    name = put(folder, values).name
    (pack,) = folder._packs
    assert len(pack.sizes) > 3
    path = Path(store.folder) / FOLDER / name
    data = bytearray(path.read_bytes())
    data[int(pack.offsets[1]) + 20] ^= 4
    path.write_bytes(data)
    got = get(folder, *range(10))
    first, after = int(pack.firsts[1]), int(pack.firsts[2])
    assert got == [MISSING if first <= each < after else values[each] for each in range(10)]
    assert len(told(caplog)) == 1 and name in told(caplog)[0]
    # It is not even found any more, until it is made again.
    assert folder.find(keys(first), now=0.0).positions == []
    put(folder, {first: "again"}, created=50.0)
    assert get(folder, first) == ["again"] and get(new_reader(store), first) == ["again"]


def test_a_deleted_object_is_a_miss(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    writer = CacheFolder(store, FOLDER, large_nbytes=10_000)
    small, large = put(writer, {1: "one"}).name, put(writer, {2: bytes(range(256)) * 100}).name
    reader = new_reader(store)
    (blob,) = [each.name for each in store.entries(f"{FOLDER}/blobs/")]
    store.delete([f"{FOLDER}/{small}", blob])
    for _ in range(2):
        assert get(reader, 1, 2) == [MISSING, MISSING]
    one, two = told(caplog)
    assert small in one + two and blob in one + two and "is gone" in one and "is gone" in two
    assert get(new_reader(store), 1) == [MISSING] and large


def test_a_damaged_large_value_is_a_miss(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    values = {1: bytes(200_000), 2: np.random.default_rng(2).bytes(50_000)}
    for number, value in values.items():
        put(CacheFolder(store, FOLDER, large_nbytes=10_000), {number: value})
    for each in list(store.entries(f"{FOLDER}/blobs/")):
        path = Path(store.folder) / each.name
        whole = path.read_bytes()
        for content in (
            whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
            whole[:-1],
            b"",
            bytes(len(whole)),
        ):
            caplog.clear()
            path.write_bytes(content)
            got = get(new_reader(store), 1, 2)
            assert got.count(MISSING) == 1 and all(
                value is MISSING or value in values.values() for value in got
            )
            assert len(told(caplog)) == 1 and each.name.rpartition("/")[2] in told(caplog)[0]
        path.write_bytes(whole)
    assert get(new_reader(store), 1, 2) == list(values.values())


def test_packs_under_each_others_names_or_in_other_folders_are_misses(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = CacheFolder(store, FOLDER), CacheFolder(store, "cache/other")
    one, two = put(folder, {1: "one"}).name, put(folder, {2: "two"}).name
    foreign = put(other, {3: "three"}).name
    places = [Path(store.folder) / FOLDER / each for each in (one, two)]
    contents = [each.read_bytes() for each in places]
    places[0].write_bytes(contents[1])
    places[1].write_bytes(contents[0])
    (Path(store.folder) / FOLDER / foreign).write_bytes(
        (Path(store.folder) / "cache/other" / foreign).read_bytes()
    )
    assert get(new_reader(store), 1, 2, 3) == [MISSING] * 3
    lines = told(caplog)
    assert len(lines) == 3 and all(any(name in line for line in lines) for name in (one, two, foreign))
    assert get(new_reader(LocalStore(store.folder, key=KEY)), 3) == [MISSING]


def test_foreign_files_are_misses(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    for number, content in enumerate((b"", b"x", bytes(5_000), b"\x89GFPACK\n" + bytes(90))):
        store.publish(f"{FOLDER}/v2-{number:08x}-foreign.pack", [content])
    store.publish(f"{FOLDER}/v2-ffffffff-foreign.pack", [bytes(100_000)])
    store.publish(f"{FOLDER}/notes.txt", [b"not ours"])
    put(CacheFolder(store, FOLDER), {1: "one"})
    assert get(new_reader(store), 1) == ["one"]
    assert len(told(caplog)) == 5


def test_a_newer_version_is_a_miss_that_says_so(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    name = put(CacheFolder(store, FOLDER), {1: "one"}).name
    path = Path(store.folder) / FOLDER / name
    data = bytearray(path.read_bytes())
    data[-72] = 9
    path.write_bytes(data)
    reader = new_reader(store)
    reader.refresh()
    assert get(reader, 1) == [MISSING]
    (line,) = told(caplog)
    assert name in line and "written by a newer graphflow (format 9" in line


class Planted:
    """What leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("signer", ["nobody", "a stranger"])
def test_nothing_of_a_pack_without_our_signature_is_unpickled(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, signer: str
) -> None:
    canary = tmp_path / "planted"
    stranger = LocalStore(store.folder, key=b"" if signer == "nobody" else b"s" * 32)
    put(
        CacheFolder(stranger, FOLDER, large_nbytes=10_000),
        {1: Planted(canary), 2: [Planted(canary), bytes(50_000)]},
    )
    # Making it tried it.
    canary.unlink(missing_ok=True)
    assert get(new_reader(store), 1, 2) == [MISSING] * 2
    (line,) = told(caplog)
    assert ("was not signed" if signer == "nobody" else "signed with another key") in line
    assert not canary.exists()
    trusting = LocalStore(store.folder, key=KEY, allow_unsigned=True)
    get(new_reader(trusting), 1)
    assert canary.exists()


def test_a_trusting_store_still_finds_damage(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    name = put(CacheFolder(LocalStore(store.folder, key=b"s" * 32), FOLDER), VALUES).name
    trusting = LocalStore(store.folder, key=KEY, allow_unsigned=True)
    assert get(new_reader(trusting), *VALUES) == list(VALUES.values())
    path = Path(store.folder) / FOLDER / name
    whole = path.read_bytes()
    for at in range(16, len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        assert all(
            got is MISSING or got == value
            for got, value in zip(get(new_reader(trusting), *VALUES), VALUES.values(), strict=True)
        )
    assert told(caplog)


def test_a_planted_value_in_a_signed_pack_is_not_unpickled(store: LocalStore, tmp_path: Path) -> None:
    canary = tmp_path / "planted"
    folder = CacheFolder(store, FOLDER)
    name = put(folder, {1: b"x" * 150}).name
    (pack,) = folder._packs
    payload = pickle.dumps([Planted(canary)])
    path = Path(store.folder) / FOLDER / name
    data = bytearray(path.read_bytes())
    start = int(pack.offsets[0]) + 16
    data[start : start + len(payload)] = payload
    path.write_bytes(data)
    assert get(new_reader(store), 1) == [MISSING] and not canary.exists()


def test_older_keys_are_accepted(store: LocalStore) -> None:
    put(CacheFolder(store, FOLDER), {1: "one"})
    rotated = LocalStore(store.folder, key=b"n" * 32, older_keys=[KEY])
    put(CacheFolder(rotated, FOLDER), {2: "two"})
    assert get(new_reader(rotated), 1, 2) == ["one", "two"]


def test_a_class_that_is_not_there_makes_a_miss(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(CacheFolder(store, FOLDER), {1: Path("x")}).name

    def fails(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'gone'")

    monkeypatch.setattr("graphflow.results.packs.serializers.pickle.loads", fails)
    assert get(new_reader(store), 1) == [MISSING]
    (line,) = told(caplog)
    assert name in line and "No module named 'gone'" in line


def test_a_store_that_cannot_be_reached_is_an_error(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    put(folder, {1: "one"})
    found = folder.find(key(1), now=0.0)

    class Broken(LocalStore):
        def read_many(self, ranges: Any) -> Any:
            raise ResultStoreError("the store cannot be reached")

    folder.store = Broken(store.folder, key=KEY)
    with pytest.raises(ResultStoreError, match="cannot be reached"):
        folder.load(found, [0])


# -- requests ------------------------------------------------------------------------------------------------


class Far(LocalStore):
    """A store where each request counts."""

    __slots__ = ("requests",)

    def __init__(self, folder: str) -> None:
        super().__init__(folder, key=KEY)
        self.requests: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return "s3://bucket/prefix"

    def read_many(self, ranges: Any) -> Any:
        self.requests += [(name, nbytes) for name, _, nbytes in ranges]
        return super().read_many(ranges)

    def read(self, name: str, offset: int, nbytes: int) -> bytes:
        return super().read(name, offset, nbytes)

    def entries(self, prefix: str = "") -> Iterator[Any]:
        self.requests.append((prefix, 0))
        return super().entries(prefix)


def test_a_lookup_costs_a_request_per_pack_and_a_batch_a_few(store: LocalStore) -> None:
    writer = CacheFolder(store, FOLDER)
    noise = np.random.default_rng(3)
    for start in range(0, 50_000, 5_000):
        put(writer, {each: noise.bytes(20) for each in range(start, start + 5_000)})
    far = Far(store.folder)
    reader = CacheFolder(far, FOLDER)
    reader.refresh()
    assert len(far.requests) == 1 + 10
    assert max(nbytes for _, nbytes in far.requests) < 200_000
    for start in range(0, 50_000, 2_500):
        assert MISSING not in get(reader, *range(start, start + 2_500))
    assert len(far.requests) == 1 + 10 + 10
    reader.refresh()
    assert len(far.requests) == 1 + 10 + 10 + 1


def test_small_packs_are_read_in_one_request_with_their_values(store: LocalStore) -> None:
    writer = CacheFolder(store, FOLDER)
    for each in range(20):
        put(writer, {each: str(each)})
    far = Far(store.folder)
    reader = CacheFolder(far, FOLDER)
    reader.refresh()
    assert get(reader, *range(20)) == [str(each) for each in range(20)]
    assert len(far.requests) == 1 + 20


def test_a_pack_that_moves_while_it_is_being_learnt_is_found(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    for each in range(3):
        put(CacheFolder(store, FOLDER), {each: str(each)})

    class Raced(Far):
        __slots__ = ()

        def read_many(self, ranges: Any) -> Any:
            if len(self.requests) == 1:
                compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
            return super().read_many(ranges)

    reader = CacheFolder(Raced(store.folder), FOLDER)
    reader.refresh()
    assert get(reader, 0, 1, 2) == ["0", "1", "2"] and told(caplog) == []


def test_packs_that_were_replaced_are_not_read(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "AT_ONCE", 4)
    writer = CacheFolder(store, FOLDER)
    for each in range(20):
        put(writer, {each: str(each)})
    for old in store.entries(f"{FOLDER}/"):
        os.utime(Path(store.folder) / old.name, (1_000.0, 1_000.0))
    compact(store, FOLDER, now=time.time())
    far = Far(store.folder)
    reader = CacheFolder(far, FOLDER)
    for _ in range(2):
        reader.refresh()
        assert get(reader, *range(20)) == [str(each) for each in range(20)]
    assert len(far.requests) == 1 + 4 + 1


def test_a_value_whose_pack_cannot_be_written_leaves_no_large_object(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER, large_nbytes=1_000)
    failpoints.activate("store.fsync.after:raise=ENOSPC@2")
    try:
        with pytest.raises(ResultStoreError, match="cannot be written"):
            put(folder, {1: bytes(range(256)) * 20})
    finally:
        failpoints.deactivate()
    assert list(store.names()) == [] and get(folder, 1) == [MISSING]


def test_near_blocks_are_read_together_and_far_ones_apart(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "AHEAD_NBYTES", 0)
    writer = CacheFolder(store, FOLDER)
    noise = np.random.default_rng(4)
    put(writer, {each: noise.bytes(60_000) for each in range(40)})
    far = Far(store.folder)
    reader = CacheFolder(far, FOLDER)
    reader.refresh()
    far.requests.clear()
    get(reader, 0, 1, 2)
    assert len(far.requests) == 1
    get(reader, 5, 39)
    assert len(far.requests) == 3
