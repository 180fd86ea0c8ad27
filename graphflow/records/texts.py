"""The bodies of `ERRORS` and `VARIANTS` records: exceptions as texts, without any pickle."""

from __future__ import annotations

import ast
import builtins
import pickle
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphflow.model.anomalies import ErrorRecord, Parts, Variants
from graphflow.records.packing import Packer, Unpacker, pressed, unpressed

__all__ = ["TextVariants", "decode_errors", "decode_variants", "encode_errors", "encode_variants"]

VERSION = 1


# -- errors in full ----------------------------------------------------------------------------------------


def encode_errors(records: Sequence[ErrorRecord]) -> bytes:
    """Errors by their texts, and whether each is a plain one: a built-in type with one text as its argument."""
    rows = [
        [each.type_name, each.message, each.traceback, each.place, 1 if _is_plain(each) else 0]
        for each in records
    ]
    out = Packer(VERSION)
    out.blob(pressed(rows))
    return out.data()


def decode_errors(data: bytes) -> list[ErrorRecord]:
    """Return the errors of a body; those that are plain have an exception again."""
    come = Unpacker(data)
    found = []
    for row in unpressed(come.blob()):
        type_name, message, text, place, is_plain = row
        found.append(
            ErrorRecord(
                type_name=type_name,
                message=message,
                traceback=text,
                place=place,
                exception=_plain(type_name, message, text) if is_plain else None,
            )
        )
    come.end()
    return found


def _builtin(name: str) -> type[Exception] | None:
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _is_plain(record: ErrorRecord) -> bool:
    """Return whether an exception of a built-in type is made of one text, so that the text alone gives it again."""
    kind = _builtin(record.type_name)
    if kind is None:
        return False
    error: Any = record.exception
    if error is None and record.pickled is not None:
        try:
            error = pickle.loads(record.pickled)
        except Exception:
            return False
    if type(error) is not kind or len(error.args) != 1 or type(error.args[0]) is not str:
        return False
    made = _made(kind, record.message)
    return made is not None and made.args == error.args


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
    """Variants as a history keeps them: a chunk packs texts, and what else an exception was made of is not known.

    `made_otherwise` has, per chunk, the places of errors that are more than their text.
    """

    made_otherwise: tuple[Sequence[int], ...] = ()

    def chunk(self, number: int) -> tuple[list[str], dict[int, Parts | None]]:
        """Return the texts of a chunk, and None by the place of each error that cannot be made of its text."""
        texts: Any = unpressed(self.chunks[number])
        return texts, dict.fromkeys(self.made_otherwise[number])


def encode_variants(variants: Variants, *, keeps_texts: bool = True) -> bytes:
    """Variants without pickles; `keeps_texts` is False where a run has too many of them."""
    out = Packer(VERSION)
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
            data, odd = pressed(texts), sorted(parts)
        out.blob(data)
        out.number(len(odd))
        out.words(array("H", odd))
    return out.data()


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
