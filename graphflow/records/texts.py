"""The bodies of `ERRORS` and `VARIANTS` records: exceptions as texts and plain data, without any pickle."""

from __future__ import annotations

import ast
import builtins
import pickle
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from graphflow.common.exceptions import chain_of, members_of
from graphflow.common.secrets import masked
from graphflow.model.anomalies import ErrorRecord, Parts, Told, Variants
from graphflow.records.packing import Packer, Unpacker, pressed, unpressed
from graphflow.records.plain import from_plain, to_plain, told

__all__ = ["TextVariants", "decode_errors", "decode_variants", "encode_errors", "encode_variants"]

VERSION = 1
_SIMPLE = frozenset({str, int, float, bool, type(None)})
MAX_UNPICKLED = 100
"""Of so many errors of a report that are more than plain arguments and attributes, it is looked up what they are made of."""
MAX_TOLD = 16_384
"""Characters of what an exception is made of."""


# -- errors in full ----------------------------------------------------------------------------------------


def encode_errors(records: Sequence[ErrorRecord]) -> bytes:
    """Errors by their texts, and what else each is made of: 1 for a built-in type with one text as its argument, 0 if unknown."""
    rows = [[each.type_name, each.message, each.traceback, each.place, _what_of(each)] for each in records]
    out = Packer(VERSION)
    out.blob(pressed(rows))
    return out.data()


def decode_errors(data: bytes) -> list[ErrorRecord]:
    """Return the errors of a body; those that are plain have an exception again."""
    come = Unpacker(data)
    found = []
    for row in unpressed(come.blob()):
        type_name, message, text, place, what = row
        found.append(
            ErrorRecord(
                type_name=type_name,
                message=message,
                traceback=text,
                place=place,
                exception=_plain(type_name, message, text) if what == 1 else None,
                content=repr(what).encode() if isinstance(what, list) else b"",
                parts=Told(what) if isinstance(what, list) else None,
            )
        )
    come.end()
    return found


def _builtin(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _what_of(record: ErrorRecord) -> Any:
    """Return 1 if the text alone gives the exception again, else what it is made of, 0 if that is not known or too large."""
    if isinstance(record.parts, Told):
        return record.parts.values
    error: Any = record.exception
    if error is None and record.pickled is not None:
        try:
            error = pickle.loads(record.pickled)
        except Exception:
            return 0
    if error is None:
        return 0
    kind = _builtin(record.type_name)
    if kind is not None and type(error) is kind and not error.__dict__ and not chain_of(error):
        made = _made(kind, record.message)
        if (
            made is not None
            and made.args == error.args
            and members_of(made).keys() == members_of(error).keys()
        ):
            return 1
    return _bounded(error) or 0


def _bounded(error: BaseException) -> Any:
    values = masked(told(error))
    return values if values is not None and len(repr(values)) <= MAX_TOLD else None


def _made(kind: type[Exception], message: str) -> Exception | None:
    """Return an exception that says a message, of one text."""
    try:
        text = ast.literal_eval(message) if issubclass(kind, KeyError) else message
        made = kind(text)
        return made if isinstance(text, str) and str(made) == message else None
    except Exception:
        return None


def _plain(type_name: str, message: str, text: str) -> Exception | None:
    kind = _builtin(type_name)
    made = None if kind is None else _made(kind, message)
    if made is not None and text:
        made.add_note(f"on the worker:\n{text.rstrip()}")
    return made


# -- errors that differ by their text ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TextVariants(Variants):
    """Variants as a history keeps them: a chunk packs texts, each with what else the exception is made of where that is plain data.

    `made_otherwise` has, per chunk, the places of errors that are more than their text.
    """

    made_otherwise: tuple[Sequence[int], ...] = ()

    def chunk(self, number: int) -> tuple[list[str], dict[int, Parts | None]]:
        """Return the texts of a chunk, and by the place of each error that cannot be made of its text its parts, None if unknown."""
        rows: Any = unpressed(self.chunks[number])
        texts = [row if isinstance(row, str) else row[0] for row in rows]
        parts: dict[int, Parts | None] = dict.fromkeys(self.made_otherwise[number])
        for place in parts:
            with suppress(Exception):
                parts[place] = _parts_of(*rows[place][1:]) if isinstance(rows[place], list) else None
        return texts, parts


def _parts_of(first: Any, *named: Any) -> Parts | None:
    """Return the parts that a row has: of simple values as they are, of others under a name that says how they are told."""
    if not isinstance(first, dict):
        return (tuple(first), *named)
    if "told" in first:
        return Told(first["told"])
    args, *others = map(from_plain, first["parts"])
    return (args, *others)


def encode_variants(variants: Variants, *, keeps_texts: bool = True) -> bytes:
    """Variants without pickles; `keeps_texts` is False where a run has too many of them."""
    out = Packer(VERSION)
    left = MAX_UNPICKLED
    out.number(len(variants.records))
    out.words(variants.records)
    for number in range(len(variants.records)):
        if not keeps_texts or not variants.chunks or not variants.chunks[number]:
            out.blob(b"")
            continue
        if isinstance(variants, TextVariants):
            data, odd = variants.chunks[number], sorted(variants.made_otherwise[number])
        else:
            texts, parts = variants.chunk(number)
            rows: list[Any] = list(texts)
            for place, made in parts.items():
                if isinstance(made, bytes):
                    values = _told_of(made) if left > 0 else None
                    left -= 1
                    if values is not None:
                        rows[place] = [texts[place], {"told": values}]
                elif made is not None and not isinstance(made, Told):
                    args, *named = made
                    if _SIMPLE.issuperset(
                        map(type, [*args, *(each for one in named for each in one.values())])
                    ):
                        rows[place] = [texts[place], args, *named]
                    else:
                        rows[place] = [texts[place], {"parts": [to_plain(each) for each in made]}]
            data, odd = pressed(rows), sorted(parts)
        out.blob(data)
        out.number(len(odd))
        out.words(array("H", odd))
    return out.data()


def _told_of(data: bytes) -> Any:
    try:
        return _bounded(pickle.loads(data))
    except Exception:
        return None


def decode_variants(data: bytes) -> TextVariants:
    """Return the variants of a body; their texts stay packed."""
    come = Unpacker(data)
    count = come.number()
    records = come.words("I", count)
    chunks: list[bytes] = []
    odd: list[Sequence[int]] = []
    for _ in range(count):
        chunk = come.blob()
        chunks.append(chunk)
        odd.append(come.words("H", come.number()) if chunk else ())
    come.end()
    made = TextVariants(records=records, chunks=tuple(chunks), made_otherwise=tuple(odd))
    return made if any(chunks) else replace(made, chunks=())
