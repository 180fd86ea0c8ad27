"""Identifiers: ULIDs for runs, stable keys for nodes and items."""

from __future__ import annotations

import hashlib
import os
import re
import time

from graphflow.errors import ParameterError

__all__ = ["check_run_id", "idempotency_key", "node_key", "run_id"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def run_id(*, now: float | None = None, entropy: bytes | None = None) -> str:
    """Return a new ULID: 26 characters that sort by creation time (milliseconds); with 10 bytes of `entropy`, always the same."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = (milliseconds << 80) | int.from_bytes(entropy or os.urandom(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def check_run_id(text: str) -> str:
    """Return an id that a user gave to a run.

    Raises
    ------
    ParameterError
        If it cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ParameterError(
            f"a run's id is up to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit; not {text!r}"
        )
    return text


def node_key(flow_name: str, scope: str, task_name: str, occurrence: int) -> str:
    """Return the key that finds the same node again in another process: 32 hexadecimal digits.

    Made of names and the order of calls only, never of ids, seeded hashes, lines or bytecode.
    """
    text = "\x1f".join((flow_name, scope, task_name, str(occurrence)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def idempotency_key(run: str, key: str, index: int | None) -> str:
    """Return a key for systems outside: the same for all attempts of one item of one run."""
    text = f"{run}\x1f{key}\x1f{'' if index is None else index}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
