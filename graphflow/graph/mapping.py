"""What is mapped, and how: index spaces as data, and the annotations that users put on arguments."""

from __future__ import annotations

import itertools
import math
import sys
from array import array
from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

from graphflow.common.wording import with_article
from graphflow.errors import MapTypeError
from graphflow.graph.owning import listed
from graphflow.graph.structured import fields_of, is_structured
from graphflow.model.reports import ValueInfo

__all__ = [
    "DROPPED",
    "AllowFailure",
    "FailedInput",
    "PartialList",
    "ProductSequence",
    "SkippedInput",
    "SpreadOver",
    "Unmapped",
    "allow_failure",
    "classify",
    "element_nbytes",
    "is_small",
    "elements_of",
    "is_indexed",
    "item_pairs",
    "slice_of",
    "table_rows",
    "unmapped",
    "value_info",
]

T = TypeVar("T")

_CONSTANTS = (str, bytes, bytearray, memoryview, int, float, complex, bool, type(None), type)
_SEQUENCES = (list, tuple, range, array, deque)


class Unmapped(Generic[T]):
    """Marks an argument of a map as the same for each item."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class AllowFailure(Generic[T]):
    """Marks an argument whose failure is handed over as a value, the exception."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class SpreadOver:
    """Marks a mapped argument whose elements are spread: tuples by place, mappings by name.

    `prefers_pair` leaves it to the task's signature whether a tuple is spread or handed over as one.
    """

    __slots__ = ("arity", "names", "prefers_pair", "value")

    def __init__(
        self, value: Any, *, arity: int | None = None, names: tuple[str, ...] = (), prefers_pair: bool = False
    ) -> None:
        self.value = value
        self.arity = arity
        self.names = names
        self.prefers_pair = prefers_pair


def unmapped(value: T) -> T:
    """Use `value`, whatever it is, as a constant for each item of a map."""
    return Unmapped(value)  # type: ignore[return-value]


def allow_failure(value: T) -> T:
    """Run also if `value` (a future, or a container of them) failed; the exception is handed over instead."""
    return AllowFailure(value)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class FailedInput:
    """Stands for a value whose upstream failed; `origin` names the node or item."""

    error: BaseException
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SkippedInput:
    """Stands in a list for an element whose upstream was skipped."""


class _Dropped:
    """In place of a value that is no longer needed."""

    def __repr__(self) -> str:
        return "<dropped>"

    def __reduce__(self) -> str:
        return "DROPPED"


DROPPED = _Dropped()
_SMALL_NBYTES = 1_024
_NUMBERS = frozenset({int, float, bool, type(None), complex})
_TEXTS = frozenset({str, bytes})


def is_small(value: Any) -> bool:
    """Return whether a value is worth keeping to look at: numbers, short texts and arrays, and a few of them together."""
    kind = type(value)
    if kind in _NUMBERS:
        return True
    if kind in _TEXTS:
        return len(value) <= _SMALL_NBYTES
    if kind in (list, tuple):
        return len(value) <= 16 and all(type(each) in _NUMBERS or is_small_text(each) for each in value)
    if kind is dict:
        return len(value) <= 16 and all(
            type(each) in _NUMBERS or is_small_text(each) for pair in value.items() for each in pair
        )
    nbytes = _own_nbytes(value)
    return nbytes is not None and nbytes <= _SMALL_NBYTES


def is_small_text(value: Any) -> bool:
    """Return whether a value is a text of at most 64 characters."""
    return type(value) in _TEXTS and len(value) <= 64


class PartialList(list[Any]):
    """A list in which some elements may be `FailedInput`: each lane of a map over it meets its own."""

    def first_failure(self) -> FailedInput | None:
        """Return the first failure among the elements."""
        return next((each for each in self if type(each) is FailedInput), None)


class ProductSequence(Sequence[tuple[Any, ...] | dict[str, Any]]):
    """The Cartesian product of sequences, computed element by element; the last one varies fastest."""

    def __init__(self, pools: Sequence[Sequence[Any]], names: Sequence[str] = ()) -> None:
        self._pools = [pool if isinstance(pool, list | tuple | range) else list(pool) for pool in pools]
        self._names = tuple(names)
        self._length = math.prod(len(pool) for pool in self._pools)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...] | dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, ...] | dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError(index)
        picked = []
        for pool in reversed(self._pools):
            index, place = divmod(index, len(pool))
            picked.append(pool[place])
        picked.reverse()
        return dict(zip(self._names, picked, strict=True)) if self._names else tuple(picked)


def _is_frame(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "DataFrame" and hasattr(value, "iloc" if hasattr(value, "iloc") else "columns")


def _is_series(value: Any) -> bool:
    return type(value).__name__ in ("Series", "Index") and type(value).__module__.startswith("pandas")


def _is_array(value: Any) -> bool:
    # Asked of the type: what a user's own object does when it is asked for an attribute is its own affair.
    return hasattr(type(value), "ndim") and hasattr(type(value), "shape")


def _is_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _is_like_mapping(value: Any) -> bool:
    """Return whether a value is a mapping that does not say so: it has keys, and values by them."""
    kind = type(value)
    return (
        callable(getattr(kind, "keys", None))
        and hasattr(kind, "__getitem__")
        and not hasattr(kind, "ndim")
        and kind.__module__ != "sqlite3"  # a row, which iterates over its values
    )


def _is_indexable(value: Any) -> bool:
    """Return whether elements come by index; what can be iterated over may have something else by `[...]`, such as a GroupBy."""
    kind = type(value)
    if isinstance(value, Sequence) or not hasattr(kind, "__iter__"):
        return True
    if kind.__name__.endswith("GroupBy"):
        return False
    try:
        if len(value):
            value[0]
    except Exception:
        return False
    return True


def classify(value: Any) -> Literal["sized", "iterator", "constant", "refused"]:
    """Return what a value is to a map."""
    if isinstance(value, _CONSTANTS):
        return "constant"
    if isinstance(value, _SEQUENCES):
        return "sized"
    if isinstance(value, KeysView | ValuesView | ItemsView):
        return "sized"
    if isinstance(value, Mapping | Set) or _is_frame(value) or _is_like_mapping(value):
        return "refused"
    if _is_array(value):
        return "sized" if value.ndim else "constant"
    if isinstance(value, Iterator):
        return "iterator"
    if _is_model(value):
        return "constant"
    if hasattr(type(value), "__len__") and hasattr(type(value), "__getitem__") and _is_indexable(value):
        return "sized"
    if hasattr(type(value), "__aiter__"):
        return "iterator"
    if isinstance(value, Iterable):
        return "iterator"
    return "constant"


def refusal(value: Any) -> str:
    """Return why a value is not mapped, and what to do."""
    kind = type(value).__name__
    if _is_frame(value):
        return f"{with_article(kind)} cannot be mapped: columns or rows? Use rows(...) for its rows"
    if isinstance(value, Mapping) or _is_like_mapping(value):
        return (
            f"{with_article(kind)} cannot be mapped: keys, values or pairs? Use items(...) for pairs, "
            "list(d) for keys, or list(d.values())"
        )
    if isinstance(value, Set):
        return f"{with_article(kind)} cannot be mapped: it has no order. Use items(...), which sorts it, or a list"
    return f"{with_article(kind)} cannot be mapped; use a list or an ordinary generator"


def value_info(value: Any, *, is_mapped_over: bool = False) -> tuple[Any, ValueInfo]:
    """Return a task's value, and what it is to a map downstream; the latter travels, so that the value can stay where it is.

    An iterator that something maps over becomes a list.
    """
    known = _PLAIN_INFOS.get(type(value))
    if known is not None:
        return value, known
    kind = classify(value)
    name = type(value).__name__
    if kind == "iterator" and is_mapped_over and not hasattr(type(value), "__aiter__"):
        value, kind = listed(value), "sized"
    if kind == "sized":
        try:
            return value, ValueInfo(kind="sized", type_name=name, length=len(value))
        except Exception as error:
            return value, ValueInfo(
                kind="refused", type_name=name, hint=f"Its len() raised {type(error).__name__}"
            )
    if kind == "refused":
        text = refusal(value)
        return value, ValueInfo(kind="refused", type_name=name, hint=text[0].upper() + text[1:])
    if kind == "iterator":
        hint = "It is an iterator, which yields its elements only once; return a list"
    else:
        hint = _SCALAR_HINT
    return value, ValueInfo(kind="scalar", type_name=name, hint=hint)


_SCALAR_HINT = "Only sequences are mapped; wrap a constant in unmapped(...)"
_PLAIN_INFOS = {
    kind: ValueInfo(kind="scalar", type_name=kind.__name__, hint=_SCALAR_HINT)
    for kind in (int, float, bool, type(None))
}


def snapshot(value: Any) -> Any:
    """Return a sized input, safe from later changes by its owner, that `slice_of` can take pieces from."""
    if type(value) in (tuple, range) or isinstance(value, ProductSequence):
        return value
    if isinstance(value, list):
        return list(value)
    if _is_series(value) or isinstance(value, KeysView | ValuesView | ItemsView | deque | array):
        return list(value)
    if _is_array(value):
        return value.copy() if hasattr(value, "copy") else value
    return value


def is_endless(values: Any) -> bool:
    """Return whether an iterator is known to have no end; what a generator yields is not known."""
    if type(values) is itertools.repeat:
        try:
            values.__length_hint__()
        except TypeError:
            return True
    return type(values) in (itertools.count, itertools.cycle)


def iterator_of(value: Any) -> Any:
    """Return the iterator behind something that can be iterated over, an async one where it is that."""
    return value.__aiter__() if hasattr(type(value), "__aiter__") else iter(value)


def slice_of(values: Any, lo: int, hi: int) -> Sequence[Any]:
    """Return elements `lo` to `hi` of a snapshot."""
    if isinstance(values, list | tuple | range | ProductSequence) or _is_array(values):
        piece: Sequence[Any] = values[lo:hi]
        return piece
    return [values[i] for i in range(lo, hi)]


def is_indexed(value: Any) -> bool:
    """Return whether `elements_of` can take pieces from it as it is; of other sized values, a snapshot is made first."""
    return isinstance(value, list | tuple | range | ProductSequence) or _is_series(value) or _is_array(value)


def elements_of(values: Any, places: Sequence[int]) -> Sequence[Any]:
    """Return elements of a sized input: part of an array as an array of its own, all else as a list. O(elements taken)."""
    part: Any
    if isinstance(places, range) and places.step == 1:
        if _is_series(values):
            return list(getattr(values, "iloc", values)[places.start : places.stop])
        part = slice_of(values, places.start, places.stop)
        if _is_array(values):
            return part.copy() if hasattr(part, "copy") else part  # type: ignore[no-any-return]
        return part if isinstance(part, list) else list(part)
    if _is_series(values):
        return list(getattr(values, "iloc", values)[list(places)])
    if _is_array(values):
        part = values[list(places)]
        return part  # type: ignore[no-any-return]
    return [values[place] for place in places]


def element_nbytes(values: Any) -> int:
    """Roughly what one element weighs, from a few of them; sizes of containers are guessed low."""
    if isinstance(values, range):
        return 4
    nbytes = getattr(values, "nbytes", None)
    length = len(values)
    if not length:
        return 8
    if isinstance(nbytes, int):
        return max(1, nbytes // length)
    sample = [values[i] for i in range(0, length, max(1, length // 8))]
    return max(1, sum(_nbytes(each) for each in sample) // len(sample))


def _own_nbytes(value: Any) -> int | None:
    """Return what a value says that it weighs; what a user's own object does when it is asked is its own affair."""
    if not hasattr(type(value), "nbytes"):
        return None
    try:
        nbytes = value.nbytes
    except Exception:
        return None
    return nbytes if isinstance(nbytes, int) else None


def _nbytes(value: Any) -> int:
    nbytes = _own_nbytes(value)
    if nbytes is not None:
        return nbytes
    if _is_frame(value) and hasattr(value, "memory_usage"):
        try:
            return int(value.memory_usage(index=True).sum())
        except Exception:
            return 16
    if isinstance(value, str | bytes | bytearray | memoryview):
        return len(value)
    if isinstance(value, list | tuple | set | frozenset):
        return 8 + sum(_nbytes(each) for each in itertools.islice(value, 64)) * max(1, len(value) // 64)
    if isinstance(value, dict):
        return 16 + sum(_nbytes(each) for each in itertools.islice(value.values(), 64)) * 2
    return 16


# -- helpers that users name, applied to values ------------------------------------------------------------


def item_pairs(value: Any) -> list[Any]:
    """Return the pairs of a mapping, or the elements of a set, sorted where they can be."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, Set):
        try:
            return sorted(value)
        except TypeError:
            return sorted(value, key=lambda each: (type(each).__qualname__, repr(each)))
    raise MapTypeError(
        f"items(...) takes a dict or a set, not {with_article(type(value).__name__)}; a sequence is mapped as it is"
    )


def table_rows(value: Any) -> list[dict[str, Any]]:
    """Return the rows of a DataFrame as dicts by column name, in order."""
    if not _is_frame(value):
        raise MapTypeError(f"rows(...) takes a DataFrame, not {with_article(type(value).__name__)}")
    to_dict = getattr(value, "to_dicts", None)
    rows: list[dict[str, Any]] = to_dict() if callable(to_dict) else value.to_dict(orient="records")
    return rows


def flattened(value: Any) -> list[Any]:
    """Return one level of nesting less; elements that failed upstream stay as they are."""
    result = PartialList()
    for each in value:
        if type(each) is FailedInput:
            result.append(each)
        elif type(each) is not SkippedInput:
            if classify(each) not in ("sized", "iterator"):
                raise MapTypeError(
                    f"flatten(...) takes a sequence of sequences, but found {with_article(type(each).__name__)} among them"
                )
            result.extend(listed(each) if isinstance(each, Iterator) else each)
    return result


def compressed(values: Any, flags: Any) -> list[Any]:
    """Return the values whose flag is true; elements that failed upstream stay as they are."""
    result = PartialList()
    for value, flag in zip(values, flags, strict=True):
        if type(value) is FailedInput:
            result.append(value)
        elif type(flag) is FailedInput:
            result.append(flag)
        elif type(value) is SkippedInput or type(flag) is SkippedInput:
            continue
        elif flag:
            result.append(value)
    return result


def product_of(*pools: Any, **named: Any) -> ProductSequence:
    """Return the product of pools that are sized, by place or by name."""
    for name, pool in [*((f"argument {i}", pool) for i, pool in enumerate(pools)), *named.items()]:
        if classify(pool) == "refused":
            raise MapTypeError(f"product(...): {name}: {refusal(pool)}")
        if classify(pool) == "constant":
            raise MapTypeError(f"product(...): {name} must be a sequence, not {pool!r}")
    chosen = [*pools, *named.values()]
    return ProductSequence(
        [list(pool) if not isinstance(pool, list | tuple | range) else pool for pool in chosen], tuple(named)
    )


def nothing() -> None:
    """Return nothing: the value of a node that is there for the order of others."""


def identity(value: T) -> T:
    """Return the value itself."""
    return value


def collected(value: Sequence[Any]) -> PartialList:
    """Return a list of what may have failed, for a map over it; an element that holds a failure is one."""
    marked = (_marked(each) for each in value)
    return PartialList(each for each in marked if type(each) is not SkippedInput)


def _marked(value: Any) -> Any:
    """Return what stands in a value for a failed or skipped upstream; else the value."""
    kind = type(value)
    if kind in (list, tuple, dict, set, frozenset) or (isinstance(value, tuple) and hasattr(kind, "_fields")):
        within: Any = [*value, *value.values()] if kind is dict else value
    elif is_structured(kind):
        within = fields_of(value).values()
    else:
        return value
    for each in within:
        found = each if type(each) in _NUMBERS or type(each) in _TEXTS else _marked(each)
        if type(found) in (FailedInput, SkippedInput):
            return found
    return value
