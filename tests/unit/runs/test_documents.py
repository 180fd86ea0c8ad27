"""Values as JSON documents."""

from __future__ import annotations

from graphflow.runs.documents import value_document, value_text


def test_a_value_is_json_where_it_can_be() -> None:
    assert value_text({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    assert value_text({1, 2}) == "{1, 2}"
    assert value_text(float("nan")) == "nan"


def test_a_value_that_is_not_json_is_given_as_its_repr() -> None:
    assert value_document([1, None]) == {"value": [1, None]}
    assert value_document({1, 2}) == {"value": None, "value_repr": "{1, 2}"}
