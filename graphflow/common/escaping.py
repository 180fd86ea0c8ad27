"""Texts of users on a terminal: nothing in a label, a log or an exception acts on it.

Control characters of either kind (also those of one byte above 127), bidirectional overrides and characters that no encoding
has are shown as escapes. In JSON these are JSON's own.
"""

from __future__ import annotations

import re

__all__ = ["is_printable", "printable"]

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return a text with escapes in place of all that is not printable but tabs and ends of lines."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def is_printable(text: str) -> bool:
    """Return whether `printable` leaves the text as it is."""
    return _UNPRINTABLE.search(text) is None
