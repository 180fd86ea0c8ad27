"""Fixtures of the simulations."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of runs that lose packs would tell of each."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
