"""Automations as files have them: what is wrong is refused with what to write, and texts reach nothing but documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.errors import DeploymentError, ParameterError
from graphflow.model.automated import Automation, automation_of
from graphflow.model.texts import check_text, filled

WHEN = {"type": "graphflow.run.failed"}
NOTIFY = [{"notify": "oncall"}]


@pytest.mark.parametrize(
    "said, told",
    [
        ({"when": WHEN}, "then"),
        ({"then": NOTIFY}, "it needs either `when` or `absent`"),
        ({"when": {"type": "graphflow.run.faild"}, "then": NOTIFY}, "did you mean graphflow.run.failed"),
        ({"when": {**WHEN, "cuont": 3}, "then": NOTIFY}, "'cuont'; did you mean count"),
        ({"when": {**WHEN, "count": 3}, "then": NOTIFY}, "count = 3 needs a time"),
        ({"when": {**WHEN, "within": "soon"}, "then": NOTIFY}, "'soon' is not a duration"),
        ({"when": {**WHEN, "for_each": ["__class__"]}, "then": NOTIFY}, "not a path of an event"),
        ({"absent": WHEN, "then": NOTIFY}, 'within = "26h"'),
        ({"when": WHEN, "after": WHEN, "then": NOTIFY}, "`after` arms `absent`"),
        ({"when": WHEN, "then": [{"notfy": "x"}]}, "did you mean notify"),
        ({"when": WHEN, "then": [{"notify": "slack://token@x"}]}, "addresses stand under names"),
        ({"when": WHEN, "then": [{"webhook": "https://a:b@c/"}]}, "has a password in it"),
        ({"when": WHEN, "then": [{"webhook": "c/d"}]}, "goes to an address"),
        ({"when": WHEN, "then": [{"emit": "graphflow.x"}]}, "cannot be emitted"),
        ({"when": WHEN, "then": [{"set_limit": "db"}]}, "needs a size"),
        ({"when": WHEN, "then": [{"cancel_run": "{event.subject.__class__}"}]}, "is not taken"),
        ({"when": WHEN, "then": [{"cancel_run": "{evnt.subject}"}]}, "is not known"),
        ({"when": WHEN, "then": [{"cancel_run": "{event.subject!r}"}]}, "is not taken"),
        ({"when": WHEN, "then": [{"notify": "x", "text": "{event.data.n:>99999}"}]}, "not a format"),
    ],
)
def test_what_is_wrong_is_said(said, told) -> None:
    with pytest.raises(DeploymentError, match="automations.x") as refused:
        automation_of("x", said)
    assert told in str(refused.value)


def test_an_automation_is_the_same_after_it_was_stored() -> None:
    said = {"when": {**WHEN, "related": {"tags": ["a", "b"]}, "data": {"x": {"y": 1}}}, "then": NOTIFY}
    found = automation_of("x", said)
    assert found.when.where == {"related.tags": ("a", "b"), "data.x.y": (1,)}
    assert Automation.model_validate_json(found.model_dump_json()) == found


def test_texts_are_filled_with_values() -> None:
    document = {"event": {"data": {"n": 3, "list": [{"a": "x"}]}, "subject": "s"}}
    given = {"a": "{event.data.n}", "b": "n={event.data.n:03d} {{}}", "c": ["{event.data.list.0.a}"], "d": 1}
    assert filled(given, document) == {"a": 3, "b": "n=003 {}", "c": ["x"], "d": 1}
    with pytest.raises(ParameterError, match=r"no event.data.m .*; event.data has n, list"):
        filled("{event.data.m}", document)


@given(st.text(alphabet="{}.event_data0![]:()' ", max_size=30))
def test_no_text_reaches_more_than_the_document(text) -> None:
    try:
        check_text(text, ["event"])
    except ParameterError:
        return
    try:
        found = filled(text, {"event": {"data": "plain"}})
    except ParameterError:
        return
    assert "<" not in str(found) and "object at" not in str(found)
