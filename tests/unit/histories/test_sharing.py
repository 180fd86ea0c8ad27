"""The max-min share: never more than there is, and nobody has less than another who could give."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphflow.histories.sharing import Share, shares

WANTED = st.lists(st.builds(Share, slots=st.integers(0, 40), unit=st.integers(1, 4)), min_size=1, max_size=12)


@given(st.integers(0, 60), WANTED, st.integers(0, 20))
def test_nobody_gets_more_than_it_wants_nor_all_more_than_there_is(size, wanted, turn) -> None:
    got = shares(size, wanted, turn=turn)
    assert sum(got) <= size
    for each, slots in zip(wanted, got, strict=True):
        assert 0 <= slots <= each.slots
        assert slots % each.unit == 0


@given(st.integers(0, 60), WANTED, st.integers(0, 20))
def test_no_slots_lie_about_that_somebody_could_use(size, wanted, turn) -> None:
    got = shares(size, wanted, turn=turn)
    left = size - sum(got)
    assert all(
        left < each.unit for each, slots in zip(wanted, got, strict=True) if slots + each.unit <= each.slots
    )


@given(st.integers(0, 60), st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 20))
def test_who_wants_more_has_as_much_as_anyone_but_for_one_slot(size, wanted, turn) -> None:
    got = shares(size, [Share(each) for each in wanted], turn=turn)
    for want, has in zip(wanted, got, strict=True):
        assert has == want or max(got) <= has + 1


def test_what_does_not_divide_goes_round() -> None:
    wanted = [Share(1), Share(1), Share(1)]
    assert {tuple(shares(1, wanted, turn=turn)) for turn in range(3)} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_a_unit_that_does_not_fit_is_not_kept_from_others() -> None:
    assert shares(3, [Share(4, 2), Share(4, 2)]) in ([2, 0], [0, 2])
    assert shares(2, [Share(2, 2), Share(2, 2)], turn=0) == [2, 0]
    assert shares(5, [Share(2), Share(9)]) == [2, 3]
