"""Values as bytes that are the same in every process: typed, and free of order where the value has none.

Each encoding begins with a tag and tells its own length, so that no two values share one. (After redun's hashing: what
is hashed names what it is.)
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import math
import pathlib
import struct
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from graphflow.common import settings
from graphflow.common.secrets import inner_of, is_secret_type
from graphflow.errors import TaskOptionError

__all__ = ["Encoder", "Untold", "register_hash", "secret_digest", "told_digest"]

LARGE_NBYTES = 65_536
MAX_DIGESTS = 100_000
"""Of longer texts and arrays, the digest stands for the bytes."""
_TEXT_HEADS = [b"s%d:" % size for size in range(256)]
_DOUBLE = struct.Struct("<d")
_NAN = _DOUBLE.pack(math.nan)
_REGISTERED: dict[type, Callable[[Any], Any]] = {}


class Untold(Exception):
    """A value cannot be told from others by its content."""


def register_hash(kind: Any, fn: Any) -> None:
    """Register how objects of a type are hashed: `fn(object)` returns a plain value that stands for the object.

    It holds for subclasses too, unless they have their own. A method `__graphflow_hash__` of the type does the same.

    Raises
    ------
    TaskOptionError
        If `kind` is not a type, or `fn` is not callable.
    """
    if not isinstance(kind, type) or not callable(fn):
        raise TaskOptionError(
            f"register_hash takes a type and a function of its objects, not {kind!r} and {fn!r}"
        )
    _REGISTERED[kind] = fn


class Encoder:
    """Encodes values.

    Parameters
    ----------
    code_of
        Gives what stands for the code of a function or class.
    """

    def __init__(self, code_of: Callable[[Any], str]) -> None:
        self._code_of = code_of
        self._above: set[int] = set()
        """The containers around the value that is being encoded."""

    def encode(self, value: Any) -> bytes:
        """Return the canonical bytes of a value.

        Raises
        ------
        Untold
            If it contains itself, or something unknown.
        """
        kind = type(value)
        if kind is str:
            try:
                data: bytes = value.encode()
            except UnicodeEncodeError:
                data = value.encode("utf-8", "surrogatepass")
            return _TEXT_HEADS[len(data)] + data if len(data) < 256 else _tagged(b"s", data)
        if kind is int:
            return b"i%x;" % value
        if value is None:
            return b"n"
        if kind is bool:
            return b"T" if value else b"F"
        if kind is float:
            return b"f" + (_DOUBLE.pack(value) if value == value else _NAN)
        known = _METHODS.get(kind)
        if known is not None:
            return known(self, value)
        atom = _ATOMS.get(kind) or _LIBRARY_ATOMS.get((kind.__module__, kind.__name__))
        if atom is not None:
            return _tagged(kind.__name__.encode(), atom(value))
        return self._other(value, kind)

    def _items(self, tag: bytes, values: Iterable[Any], owner: Any) -> bytes:
        """Return values in their order."""
        parts = self._inside(owner, values)
        return b"%b%d:" % (tag, len(parts)) + b"".join(parts)

    def _inside(self, owner: Any, values: Iterable[Any]) -> list[bytes]:
        above, encode = self._above, self.encode
        if id(owner) in above:
            raise Untold("it contains itself")
        above.add(id(owner))
        try:
            return [encode(value) for value in values]
        finally:
            above.discard(id(owner))

    def _list(self, value: list[Any]) -> bytes:
        return self._items(b"l", value, value)

    def _tuple(self, value: tuple[Any, ...]) -> bytes:
        return self._items(b"t", value, value)

    def _set(self, value: set[Any]) -> bytes:
        return b"e%d:" % len(value) + b"".join(sorted(self._inside(value, value)))

    def _frozenset(self, value: frozenset[Any]) -> bytes:
        return b"z%d:" % len(value) + b"".join(sorted(self._inside(value, value)))

    def _dict(self, value: Mapping[Any, Any]) -> bytes:
        above, encode = self._above, self.encode
        if id(value) in above:
            raise Untold("it contains itself")
        above.add(id(value))
        try:
            # Keys are texts as a rule: these are told here, without a call.
            pairs = [
                (
                    _TEXT_HEADS[len(key)] + key.encode()
                    if type(key) is str and len(key) < 256 and key.isascii()
                    else encode(key)
                )
                + encode(each)
                for key, each in value.items()
            ]
        finally:
            above.discard(id(value))
        pairs.sort()
        return b"d%d:" % len(pairs) + b"".join(pairs)

    def _ordered(self, value: Mapping[Any, Any]) -> bytes:
        items = self._items(b"o", (each for pair in value.items() for each in pair), value)
        return items + self._attributes(value)

    def _named(self, name: bytes, *parts: Any, owner: Any = None) -> bytes:
        """Return a value of a type that is made of others."""
        return b"c" + _tagged(name, self._items(b"t", parts, owner if owner is not None else parts))

    def _attributes(self, value: Any) -> bytes:
        """Return the attributes that somebody added to an object; nothing where there are none."""
        added = getattr(value, "__dict__", None)
        return self._named(b"attributes", added, owner=value) if added else b""

    def _defaultdict(self, value: collections.defaultdict[Any, Any]) -> bytes:
        return self._named(b"defaultdict", value.default_factory, dict(value), owner=value)

    def _counter(self, value: collections.Counter[Any]) -> bytes:
        return self._named(b"Counter", dict(value), owner=value) + self._attributes(value)

    def _deque(self, value: collections.deque[Any]) -> bytes:
        return self._named(b"deque", value.maxlen, list(value), owner=value)

    def _namespace(self, value: types.SimpleNamespace) -> bytes:
        return self._named(b"namespace", vars(value), owner=value)

    def _slice(self, value: slice) -> bytes:
        return self._named(b"slice", value.start, value.stop, value.step)

    def _range(self, value: range) -> bytes:
        size = len(value)
        return self._named(
            b"range", *((value[0], value[-1], value.step)[: 1 if size == 1 else 3] if size else ())
        )

    def _partial(self, value: functools.partial[Any]) -> bytes:
        made = self._named(b"partial", value.func, value.args, value.keywords, owner=value)
        return made + self._attributes(value)

    def _function(self, value: Any) -> bytes:
        made = self._named(
            b"function", _module_of(value), getattr(value, "__qualname__", ""), self._code_of(value)
        )
        added = {name: each for name, each in vars(value).items() if name != "__wrapped__"}
        return made + self._named(b"attributes", added, owner=value) if added else made

    def _method(self, value: types.MethodType) -> bytes:
        return self._named(b"method", value.__func__, value.__self__, owner=value)

    def _builtin(self, value: types.BuiltinFunctionType) -> bytes:
        of = value.__self__
        if of is None or isinstance(of, types.ModuleType):
            return self._named(b"builtin", value.__module__ or "", value.__qualname__)
        return self._named(b"method", value.__name__, of, owner=value)

    def _datetime(self, value: datetime.datetime) -> bytes:
        return self._named(b"datetime", value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo)

    def _time(self, value: datetime.time) -> bytes:
        return self._named(b"time", value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo)

    def _timezone(self, value: datetime.timezone) -> bytes:
        return self._named(b"timezone", value.utcoffset(None), value.tzname(None))

    # -- everything else --------------------------------------------------------------------------------

    def _secret(self, value: Any) -> bytes:
        inner = self.encode(inner_of(value))
        return self._named(b"secret", _keyed(inner))

    def _other(self, value: Any, kind: type) -> bytes:
        if is_secret_type(kind):
            return self._secret(value)
        own = getattr(kind, "__graphflow_hash__", None)
        if own is not None:
            return self._of(kind, b"own", own(value), owner=value)
        for each in kind.__mro__ if _REGISTERED else ():
            fn = _REGISTERED.get(each)
            if fn is not None:
                return self._of(kind, b"registered", fn(value), owner=value)
        if isinstance(value, enum.Enum):
            # Flags that are combined have no name of their own; names like _value_ are the library's.
            more = {name: each for name, each in vars(value).items() if name[:1] != "_" or name[-1:] != "_"}
            return self._of(kind, b"enum", value.name or "", value.value, *_some(more), owner=value)
        if isinstance(value, type):
            return self._named(b"class", _module_of(value), value.__qualname__, self._code_of(value))
        if isinstance(value, pathlib.PurePath):
            return self._path(value, kind)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            more = _state(value, kind, ())
            return self._of(kind, b"namedtuple", tuple(kind._fields), tuple(value), *_some(more), owner=value)
        names = _field_names(kind)
        if names is not None:
            fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
            tag = b"dataclass" if dataclasses.is_dataclass(kind) else b"attrs"
            return self._of(kind, tag, fields, *_some(_state(value, kind, names)), owner=value)
        return self._of_library(value, kind)

    def _of(self, kind: type, tag: bytes, *parts: Any, owner: Any) -> bytes:
        """Return an object of a user's type."""
        return self._named(tag, _module_of(kind), kind.__qualname__, *parts, owner=owner)

    def _path(self, value: pathlib.PurePath, kind: type) -> bytes:
        flavour = "nt" if isinstance(value, pathlib.PureWindowsPath) else "posix"
        parts = flavour, isinstance(value, pathlib.Path), str(value)
        if kind.__module__.partition(".")[0] == "pathlib":
            return self._named(b"path", *parts)
        return self._of(kind, b"path", *parts, _state(value, kind, ()), owner=value)

    def _of_library(self, value: Any, kind: type) -> bytes:
        """Return objects of libraries, which are known only where these are loaded."""
        top = kind.__module__.partition(".")[0]
        numpy = sys.modules.get("numpy")
        if numpy is not None and top == "numpy":
            if isinstance(value, numpy.generic):
                return self._numpy_scalar(value)
            if kind is numpy.ndarray or kind is numpy.memmap:
                return self._array(value, numpy)
            if isinstance(value, numpy.dtype):
                return self._named(b"numpy.dtype", _dtype_of(value))
        pandas = sys.modules.get("pandas")
        if pandas is not None and top == "pandas":
            return self._of_pandas(value, pandas)
        pydantic = sys.modules.get("pydantic")
        if pydantic is not None and isinstance(value, pydantic.BaseModel):
            return self._model(value, kind)
        raise Untold(f"{_an(kind.__qualname__)} has no canonical form")

    def _model(self, value: Any, kind: Any) -> bytes:
        """Return a pydantic model: its fields, and what else it has: private attributes, and which fields were left out."""
        names = kind.model_fields
        fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
        left_out = set(names) - value.model_fields_set
        more = {
            "attributes": {name: each for name, each in vars(value).items() if name not in names},
            "private": value.__pydantic_private__,
            "left out": left_out,
        }
        more = {name: each for name, each in more.items() if each}
        return self._of(kind, b"pydantic", fields, value.__pydantic_extra__ or {}, *_some(more), owner=value)

    def _numpy_scalar(self, value: Any) -> bytes:
        if value.dtype.hasobject or value.dtype.fields is not None:
            return self._named(b"numpy.record", _dtype_of(value.dtype), value.item(), owner=value)
        return b"N" + _tagged(value.dtype.str.encode(), value.tobytes())

    def _array(self, value: Any, numpy: Any) -> bytes:
        dtype = value.dtype
        if dtype.hasobject or dtype.fields is not None or dtype.kind not in "biufcSUmMV":
            data: Any = value.tolist()
        else:
            data = _Raw(numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8).data)
        return self._named(b"numpy.array", _dtype_of(dtype), tuple(value.shape), data, owner=value)

    def _raw(self, value: _Raw) -> bytes:
        return _tagged(b"raw", value.data)

    def _of_pandas(self, value: Any, pandas: Any) -> bytes:
        kind = type(value)
        if kind is pandas.DataFrame:
            columns = [value.iloc[:, place] for place in range(value.shape[1])]
            return self._named(
                b"pandas.frame",
                value.columns,
                value.index,
                [self._pandas_values(each) for each in columns],
                *_notes_of(value),
                owner=value,
            )
        if kind is pandas.Series:
            return self._named(
                b"pandas.series",
                value.name,
                value.index,
                self._pandas_values(value),
                *_notes_of(value),
                owner=value,
            )
        if kind is pandas.RangeIndex:
            return self._named(b"pandas.rangeindex", value.name, range(value.start, value.stop, value.step))
        if isinstance(value, pandas.MultiIndex):
            kinds = [str(level.dtype) for level in value.levels]
            return self._named(b"pandas.multiindex", list(value.names), value.tolist(), kinds, owner=value)
        if isinstance(value, pandas.Index):
            every = getattr(value, "freqstr", None) if kind is not pandas.PeriodIndex else None
            return self._named(
                b"pandas.index",
                kind.__name__,
                value.name,
                self._pandas_values(value),
                *_some(every),
                owner=value,
            )
        if value is pandas.NaT or value is pandas.NA:
            return self._named(b"pandas.missing", kind.__name__)
        if isinstance(value, pandas.Timestamp):
            return self._named(b"pandas.timestamp", value.unit, value.value, value.fold, value.tzinfo)
        if isinstance(value, pandas.Timedelta):
            return self._named(b"pandas.timedelta", value.unit, value.value)
        if isinstance(value, pandas.Period):
            return self._named(b"pandas.period", value.freqstr, value.ordinal)
        if isinstance(value, pandas.Interval):
            return self._named(b"pandas.interval", value.left, value.right, value.closed)
        raise Untold(f"{_an(kind.__qualname__)} has no canonical form")

    def _pandas_values(self, value: Any) -> Any:
        """Return values of a column or index with their type, as something that can be encoded."""
        dtype = value.dtype
        if isinstance(dtype, sys.modules["numpy"].dtype):
            return str(dtype), value.to_numpy()
        if str(dtype) == "category":
            codes = value.cat.codes if hasattr(value, "cat") else value.codes
            return "category", dtype.ordered, dtype.categories, list(map(int, codes))
        return str(dtype), list(value.astype(object))


_digests: dict[bytes, bytes] = {}
"""Of secrets that came from other processes: the digests that the sender's key gave them, by a hash of theirs."""


def _keyed(inner: bytes) -> bytes:
    """Return what stands for a secret in keys and digests: nobody without the key can try texts until one fits."""
    told = _digests.get(blake2b(inner, digest_size=32).digest())
    return (
        told or blake2b(inner, digest_size=16, key=settings.secret_key(), person=b"graphflow secret").digest()
    )


def secret_digest(value: Any) -> bytes:
    """Return the keyed digest of a secret, 16 bytes.

    Raises
    ------
    Untold
        If what it holds has no canonical form.
    """
    return _keyed(Encoder(lambda _: "").encode(inner_of(value)))


def told_digest(value: Any, digest: bytes) -> None:
    """Use the digest that a secret had where it came from."""
    if len(_digests) >= MAX_DIGESTS:
        _digests.clear()
    _digests[blake2b(Encoder(lambda _: "").encode(inner_of(value)), digest_size=32).digest()] = digest


class _Raw:
    """Bytes of an array."""

    __slots__ = ("data",)

    def __init__(self, data: memoryview) -> None:
        self.data = data


def _tagged(tag: bytes, data: bytes | bytearray | memoryview) -> bytes:
    size = len(data)
    if size > LARGE_NBYTES:
        return b"%b#%d:" % (tag, size) + blake2b(data, digest_size=32).digest()
    return b"%b%d:" % (tag, size) + data


@functools.lru_cache(maxsize=512)
def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a dataclass or attrs class; None if it is neither, or its objects hold more than attributes."""
    if dataclasses.is_dataclass(kind):
        fields: Any = dataclasses.fields(kind)
    else:
        fields = getattr(kind, "__attrs_attrs__", None)
    if fields is None or any(
        each is not object and isinstance(vars(each).get("__new__"), types.BuiltinFunctionType)
        for each in kind.__mro__
    ):
        return None
    return tuple(each.name for each in fields)


def _state(value: Any, kind: type, names: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of an object that are none of its fields, by their names."""
    found = {name: each for name, each in getattr(value, "__dict__", {}).items() if name not in names}
    for name, slot in _slots_of(kind):
        if name not in names:
            # What a slot never had is no attribute.
            with contextlib.suppress(AttributeError):
                found[name] = slot.__get__(value)
    return found


@functools.lru_cache(maxsize=512)
def _slots_of(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (name, each)
        for owner in kind.__mro__
        if owner.__module__.partition(".")[0] not in ("builtins", "pathlib")
        for name, each in vars(owner).items()
        if isinstance(each, types.MemberDescriptorType)
    )


def _some(more: Any) -> tuple[Any, ...]:
    """Return a part of a value, or none: values that do not have it keep their bytes."""
    return (more,) if more else ()


def _notes_of(value: Any) -> tuple[Any, ...]:
    """Return what a frame or series says of itself besides its data."""
    notes = {}
    if value.attrs:
        notes["attrs"] = value.attrs
    if not value.flags.allows_duplicate_labels:
        notes["allows_duplicate_labels"] = False
    return _some(notes)


def _module_of(value: Any) -> str:
    """Return the module; the one that was started as a script has another name in each process."""
    name = getattr(value, "__module__", None) or ""
    return "" if name in ("__main__", "__mp_main__") else str(name)


def _dtype_of(dtype: Any) -> str:
    return repr(dtype.descr) if dtype.fields is not None else str(dtype.str) + str(dtype)


_METHODS: dict[type, Callable[[Encoder, Any], bytes]] = {
    list: Encoder._list,
    tuple: Encoder._tuple,
    set: Encoder._set,
    frozenset: Encoder._frozenset,
    dict: Encoder._dict,
    collections.OrderedDict: Encoder._ordered,
    collections.defaultdict: Encoder._defaultdict,
    collections.Counter: Encoder._counter,
    collections.deque: Encoder._deque,
    types.SimpleNamespace: Encoder._namespace,
    types.MappingProxyType: lambda self, value: self._named(b"mappingproxy", dict(value), owner=value),
    slice: Encoder._slice,
    range: Encoder._range,
    functools.partial: Encoder._partial,
    types.FunctionType: Encoder._function,
    types.BuiltinFunctionType: Encoder._builtin,
    types.MethodType: Encoder._method,
    datetime.datetime: Encoder._datetime,
    datetime.time: Encoder._time,
    datetime.timezone: Encoder._timezone,
    _Raw: Encoder._raw,
}
_ATOMS: dict[type, Callable[[Any], bytes]] = {
    bytes: lambda value: value,
    bytearray: lambda value: value,
    complex: lambda value: b"".join(
        _DOUBLE.pack(each) if each == each else _NAN for each in (value.real, value.imag)
    ),
    datetime.date: lambda value: value.isoformat().encode(),
    datetime.timedelta: lambda value: b"%d,%d,%d" % (value.days, value.seconds, value.microseconds),
    type(...): lambda value: b"",
    type(NotImplemented): lambda value: b"",
}
_LIBRARY_ATOMS: dict[tuple[str, str], Callable[[Any], bytes]] = {
    ("array", "array"): lambda value: value.typecode.encode() + value.tobytes(),
    ("decimal", "Decimal"): lambda value: repr(value.as_tuple()).encode(),
    ("fractions", "Fraction"): lambda value: b"%x/%x" % (value.numerator, value.denominator),
    ("re", "Pattern"): lambda value: repr((value.pattern, value.flags)).encode(),
    ("uuid", "UUID"): lambda value: bytes(value.bytes),
    ("zoneinfo", "ZoneInfo"): lambda value: (
        value.key.encode() if value.key else _untold("a nameless time zone")
    ),
}
"""By name, since a process with such a value has imported its module, and no other needs it."""


def _an(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _untold(what: str) -> bytes:
    raise Untold(f"{what} has no canonical form")
