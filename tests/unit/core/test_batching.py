from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from graphflow.core.batching import (
    DRIVER_SECONDS_PER_BATCH,
    FIRST_SLICE_SECONDS,
    MAX_GROWN_SECONDS,
    MAX_INLINE_NBYTES,
    MAX_ITEMS,
    MAX_STORE_SLICE_SECONDS,
    SLICE_SECONDS,
    STORE_SHARE,
    TELL_SECONDS,
    grown_seconds,
    next_slice,
    updated_mean,
)

remaining = st.integers(1, 10_000_000)
slots = st.integers(0, 1_000)
means = st.none() | st.floats(1e-9, 1e4)


@given(remaining, means, slots, st.integers(1, 10_000_000))
def test_a_slice_has_at_least_one_item_and_never_more_than_there_are(
    remaining: int, mean: float | None, slots: int, nbytes: int
) -> None:
    found = next_slice(remaining=remaining, mean_seconds=mean, slots=slots, item_nbytes=nbytes)
    assert 1 <= found.count <= min(remaining, MAX_ITEMS)


@given(remaining, means, slots)
def test_without_a_fixed_size_there_is_always_a_deadline(
    remaining: int, mean: float | None, slots: int
) -> None:
    found = next_slice(remaining=remaining, mean_seconds=mean, slots=slots)
    assert found.seconds is not None
    assert found.seconds > 0


@given(remaining, means, slots, st.integers(1, 100_000))
def test_a_fixed_size_is_kept_and_has_no_deadline(
    remaining: int, mean: float | None, slots: int, size: int
) -> None:
    found = next_slice(remaining=remaining, mean_seconds=mean, slots=slots, batch_size=size)
    assert found.count == min(size, remaining)
    assert found.seconds is None


@given(remaining, st.floats(1e-6, 1e4), st.integers(1, 16))
def test_a_measured_mean_keeps_a_slice_near_its_budget(remaining: int, mean: float, slots: int) -> None:
    found = next_slice(remaining=remaining, mean_seconds=mean, slots=slots)
    assert found.count * mean <= 2 * SLICE_SECONDS + mean + 1e-9


@given(remaining, st.integers(1, 1_000), st.integers(1, 100 * MAX_INLINE_NBYTES))
def test_the_inline_input_of_a_batch_stays_small(remaining: int, slots: int, nbytes: int) -> None:
    found = next_slice(remaining=remaining, mean_seconds=1e-6, slots=slots, item_nbytes=nbytes)
    assert found.count == 1 or found.count * nbytes <= MAX_INLINE_NBYTES


@given(st.integers(2, 100_000), st.integers(1, 64))
def test_the_first_slice_leaves_work_for_all_slots(remaining: int, slots: int) -> None:
    found = next_slice(remaining=remaining, mean_seconds=None, slots=slots)
    assert found.count <= -(-remaining // (2 * slots))
    assert found.seconds is not None
    assert found.seconds >= FIRST_SLICE_SECONDS


@given(st.integers(1, 5_000), st.floats(1e-3, 1.0), st.integers(1, 16))
def test_the_tail_is_shared_out_in_shrinking_slices(items: int, mean: float, slots: int) -> None:
    sizes = []
    left = items
    while left:
        size = next_slice(remaining=left, mean_seconds=mean, slots=slots).count
        sizes.append(size)
        left -= size
    assert sum(sizes) == items
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] * mean <= max(mean, 0.05)


@given(remaining, st.floats(1e-9, 1.0))
def test_many_slots_get_longer_slices_so_that_the_driver_keeps_up(remaining: int, mean: float) -> None:
    seconds = next_slice(remaining=remaining, mean_seconds=mean, slots=1_000).seconds
    assert seconds is not None
    assert seconds >= 4 * 1_000 * DRIVER_SECONDS_PER_BATCH


@given(means, st.floats(0, 1e3), st.integers(1, 1_000))
def test_the_mean_stays_between_what_was_known_and_what_was_measured(
    mean: float | None, elapsed: float, items: int
) -> None:
    found = updated_mean(mean, elapsed=elapsed, items=items)
    measured = elapsed / items
    assert found is not None
    if mean is None:
        assert found == measured
    else:
        slack = 1e-9 * max(mean, measured)
        assert min(mean, measured) - slack <= found <= max(mean, measured) + slack


@given(means, st.floats(0, 1e3))
def test_a_batch_that_did_nothing_teaches_nothing(mean: float | None, elapsed: float) -> None:
    assert updated_mean(mean, elapsed=elapsed, items=0) == mean


@given(st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_the_mean_follows_a_change_within_a_few_batches(before: float, after: float) -> None:
    assume(abs(before - after) > 1e-3)
    mean: float | None = before
    for _ in range(20):
        mean = updated_mean(mean, elapsed=after, items=1)
    assert mean is not None
    assert abs(mean - after) < 0.01 * abs(before - after)


@given(remaining, st.floats(1e-6, 1.0), st.integers(1, 64), st.floats(0.0, 100.0))
def test_slices_are_long_where_a_store_is_slow_within_bounds(
    remaining: int, mean: float, slots: int, store_seconds: float
) -> None:
    quick = next_slice(remaining=remaining, mean_seconds=mean, slots=slots)
    slow = next_slice(remaining=remaining, mean_seconds=mean, slots=slots, store_seconds=store_seconds)
    assert quick.seconds is not None
    assert slow.seconds == max(quick.seconds, min(MAX_STORE_SLICE_SECONDS, STORE_SHARE * store_seconds))
    assert slow.count >= quick.count


@given(st.floats(0, 1e6), st.floats(0, 1e9))
def test_slices_grow_with_the_run_and_are_a_small_part_of_what_is_left(age: float, left: float) -> None:
    found = grown_seconds(age=age, left_seconds=left)
    assert 0 <= found <= MAX_GROWN_SECONDS
    assert found <= 0.02 * left + 1e-9
    assert found <= SLICE_SECONDS + 0.02 * age
    assert found <= grown_seconds(age=2 * age + 1, left_seconds=2 * left)


@given(remaining, st.floats(1e-9, 1e3), st.integers(1, 100), st.floats(0, MAX_GROWN_SECONDS))
def test_a_grown_slice_tells_what_has_ended_and_an_early_one_does_not(
    remaining: int, mean: float, slots: int, grown: float
) -> None:
    plain = next_slice(remaining=remaining, mean_seconds=mean, slots=slots)
    found = next_slice(remaining=remaining, mean_seconds=mean, slots=slots, grown=grown)
    assert plain.seconds is not None and found.seconds is not None
    if grown <= plain.seconds:
        assert found == plain and found.tell_seconds is None
        return
    assert found.seconds > grown and found.tell_seconds is not None
    assert found.tell_seconds >= max(TELL_SECONDS, plain.seconds)
    assert found.count <= grown / max(mean, 1e-8) + 1 and found.count <= remaining
