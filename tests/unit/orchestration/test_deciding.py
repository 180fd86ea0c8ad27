"""Which missed times still run, and what happens to a run beside others."""

from __future__ import annotations

import pytest

from graphflow.errors import DeploymentError
from graphflow.model.deployed import Concurrency
from graphflow.orchestration.deciding import (
    MOST_AT_ONCE,
    RUNS_PER_TURN,
    Active,
    are_met,
    catch_up,
    check_key,
    meet,
    overlap_key,
)

NOW = 1_000_000.0
HOUR, DAY = 3_600.0, 86_400.0


def caught(nominals, **changes):
    given = {"catchup": "latest", "window_seconds": DAY, "limit": 100, "late_after_seconds": 60.0}
    return catch_up(nominals, NOW, **{**given, **changes})


def hours_ago(*hours):
    return [NOW - each * HOUR for each in hours]


def test_a_fire_in_time_runs_whatever_the_policy_says() -> None:
    for policy in ("latest", "none", "all"):
        found = caught([NOW - 60.0, NOW - 1], catchup=policy)
        assert (found.run, found.missed, found.last) == ((NOW - 60.0, NOW - 1), (), NOW - 1)


def test_of_missed_times_the_latest_within_the_window_runs() -> None:
    found = caught(hours_ago(30, 5, 3, 1))
    assert found.run == (NOW - HOUR,)
    assert found.missed == tuple(hours_ago(30, 5, 3))
    assert found.last == NOW - HOUR


def test_a_time_that_is_due_now_is_the_latest_so_that_a_wake_up_makes_one_run() -> None:
    found = caught([*hours_ago(3, 1), NOW - 5])
    assert (found.run, found.missed) == ((NOW - 5,), tuple(hours_ago(3, 1)))


def test_times_that_are_older_than_the_window_do_not_run() -> None:
    found = caught(hours_ago(30, 26))
    assert (found.run, found.missed, found.last) == ((), tuple(hours_ago(30, 26)), NOW - 26 * HOUR)


def test_none_lets_no_missed_time_run() -> None:
    found = caught([*hours_ago(3, 1), NOW], catchup="none")
    assert (found.run, found.missed) == ((NOW,), tuple(hours_ago(3, 1)))


def test_all_runs_the_last_ones_up_to_the_limit_oldest_first() -> None:
    found = caught(hours_ago(30, 5, 4, 3, 2), catchup="all", limit=3)
    assert found.run == tuple(hours_ago(4, 3, 2))
    assert found.missed == tuple(hours_ago(30, 5))


def test_all_makes_a_few_runs_per_turn_and_none_is_decided_twice() -> None:
    nominals = [NOW - 100 - 60 * each for each in range(50, 0, -1)]
    left, runs, missed, turns = nominals, [], [], 0
    while left:
        found = caught(left, catchup="all", limit=45)
        assert len(found.run) <= RUNS_PER_TURN
        runs += found.run
        missed += found.missed
        left = [each for each in left if each > found.last]
        turns += 1
    assert (runs, missed, turns) == (nominals[5:], nominals[:5], 3)


def test_very_many_missed_times_are_decided_in_several_turns_and_one_of_them_runs() -> None:
    nominals = [NOW - 100 - each for each in range(MOST_AT_ONCE + 500, 0, -1)]
    first = caught(iter(nominals))
    assert (first.run, len(first.missed), first.last) == ((), MOST_AT_ONCE, nominals[MOST_AT_ONCE - 1])
    second = caught(iter(nominals[MOST_AT_ONCE:]))
    assert (second.run, len(second.missed)) == ((nominals[-1],), 499)


def test_nothing_that_is_due_decides_nothing() -> None:
    assert caught([]).last is None


ACTIVE = [Active(run_id="a", is_waiting=False), Active(run_id="b", is_waiting=True)]


@pytest.mark.parametrize(
    ("policy", "is_made", "replaces", "cancels"),
    [
        ("queue", True, (), ()),
        ("skip", False, (), ()),
        ("queue-latest", True, ("b",), ()),
        ("cancel-running", True, ("b",), ("a",)),
    ],
)
def test_one_run_too_many_meets_its_policy(policy, is_made, replaces, cancels) -> None:
    found = meet(Concurrency(on_collision=policy), ACTIVE)
    assert (found.is_made, found.replaces, found.cancels) == (is_made, replaces, cancels)
    assert bool(found.why) == (not is_made)


def test_below_the_limit_and_without_one_every_run_is_made() -> None:
    for concurrency in (None, Concurrency(limit=3, on_collision="skip")):
        found = meet(concurrency, ACTIVE)
        assert found.is_made and not found.replaces and not found.cancels


def test_with_room_for_one_of_two_the_oldest_is_cancelled() -> None:
    found = meet(Concurrency(limit=2, on_collision="cancel-running"), ACTIVE)
    assert (found.replaces, found.cancels) == ((), ("a",))


def test_a_key_is_made_of_parameters_by_name_alone() -> None:
    concurrency = Concurrency(key="customer={customer}")
    assert overlap_key(concurrency, {"customer": "acme", "n": 1}) == "customer=acme"
    assert overlap_key(None, {}) == ""
    check_key(concurrency, ["customer"])
    for key in ("{customer.__class__}", "{customer[0]}", "{other}", "{}", "{customer"):
        with pytest.raises(DeploymentError, match="key"):
            check_key(Concurrency(key=key), ["customer"])


def test_needs_are_labels_or_versions() -> None:
    versions = {"python": "3.12.1", "graphflow": "0.1.0"}
    assert are_met(["gpu", "python>=3.12"], ["gpu"], versions) == ""
    assert are_met(["gpu"], [], versions) == "gpu"
    assert are_met(["python>=3.13"], [], versions) == "python>=3.13"
    assert are_met(["torch>=2"], [], versions) == "torch>=2"
