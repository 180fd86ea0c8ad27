"""The bytes of cache packs: what they were in version 2, and columns that come back in any encoding."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.cache.cached import CacheFolder
from graphflow.cache.collecting import verify_folder
from graphflow.cache.entries import (
    EntryPack,
    Origin,
    array_of,
    build_entries,
    column,
    index_nbytes_of,
    new_entries_name,
    part_name,
    raw_column,
    read_parts,
)
from graphflow.cache.writing import block_columns
from graphflow.results.packs.blocks import framed, packed_block
from graphflow.results.packs.format import Column, pack_columns, unpack_columns
from graphflow.results.stores.local import LocalStore

KEY = bytes(range(32))
GOLDEN = Path(__file__).parents[2] / "data" / "cache-v2.pack"
NAME = "v2-00000461-golden0000000000000a.pack"
FOLDER = "cache/square-0123456789abcdef"
VALUES: list[Any] = [None, "two", (3, 3.0), {"four": [4]}, b"x" * 40]
KEYS = [bytes([9 - each]) * 16 for each in range(5)]


def golden() -> tuple[bytes, EntryPack]:
    salt = b"0123456789abcdef"
    blocks = [
        packed_block(framed([pickle.dumps(some, protocol=5)], len(some)), count=len(some), salt=salt)
        for some in (VALUES[:3], VALUES[3:])
    ]
    pack = EntryPack(
        name="",
        nbytes=0,
        salt=salt,
        generation=1,
        replaces=("v2-00000000-replaced.pack",),
        folder="square-0123456789abcdef",
        serializers=("pickle",),
        origins=(
            Origin("run-1", "square", "here", ""),
            Origin("run-2", "square", "there", "v2-0-first.pack"),
        ),
        keys=np.frombuffer(b"".join(KEYS), "S16"),
        places=np.arange(5, dtype=np.uint32),
        created=np.array([100.5, 100.5, 100.5, 50.25, 50.25]),
        expires=np.array([math.inf, math.inf, math.inf, 1e9, 1e9]),
        indices=np.array([0, 1, 2, 70_000, 70_001]),
        origin=np.array([0, 0, 0, 1, 1]),
        ordinals=np.array([0, 1, 2, 0, 1]),
        **block_columns(blocks, [0, 0]),
    )
    parts = {
        part_name("inputs:x", 4): np.arange(1, 6, dtype="<u4"),
        part_name("code", 8): np.full(5, 7, "<u8"),
    }
    drawn = NAME.split("-")[2].removesuffix(".pack")
    return b"".join(
        bytes(each) for each in build_entries(pack, blocks, parts, key=KEY, drawn=drawn, is_plain=True)
    ), pack


def test_the_format_is_what_it_was(tmp_path: Path) -> None:
    data, pack = golden()
    assert pack.name == NAME and data == GOLDEN.read_bytes()
    store = LocalStore(tmp_path, key=KEY)
    store.publish(f"{FOLDER}/{NAME}", [GOLDEN.read_bytes()])
    folder = CacheFolder(store, FOLDER)
    folder.refresh()
    found = folder.find(b"".join(KEYS), now=200.0)
    assert folder.load(found, found.positions) == VALUES
    made = [found.made(each) for each in (2, 3)]
    assert [(each.pack, each.run_id, each.host, each.index, each.created) for each in made] == [
        (NAME, "run-1", "here", 2, 100.5),
        ("v2-0-first.pack", "run-2", "there", 70_000, 50.25),
    ]
    assert list(folder.find(b"".join(KEYS), now=1e9).hits) == [1, 1, 1, 0, 0]
    (known,) = folder._packs
    assert known.replaces == ("v2-00000000-replaced.pack",) and known.generation == 1
    assert {name: values.tolist() for name, values in read_parts(store, FOLDER, known).items()} == {
        "4:inputs:x": [1, 2, 3, 4, 5],
        "8:code": [7] * 5,
    }
    assert [problem for _, problem in verify_folder(store, FOLDER)] == [""]


def test_names_tell_the_size_of_an_index() -> None:
    name = new_entries_name(0xABC, "f" * 20)
    assert index_nbytes_of(name) == 0xABC and len(name) == len(new_entries_name(0, "f" * 20))
    for other in ("x.pack", "v2-xyz-0.pack", "e1-b2-00.pack"):
        assert index_nbytes_of(other) in (0, 0xE1) or other.startswith("e1")


@given(
    st.sampled_from(["u1", "u2", "u4", "u8", "f8", "S16"]),
    st.lists(st.integers(0, 2**64 - 1), max_size=50),
    st.integers(1, 50),
    st.booleans(),
)
def test_columns_come_back_in_any_encoding(
    kind: str, numbers: list[int], times: int, is_ordered: bool
) -> None:
    if kind == "S16":
        values = np.array([f"{number:016x}"[:16].encode() for number in numbers] * times, "S16")
    else:
        values = np.array(numbers, np.uint64).astype(f"<{kind}").repeat(times)
    made = [column("a", values, is_ordered=is_ordered), raw_column("ü", values), column("empty", values[:0])]
    found = unpack_columns(pack_columns(made))
    assert list(found) == ["a", "ü", "empty"]
    for name in ("a", "ü"):
        got = array_of(found[name])
        assert got.dtype == values.dtype and (got == values).all()
    assert len(array_of(found["empty"])) == 0


def test_columns_take_little_room() -> None:
    assert len(column("index", np.arange(10_000, dtype=np.uint32), is_ordered=True).data) < 100
    assert len(column("time", np.full(10_000, 1.5)).data) == 8


def test_columns_that_make_no_sense_are_refused() -> None:
    data = pack_columns([raw_column("a", np.arange(5, dtype=np.uint32))])
    for wrong in (data[:-1], data + b"x", data[:6], b""):
        with pytest.raises(Exception, match="columns|unpack|buffer"):
            unpack_columns(wrong)
    short = Column(name="a", kind="u", width=4, count=6, encoding=0, data=b"x" * 20)
    with pytest.raises(ValueError, match="the column a has 20 bytes, not 24"):
        short.plain()
    with pytest.raises(ValueError, match="the unknown encoding 9"):
        replace(short, encoding=9).plain()
