"""Pickles that carry secrets, for processes that work for this one.

Where a secret arrives, its text is masked there too, and it has the digest that the sender's key gave it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from graphflow.common.pickling import Pickler
from graphflow.common.secrets import Secret, inner_of, is_secret, known
from graphflow.identity.canonical import secret_digest, told_digest

__all__ = ["Carrier", "carried", "secrets_in"]


class Carrier(Pickler):
    """A pickler of values for other processes."""

    has_secrets = False

    def reducer_override(self, obj: Any) -> Any:
        if is_secret(obj):
            self.has_secrets = True
            return _arrived, (type(obj), inner_of(obj), secret_digest(obj))
        return super().reducer_override(obj)


class _Finder(Pickler):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=5)
        self.found: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if is_secret(obj):
            self.found.append(obj)
            return str, ()
        return super().reducer_override(obj)


def _arrived(kind: Any, value: Any, digest: bytes) -> Any:
    made = Secret(value) if issubclass(kind, Secret) else known(kind(value))
    told_digest(made, digest)
    return made


def carried(value: Any) -> tuple[bytes, bool]:
    """Return the pickle of a value for another process, and whether there are secrets in it: then no file may have it."""
    buffer = io.BytesIO()
    carrier = Carrier(buffer, protocol=5)
    carrier.dump(value)
    return buffer.getvalue(), carrier.has_secrets


def secrets_in(value: Any) -> Sequence[Any]:
    """Return the secrets in a value, as far as it can be pickled."""
    if is_secret(value):
        return [value]
    finder = _Finder()
    try:
        finder.dump(value)
    except Exception:
        return finder.found
    return finder.found
