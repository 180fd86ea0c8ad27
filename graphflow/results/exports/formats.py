"""What the files of an export hold: lines of JSON, pickles of lists, or a Parquet table."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import json
import pathlib
import pickle
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphflow.common.wording import with_article
from graphflow.errors import GraphflowError, ResultStoreError, SerializationError
from graphflow.results.packs.pickling import encode

__all__ = ["FORMATS", "PartContent", "PartFile", "read_values"]

_VALUE = "value"
"""The column of values that are no rows."""


@dataclasses.dataclass(frozen=True, slots=True)
class PartContent:
    """The bytes of a part, and what is to be known to read it: of a table, what it holds, and the rows of each item."""

    data: bytes
    kind: str = ""
    rows: tuple[int, ...] = ()


class PartFile:
    """A part that is being made; `nbytes` is its size so far, roughly."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.nbytes = 0

    def add(self, values: Sequence[Any], name_of: Callable[[int], str]) -> None:
        """Add the values of items; `name_of` names the one at a place.

        Raises
        ------
        SerializationError
            If one cannot be written; none of these is added then.
        """
        self._append(self._encoded(values, name_of))

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self.nbytes += len(data)

    def _encoded(self, values: Sequence[Any], name_of: Callable[[int], str]) -> bytes:
        raise NotImplementedError

    def content(self) -> PartContent:
        """Return the whole part."""
        return PartContent(b"".join(self._parts))


def _refused(name: str, file: str, value: Any, error: BaseException) -> SerializationError:
    what = str(error) if isinstance(error, GraphflowError) else f"{type(error).__name__}: {error}"
    instead = "" if file == "pickle" else 'use format="pickle", or '
    return SerializationError(
        f"the value of {name}, {with_article(type(value).__qualname__)}, cannot be written as {file}: {what}; {instead}convert it to something "
        "simpler first"
    )


# -- JSON ----------------------------------------------------------------------------------------------------


class _JsonFile(PartFile):
    def _encoded(self, values: Sequence[Any], name_of: Callable[[int], str]) -> bytes:
        lines = []
        for place, value in enumerate(values):
            try:
                lines.append(_ENCODER.encode(value))
            except Exception as error:
                raise _refused(name_of(place), "jsonl", value, error) from error
        return "".join([f"{line}\n" for line in lines]).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """Return what stands in JSON for objects that it does not have."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal | fractions.Fraction | pathlib.PurePath):
        return str(value)
    top = type(value).__module__.partition(".")[0]
    if top == "numpy":
        return value.tolist()
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"JSON has no {type(value).__qualname__}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain, separators=(",", ":"))


def _read_json(content: PartContent) -> list[Any]:
    # Other signs that end lines may stand in texts.
    lines = content.data.decode("utf-8", "surrogatepass").split("\n")
    return [json.loads(line) for line in lines[:-1]]


# -- pickles -------------------------------------------------------------------------------------------------


class _PickleFile(PartFile):
    def _encoded(self, values: Sequence[Any], name_of: Callable[[int], str]) -> bytes:
        data, errors = encode(list(values))
        for place in sorted(errors)[:1]:
            raise _refused(name_of(place), "pickle", values[place], errors[place]) from errors[place]
        return data


def _read_pickles(content: PartContent) -> list[Any]:
    file, values = io.BytesIO(content.data), []
    while file.tell() < len(content.data):
        values += pickle.load(file)
    return values


# -- tables --------------------------------------------------------------------------------------------------


class _ParquetFile(PartFile):
    """Rows where values are dicts, all rows of them where they are frames or tables, else one column of values."""

    def __init__(self) -> None:
        super().__init__()
        self._arrow = _arrow()
        self._tables: list[Any] = []
        self._kind = ""
        self._rows: list[int] = []

    def add(self, values: Sequence[Any], name_of: Callable[[int], str]) -> None:
        """Add the values of items."""
        if not values:
            return
        kinds = [_table_kind(each) for each in values]
        kind = self._kind or kinds[0]
        for place, each in enumerate(kinds):
            if each != kind:
                error = TypeError(f"the items before it are {_KINDS[kind]}, and a file takes one kind only")
                raise _refused(name_of(place), "parquet", values[place], error)
        try:
            made = self._made(kind, values)
            # A frame without rows does not know the types of its columns.
            tables = [each for each in made if each.num_rows] or made[: not self._tables]
            # Columns that only some of the rows have are filled up.
            self._arrow.unify_schemas(
                [each.schema for each in (*self._tables, *tables)], promote_options="permissive"
            )
        except Exception as error:
            at = self._culprit(kind, values)
            raise _refused(name_of(at), "parquet", values[at], error) from error
        self._kind = kind
        self._tables += tables
        self._rows += [each.num_rows for each in made] if kind in ("frames", "tables") else []
        self.nbytes += sum(each.nbytes for each in tables)

    def _made(self, kind: str, values: Sequence[Any]) -> list[Any]:
        table = self._arrow.Table
        if kind == "frames":
            return [table.from_pandas(each) for each in values]
        if kind == "tables":
            return list(values)
        rows = [dict(each) if kind == "rows" else {_VALUE: each} for each in values]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return [table.from_pydict({name: [row.get(name) for row in rows] for name in names})]

    def _culprit(self, kind: str, values: Sequence[Any]) -> int:
        """Return the first item that does not fit those before it."""
        schemas = [each.schema for each in self._tables]
        for place, value in enumerate(values):
            try:
                schemas += [each.schema for each in self._made(kind, [value]) if each.num_rows]
                schemas = [self._arrow.unify_schemas(schemas, promote_options="permissive")]
            except Exception:
                return place
        return 0

    def content(self) -> PartContent:
        """Return the whole part."""
        import pyarrow.parquet

        sink = io.BytesIO()
        if self._tables:
            table = self._arrow.concat_tables(self._tables, promote_options="permissive")
        else:
            table = self._arrow.table({})
        pyarrow.parquet.write_table(table, sink, compression="zstd")
        return PartContent(sink.getvalue(), self._kind, tuple(self._rows))


_KINDS = {"rows": "dicts", "values": "plain values", "frames": "DataFrames", "tables": "Arrow tables"}


def _table_kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "rows"
    name = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    return {"pandas.DataFrame": "frames", "pyarrow.Table": "tables"}.get(name, "values")


def _read_parquet(content: PartContent) -> list[Any]:
    _arrow()
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content.data))
    if content.kind in ("frames", "tables"):
        found, at = [], 0
        for rows in content.rows:
            each = table.slice(at, rows)
            found.append(each.to_pandas() if content.kind == "frames" else each)
            at += rows
        return found
    rows_or_values: list[Any] = table.to_pylist()
    return rows_or_values if content.kind == "rows" else [row[_VALUE] for row in rows_or_values]


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ResultStoreError(
            'format="parquet" needs pyarrow, which is not installed: pip install pyarrow'
        ) from error
    return pyarrow


FORMATS: Mapping[str, type[PartFile]] = {"jsonl": _JsonFile, "parquet": _ParquetFile, "pickle": _PickleFile}
"""What can be written, and what makes it."""
_READERS: Mapping[str, Callable[[PartContent], list[Any]]] = {
    "jsonl": _read_json,
    "parquet": _read_parquet,
    "pickle": _read_pickles,
}


def read_values(file: str, content: PartContent) -> list[Any]:
    """Return the values of a part of a format."""
    return _READERS[file](content)
