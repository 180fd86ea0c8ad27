"""What automations make of events: patterns, windows that do not depend on the order of events, and keys."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from graphflow.model.automated import Pattern, automation_of
from graphflow.orchestration.matching import Window, absence_of, count_in, is_own, key_of, matches

TIMES = st.lists(st.integers(0, 200), max_size=25)


def event(type="a.b", **changes):
    return {"type": type, "subject": "s", "source": "user", "related": {}, "data": {}, **changes}


def firings(times, count, within):
    window, fired = Window(), []
    for at in times:
        window, found = count_in(window, float(at), f"s{at}", count=count, within=within)
        assert Window.from_json(window.to_json()) == window
        if found is not None:
            fired.append((at, found))
    return fired


def has_burst(times, count, within):
    ordered = sorted(times)
    return any(ordered[i + count - 1] - ordered[i] < within for i in range(len(ordered) - count + 1))


@given(TIMES, st.integers(1, 5), st.integers(1, 60), st.randoms())
def test_it_fires_if_and_only_if_so_many_lie_within_so_long_in_any_order(
    times, count, within, random
) -> None:
    expected = has_burst(times, count, within)
    assert bool(firings(times, count, within)) == expected
    random.shuffle(times)
    assert bool(firings(times, count, within)) == expected


@given(TIMES, st.integers(1, 5), st.integers(1, 60))
def test_it_fires_once_in_a_window_when_events_come_in_order(times, count, within) -> None:
    fired = [at for at, _ in firings(sorted(times), count, within)]
    assert all(b - a >= within for a, b in pairwise(fired))


@given(TIMES, st.integers(1, 5), st.integers(1, 60))
def test_what_it_fires_for_was_there_and_is_no_more_than_was_asked(times, count, within) -> None:
    for at, subjects in firings(times, count, within):
        assert f"s{at}" in subjects and len(subjects) <= count
        assert all(abs(int(each[1:]) - at) < within for each in subjects)


def test_an_event_that_is_much_too_late_is_not_counted() -> None:
    window, _ = count_in(Window(), 10_000.0, "a", count=2, within=60.0)
    assert count_in(window, 9_000.0, "b", count=2, within=60.0) == (window, None)


def test_types_have_stars_and_values_are_one_of_several() -> None:
    pattern = Pattern(type=("shop.*",), where={"data.n": (1, 2), "related.tags": ("db",)})
    assert matches(pattern, event("shop.order.paid", data={"n": 2}, related={"tags": ["x", "db"]}))
    assert not matches(pattern, event("shop.order.paid", data={"n": True}, related={"tags": ["db"]}))
    assert not matches(pattern, event("shops.order", data={"n": 1}, related={"tags": ["db"]}))
    assert not matches(pattern, event("shop.order", data={}, related={"tags": ["db"]}))


def test_a_deployment_is_meant_by_its_own_name_too() -> None:
    for name in ("nightly", "crawl/nightly"):
        pattern = Pattern(type=("*",), where={"related.deployment": (name,)})
        assert matches(pattern, event(related={"deployment": "crawl/nightly"}))
    assert not matches(pattern, event(related={"deployment": "train/nightly"}))


def test_keys_differ_where_values_do() -> None:
    keys = {key_of(["related.x", "subject"], event(related={"x": each})) for each in (None, "a", 1, "1", [1])}
    assert len(keys) == 5
    assert key_of([], event()) == ""


def test_what_a_rule_did_is_its_own() -> None:
    assert is_own("r", event(related={"by": "rule:r"})) and is_own("r", event(related={"origin": "rule:r"}))
    assert not is_own("r", event(related={"by": "rule:q", "origin": "schedule:r"}))


def test_what_is_absent_is_armed_and_disarmed() -> None:
    absent = {"type": "a.end", "within": "1h"}
    then = [{"notify": "x"}]
    always = automation_of("x", {"absent": absent, "then": then})
    armed = automation_of("x", {"absent": absent, "after": {"type": "a.begin"}, "then": then})
    assert [absence_of(always, event(each)) for each in ("a.begin", "a.end")] == [None, "rearm"]
    assert [absence_of(armed, event(each)) for each in ("a.begin", "a.end", "b.c")] == ["arm", "disarm", None]
