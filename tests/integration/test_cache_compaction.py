"""Compaction and garbage collection: few packs, the same values, whoever reads, writes, dies or looks at a wrong clock meanwhile."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphflow.cache.cached import MISSING, CacheFolder
from graphflow.cache.collecting import collect, folders_of, stat_folder, verify_folder
from graphflow.cache.compacting import compact, forget_keys
from graphflow.cache.entries import parts_at, read_parts
from graphflow.common import failpoints
from graphflow.errors import ResultStoreError
from graphflow.results.stores.local import LocalStore

KEY = bytes(range(32))
FOLDER = "cache/square-0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "results", key=KEY)


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    yield
    failpoints.deactivate()


def key(number: int) -> bytes:
    return struct.pack(">QQ", (number * 0x9E3779B97F4A7C15) % 2**64, number + 1)


def put(folder: CacheFolder, values: dict[int, Any], **options: Any) -> str:
    given = {
        "run_id": "run-1",
        "node": "square",
        "created": 100.0,
        "expires": None,
        "parts": {"inputs:x": b"".join(struct.pack("<I", each + 1) for each in values)},
        **options,
    }
    return folder.publish(
        keys=b"".join(map(key, values)), values=list(values.values()), indices=list(values), **given
    ).name


def get(folder: CacheFolder, *numbers: int, now: float = 200.0) -> list[Any]:
    found = folder.find(b"".join(map(key, numbers)), now=now)
    values = dict(zip(found.positions, folder.load(found, found.positions), strict=True))
    return [values.get(position, MISSING) for position in range(len(numbers))]


def opened(store: LocalStore) -> CacheFolder:
    folder = CacheFolder(store, FOLDER)
    folder.refresh()
    return folder


def packs(store: LocalStore) -> set[str]:
    return {each.rpartition("/")[2] for each in store.names(f"{FOLDER}/") if "/blobs/" not in each}


def filled(store: LocalStore, count: int = 20, size: int = 10) -> dict[int, Any]:
    """A folder with some packs; gives all its values."""
    folder = CacheFolder(store, FOLDER, large_nbytes=50_000)
    every: dict[int, Any] = {}
    for number in range(count):
        values = {each: (each, "x" * each) for each in range(number * size, number * size + size)}
        put(folder, values, run_id=f"run-{number}", created=100.0 + number)
        every |= values
    return every


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_many_packs_become_one_with_the_same_values(store: LocalStore) -> None:
    every = filled(store)
    before = opened(store)
    origins = [before.find(key(each), now=0.0).made(0) for each in every]
    done = compact(store, FOLDER, now=time.time())
    assert (done.read, len(done.written), done.removed, done.waiting) == (20, 1, 0, 20)
    assert len(packs(store)) == 21
    # Nothing more is to be done, and the old ones wait.
    again = compact(store, FOLDER, now=time.time())
    assert (again.removed, again.waiting, len(packs(store))) == (0, 20, 21)
    later = compact(store, FOLDER, now=time.time() + 301.0)
    assert (later.removed, later.waiting) == (20, 0) and packs(store) == set(done.written)
    after = opened(store)
    assert get(after, *every) == get(before, *every) == list(every.values())
    # Where and when they were made is told as before.
    assert [after.find(key(each), now=0.0).made(0) for each in every] == origins
    assert [problem for _, problem in verify_folder(store, FOLDER)] == [""]


def test_parts_of_keys_stay_with_their_values(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    columns = {"x": struct.pack("<III", 11, 12, 14), "source": b"AAAAAAAA"}
    put(folder, {1: "a", 2: "b", 4: "d"}, parts=columns)
    put(folder, {3: "c"}, parts={"x": b"xxxxxxxx", "y": struct.pack("<I", 33)})
    put(folder, {5: "e", 6: "f"}, parts={"x": b"55556666"})
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    after = opened(store)
    (pack,) = after._packs
    parts = read_parts(store, FOLDER, pack)
    found = {}
    for number in range(1, 7):
        matches = after.find(key(number), now=0.0)._matches
        assert matches is not None
        found[number] = parts_at(parts, int(matches.place[0]))
    assert found == {
        1: {"source": (b"AAAAAAAA",), "x": (struct.pack("<I", 11),)},
        2: {"source": (b"AAAAAAAA",), "x": (struct.pack("<I", 12),)},
        3: {"x": (b"xxxxxxxx",), "y": (struct.pack("<I", 33),)},
        4: {"source": (b"AAAAAAAA",), "x": (struct.pack("<I", 14),)},
        # Of two values, 8 bytes may be 4 for each.
        5: {"x": (b"5555", b"55556666")},
        6: {"x": (b"6666", b"55556666")},
    }


def test_the_newest_value_stays_and_expired_ones_go(store: LocalStore) -> None:
    put(CacheFolder(store, FOLDER), {1: "old", 2: "two"}, created=10.0)
    put(CacheFolder(store, FOLDER), {1: "new", 3: "over"}, created=20.0)
    put(CacheFolder(store, FOLDER), {4: "over"}, created=20.0, expires=50.0)
    done = compact(store, FOLDER, now=100.0, grace_seconds=0.0)
    assert (done.superseded, done.expired, len(done.written)) == (1, 1, 1)
    assert len(packs(store)) == 1
    after = opened(store)
    assert get(after, 1, 2, 3, 4, now=0.0) == ["new", "two", "over", MISSING] and len(after) == 3


def test_an_expired_value_goes_on_hiding_an_older_one(store: LocalStore) -> None:
    noise = np.random.default_rng(1)
    put(CacheFolder(store, FOLDER), {1: "older", 2: noise.bytes(60_000)}, created=10.0)
    put(CacheFolder(store, FOLDER), {1: "newer"}, created=20.0, expires=50.0)
    put(CacheFolder(store, FOLDER), {3: "three"}, created=20.0, expires=50.0)
    # The first one is too large to be put together with others.
    done = compact(store, FOLDER, now=100.0, grace_seconds=0.0, target_nbytes=40_000)
    assert done.expired == 1
    assert get(opened(store), 1, 3, now=100.0) == [MISSING, MISSING]
    assert get(opened(store), 1, now=0.0) == ["newer"]


def test_large_values_are_kept_as_they_are(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER, large_nbytes=50_000)
    large = np.random.default_rng(2).bytes(80_000)
    put(folder, {1: large, 2: "x" * 90_000})
    put(folder, {3: "three"})
    blobs = set(store.names(f"{FOLDER}/blobs/"))
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    collect(store, FOLDER, now=time.time() + 1e6)
    assert len(packs(store)) == 1 and set(store.names(f"{FOLDER}/blobs/")) == blobs and len(blobs) == 2
    assert get(opened(store), 1, 2, 3) == [large, "x" * 90_000, "three"]


def test_a_million_values_would_be_in_few_objects(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    for number in range(60):
        put(folder, dict.fromkeys(range(number * 50, number * 50 + 50), number))
    done = compact(store, FOLDER, now=time.time(), grace_seconds=0.0, target_count=1_000)
    assert 3 <= len(done.written) <= 4 and len(packs(store)) == len(done.written)
    assert get(opened(store), 0, 49, 50, 2_999) == [0, 0, 1, 59]


def test_single_values_share_blocks_when_they_are_put_together(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER)
    for number in range(100):
        put(folder, {number: [number]}, serializer="json" if number % 2 else "compressed/pickle")
    (name,) = compact(store, FOLDER, now=time.time(), grace_seconds=0.0).written
    after = opened(store)
    assert get(after, *range(100)) == [[number] for number in range(100)]
    # Values are put together in the order of time, then name: blocks end where the serializer changes.
    (pack,) = after._packs
    assert pack.name == name and len(pack.sizes) < 100
    assert {pack.serializers[each] for each in pack.block_serializers} == {"json", "compressed/pickle"}


def test_a_reader_follows_values_that_were_moved(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    every = filled(store)
    reader = opened(store)
    found = reader.find(b"".join(map(key, every)), now=0.0)
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert reader.load(found, found.positions) == list(every.values())
    assert get(reader, *every) == list(every.values())
    # And once more, for what this process wrote itself.
    own = CacheFolder(store, FOLDER)
    put(own, {1_000: "own"})
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert get(own, 1_000, 5) == ["own", MISSING] or get(own, 1_000, 5) == ["own", every[5]]
    assert get(own, 1_000, 5) == ["own", every[5]]
    assert told(caplog) == []


def test_values_of_a_damaged_block_are_lost_and_no_others(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(3)
    values: dict[int, Any] = {each: noise.bytes(60_000) for each in range(8)}
    name = put(CacheFolder(store, FOLDER), values)
    put(CacheFolder(store, FOLDER), {9: "nine"})
    (pack,) = (each for each in opened(store)._packs if each.name == name)
    path = Path(store.folder) / FOLDER / name
    data = bytearray(path.read_bytes())
    data[int(pack.offsets[1]) + 100] ^= 1
    path.write_bytes(data)
    first, after = int(pack.firsts[1]), int(pack.firsts[2])
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    expected = [MISSING if first <= each < after else values[each] for each in values]
    assert len(packs(store)) == 1 and get(opened(store), *values, 9) == [*expected, "nine"]
    assert len(told(caplog)) == 1 and name in told(caplog)[0]


def test_what_strangers_signed_is_not_signed_by_a_compaction(store: LocalStore) -> None:
    for number in range(3):
        put(CacheFolder(LocalStore(store.folder, key=b"s" * 32), FOLDER), {number: number})
    put(CacheFolder(store, FOLDER), {7: 7})
    put(CacheFolder(store, FOLDER), {8: 8})
    trusting = LocalStore(store.folder, key=KEY, allow_unsigned=True)
    assert get(opened(trusting), 0, 1, 2, 7) == [0, 1, 2, 7]
    done = compact(trusting, FOLDER, now=time.time(), grace_seconds=0.0)
    assert (done.read, len(done.written), done.removed) == (5, 1, 2)
    assert get(opened(store), 0, 1, 2, 7, 8) == [MISSING] * 3 + [7, 8]
    with pytest.raises(ResultStoreError, match="signed by another installation"):
        forget_keys(trusting, FOLDER, [key(1)], now=time.time())


def test_keys_are_forgotten(store: LocalStore) -> None:
    every = filled(store, 3)
    put(CacheFolder(store, FOLDER), {5: "again"}, created=900.0)
    put(CacheFolder(store, FOLDER), {6: "alone"}, created=1.0)
    assert forget_keys(store, FOLDER, [key(5), key(6), key(999)], now=time.time()) == 4
    expected = [MISSING if number in (5, 6) else value for number, value in every.items()]
    assert get(opened(store), *every) == expected and len(packs(store)) == 3


def test_a_damaged_pack_is_left_alone(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    every = filled(store, 3)
    name = sorted(packs(store))[0]
    path = Path(store.folder) / FOLDER / name
    path.write_bytes(path.read_bytes()[:-1])
    done = compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert done.damaged == 1 and packs(store) == {name, *done.written}
    assert sum(value is not MISSING for value in get(opened(store), *every)) == 20


@pytest.mark.parametrize("name", [each for each in failpoints.NAMES if each.startswith("compact.")])
@pytest.mark.parametrize("grace", [0.0, 300.0])
def test_a_compaction_that_is_killed_loses_nothing(store: LocalStore, name: str, grace: float) -> None:
    every = filled(store, 6)
    put(CacheFolder(store, FOLDER), {2: "newer"}, created=500.0)
    every[2] = "newer"
    if grace:
        # Something to be removed at once, too.
        put(CacheFolder(store, FOLDER), {900: "over"}, created=1.0, expires=2.0)
    now = time.time() + 400.0
    reader = opened(store)
    code = textwrap.dedent(f"""
        from graphflow.cache.compacting import compact
        from graphflow.results.stores.local import LocalStore
        store = LocalStore({store.folder!r}, key=bytes(range(32)))
        compact(store, {FOLDER!r}, now={now}, grace_seconds={grace}, target_count=40)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**_environ(), failpoints.VARIABLE: f"{name}:kill@1"}, timeout=60
    )
    assert ended.returncode == -9
    assert get(reader, *every) == get(opened(store), *every) == list(every.values())
    compact(store, FOLDER, now=now + 1e6, grace_seconds=0.0)
    compact(store, FOLDER, now=now + 2e6, grace_seconds=0.0)
    collect(store, FOLDER, now=now + 3e6)
    assert get(reader, *every) == get(opened(store), *every) == list(every.values())
    assert len(packs(store)) <= 3 and all(problem == "" for _, problem in verify_folder(store, FOLDER))


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


@pytest.mark.parametrize(
    "name", ["store.write.after", "store.rename.after", "compact.publish.after", "compact.remove.before"]
)
def test_a_store_that_fails_at_any_point_of_a_compaction_loses_nothing(store: LocalStore, name: str) -> None:
    every = filled(store, 6)
    failpoints.activate(f"{name}:raise=OSError@1")
    with pytest.raises((OSError, RuntimeError)):
        compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    failpoints.deactivate()
    assert get(opened(store), *every) == list(every.values())
    compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert len(packs(store)) == 1 and get(opened(store), *every) == list(every.values())


def test_old_packs_stay_for_a_while_however_old_they_are(store: LocalStore) -> None:
    filled(store, 6)
    names = packs(store)
    for name in names:
        os.utime(Path(store.folder) / FOLDER / name, (1_000.0, 1_000.0))
    for _ in range(3):
        compact(store, FOLDER, now=time.time())
        collect(store, FOLDER, now=time.time(), grace_seconds=300.0)
        assert packs(store) > names
    compact(store, FOLDER, now=time.time() + 301.0)
    assert not packs(store) & names


def test_several_compactions_readers_and_writers_at_once_do_no_harm(store: LocalStore) -> None:
    every = filled(store, 12)
    wrong: list[Any] = []
    is_over = threading.Event()

    def check(folder: CacheFolder) -> None:
        got = get(folder, *every)
        if any(
            value is not MISSING and value != every[number] for number, value in zip(every, got, strict=True)
        ):
            wrong.append(got)

    def read() -> None:
        folder = opened(store)
        while not is_over.is_set():
            check(folder)

    def write(start: int) -> None:
        folder = opened(store)
        for number in range(start, start + 15):
            put(folder, {number: number})
            if get(folder, number) != [number]:
                wrong.append(number)

    def tidy() -> None:
        for _ in range(6):
            compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
            collect(store, FOLDER, now=time.time(), grace_seconds=60.0)

    readers = [threading.Thread(target=read) for _ in range(2)]
    others = [threading.Thread(target=tidy) for _ in range(3)]
    others += [threading.Thread(target=write, args=(start,)) for start in (10_000, 20_000)]
    for each in [*readers, *others]:
        each.start()
    for each in others:
        each.join()
    is_over.set()
    for each in readers:
        each.join()
    assert not wrong
    written = [*range(10_000, 10_015), *range(20_000, 20_015)]
    for _ in range(2):
        compact(store, FOLDER, now=time.time(), grace_seconds=0.0)
    assert len(packs(store)) == 1
    assert get(opened(store), *every, *written) == [*every.values(), *written]


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_loses_nothing(store: LocalStore, jump: float) -> None:
    every = filled(store, 6)
    reader = opened(store)
    for step in range(3):
        compact(store, FOLDER, now=time.time() + jump * (step % 2))
        collect(store, FOLDER, now=time.time() + jump * (step % 2))
    assert get(reader, *every) == get(opened(store), *every) == list(every.values())


# -- garbage -------------------------------------------------------------------------------------------------


def test_garbage_goes_after_its_grace_time(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER, large_nbytes=1_000)
    put(folder, {1: "over"}, created=1.0, expires=2.0)
    put(folder, {2: "y" * 5_000, 3: "three"})
    blobs = set(store.names(f"{FOLDER}/blobs/"))
    store.publish(f"{FOLDER}/blobs/orphan.blob", [b"x" * 100])
    leftover = Path(store.folder) / FOLDER / ".v2-0-x.pack.1.aa.tmp"
    leftover.write_bytes(b"half")
    early = collect(store, FOLDER, now=time.time())
    assert (early.packs, early.blobs, early.leftovers, early.nbytes) == (0, 0, 0, 0)
    done = collect(store, FOLDER, now=time.time() + 3_700.0)
    assert (done.packs, done.blobs, done.leftovers) == (1, 1, 1) and done.nbytes > 100
    assert set(store.names(f"{FOLDER}/blobs/")) == blobs and not leftover.exists()
    assert get(opened(store), 1, 2, 3, now=0.0) == [MISSING, "y" * 5_000, "three"]


def test_what_others_may_need_is_not_garbage(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    stranger = LocalStore(store.folder, key=b"s" * 32)
    put(CacheFolder(stranger, FOLDER, large_nbytes=1_000), {1: "y" * 5_000})
    put(CacheFolder(store, FOLDER), {2: "two"})
    name = put(CacheFolder(store, FOLDER), {3: "three"})
    path = Path(store.folder) / FOLDER / name
    path.write_bytes(path.read_bytes()[:-1])
    done = collect(store, FOLDER, now=time.time() + 1e6)
    assert (done.packs, done.blobs, done.damaged, len(done.kept)) == (0, 0, 0, 2)
    done = collect(store, FOLDER, now=time.time() + 1e6, removes_damaged=True)
    assert (done.damaged, len(done.kept)) == (1, 1) and not path.exists()
    assert get(opened(stranger), 1) == ["y" * 5_000] and get(opened(store), 2) == ["two"]


def test_a_reader_of_what_was_collected_has_misses(store: LocalStore) -> None:
    put(CacheFolder(store, FOLDER), {1: "over"}, created=1.0, expires=2.0)
    reader = opened(store)
    found = reader.find(key(1), now=0.0)
    collect(store, FOLDER, now=time.time() + 1e6)
    assert list(found.hits) == [1] and reader.load(found, [0]) == [MISSING]
    assert get(reader, 1, now=0.0) == [MISSING]


def test_folders_are_told_in_numbers(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER, large_nbytes=1_000)
    put(folder, {1: "old", 2: "over"}, created=10.0, expires=50.0)
    put(folder, {1: "new", 3: "z" * 5_000}, created=20.0)
    put(CacheFolder(store, "cache/other"), {1: 1})
    assert folders_of(store) == ["cache/other", FOLDER]
    found = stat_folder(store, FOLDER, now=100.0)
    assert (found.packs, found.blobs, found.values) == (2, 1, 4)
    assert (found.live, found.expired, found.superseded, found.damaged) == (2, 1, 1, 0)
    assert (found.oldest, found.newest) == (10.0, 20.0)
    assert found.nbytes == sum(each.nbytes for each in store.entries(f"{FOLDER}/"))


def test_verification_finds_a_flip_of_any_bit(store: LocalStore) -> None:
    folder = CacheFolder(store, FOLDER, large_nbytes=1_000)
    put(folder, {1: "one", 2: [2], 3: np.random.default_rng(4).bytes(1_500)})
    for each in list(store.entries(f"{FOLDER}/")):
        path = Path(store.folder) / each.name
        whole = path.read_bytes()
        assert [problem for _, problem in verify_folder(store, FOLDER)] == [""]
        for at in range(0, len(whole), 1 if each.nbytes < 1_400 else 97):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            (found,) = verify_folder(store, FOLDER)
            assert each.name.rpartition("/")[2] in found[1]
        path.write_bytes(whole)
