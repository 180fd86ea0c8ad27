"""The look of states: a colour and a glyph for each kind, the same on terminals and in notebooks.

The colours were chosen so that no two are confused, with normal sight or a colour vision deficiency; they read on light and on
dark backgrounds.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LOOKS", "Look", "kind_of"]


class Look(NamedTuple):
    """The colour of a kind of states, on a light and on a dark page, and the glyph before its name."""

    colour: str
    dark: str
    glyph: str


LOOKS = {
    "completed": Look("#3a997c", "#22d28b", "✔"),
    "cached": Look("#7bd6b0", "#24815f", "◆"),
    "skipped": Look("#afb8ca", "#566579", "–"),
    "running": Look("#1766f3", "#448eff", "●"),
    "retrying": Look("#f5a90c", "#fcbd3d", "▲"),
    "failed": Look("#c9211b", "#e52426", "✘"),
    "blocked": Look("#fe7d53", "#64160a", "○"),
    "cancelled": Look("#6b778f", "#9aa3af", "■"),
    "paused": Look("#9f6acb", "#d7a3eb", "‖"),
    "pending": Look("#8a93a3", "#6b7585", "○"),
}
_KINDS = {
    "Completed": "completed",
    "Cached": "cached",
    "Skipped": "skipped",
    "Running": "running",
    "Resuming": "running",
    "Cancelling": "running",
    "Retrying": "retrying",
    "AwaitingRetry": "retrying",
    "Failed": "failed",
    "TimedOut": "failed",
    "Crashed": "failed",
    "Indeterminate": "failed",
    "UpstreamFailed": "blocked",
    "Cancelled": "cancelled",
    "Paused": "paused",
}


def kind_of(state: str) -> str:
    """Return the kind of a state by its name, such as `failed` for `TimedOut`."""
    return _KINDS.get(state, "pending")
