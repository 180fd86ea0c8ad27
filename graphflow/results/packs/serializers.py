"""How values become bytes: pickle, JSON or Arrow, and those that others add by the entry point group `graphflow.serializers`."""

from __future__ import annotations

import functools
import io
import json
import math
import pickle
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from graphflow.common.wording import with_article
from graphflow.errors import SerializationError, SettingsError
from graphflow.ports import Buffer, Serializer
from graphflow.results.packs.classes import ValuePickler
from graphflow.results.packs.pickling import needs_trial

__all__ = [
    "COMPRESSED",
    "GROUP",
    "ArrowSerializer",
    "JsonSerializer",
    "PickleSerializer",
    "serializer_names",
    "serializer_of",
]

GROUP = "graphflow.serializers"
COMPRESSED = "compressed/"
"""Before the name of a serializer: its bytes are always compressed. Without it they are where that pays."""
OUT_OF_BAND_NBYTES = 16 << 10
"""Buffers of at least this size stay out of the pickle, so that they are not copied into it."""


class PickleSerializer:
    """Pickle of protocol 5, cloudpickle for what it cannot; large buffers beside it, uncopied."""

    name = "pickle"

    def dumps(self, values: Sequence[Any]) -> list[Buffer]:
        """Return a pickle, and the buffers of its arrays."""
        found: list[memoryview] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes < OUT_OF_BAND_NBYTES:
                return True
            found.append(raw)
            return False

        file = io.BytesIO()
        kept = list(values)
        ValuePickler(file, protocol=5, buffer_callback=take).dump(kept)
        data = file.getvalue()
        if needs_trial(kept):
            pickle.loads(data, buffers=[bytearray(each) for each in found])
        return [data, *found]

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """Return the values; arrays use the buffers as they are."""
        values: list[Any] = pickle.loads(buffers[0], buffers=buffers[1:])
        return values


class JsonSerializer:
    """JSON, for values that come back as they were: what would not is refused."""

    name = "json"

    def dumps(self, values: Sequence[Any]) -> list[Buffer]:
        """Return an array of the values."""
        for value in values:
            _check_json(value, "value")
        return [
            json.dumps(list(values), ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        ]

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """Return the values."""
        values: list[Any] = json.loads(bytes(buffers[0]).decode(errors="surrogatepass"))
        return values


def _check_json(value: Any, path: str) -> None:
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return
    if kind is float:
        if not math.isfinite(value):
            raise SerializationError(
                f"{path} is {value!r}, which JSON cannot represent; use serializer 'pickle'"
            )
    elif kind is list:
        for number, each in enumerate(value):
            _check_json(each, f"{path}[{number}]")
    elif kind is dict:
        for name, each in value.items():
            if type(name) is not str:
                raise SerializationError(
                    f"{path} has the key {name!r}, {with_article(type(name).__qualname__)}, which JSON would return as a string; "
                    "use serializer 'pickle'"
                )
            _check_json(each, f"{path}[{name!r}]")
    else:
        why = "JSON would return as a list" if kind is tuple else "JSON cannot represent"
        raise SerializationError(
            f"{path} is {with_article(kind.__qualname__)}, which {why}; use serializer 'pickle'"
        )


class ArrowSerializer:
    """Arrow's stream format, for frames and tables."""

    name = "arrow"

    def dumps(self, values: Sequence[Any]) -> list[Buffer]:
        """Return what each value is, and a stream per value."""
        arrow = _arrow()
        kinds = ""
        buffers: list[Buffer] = []
        for value in values:
            table, kind = _table(value, arrow)
            sink = arrow.BufferOutputStream()
            with arrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            kinds += kind
            buffers.append(memoryview(sink.getvalue()))
        return [kinds.encode(), *buffers]

    def loads(self, buffers: Sequence[Buffer]) -> list[Any]:
        """Return the frames and tables."""
        arrow = _arrow()
        values = []
        for kind, data in zip(bytes(buffers[0]).decode(), buffers[1:], strict=True):
            table = arrow.ipc.open_stream(arrow.py_buffer(data)).read_all()
            values.append(table if kind == "t" else table.to_pandas())
        return values


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise SerializationError(
            "the serializer 'arrow' needs pyarrow, which is not installed here; install it, or use serializer 'pickle'"
        ) from error
    return pyarrow


def _table(value: Any, arrow: Any) -> tuple[Any, str]:
    if isinstance(value, arrow.Table):
        return value, "t"
    kind = type(value)
    if kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas":
        try:
            table = arrow.Table.from_pandas(value)
            is_same = value.attrs == {} and table.to_pandas().equals(value)
        except arrow.ArrowException as error:
            raise SerializationError(
                f"value is a DataFrame that Arrow cannot hold: {error}; use serializer 'pickle'"
            ) from error
        if not is_same:
            raise SerializationError(
                "value is a DataFrame that would not survive a round trip through Arrow (objects in a column, attrs, ...); use "
                "serializer 'pickle'"
            )
        return table, "f"
    raise SerializationError(
        f"value is {with_article(kind.__qualname__)}, not a pandas DataFrame or a pyarrow Table, which the serializer 'arrow' "
        "needs; use serializer 'pickle'"
    )


_OWN: dict[str, type[Serializer]] = {
    each.name: each for each in (PickleSerializer, JsonSerializer, ArrowSerializer)
}


def serializer_names() -> list[str]:
    """Return all that there are here; each may have `compressed/` before it."""
    return sorted({*_OWN, *(each.name for each in entry_points(group=GROUP))})


@functools.lru_cache(maxsize=64)
def serializer_of(name: str) -> Serializer:
    """Return the serializer of a name, with or without `compressed/` before it.

    Raises
    ------
    SettingsError
        If there is none, or it cannot be loaded.
    """
    plain = name.removeprefix(COMPRESSED)
    if plain in _OWN:
        return _OWN[plain]()
    for each in entry_points(group=GROUP):
        if each.name == plain:
            try:
                made = each.load()()
            except Exception as error:
                raise SettingsError(
                    f"the serializer {plain!r} ({each.value}) cannot be loaded: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(made, Serializer):
                raise SettingsError(
                    f"the serializer {plain!r} ({each.value}) is not a serializer: it needs `name`, `dumps` and `loads`"
                )
            return made
    raise SettingsError(
        f"unknown serializer {name!r}; use {', '.join(serializer_names())}, or {COMPRESSED}NAME for any of them"
    )
