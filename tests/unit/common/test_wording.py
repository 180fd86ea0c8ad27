from __future__ import annotations

import pytest

from graphflow.common.wording import count_text, with_article


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (12_345, "12,345 runs")]
)
def test_a_count_has_its_noun_in_the_right_number(count: int, text: str) -> None:
    assert count_text(count, "run") == text


def test_an_irregular_plural_is_given() -> None:
    assert count_text(2, "entry", "entries") == "2 entries"
    assert count_text(1, "entry", "entries") == "1 entry"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("int", "an int"),
        ("dict", "a dict"),
        ("Exception", "an Exception"),
        ("Union", "a Union"),
        ("UUID", "a UUID"),
        ("HTTPError", "an HTTPError"),
    ],
)
def test_a_name_has_the_right_article(name: str, text: str) -> None:
    assert with_article(name) == text
