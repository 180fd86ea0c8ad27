"""Saving values to files, for the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from graphflow.common.wording import with_article

__all__ = ["check_suffix", "save_value"]

SUFFIXES = (".json", ".jsonl", ".pickle", ".pkl")


def check_suffix(place: Path) -> None:
    """Refuse a file with an unknown suffix, before anything is read.

    Raises
    ------
    typer.BadParameter
        If its suffix is not one of the known ones.
    """
    if place.suffix not in SUFFIXES:
        raise typer.BadParameter(
            f"{place} has an unknown suffix; use one of {', '.join(SUFFIXES)}",
            param_hint="--save",
        )


def save_value(value: Any, place: Path) -> str:
    """Write a value in the format of the file's suffix, atomically, and return the file's name and size.

    Raises
    ------
    typer.BadParameter
        If the value does not fit the format, or the file cannot be written.
    """
    try:
        data = _bytes_of(value, place.suffix)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(
            f"{with_article(type(value).__qualname__)} cannot be written as {place.suffix}: {error}; use .pickle for such values",
            param_hint="--save",
        ) from error
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise typer.BadParameter(
            f"{place} cannot be written: {error.strerror}", param_hint="--save"
        ) from error
    return f"{place} ({len(data):,} bytes)"


def _bytes_of(value: Any, suffix: str) -> bytes:
    if suffix == ".json":
        return (json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n").encode()
    if suffix == ".jsonl":
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | dict):
            raise TypeError("it is not a list")
        lines = (json.dumps(each, allow_nan=False, ensure_ascii=False) + "\n" for each in value)
        return "".join(lines).encode()
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, protocol=5)
    return data
