"""Waiting in tests: for what comes, and not for what never does."""

from __future__ import annotations

import asyncio

import pytest

from graphflow.testing.waiting import eventually, eventually_async


def test_what_was_found_is_returned() -> None:
    looks = iter([0, "", 7])
    assert eventually(lambda: next(looks)) == 7
    again = iter([None, 8])
    assert asyncio.run(eventually_async(lambda: next(again))) == 8


def test_what_never_comes_is_an_error_after_a_last_look() -> None:
    looks: list[int] = []
    with pytest.raises(AssertionError, match="it did not happen in 0 s"):
        eventually(lambda: looks.append(1), seconds=0)
    with pytest.raises(AssertionError, match="it did not happen in 0 s"):
        asyncio.run(eventually_async(lambda: looks.append(1), seconds=0))
    assert len(looks) == 2
