from __future__ import annotations

import pickle
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphflow import flow, task
from graphflow.errors import TaskOptionError
from graphflow.model import policies
from graphflow.model.flow_options import FlowOptions
from graphflow.model.policies import (
    Retry,
    RetryPolicy,
    TaskOptions,
    all_failed,
    all_finished,
    all_successful,
    any_failed,
    any_successful,
    as_trigger,
    exponential_backoff,
    not_all_skipped,
    retry_delays,
    some_failed,
    some_successful,
)
from graphflow.model.states import Counts


def counts(*, completed: int = 0, failed: int = 0, skipped: int = 0, cancelled: int = 0) -> Counts:
    return Counts(Completed=completed, Failed=failed, Skipped=skipped, Cancelled=cancelled)


def options(**given: Any) -> TaskOptions:
    return TaskOptions.checked("task 'f'", given, name="f")


# -- triggers ---------------------------------------------------------------------------------------------

ALL_WELL = counts(completed=3)
MIXED = counts(completed=1, failed=2)
ALL_BAD = counts(failed=3)
SKIPPED = counts(skipped=3)
NOTHING = counts()


@pytest.mark.parametrize(
    ("trigger", "all_well", "mixed", "all_bad", "skipped", "nothing"),
    [
        (all_successful, True, False, False, True, True),
        (all_failed, False, False, True, False, True),
        (any_successful, True, True, False, False, False),
        (any_failed, False, True, True, False, False),
        (all_finished, True, True, True, True, True),
        (not_all_skipped, True, False, False, False, True),
    ],
)
def test_a_trigger_decides_from_the_counts(
    trigger: policies.Trigger, all_well: bool, mixed: bool, all_bad: bool, skipped: bool, nothing: bool
) -> None:
    decided = [trigger(each) for each in (ALL_WELL, MIXED, ALL_BAD, SKIPPED, NOTHING)]
    assert decided == [all_well, mixed, all_bad, skipped, nothing]


def test_a_cancelled_upstream_is_no_success() -> None:
    assert not all_successful(counts(completed=1, cancelled=1))
    assert not not_all_skipped(counts(completed=1, cancelled=1))


def test_some_failed_counts_with_an_int_and_takes_a_fraction_with_a_float() -> None:
    assert some_failed(at_least=2)(MIXED)
    assert not some_failed(at_least=3)(MIXED)
    assert some_failed(at_least=0.5)(MIXED)
    assert not some_failed(at_least=1.0)(MIXED)
    assert some_failed(at_most=2)(MIXED)
    assert not some_failed(at_most=0.5)(MIXED)


def test_some_successful_needs_one_where_no_bound_is_given() -> None:
    assert some_successful()(MIXED)
    assert not some_successful()(ALL_BAD)


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_a_fraction_is_never_off_by_rounding(completed: int, failed: int, low: float) -> None:
    held = some_failed(at_least=low)(counts(completed=completed, failed=failed))
    share = low * (completed + failed)
    assert held == (failed >= share - 1e-9)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: some_failed(at_least=1.5), "a float is a fraction from 0.0 to 1.0"),
        (lambda: some_failed(at_least=-1), "an int a number of tasks"),
        (lambda: some_failed(at_least=True), "takes an int"),
        (lambda: some_failed(at_least="2"), "not '2'"),  # type: ignore[arg-type]
        (lambda: some_successful(at_least=3, at_most=2), "can never hold"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(make: Any, text: str) -> None:
    with pytest.raises(TaskOptionError, match=text):
        make()


def test_any_callable_over_the_counts_is_a_trigger() -> None:
    def most(found: Counts) -> bool:
        return found.successful > found.failed

    trigger = as_trigger("task 'f'", most)
    assert repr(trigger) == "most"
    assert trigger(counts(completed=2, failed=1))
    assert as_trigger("task 'f'", all_finished) is all_finished


def test_a_maker_of_triggers_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(TaskOptionError, match=r"use some_failed\(at_least=1\)"):
        as_trigger("task 'f'", some_failed)


def test_what_cannot_be_called_is_no_trigger() -> None:
    with pytest.raises(TaskOptionError, match="not 'all_failed'"):
        as_trigger("task 'f'", "all_failed")


# -- retries ----------------------------------------------------------------------------------------------


def test_the_last_delay_repeats() -> None:
    policy = RetryPolicy(retries=4, delays=(1.0, 10.0))
    assert [policy.delay(retry) for retry in (1, 2, 3, 4)] == [1.0, 10.0, 10.0, 10.0]
    assert RetryPolicy(retries=2).delay(1) == 0.0


@pytest.mark.parametrize(
    ("given_as", "delays"),
    [
        (None, ()),
        (3, (3.0,)),
        (timedelta(minutes=1), (60.0,)),
        ([1, 2.5], (1.0, 2.5)),
        (exponential_backoff(2), (2.0, 4.0, 8.0)),
        (lambda retries: list(range(retries)), (0.0, 1.0, 2.0)),
    ],
)
def test_delays_come_in_many_forms(given_as: Any, delays: tuple[float, ...]) -> None:
    assert retry_delays("task 'f'", 3, given_as) == delays


@given(st.integers(0, 20), st.floats(0, 100))
def test_backoff_doubles(retries: int, factor: float) -> None:
    delays = exponential_backoff(factor)(retries)
    assert len(delays) == retries
    assert all(later == 2 * earlier for earlier, later in pairwise(delays))


def test_a_callable_that_raises_is_named_with_its_error() -> None:
    def broken(retries: int) -> list[float]:
        raise ZeroDivisionError("oh")

    with pytest.raises(TaskOptionError, match="raised ZeroDivisionError: oh") as caught:
        retry_delays("task 'f'", 3, broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), "1", True, [1, -2], [[1]]])
def test_a_delay_that_is_no_number_of_seconds_is_refused(wrong: Any) -> None:
    with pytest.raises(TaskOptionError, match="must be a number of seconds, 0 or more"):
        retry_delays("task 'f'", 3, wrong)


def test_the_retry_signal_keeps_its_delay_through_a_pickle() -> None:
    copy = pickle.loads(pickle.dumps(Retry("later", after_seconds=4)))
    assert str(copy) == "later"
    assert copy.after_seconds == 4.0


# -- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("retries", -1, "retries must be an integer, 0 or more"),
        ("retries", 1.5, "not 1.5"),
        ("retries", True, "not True"),
        ("retries", 251, "above the limit of 250"),
        ("retry_delay_seconds", -1, "retry_delay_seconds must be a number of seconds"),
        ("retry_jitter_factor", -0.1, "retry_jitter_factor"),
        ("retry_on", ValueError("no"), "takes exception types"),
        ("retry_on", [int], "takes exception types"),
        ("retry_condition_fn", 3, "must be a callable"),
        ("timeout_seconds", 0, "would time out every run"),
        ("timeout_seconds", "5", "timeout_seconds must be a number of seconds"),
        ("tags", "etl", r'use tags=\["etl"\]'),
        ("tags", [1], "list of strings"),
        ("name", " ", "non-empty string"),
        ("version", 2, "non-empty string, not 2"),
        ("trigger", 5, "trigger must be one of"),
        ("task_run_name", 5, "template text or a callable"),
        ("log_prints", "yes", "must be True or False"),
        ("on_failure", ["mail"], "takes functions"),
        ("n_outputs", 0, "1 or more"),
        ("batch_size", 0, "1 or more"),
        ("batch_size", "big", "1 or more"),
        ("resources", ["GPU"], "takes a mapping"),
        ("resources", {"GPU": 0}, "amounts above 0"),
        ("priority", 1.5, "integer"),
        ("workers", "tcp://a", "list of worker addresses"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_give(option: str, value: Any, text: str) -> None:
    with pytest.raises(TaskOptionError, match=text) as caught:
        options(**{option: value})
    assert "task 'f'" in str(caught.value)


def test_an_option_error_is_both_a_value_and_a_type_error() -> None:
    assert issubclass(TaskOptionError, ValueError)
    assert issubclass(TaskOptionError, TypeError)


def test_options_that_are_not_given_have_plain_defaults() -> None:
    plain = options()
    assert plain.name == "f"
    assert plain.retry == RetryPolicy()
    assert plain.trigger is all_successful
    assert plain.batch_size is None
    assert plain.timeout_seconds is None


def test_options_are_kept_in_one_form() -> None:
    found = options(
        name="g",
        retries=2,
        retry_delay_seconds=[1, 5],
        retry_on=OSError,
        tags=["a", "b", "a"],
        timeout_seconds=timedelta(seconds=2),
        batch_size="auto",
        resources={"MEM": 2, "GPU": 1},
        workers=["w1"],
    )
    assert found.name == "g"
    assert found.retry.delays == (1.0, 5.0)
    assert found.retry.retry_on == (OSError,)
    assert found.tags == {"a", "b"}
    assert found.timeout_seconds == 2.0
    assert found.batch_size is None
    assert found.resources == (("GPU", 1.0), ("MEM", 2.0))
    assert found.workers == ("w1",)


@pytest.mark.parametrize("trigger", [all_successful, any_failed, not_all_skipped])
def test_triggers_of_the_library_are_themselves_after_pickling(trigger: Any) -> None:
    assert pickle.loads(pickle.dumps(trigger)) is trigger


def test_other_triggers_survive_pickling() -> None:
    trigger = pickle.loads(pickle.dumps(some_failed(at_least=2)))
    assert trigger(counts(failed=2)) and not trigger(counts(failed=1))


# -- persist -------------------------------------------------------------------------------------------------


def test_whether_values_persist_is_inherited_unless_it_is_said() -> None:
    assert options().persist_result is None
    assert options(persist_result=False).persist_result is False
    assert options(persist_result=True).persist_result is True
    assert FlowOptions.checked("flow 'f'", {}, name="f").persist_result is None
    assert FlowOptions.checked("flow 'f'", {"persist_result": False}, name="f").persist_result is False

    @task(persist_result=False)
    def one() -> int:
        return 1

    @flow(persist_result=False)
    def two() -> None:
        return None

    assert one.options.persist_result is False
    assert one.with_options(retries=2).options.persist_result is False
    assert one.with_options(persist_result=True).options.persist_result is True
    assert two.options.persist_result is False
    assert two.with_options(persist_result=True).options.persist_result is True


@pytest.mark.parametrize("wrong", ["yes", 1, 0, [], "local"])
def test_persist_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(TaskOptionError, match="persist_result must be True or False"):
        options(persist_result=wrong)
    with pytest.raises(TaskOptionError, match="persist_result must be True or False"):
        flow(persist_result=wrong)
