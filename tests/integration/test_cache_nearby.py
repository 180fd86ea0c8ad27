"""Ends of packs on a machine's disk: read there by other processes, and never believed where they differ from what was put there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from graphflow.cache.cached import CacheFolder
from graphflow.cache.nearby import KEPT_SECONDS, Nearby, prune_ends
from graphflow.results.stores.local import LocalStore

FOLDER = "cache/square-0123456789abcdef"
KEY = bytes(range(32))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store."""
    return LocalStore(tmp_path / "results", key=KEY)


@pytest.fixture
def place(tmp_path: Path) -> LocalStore:
    """Where processes of a machine meet."""
    return LocalStore(tmp_path / "site", key=KEY)


@pytest.fixture
def other(store: LocalStore, place: LocalStore) -> Callable[[], CacheFolder]:
    """Another process that begins to use the folder."""

    def made() -> CacheFolder:
        folder = CacheFolder(store, FOLDER)
        folder.nearby = Nearby(place, FOLDER)
        return folder

    return made


def put(folder: CacheFolder, number: int) -> str:
    """Publish one value; return the object's name."""
    published = folder.publish(
        keys=bytes([number]) * 16,
        values=[number],
        indices=[0],
        run_id="run-1",
        node="square",
        created=100.0,
        expires=None,
        parts={"source": b"12345678"},
    )
    return published.name


def spoil(store: LocalStore, name: str) -> None:
    """Overwrite all of an object: whoever reads it refuses it."""
    path = Path(store.folder, name)
    path.write_bytes(bytes(path.stat().st_size))


def ends(place: LocalStore) -> list[str]:
    return sorted(place.names("ends/"))


def test_what_one_process_wrote_another_does_not_read_from_the_store(
    store: LocalStore, other: Callable[[], CacheFolder]
) -> None:
    spoil(store, f"{FOLDER}/{put(other(), 1)}")

    reader = other()
    reader.refresh()
    assert len(reader) == 1


def test_what_one_process_read_another_does_not_read_from_the_store(
    store: LocalStore, other: Callable[[], CacheFolder]
) -> None:
    name = put(CacheFolder(store, FOLDER), 1)
    other().refresh()
    spoil(store, f"{FOLDER}/{name}")

    reader = other()
    reader.refresh()
    assert len(reader) == 1


@pytest.mark.parametrize("at", [0, 16, -1])
def test_an_end_that_differs_is_read_from_the_store(
    place: LocalStore, other: Callable[[], CacheFolder], at: int
) -> None:
    put(other(), 1)
    path = Path(place.folder, ends(place)[0])
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    reader = other()
    reader.refresh()
    assert len(reader) == 1


def test_an_end_that_is_cut_off_is_read_from_the_store(
    place: LocalStore, other: Callable[[], CacheFolder]
) -> None:
    put(other(), 1)
    os.truncate(Path(place.folder, ends(place)[0]), 10)

    reader = other()
    reader.refresh()
    assert len(reader) == 1


def test_a_pack_that_is_not_listed_is_not_known(store: LocalStore, other: Callable[[], CacheFolder]) -> None:
    store.delete([f"{FOLDER}/{put(other(), 1)}"])

    reader = other()
    reader.refresh()
    assert len(reader) == 0


def test_what_is_damaged_in_the_store_is_not_kept(
    store: LocalStore, place: LocalStore, other: Callable[[], CacheFolder]
) -> None:
    spoil(store, f"{FOLDER}/{put(CacheFolder(store, FOLDER), 1)}")

    other().refresh()
    assert ends(place) == []


def test_where_much_is_kept_nothing_is_added(place: LocalStore) -> None:
    Nearby(place, FOLDER, limit_nbytes=100).keep("one", 200, bytes(200))
    Nearby(place, FOLDER, limit_nbytes=100).keep("two", 200, bytes(200))

    assert ends(place) == [f"ends/{FOLDER}/one"]


def test_the_oldest_ends_go_when_half_of_the_room_is_taken(place: LocalStore) -> None:
    nearby = Nearby(place, FOLDER)
    for age, name in enumerate(("new", "old", "older")):
        nearby.keep(name, 84, bytes(84))
        os.utime(Path(place.folder, f"ends/{FOLDER}/{name}"), (1_000 - age, 1_000 - age))

    prune_ends(place, FOLDER, now=1_000.0, limit_nbytes=400)
    assert ends(place) == [f"ends/{FOLDER}/new", f"ends/{FOLDER}/old"]
    prune_ends(place, FOLDER, now=1_000.0 + KEPT_SECONDS)
    assert ends(place) == [f"ends/{FOLDER}/new"]


def test_a_disk_that_takes_nothing_costs_requests_only(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    writer, reader = CacheFolder(store, FOLDER), CacheFolder(store, FOLDER)
    for each in (writer, reader):
        each.nearby = Nearby(LocalStore(tmp_path / "file", key=KEY), FOLDER)

    put(writer, 1)
    reader.refresh()
    assert len(reader) == 1
