"""What the workloads do, what they must give, and which of them are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphflow.bench.items import Flaky, Guarded, add_up, children_of, unzip, widths_of
from graphflow.bench.plan import Asked, Case, cases_of, default_peers, refusal, seconds_expected
from graphflow.bench.workloads import WORKLOADS, durations_of, ideal_seconds, workload_of


@pytest.mark.parametrize("n", [1, 7, 100, 12_345])
def test_the_widths_of_a_fan_out_are_uneven_and_add_up(n: int) -> None:
    widths = widths_of(n)

    assert add_up(widths) == n
    assert all(1 <= width <= 19 for width in widths)
    assert [len(children_of(width)) for width in widths] == widths


def test_one_item_in_a_hundred_fails_at_its_first_attempt_only(tmp_path: Path) -> None:
    flaky = Guarded(Flaky(str(tmp_path)))

    total, failed = unzip([flaky(x) for x in range(300)])
    again, still = unzip([flaky(x) for x in failed])

    assert failed == [0, 100, 200]
    assert still == []
    assert total + again == sum(range(300))


def test_heavy_tailed_durations_are_the_same_in_every_run_and_sorted_where_asked() -> None:
    mixed, last = (durations_of(workload_of(key), 1_000, is_smoke=False) for key in ("W5", "W5/slow-last"))

    assert mixed == durations_of(workload_of("W5"), 1_000, is_smoke=False)
    assert last == sorted(mixed)
    assert mixed != last
    assert last[989] * 5 < last[990]


def test_the_ideal_is_work_over_slots_and_for_a_heavy_tail_the_longest_item_too() -> None:
    seconds = durations_of(workload_of("W5"), 100, is_smoke=False)

    assert ideal_seconds(workload_of("W3"), 400, slots=2, is_smoke=False) == pytest.approx(10.0)
    assert ideal_seconds(workload_of("W5"), 100, slots=4, is_smoke=False) == pytest.approx(
        sum(seconds) / 4 + max(seconds)
    )
    assert ideal_seconds(workload_of("W8"), 1_280, slots=2, is_smoke=False) == pytest.approx(1.0)
    assert ideal_seconds(workload_of("W8"), 5, slots=2, is_smoke=False) == pytest.approx(0.1)
    assert ideal_seconds(workload_of("W1"), 100, slots=2, is_smoke=False) is None


def test_without_a_choice_every_workload_is_asked_of_every_peer_that_it_suits() -> None:
    cases = list(cases_of(Asked()))

    assert list(dict.fromkeys(case.workload.key for case in cases)) == [each.key for each in WORKLOADS]
    assert {case.peer for case in cases} == set(default_peers())
    assert {case.workload.name for case in cases if case.peer == "asyncio"} == {"W8"}


def test_a_choice_is_taken_as_it_is() -> None:
    asked = Asked(workloads=["W5/16-slots", "W6"], peers=["loop", "graphflow"], sizes=[5, 6], slots=3)

    assert [(case.workload.key, case.peer, case.n, case.slots) for case in cases_of(asked)] == [
        ("W5/16-slots", "loop", 5, 1),
        ("W5/16-slots", "graphflow", 5, 16),
        ("W5/16-slots", "loop", 6, 1),
        ("W5/16-slots", "graphflow", 6, 16),
        ("W6", "loop", 1, 1),
        ("W6", "graphflow", 1, 3),
    ]


def test_the_command_of_a_run_asks_for_it_again() -> None:
    asked = Asked(workloads=["W1"], peers=["pool"], sizes=[1, 2], is_smoke=True, limit_seconds=5)

    assert asked.command() == (
        "graphflow bench run W1 --peer pool --sizes 1,2 --repeats 3 --slots 2 --smoke --limit 5"
    )
    assert Asked().command() == "graphflow bench run --repeats 3 --slots 2"


def case(peer: str, n: int, key: str = "W1") -> Case:
    return Case(workload=workload_of(key), peer=peer, n=n, slots=2)


def test_how_long_a_run_takes_follows_from_two_smaller_sizes() -> None:
    measured = {100: 1.1, 1_000: 2.0}

    assert seconds_expected(case("ray", 10_000), measured, is_smoke=False) == pytest.approx(11.0)
    assert seconds_expected(case("ray", 10_000), {100: 2.0, 1_000: 1.9}, is_smoke=False) == pytest.approx(1.9)


def test_how_long_a_run_takes_follows_from_what_is_known_of_the_peer_before_that() -> None:
    assert seconds_expected(case("client.map", 10_000), {100: 9.9}, is_smoke=False) == pytest.approx(20.0)
    assert seconds_expected(case("client.map", 10_000, "W2"), {}, is_smoke=False) == pytest.approx(60.0)
    assert seconds_expected(case("pool", 400, "W3"), {}, is_smoke=False) == pytest.approx(10.0, rel=0.01)


def test_the_default_backend_is_not_measured_on_slots_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)

    assert "this machine has 8 cores, and 2 slots are asked for" in refusal(
        case("graphflow-default", 4, "W3")
    )
    assert refusal(case("graphflow-default", 4)) == ""
    assert refusal(case("graphflow", 4, "W3")) == ""
