"""Canonical digests: typed, free of order where the value has none, the same in every process."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import pathlib
import re
import struct
import sys
import types
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import attrs
import numpy as np
import pandas as pd
import pydantic
import pytest

from graphflow.errors import TaskOptionError
from graphflow.identity.hashing import (
    UNTOLD,
    canonical_digest,
    combined_digests,
    item_digests,
    register_hash,
)


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Other(enum.Enum):
    RED = 1


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass
class Spot:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    x: Any
    y: Any = 0


class Model(pydantic.BaseModel):
    x: int
    names: set[str] = set()


class Private(pydantic.BaseModel):
    x: int = 1
    _scale: int = pydantic.PrivateAttr(1)


class Extra(pydantic.BaseModel, extra="allow"):
    x: int


class Heavy(Point):
    __slots__ = ("weight",)


class Loose(Pair):
    pass


@attrs.define(slots=False)
class Sized:
    x: int


@dataclass
class Numbers(np.ndarray):  # type: ignore[misc]
    x: int

    def __new__(cls, x: int) -> Any:
        return np.ndarray.__new__(cls, (1,))


class Where(pathlib.PurePosixPath):
    pass


class Own:
    def __init__(self, value: Any, noise: Any = None) -> None:
        self.value, self.noise = value, noise

    def __graphflow_hash__(self) -> Any:
        return self.value


class Opaque:
    pass


class Registered:
    def __init__(self, value: Any) -> None:
        self.value = value


class Heir(Registered):
    pass


def plus(a: int, b: int = 1) -> int:
    return a + b


def minus(a: int, b: int = 1) -> int:
    return a - b


DIFFERENT: list[Any] = [
    None,
    True,
    False,
    1,
    0,
    -1,
    2**63,
    10**5000,
    1.0,
    0.0,
    -0.0,
    float("inf"),
    1 + 0j,
    "",
    "1",
    "n",
    b"1",
    bytearray(b"1"),
    "\ud800",
    "x" * 70_000,
    "x" * 70_001,
    b"x" * 70_000,
    [],
    (),
    {},
    set(),
    frozenset(),
    [1],
    (1,),
    {1},
    frozenset({1}),
    (1, 2),
    [1, 2],
    [1, [2]],
    [[1], 2],
    ["ab", "c"],
    ["a", "bc"],
    {1: "x"},
    {"1": "x"},
    {True: "x"},
    {"x": 1},
    collections.OrderedDict(x=1),
    collections.defaultdict(int, x=1),
    collections.Counter(x=1),
    types.SimpleNamespace(x=1),
    collections.deque([1]),
    collections.deque([1], maxlen=3),
    range(3),
    range(1, 3),
    slice(1, 2),
    slice(1, 2, 1),
    ...,
    Colour.RED,
    Colour.GREEN,
    Other.RED,
    Bits.A,
    Bits.A | Bits.B,
    Point(1, 2),
    Point(2, 1),
    Spot(1, 2),
    Pair(1, 2),
    Model(x=1),
    Model(x=1, names={"a"}),
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("a"),
    pathlib.Path("a"),
    dt.date(2020, 1, 2),
    dt.datetime(2020, 1, 2),
    dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(2020, 1, 2, fold=1),
    dt.time(1, 2),
    dt.timedelta(1),
    dt.timedelta(seconds=1),
    dt.UTC,
    dt.timezone(dt.timedelta(hours=1)),
    dt.timezone(dt.timedelta(hours=1), "X"),
    zoneinfo.ZoneInfo("Europe/Berlin"),
    decimal.Decimal("1"),
    decimal.Decimal("1.0"),
    fractions.Fraction(1, 1),
    fractions.Fraction(1, 2),
    uuid.UUID(int=1),
    re.compile("a"),
    re.compile("a", re.IGNORECASE),
    np.int64(1),
    np.int32(1),
    np.float64(1.0),
    np.bool_(True),
    np.str_("1"),
    np.datetime64("2020-01-02"),
    np.datetime64("2020-01-02", "s"),
    np.array([1, 2]),
    np.array([1, 2], dtype=np.int32),
    np.array([[1, 2]]),
    np.array([1.0, 2.0]),
    np.array([1, 2], dtype=object),
    np.array(["1", "2"]),
    np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    np.array([1, 2]).dtype,
    pd.Series([1, 2]),
    pd.Series([1, 2], name="a"),
    pd.Series([1, 2], index=[1, 2]),
    pd.Series([1.0, 2.0]),
    pd.Series(["1", "2"]),
    pd.Series(["1", "2"], dtype="category"),
    pd.Series([1, None], dtype="Int64"),
    pd.DataFrame({"a": [1, 2]}),
    pd.DataFrame({"b": [1, 2]}),
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
    pd.Index([1, 2]),
    pd.RangeIndex(2),
    pd.MultiIndex.from_tuples([(1, 2)]),
    pd.Timestamp("2020-01-02"),
    pd.Timestamp("2020-01-02", tz="UTC"),
    pd.Timedelta("1D"),
    pd.NaT,
    pd.NA,
    plus,
    minus,
    len,
    int,
    Point,
    functools.partial(plus, 1),
    functools.partial(plus, 2),
    functools.partial(plus, a=1),
    functools.partial(minus, 1),
    [1].append,
    Own(1),
    Own(2),
]


def test_values_that_differ_in_type_or_content_have_different_digests() -> None:
    digests = [canonical_digest(value) for value in DIFFERENT]
    for value, digest in zip(DIFFERENT, digests, strict=True):
        assert digest is not None and len(digest) == 16, value
    seen: dict[bytes | None, Any] = {}
    for value, digest in zip(DIFFERENT, digests, strict=True):
        assert digest not in seen, (value, seen[digest])
        seen[digest] = value


def with_attributes(value: Any, **attributes: Any) -> Any:
    for name, each in attributes.items():
        if name == "attrs":
            value.attrs.update(each)
        else:
            object.__setattr__(value, name, each)
    return value


HIDDEN: dict[str, tuple[Any, ...]] = {
    "an attribute of a dataclass": (
        Point(1),
        with_attributes(Point(1), scale=1),
        with_attributes(Point(1), scale=2),
    ),
    "a slot of an heir": (Heavy(1), with_attributes(Heavy(1), weight=1), with_attributes(Heavy(1), weight=2)),
    "an attribute of a named tuple's heir": (Loose(1), with_attributes(Loose(1), scale=1)),
    "an attribute of a partial": (
        functools.partial(plus, 1),
        with_attributes(functools.partial(plus, 1), scale=1),
    ),
    "an attribute of a Counter": (collections.Counter(x=1), with_attributes(collections.Counter(x=1), a=1)),
    "an attribute of an OrderedDict": (
        collections.OrderedDict(x=1),
        with_attributes(collections.OrderedDict(x=1), a=1),
    ),
    "an attribute of a function": (
        types.FunctionType(plus.__code__, globals()),
        with_attributes(types.FunctionType(plus.__code__, globals()), scale=1),
    ),
    "an attribute of an attrs object": (Sized(1), Sized(2), with_attributes(Sized(1), scale=1)),
    "private attributes of a model": (
        Private(),
        with_attributes(Private(), _scale=2),
        with_attributes(Private(), _scale=3),
    ),
    "extra fields of a model": (Extra(x=1), Extra(x=1, y=1), Extra(x=1, y=2)),
    "which fields a model was given": (Model(x=1), Model(x=1, names=set())),
    "a frame": (
        pd.DataFrame({"a": [1]}),
        with_attributes(pd.DataFrame({"a": [1]}), attrs={"scale": 1}),
        with_attributes(pd.DataFrame({"a": [1]}), attrs={"scale": 2}),
        pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
        pd.DataFrame({"a": [1]}, index=pd.Index([0], name="i")),
        pd.DataFrame({"a": [1]}, columns=pd.Index(["a"], name="c")),
    ),
    "a series": (pd.Series([1]), with_attributes(pd.Series([1]), attrs={"scale": 1})),
    "the period of an index": (
        pd.date_range("2020", periods=2),
        pd.DatetimeIndex(["2020-01-01", "2020-01-02"]),
    ),
    "the levels of an index": (
        pd.MultiIndex.from_arrays([np.array([1], "int64")]),
        pd.MultiIndex.from_arrays([np.array([1], "int32")]),
    ),
    "an heir of a path": (pathlib.PurePosixPath("a"), Where("a"), with_attributes(Where("a"), scale=1)),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_an_object_holds_beside_its_fields_counts(what: str) -> None:
    digests = [canonical_digest(value) for value in HIDDEN[what]]
    assert None not in digests and len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "value",
    [
        with_attributes(kind(), scale=1)
        for kind in (
            type("List", (list,), {}),
            type("Dict", (dict,), {}),
            type("Text", (str,), {}),
            type("Number", (int,), {}),
            type("Array", (collections.deque,), {}),
            type("Failure", (Exception,), {}),
        )
    ]
    + [np.array([1]).view(type("View", (np.ndarray,), {})), np.ma.masked_array([1], [True]), Numbers(1)],
)
def test_heirs_of_plain_types_cannot_be_told(value: Any) -> None:
    assert canonical_digest(value) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}),
        ({"x", "y", "z", 1}, {1, "z", "y", "x"}),
        ({frozenset({1, "a"}): {2}}, {frozenset({"a", 1}): {2}}),
        (collections.Counter("ab"), collections.Counter("ba")),
        (range(0, 4, 2), range(0, 3, 2)),
        (range(0), range(5, 5)),
        (range(7, 8), range(7, 99, 92)),
        (float("nan"), struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]),
        (Point(1, {"a": {1, 2}}), Point(1, {"a": {2, 1}})),
        (Model(x=1, names={"a", "b"}), Model(x=1, names={"b", "a"})),
        (Own(1, "noise"), Own(1, "other noise")),
        (np.array([[1, 2], [3, 4]]), np.asfortranarray([[1, 2], [3, 4]])),
        (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [9, 1, 2]}).iloc[1:].reset_index(drop=True)),
        (functools.partial(plus, b=1, a=2), functools.partial(plus, a=2, b=1)),
        ("".join(["a", "b"]), "ab"),
    ],
)
def test_equal_values_have_one_digest(one: Any, other: Any) -> None:
    assert canonical_digest(one) == canonical_digest(other) is not None


def test_an_object_may_be_in_a_value_twice() -> None:
    inner = [1]
    assert canonical_digest([inner, inner]) == canonical_digest([[1], [1]]) is not None


def test_what_contains_itself_cannot_be_told() -> None:
    loop: list[Any] = []
    loop.append(loop)
    table: dict[str, Any] = {}
    table["self"] = {"deeper": [table]}
    point = Point(1)
    point.y = point
    for value in (loop, table, point, [1, loop]):
        assert canonical_digest(value) is None


def test_what_is_unknown_or_raises_cannot_be_told() -> None:
    class Raises:
        def __graphflow_hash__(self) -> Any:
            raise RuntimeError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (Opaque(), [Opaque()], {1: Opaque()}, Raises(), iter([]), sys.stdout, deep):
        assert canonical_digest(value) is None


def test_a_type_can_be_registered_for_its_heirs_too() -> None:
    assert canonical_digest(Registered(1)) is None
    register_hash(Registered, lambda each: each.value)
    assert canonical_digest(Registered({1, 2})) == canonical_digest(Registered({2, 1})) is not None
    assert canonical_digest(Registered(1)) != canonical_digest(Registered(2))
    assert canonical_digest(Registered(1)) != canonical_digest(Heir(1)) is not None
    for wrong in ((1, len), (Registered, 1)):
        with pytest.raises(TaskOptionError, match="register_hash takes a type and a function"):
            register_hash(*wrong)


# -- items ---------------------------------------------------------------------------------------------------


def parts(digests: bytes) -> list[bytes]:
    return [digests[at : at + 8] for at in range(0, len(digests), 8)]


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, -1, 2**62, -(2**63)],
        [0.0, 1.5, -2.5, float("inf")],
        ["", "a", "ä", "\ud800", "x" * 100_000],
        [b"", b"a", b"ab"],
        [{"a": 1}, {"a": 2}],
        [(1, 2), [1, 2]],
        [None, True, False],
        [2**63, 2**70, -(2**70)],
        [np.int64(1), np.int32(1)],
        [Colour.RED, Point(1, 2)],
    ],
)
def test_the_digest_of_an_item_does_not_depend_on_the_others(values: list[Any]) -> None:
    alone = [item_digests([value]) for value in values]
    assert b"".join(alone) == item_digests(values) == item_digests(tuple(values))
    mixed = item_digests([*values, "another", 7, 7.5])
    assert mixed[: 8 * len(values)] == b"".join(alone)
    assert len(set(alone)) == len(values)
    assert UNTOLD not in alone


def test_items_of_different_types_differ() -> None:
    values = [1, 1.0, True, "1", b"1", None, 0, 0.0, False, "", b"", (), [], np.int64(1), (1,), [1]]
    assert len(set(parts(item_digests(values)))) == len(values)


def test_an_item_that_cannot_be_told_is_zeros() -> None:
    digests = parts(item_digests([1, Opaque(), "a"]))
    assert digests[1] == UNTOLD and UNTOLD not in (digests[0], digests[2])
    assert item_digests([]) == b""


def test_no_number_is_taken_for_one_that_cannot_be_told() -> None:
    # The number whose bytes are the tag itself.
    tag = int.from_bytes(b"\x9d\x5b\xa7\x31\xe8\xc4\x76\x8b", "little", signed=True)
    digests = parts(item_digests([tag, 0, tag, tag ^ 0xFF << 56, tag ^ 0xFF]))
    assert UNTOLD not in digests
    assert digests[0] == digests[2]


def test_of_a_range_nothing_is_compared() -> None:
    assert item_digests(range(10)) == b""


def test_an_array_has_the_digests_of_its_elements() -> None:
    assert item_digests(np.arange(5)) == item_digests(list(np.arange(5)))
    assert item_digests(pd.Series([1, 2])) == item_digests([1, 2])


def test_digests_of_zipped_sources_are_combined_per_item() -> None:
    one, other = item_digests([1, 2, Opaque()]), item_digests(["a", "b", "c"])
    assert combined_digests([one]) == one
    both = parts(combined_digests([one, other]))
    assert both[2] == UNTOLD
    assert both[0] != both[1]
    assert combined_digests([other, one]) != combined_digests([one, other])


@dataclass
class WithMissing:
    x: int
    y: int = field(init=False)


def test_a_dataclass_may_lack_a_field() -> None:
    assert canonical_digest(WithMissing(1)) is not None
