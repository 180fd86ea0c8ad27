"""Values of maps, written to files of a common format and read back."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest

from graphflow import Skip, flow, task
from graphflow.errors import MapFailed, ResultDamaged, ResultStoreError, SerializationError, ValueUnavailable
from graphflow.model.states import Code
from graphflow.results import Export, read_export
from graphflow.results.exports import exports
from graphflow.results.exports.exports import Block, ExportOf, write_export
from graphflow.testing.faults.s3server import Bucket

FORMATS = ("jsonl", "parquet", "pickle")
GOOD, FAILED, SKIPPED = int(Code.COMPLETED), int(Code.FAILED), int(Code.SKIPPED)


@task
def row(x: int) -> dict[str, Any]:
    if x == 5:
        raise ValueError("five")
    if x == 6:
        raise Skip("six")
    return {"x": x, "name": f"item {x}"}


@task
def same(x: Any) -> Any:
    return x


def expected(count: int) -> list[Any]:
    return [None if x in (5, 6) else {"x": x, "name": f"item {x}"} for x in range(count)]


@pytest.mark.parametrize("file", FORMATS)
def test_a_map_is_written_in_parts_and_reads_back_as_a_sequence(
    local_name: str, file: str, tmp_path: Path
) -> None:
    @flow(backend=local_name)
    def export() -> int:
        rows = row.map(range(1000))
        made = rows.write(tmp_path / "out", format=file, part_nbytes=3_000)
        rows.failures()
        return len(made)

    assert export() == 1000
    found = read_export(str(tmp_path / "out"), missing="none")
    parts = found.manifest["parts"]
    assert len(parts) > 3
    assert [part["start"] for part in parts[1:]] == [part["stop"] for part in parts[:-1]]
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "manifest.json",
        *(each["name"] for each in parts),
    }
    assert list(found) == expected(1000)
    assert found[999] == found[-1] == {"x": 999, "name": "item 999"}
    assert list(found[990:][::3]) == expected(1000)[990::3] and len(found[2:5]) == 3
    assert (found.failed, found.skipped, found.is_complete) == ([range(5, 6)], [range(6, 7)], True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["succeeded"], manifest["pending"], manifest["format"]) == ([[0, 5], [7, 1000]], [], file)
    with pytest.raises(IndexError):
        found[1000]


def test_an_item_without_a_value_says_why(tmp_path: Path) -> None:
    @flow(backend="inline")
    def export() -> None:
        rows = row.map(range(8))
        rows.write(str(tmp_path))
        rows.failures()

    export()
    found = read_export(str(tmp_path))
    with pytest.raises(ValueUnavailable, match=r"row\[5\] has no value in the export at .*: it failed"):
        found[5]
    with pytest.raises(
        ValueUnavailable, match=r"row\[6\] has no value .*: it was skipped; read it with missing="
    ):
        list(found[6:])
    assert found[7]["x"] == 7
    with pytest.raises(ResultStoreError, match='missing must be "raise" or "none"'):
        read_export(str(tmp_path), missing="x")  # type: ignore[arg-type]


def test_writing_does_not_hide_failures(tmp_path: Path) -> None:
    @flow(backend="inline")
    def export() -> None:
        row.map(range(8)).write(str(tmp_path))

    with pytest.raises(MapFailed, match="1 of 8 items of row failed"):
        export()
    assert read_export(str(tmp_path)).failed == [range(5, 6)]


def test_a_map_is_written_to_s3(s3: Bucket) -> None:
    @flow(backend="threads")
    def export(url: str) -> list[Any]:
        return list(same.map(range(300)).write(url, format="pickle", part_nbytes=500))

    url = f"{s3.url}/exports/one"
    assert export(url) == list(range(300))
    assert list(read_export(url)[100:]) == list(range(100, 300))


def test_a_map_over_an_iterator_is_written_while_it_gives_items(local_name: str, tmp_path: Path) -> None:
    def numbers() -> Iterator[int]:
        yield from range(700)

    @flow(backend=local_name)
    def export() -> None:
        made = same.map(numbers()).write(tmp_path, part_nbytes=100)
        assert made.is_complete and len(made) == 700

    export()
    assert list(read_export(str(tmp_path))) == list(range(700))


def test_an_iterator_that_fails_leaves_an_export_that_is_not_complete(tmp_path: Path) -> None:
    def numbers() -> Iterator[int]:
        yield from range(300)
        raise RuntimeError("no more")

    @flow(backend="threads")
    def export() -> None:
        same.map(numbers()).write(tmp_path, part_nbytes=10)

    with pytest.raises(RuntimeError, match="no more"):
        export()
    found = read_export(str(tmp_path))
    assert not found.is_complete and found.manifest["pending"]
    assert list(found) == list(range(len(found)))


def test_waiting_for_items_has_a_limit(tmp_path: Path) -> None:
    release = threading.Event()

    @task
    def wait(x: int) -> int:
        if x == 100:
            release.wait()
        return x

    @flow(backend="threads")
    def export() -> Any:
        waiting = wait.map(range(102))
        try:
            with pytest.raises(TimeoutError, match="the items of wait did not end within 0.3 s"):
                waiting.write(tmp_path, part_nbytes=20, timeout=0.3)
            before = read_export(str(tmp_path))
            assert not before.is_complete
            with pytest.raises(ValueUnavailable, match="it is not written yet"):
                before[101]
        finally:
            release.set()
        return list(waiting.write(tmp_path, part_nbytes=20))

    assert export() == list(range(102))


# -- formats -------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"


@dataclass
class Point:
    x: float
    at: Any


class Model(pydantic.BaseModel):
    when: datetime.date


def exported(values: list[Any], tmp_path: Path, **options: Any) -> Export:
    @flow(backend="inline")
    def export() -> None:
        same.map(values).write(tmp_path / "out", **options)

    export()
    return read_export(str(tmp_path / "out"))


def test_json_writes_what_has_an_obvious_form(tmp_path: Path) -> None:
    day = datetime.date(2020, 1, 2)
    values = [
        "line\nbreak\u2028 ä \ud800",
        Point(1.5, (1, Colour.RED)),
        Model(when=day),
        [np.int64(1), np.arange(2), decimal.Decimal("1.5"), Path("a/b"), day],
        None,
    ]
    found = exported(values, tmp_path)
    assert list(found) == [
        values[0],
        {"x": 1.5, "at": [1, "r"]},
        {"when": "2020-01-02"},
        [1, [0, 1], "1.5", "a/b", "2020-01-02"],
        None,
    ]
    lines = (tmp_path / "out" / found.manifest["parts"][0]["name"]).read_bytes().split(b"\n")
    assert len(lines) == 6 and lines[-1] == b""


@pytest.mark.parametrize(
    ("values", "file", "text"),
    [
        (
            [1, float("nan")],
            "jsonl",
            r"the value of same\[1\], a float, cannot be written as jsonl: ValueError",
        ),
        ([1, {1, 2}], "jsonl", r'same\[1\], a set, .* JSON has no set; use format="pickle"'),
        ([1, "x"], "parquet", r"same\[1\], a str, cannot be written as parquet"),
        ([{"a": 1}, 2], "parquet", r"same\[1\], an int, .*: TypeError: the items before it are dicts"),
        ([{"a": 1}, {"a": "x"}], "parquet", r"same\[1\], a dict, cannot be written as parquet"),
        (
            [1, threading.Lock()],
            "pickle",
            r"same\[1\], a lock, cannot be written as pickle: .*convert it to something",
        ),
    ],
)
def test_a_value_that_a_format_does_not_have_is_named(
    values: Any, file: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(SerializationError, match=text):
        exported(values, tmp_path, format=file)
    again = read_export(str(tmp_path / "out"))
    assert not again.is_complete


def test_tables_hold_rows_plain_values_and_frames(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": "x"}, {"a": None, "b": "y"}]
    found = exported(rows, tmp_path / "rows", format="parquet")
    assert list(found) == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": "y"}]
    assert list(exported([1.5, None, 2.5], tmp_path / "plain", format="parquet")) == [1.5, None, 2.5]
    frames = [pd.DataFrame({"a": range(n), "b": [f"{i}" for i in range(n)]}) for n in (2, 0, 3)]
    found = exported(frames, tmp_path / "frames", format="parquet")
    for one, other in zip(found, frames, strict=True):
        assert one.to_dict("list") == other.to_dict("list")
    whole = pd.read_parquet(tmp_path / "frames" / "out" / found.manifest["parts"][0]["name"])
    assert len(whole) == 5
    tables = [pa.table({"a": [1]}), pa.table({"a": [2, 3]})]
    assert [each.to_pydict() for each in exported(tables, tmp_path / "tables", format="parquet")] == [
        {"a": [1]},
        {"a": [2, 3]},
    ]
    assert list(exported([], tmp_path / "none", format="parquet")) == []


def test_wrong_formats_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ResultStoreError, match="format must be one of 'jsonl', 'parquet', 'pickle', not 'csv'"
    ):
        exported([1], tmp_path, format="csv")
    with pytest.raises(ResultStoreError, match="part_nbytes must be a number of bytes, 1 or more, not 0"):
        exported([1], tmp_path, part_nbytes=0)
    assert not (tmp_path / "out").exists()


# -- going on, and other exports -----------------------------------------------------------------------------


class Items:
    """Items to write, of which the writer may be stopped before one."""

    def __init__(self, codes: list[int], *, stops: int | None = None, run: str = "run") -> None:
        self.made: list[int] = []
        self._codes = codes
        self._stops = stops
        self._of = ExportOf(run_id=run, node="n", key="k", flow="f", task="t")

    def block(self, start: int, size: int) -> Block | None:
        stop = min(start + size, len(self._codes))
        if start >= stop:
            return None
        if self._stops is not None and stop > self._stops:
            raise KeyboardInterrupt
        self.made += range(start, stop)
        codes = bytes(self._codes[start:stop])
        return Block(codes, [start + at for at, code in enumerate(codes) if code == GOOD])

    def write(self, place: Path, **options: Any) -> Export:
        return write_export(
            str(place),
            self._of,
            file=options.pop("file", "jsonl"),
            width=len(self._codes),
            block=self.block,
            codes=lambda start, stop: bytes(self._codes[start:stop]),
            part_nbytes=20,
            **options,
        )


def test_an_interrupted_export_goes_on_behind_its_last_whole_part(tmp_path: Path) -> None:
    codes = [GOOD] * 200
    with pytest.raises(KeyboardInterrupt):
        Items(codes, stops=120).write(tmp_path)
    before = read_export(str(tmp_path))
    stop = before.manifest["parts"][-1]["stop"]
    assert not before.is_complete and 50 < stop <= 120
    assert before.manifest["pending"] == [[stop, 200]] and len(before) == 200
    assert list(before[:stop]) == list(range(stop))
    again = Items(codes)
    assert list(again.write(tmp_path)) == list(range(200))
    assert again.made == list(range(stop, 200))
    third = Items(codes)
    assert list(third.write(tmp_path)) == list(range(200)) and third.made == []


def test_parts_that_are_gone_or_cut_off_are_written_again(tmp_path: Path) -> None:
    codes = [GOOD] * 100
    made = Items(codes).write(tmp_path)
    names = [part["name"] for part in made.manifest["parts"]]
    (tmp_path / names[4]).unlink()
    again = Items(codes)
    assert list(again.write(tmp_path)) == list(range(100))
    assert again.made[0] == made.manifest["parts"][4]["start"]
    (tmp_path / names[2]).write_bytes(b"1")
    assert list(Items(codes).write(tmp_path)) == list(range(100))


def test_items_that_failed_and_ran_again_are_written_again(tmp_path: Path) -> None:
    codes = [GOOD] * 100
    codes[40] = FAILED
    codes[60] = SKIPPED
    assert Items(codes).write(tmp_path).failed == [range(40, 41)]
    codes[40] = GOOD
    found = Items(codes).write(tmp_path)
    assert found[40] == 40 and not found.failed and found.skipped == [range(60, 61)]
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"manifest.json", *(part["name"] for part in found.manifest["parts"])}


def test_another_export_is_not_touched_unless_told_so(tmp_path: Path) -> None:
    Items([GOOD] * 50).write(tmp_path)
    for other, options in ((Items([GOOD], run="other"), {}), (Items([GOOD] * 50), {"file": "pickle"})):
        with pytest.raises(
            ResultStoreError, match="contains another export: n of run run as jsonl, not n of run"
        ):
            other.write(tmp_path, **options)
    assert list(read_export(str(tmp_path))) == list(range(50))
    assert list(Items([GOOD] * 3, run="other").write(tmp_path, overwrite=True)) == [0, 1, 2]
    assert {each.name for each in tmp_path.iterdir()} == {"manifest.json", "part-000000000000.jsonl"}


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "other"}')
    for overwrite in (False, True):
        with pytest.raises(ResultStoreError, match="is not the manifest of a graphflow export"):
            Items([GOOD]).write(tmp_path, overwrite=overwrite)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "part-000000000000.jsonl").write_text("1\n")
    with pytest.raises(ResultStoreError, match=r"has parts of an export, but no manifest.json"):
        Items([GOOD]).write(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    Items([GOOD]).write(tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "x"


# -- damage and trust ----------------------------------------------------------------------------------------


def test_damage_is_found_when_a_part_is_read(tmp_path: Path) -> None:
    made = Items([GOOD] * 50).write(tmp_path)
    path = tmp_path / made.manifest["parts"][1]["name"]
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    found = read_export(str(tmp_path))
    assert found[0] == 0
    with pytest.raises(ResultDamaged, match="is damaged: its bytes differ from what was written"):
        found[made.manifest["parts"][1]["start"]]
    path.unlink()
    with pytest.raises(ResultDamaged, match="is incomplete"):
        found[made.manifest["parts"][1]["start"]]


class Evil:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle of somebody else was loaded",)


def test_pickles_that_nobody_here_signed_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Items([GOOD] * 3).write(tmp_path, file="pickle")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    evil = pickle.dumps([Evil()] * 3)
    (tmp_path / manifest["parts"][0]["name"]).write_bytes(evil)
    manifest["parts"][0].update(nbytes=len(evil), digest=exports._digest(evil))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultStoreError, match="signed with none of this installation's keys"):
        read_export(str(tmp_path))[0]
    with pytest.raises(pytest.fail.Exception):
        read_export(str(tmp_path), allow_unsigned=True)[0]


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultStoreError, match=r"there is no export at file:.*: it has no manifest.json"):
        read_export(str(tmp_path))
    Items([GOOD]).write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ResultStoreError, match="has version 2, but this graphflow reads version 1"):
        read_export(str(tmp_path))
