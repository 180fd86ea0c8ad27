"""One change in a TOML file, which keeps everything else in it as it is."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphflow.errors import SettingsError

__all__ = ["set_in_file"]


def set_in_file(file: Path, table: Sequence[str], name: str | None, value: Any) -> None:
    """Set `name` of a table to a value, or make sure that the table is there if there is no name.

    The file appears complete; one that is new is readable by its owner alone.

    Raises
    ------
    SettingsError
        If the file cannot be read or written, or is of a form that cannot be changed safely.
    """
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        wanted = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from None
    place = wanted
    try:
        for part in table:
            place = place.setdefault(part, {})
        if name is not None:
            place[name] = value
    except (AttributeError, TypeError):
        raise SettingsError(f"{file} has no table {'.'.join(table)}; change it by hand") from None
    changed = _changed(text, ".".join(map(_key, table)), name, value)
    try:
        is_right = tomllib.loads(changed) == wanted
    except ValueError:
        is_right = False
    if not is_right:
        raise SettingsError(f"{file} has a form that is not changed safely; change it by hand")
    try:
        _write(file, changed)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from None


def _changed(text: str, table: str, name: str | None, value: Any) -> str:
    lines = text.splitlines()
    header = re.compile(r"\s*\[")
    begin, end = 0, len(lines)
    if table:
        begin = next((i for i, line in enumerate(lines, 1) if line.split("#")[0].strip() == f"[{table}]"), -1)
        if begin < 0:
            if lines and lines[-1].strip():
                lines.append("")
            lines.append(f"[{table}]")
            begin = end = len(lines)
    end = next((i for i in range(begin, len(lines)) if header.match(lines[i])), len(lines))
    if name is not None:
        entry = f"{_key(name)} = {_value(value)}"
        known = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
        at = next((i for i in range(begin, end) if known.match(lines[i])), None)
        if at is not None:
            lines[at] = entry
        else:
            while end > begin and not lines[end - 1].strip():
                end -= 1
            lines.insert(end, entry)
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(str(key))} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _write(file: Path, text: str) -> None:
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
