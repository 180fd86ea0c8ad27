from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow.errors import TransitionError, ValueUnavailable
from graphflow.model.states import (
    FAILED_CODES,
    FINAL_CODES,
    TRANSITIONS,
    Code,
    Counts,
    State,
    StateType,
    check_transition,
    transition_table,
)

codes = st.sampled_from(list(Code))


def test_every_code_has_a_name_a_type_and_a_row_in_the_table() -> None:
    for code in Code:
        assert code.state_name
        assert isinstance(code.type, StateType)
        assert code in TRANSITIONS


def test_every_code_fits_one_byte_and_no_number_is_used_twice() -> None:
    numbers = [int(code) for code in Code]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 256 for number in numbers)


def test_a_failure_is_final_and_cancelled_is_an_end_but_no_failure() -> None:
    assert FAILED_CODES < FINAL_CODES
    assert Code.CANCELLED in FINAL_CODES - FAILED_CODES


def test_the_names_of_prefect_lead_back_to_their_codes() -> None:
    for name in ("Completed", "Failed", "Crashed", "Cached", "TimedOut", "AwaitingRetry", "UpstreamFailed"):
        assert Code.by_name(name).state_name == name


def test_a_grafted_item_shows_as_running() -> None:
    assert Code.GRAFTED.state_name == "Running"
    assert Code.by_name("Running") is Code.RUNNING


def test_an_unknown_name_has_no_code() -> None:
    with pytest.raises(KeyError):
        Code.by_name("Sleeping")


@given(codes)
def test_a_success_is_left_for_nothing_and_a_failure_only_to_run_again(code: Code) -> None:
    if code in (Code.COMPLETED, Code.CACHED, Code.SKIPPED):
        assert not TRANSITIONS[code]
    elif code in FINAL_CODES:
        assert TRANSITIONS[code] <= {Code.AWAITING_RETRY, Code.SCHEDULED}


@given(codes, codes)
def test_the_check_agrees_with_the_table(before: Code, after: Code) -> None:
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(TransitionError, match=f"from {before.state_name} to {after.state_name}"):
            check_transition(before, after)


def test_a_refused_move_says_what_is_allowed() -> None:
    with pytest.raises(TransitionError, match="allowed from Completed: nothing: it is final"):
        check_transition(Code.COMPLETED, Code.RUNNING)


def test_every_state_that_is_not_final_can_be_cancelled() -> None:
    for code in set(Code) - FINAL_CODES:
        assert Code.CANCELLED in TRANSITIONS[code]


def test_the_table_for_the_docs_has_a_row_per_public_state() -> None:
    lines = transition_table().splitlines()
    assert lines[0] == "| from | type | to |"
    assert len(lines) == 2 + len(Code) - 1
    assert "| Completed | Completed | final |" in lines


def test_a_state_equals_its_name_and_another_of_the_same_name() -> None:
    state = State.of(Code.TIMED_OUT, message="slow")
    assert state == "TimedOut"
    assert str(state) == "TimedOut"
    assert state == State.of(Code.TIMED_OUT)
    assert hash(state) == hash(State.of(Code.TIMED_OUT))
    assert state != State.of(Code.FAILED)
    assert state != 25


def test_a_state_keeps_the_time_that_it_was_given() -> None:
    assert State.of(Code.COMPLETED, at=0.0).timestamp == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_state_knows_its_kind() -> None:
    assert State.of(Code.CACHED).is_completed()
    assert State.of(Code.UPSTREAM_FAILED).is_failed()
    assert State.of(Code.CRASHED).is_crashed()
    assert State.of(Code.CANCELLED).is_cancelled()
    assert State.of(Code.PAUSED).is_paused()
    assert State.of(Code.RETRYING).is_running()
    assert State.of(Code.PENDING).is_pending()
    assert State.of(Code.AWAITING_RETRY).is_scheduled()


@given(codes)
def test_a_state_is_final_exactly_when_its_code_is(code: Code) -> None:
    assert State.of(code).is_final() == (code in FINAL_CODES)


def test_a_state_gives_its_value_or_raises_its_exception() -> None:
    assert State.of(Code.COMPLETED, data=3).result() == 3
    failed = State.of(Code.FAILED, data=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        failed.result()
    assert isinstance(failed.result(raise_on_failure=False), ValueError)


def test_a_state_that_is_not_final_has_no_result() -> None:
    with pytest.raises(ValueUnavailable, match="a Running state has no result yet"):
        State.of(Code.RUNNING).result()


def test_a_state_survives_pickling() -> None:
    state = State.of(Code.FAILED, message="m", at=1.0)
    assert pickle.loads(pickle.dumps(state)) == state


@given(st.lists(codes, max_size=30))
def test_counts_add_up_to_the_items_that_were_counted(counted: list[Code]) -> None:
    counts = Counts(code.state_name for code in counted)
    assert counts.items_total == len(counted)
    assert counts.failed == sum(code in FAILED_CODES for code in counted)
    assert counts.finished == sum(code in FINAL_CODES for code in counted)
    assert counts.successful + counts.skipped + counts.failed + counts["Cancelled"] == counts.finished
