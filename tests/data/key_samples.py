"""Tasks and inputs whose cache keys are kept in a golden file; only the standard library is needed, and no package around."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import pathlib
import uuid

LIMIT = 7
KINDS = frozenset({"a", "b", "c"})
TABLE = {"x": 1, "y": [2, 3]}


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: float
    names: set = dataclasses.field(default_factory=set)


class Pair(collections.namedtuple("Pair", "left right")):
    __slots__ = ()


class Own:
    def __init__(self, value):
        self.value = value

    def __graphflow_hash__(self):
        return self.value


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return helper(x) * self.factor


def helper(x, *, limit=LIMIT):
    return x in KINDS or x > limit or TABLE["x"]


def plain(x, y=2, *more, z=(1, "z"), **named):
    """Described."""
    return helper(x), y, more, z, named  # a comment


def closing(factor):
    def inner(x):
        return [f"{each!r:>{factor}}" for each in (x, helper(x), Colour.RED)]

    return inner


closed = closing(3)
by_partial = functools.partial(plain, y=5)
bound = Scale(2).times
short = lambda x: helper(x) + LIMIT  # noqa: E731

VALUES = {
    "none": None,
    "true": True,
    "int": 1,
    "large": 2**200,
    "float": 1.0,
    "nan": float("nan"),
    "complex": 1 + 2j,
    "text": "äöü \ud800",
    "long text": "x" * 100_000,
    "bytes": b"\x00\xff",
    "list": [1, [2, (3,)]],
    "tuple": (1, [2, (3,)]),
    "set": {"a", "b", 1, None, (1, "x"), frozenset({"p", "q"})},
    "frozenset": frozenset({"a", "b", 2.5}),
    "dict": {("k", number): str(number) for number in range(20)} | {"s": {"u", "v"}},
    "ordered": collections.OrderedDict(b=1, a=2),
    "counter": collections.Counter("abca"),
    "deque": collections.deque([1, 2], maxlen=5),
    "enum": Colour.GREEN,
    "flag": Bits.A | Bits.B,
    "dataclass": Point(1.5, {"a", "b"}),
    "namedtuple": Pair(1, "r"),
    "own": Own({"b", "a"}),
    "path": pathlib.Path("a/b"),
    "windows path": pathlib.PureWindowsPath("a/b"),
    "date": datetime.date(2020, 2, 29),
    "datetime": datetime.datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=datetime.UTC),
    "time": datetime.time(1, 2, fold=1),
    "timedelta": datetime.timedelta(days=1, microseconds=2),
    "decimal": decimal.Decimal("1.50"),
    "fraction": fractions.Fraction(2, 3),
    "uuid": uuid.UUID(int=7),
    "range": range(0, 10, 3),
    "function": helper,
    "partial": functools.partial(helper, limit=3),
    "class": Colour,
}
