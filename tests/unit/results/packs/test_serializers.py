"""Serializers: what they take comes back as it was, and what would not is refused with its place."""

from __future__ import annotations

import builtins
import math
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphflow.errors import SerializationError, SettingsError
from graphflow.ports import Buffer, Serializer
from graphflow.results.packs import compression, serializers
from graphflow.results.packs.blocks import encode_values, framed, frames_of, values_of
from graphflow.results.packs.serializers import serializer_names, serializer_of
from graphflow.results.stores.local import LocalStore

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda each: st.lists(each) | st.tuples(each, each) | st.dictionaries(st.text() | st.integers(), each),
    max_leaves=20,
)
SALT = b"s" * 16


@dataclass
class Point:
    """A class of values."""

    x: int
    y: Any = None


def same(one: Any, other: Any) -> bool:
    """Whether values are equal and of the same types, to any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (one == other and math.copysign(1, one) == math.copysign(1, other)) or (
            one != one and other != other
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one.items(), other.items()))
    return bool(one == other)


def through(made: Serializer, values: Sequence[Any]) -> list[Any]:
    """Values, there and back, in a frame as packs have them."""
    return values_of(b"".join(framed(made.dumps(values), len(values))), made)


@given(st.lists(PLAIN))
def test_pickle_gives_plain_values_back(values: list[Any]) -> None:
    assert same(through(serializer_of("pickle"), values), values)


def test_pickle_gives_objects_and_functions_back() -> None:
    class Local(Point):
        pass

    first, second, third, fourth = through(
        serializer_of("pickle"), [Point(1, [2]), Local(3), lambda x: x + 1, OrderedDict(a=1)]
    )
    assert first == Point(1, [2]) and (second.x, type(second).__name__) == (3, "Local")
    assert third(1) == 2 and fourth == OrderedDict(a=1)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_writable_unless_they_were_not(size: int, order: Any) -> None:
    array = np.arange(size * 2.0).reshape(2, size).copy(order)
    fixed = array.copy()
    fixed.flags.writeable = False
    (got, deep, still) = through(serializer_of("pickle"), [array, {"a": [array]}, fixed])
    assert (got == array).all() and (deep["a"][0] == array).all() and (still == fixed).all()
    got[0, 0] = 5
    assert array[0, 0] == 0 and not still.flags.writeable


def test_large_arrays_are_not_copied_into_the_pickle() -> None:
    array = np.arange(100_000)
    head, body = serializer_of("pickle").dumps([array])
    assert len(head) < 1_000 and np.shares_memory(np.frombuffer(body, array.dtype), array)


@settings(max_examples=60)
@given(st.lists(PLAIN, min_size=1))
def test_json_gives_values_back_as_they_were_or_refuses_them(values: list[Any]) -> None:
    made = serializer_of("json")
    try:
        got = through(made, values)
    except SerializationError as error:
        assert "use serializer 'pickle'" in str(error)
        assert any(not json_like(value) for value in values)
    else:
        assert same(got, values)


def json_like(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(json_like, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and json_like(each) for name, each in value.items())
    return not isinstance(value, bytes | tuple)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2), "value is a tuple, which JSON would return as a list"),
        ({"a": [1, {"b": (1,)}]}, r"value\['a'\]\[1\]\['b'\] is a tuple"),
        ({1: 2}, "value has the key 1, an int, which JSON would return as a string"),
        ([math.nan], r"value\[0\] is nan, which JSON cannot represent"),
        ({1, 2}, "value is a set, which JSON cannot represent"),
        (OrderedDict(a=1), "value is an OrderedDict, which JSON cannot represent"),
    ],
)
def test_what_json_refuses_is_named_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(SerializationError, match=said):
        serializer_of("json").dumps([0, value])


def test_arrow_gives_frames_and_tables_back() -> None:
    import pandas as pd
    import pyarrow as pa

    frame = pd.DataFrame({"n": [1, 2, 3], "s": ["a", None, "c"]}, index=pd.Index([5, 6, 7], name="i"))
    times = pd.DataFrame({"t": pd.date_range("2026-01-01", periods=2, tz="UTC")})
    table = pa.table({"x": [1.5, None], "y": [[1], [2, 3]]})
    got = through(serializer_of("arrow"), [frame, table, times, pd.DataFrame()])
    pd.testing.assert_frame_equal(got[0], frame)
    pd.testing.assert_frame_equal(got[2], times)
    assert got[1].equals(table) and got[3].empty
    got[0].loc[5, "n"] = 9


def test_what_arrow_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    made = serializer_of("arrow")
    with pytest.raises(SerializationError, match="value is a list, not a pandas DataFrame"):
        made.dumps([[1, 2]])
    with pytest.raises(SerializationError, match="a DataFrame that Arrow cannot hold"):
        made.dumps([pd.DataFrame({"a": [object(), 1]})])
    with pytest.raises(SerializationError, match="would not survive a round trip"):
        made.dumps([pd.DataFrame({"a": [(1, 2), [3]]})])
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError("no pyarrow")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SerializationError, match="'arrow' needs pyarrow, which is not installed here"):
        made.dumps([1])


class Upper:
    """A serializer of somebody else."""

    name = "upper"

    def dumps(self, values: Sequence[Any]) -> list[Buffer]:
        return [value.upper().encode() for value in values]

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        return [bytes(each).decode() for each in buffers]


def test_others_add_serializers_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    group = serializers.GROUP
    assert group == "graphflow.serializers"
    found = [
        EntryPoint("upper", f"{__name__}:Upper", group),
        EntryPoint("broken", "no_such_module:Thing", group),
        EntryPoint("none", "builtins:object", group),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "Upper", Upper, raising=False)
    monkeypatch.setattr(serializers, "entry_points", lambda group: found)
    serializer_of.cache_clear()
    try:
        assert through(serializer_of("upper"), ["a", "b"]) == ["A", "B"]
        assert serializer_of("compressed/upper").name == "upper"
        assert {"upper", "pickle", "json", "arrow"} <= set(serializer_names())
        with pytest.raises(SettingsError, match=r"'broken' \(no_such_module:Thing\) cannot be loaded"):
            serializer_of("broken")
        with pytest.raises(SettingsError, match="is not a serializer: it needs `name`"):
            serializer_of("none")
        with pytest.raises(SettingsError, match="unknown serializer 'xml'; use .*compressed/NAME"):
            serializer_of("xml")
    finally:
        serializer_of.cache_clear()


# -- compression ---------------------------------------------------------------------------------------------


@given(st.binary(max_size=3_000), st.integers(1, 40))
def test_compression_gives_back_what_there_was(data: bytes, times: int) -> None:
    whole = data * times
    packed = compression.compress(whole, always=True)
    assert packed is not None and compression.decompress(packed, len(whole)) == whole
    stream = b"".join(compression.compressed_parts([whole[:10], whole[10:]]))
    assert compression.decompress(stream, len(whole)) == whole
    for wrong in (len(whole) + 1, len(whole) - 1):
        if wrong >= 0:
            with pytest.raises(ValueError):
                compression.decompress(packed, wrong)
    with pytest.raises(ValueError):
        compression.decompress(packed[:-1], len(whole))
    with pytest.raises(ValueError):
        compression.decompress(packed + b"x", len(whole))


def test_what_does_not_get_smaller_is_kept_as_it_is() -> None:
    noise = np.random.default_rng(1).bytes(500_000)
    assert compression.compress(noise) is None and compression.compress(noise[:1_000]) is None
    assert compression.compress(b"x" * 100) is None
    assert len(compression.compress(b"text " * 100_000) or noise) < 5_000


def test_a_small_stream_that_claims_to_be_huge_takes_no_memory() -> None:
    bomb = compression.compress(bytes(50 << 20), always=True)
    assert bomb is not None
    with pytest.raises(ValueError, match="more data than was declared"):
        compression.decompress(bomb, 1_000)


# -- blocks --------------------------------------------------------------------------------------------------


def test_values_that_cannot_be_carried_do_not_harm_the_others(tmp_path: Any) -> None:
    store = LocalStore(tmp_path, key=b"k" * 32)
    values: list[Any] = [[each] for each in range(100)]
    for position in (0, 17, 18, 99):
        values[position] = (position,)
    encoded = encode_values(values, serializer="json", salt=SALT, store=store, folder="cache/f")
    assert sorted(encoded.errors) == [0, 17, 18, 99]
    assert encoded.kept == [each for each in range(100) if each not in encoded.errors]
    assert "value is a tuple" in str(encoded.errors[17])


def test_frames_that_make_no_sense_are_refused() -> None:
    good = b"".join(framed([b"abc", b"de"], 1))
    assert [(count, [bytes(each) for each in buffers]) for count, buffers in frames_of(good * 2)] == [
        (1, [b"abc", b"de"])
    ] * 2
    for wrong in (good[:-1], good + b"x", good[:9]):
        with pytest.raises(Exception, match="frame|unpack|buffer"):
            list(frames_of(wrong))
        with pytest.raises(SerializationError):
            values_of(wrong, serializer_of("pickle"))
