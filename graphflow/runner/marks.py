"""What is known of a position before its item's turn, in a batch whose tasks are cached."""

from __future__ import annotations

__all__ = ["DONE", "ODD"]

DONE = 1
"""Nothing of the item is to be executed."""
ODD = 2
"""What is to be done follows at its turn."""
