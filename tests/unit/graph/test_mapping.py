"""Elements of what is mapped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from graphflow.graph.mapping import ProductSequence, elements_of, is_indexed


@pytest.mark.parametrize(
    "values",
    [
        [10, 11, 12, 13],
        (10, 11, 12, 13),
        range(10, 14),
        ProductSequence([[10, 11, 12, 13]]),
        pd.Series([10, 11, 12, 13], index=[3, 2, 1, 0]),
        pd.Index([10, 11, 12, 13]),
    ],
    ids=lambda values: type(values).__name__,
)
@pytest.mark.parametrize("places", [range(1, 3), [3, 0]])
def test_elements_are_a_list(values: Any, places: Any) -> None:
    assert is_indexed(values)
    found = elements_of(values, places)
    assert type(found) is list
    assert found == [list(values)[place] for place in places]


@pytest.mark.parametrize("places", [range(1, 3), [3, 0]])
def test_part_of_an_array_is_an_array_of_its_own(places: Any) -> None:
    values = np.arange(8).reshape(4, 2)
    assert is_indexed(values)
    found = elements_of(values, places)
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [values[place].tolist() for place in places]
    found[:] = -1
    assert values.min() == 0


def test_what_has_no_places_is_taken_a_snapshot_of() -> None:
    assert not is_indexed({1: 2}.values())
