"""A process that has imported everything and forks others, so that each costs milliseconds.

It reads lines of JSON: `{"call": "module:function", "with": {...}, "place": PATH, "env": {...}}` starts a process that
writes what the function gave to PATH, and prints its number; `{"wait": PID}` prints the exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any


def child(order: dict[str, Any]) -> int:
    """Do what was ordered; gives the exit code."""
    place = order["place"]
    out = os.open(f"{place}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(order["env"])
    tempfile.tempdir = None
    module, _, function = order["call"].partition(":")
    try:
        found = getattr(importlib.import_module(module), function)(**order["with"])
        with open(f"{place}.part", "w") as file:
            json.dump(found, file)
        os.rename(f"{place}.part", place)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def fork(order: dict[str, Any]) -> int:
    """Start a process; gives its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        code = child(order)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_all(folder: str) -> None:
    """Import what a run imports, without starting any of its threads here."""
    place = os.path.join(folder, "modules")
    os.waitpid(
        fork({"call": "flows:modules", "with": {}, "place": place, "env": {"GRAPHFLOW_HOME": folder}}), 0
    )
    with open(place) as file:
        for name in json.load(file):
            try:
                importlib.import_module(name)
            except ImportError:
                continue


def main() -> None:
    """Serve until the input ends."""
    import_all(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            print(fork(order), flush=True)


if __name__ == "__main__":
    main()
