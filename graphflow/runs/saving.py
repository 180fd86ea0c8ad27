"""Values and reports as files, each value written as its file's name says."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from graphflow.common.files import write_file
from graphflow.common.pickling import dumps
from graphflow.common.wording import with_article
from graphflow.runs.documents import run_document

Run: TypeAlias = Any
"""A view of `runs`, which writes its report by this module."""

__all__ = ["check_suffix", "save_report", "save_value"]

SUFFIXES = (".json", ".jsonl", ".pickle", ".pkl")


def check_suffix(place: Path) -> None:
    """Refuse a file with an unknown suffix, before anything is read.

    Raises
    ------
    ValueError
        If its suffix is not one of the known ones.
    """
    if place.suffix not in SUFFIXES:
        raise ValueError(f"{place} has an unknown suffix; use one of {', '.join(SUFFIXES)}")


def save_value(value: Any, place: Path, *, overwrites: bool = False) -> str:
    """Write a value in the format of the file's suffix, atomically, and return the file's name and size.

    A new file can be read by its owner alone; one that is replaced keeps its mode.

    Raises
    ------
    ValueError
        If the value does not fit the format, the file is there already (unless it `overwrites`) or is a link, or it cannot be
        written.
    """
    try:
        data = _bytes_of(value, place.suffix)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{with_article(type(value).__qualname__)} cannot be written as {place.suffix}: {error}; use .pickle for such values"
        ) from error
    write_file(place, data, overwrites=overwrites)
    return f"{place} ({len(data):,} bytes)"


def save_report(run: Run, place: Path, *, has_plots: bool = True, overwrites: bool = False) -> Path:
    """Write the report of a run, atomically, and return where.

    Raises
    ------
    ValueError
        If the file is there already (unless it `overwrites`), or cannot be written.
    """
    # Templates and plots are loaded with the first report.
    from graphflow.dashboard.report import report_html

    text = report_html(run, run_document(run, values=False), has_plots=has_plots)
    write_file(place, text.encode("utf-8", "backslashreplace"), overwrites=overwrites)
    return place


def _bytes_of(value: Any, suffix: str) -> bytes:
    if suffix == ".json":
        return (json.dumps(value, allow_nan=False, ensure_ascii=False) + "\n").encode()
    if suffix == ".jsonl":
        if not isinstance(value, Iterable) or isinstance(value, str | bytes | dict):
            raise TypeError("it is not a list")
        lines = (json.dumps(each, allow_nan=False, ensure_ascii=False) + "\n" for each in value)
        return "".join(lines).encode()
    return dumps(value)
