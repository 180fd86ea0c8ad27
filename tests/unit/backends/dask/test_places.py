"""Which worker of an own cluster gets the next batch."""

from __future__ import annotations

from graphflow.backends.dask.places import Batch, Places


def batch(number: int) -> Batch:
    return "run", number


def places(*workers: str, batches: int = 0) -> Places:
    made = Places()
    made.set_workers(workers)
    for number in range(batches):
        made.put(batch(number))
    return made


def test_each_worker_gets_one_to_run_before_any_gets_one_to_wait() -> None:
    made = places("a", "b")
    sent = [made.put(batch(number)) for number in range(5)]
    assert sent == [[(batch(0), "a")], [(batch(1), "b")], [(batch(2), "a")], [(batch(3), "b")], []]


def test_what_found_no_place_is_sent_when_there_is_one() -> None:
    made = places("a", batches=4)
    assert made.ended(batch(0)) == [(batch(2), "a")]
    assert made.ended(batch(1)) == [(batch(3), "a")]
    assert made.ended(batch(2)) == []


def test_nothing_waits_behind_a_batch_that_takes_long() -> None:
    made = places("a", "b", batches=4)
    # Batch 2 waited on "a" behind 0 for too long: until 0 is over, "a" gets nothing more.
    assert made.ended(batch(2), was_begun=False) == []
    assert made.put(batch(4)) == []
    assert made.ended(batch(1)) == [(batch(4), "b")]
    assert made.put(batch(5)) == []
    assert made.ended(batch(0)) == [(batch(5), "a")]
    assert made.put(batch(6)) == [(batch(6), "a")]


def test_a_batch_that_is_withdrawn_before_it_was_sent_is_forgotten() -> None:
    made = places("a", batches=3)
    assert made.ended(batch(2)) == []
    assert made.ended(batch(0)) == []


def test_batches_of_a_worker_that_is_gone_are_forgotten_and_others_go_on() -> None:
    made = places("a", "b", batches=5)
    assert made.set_workers(["b"]) == []
    assert made.ended(batch(0)) == []
    assert made.set_workers(["b", "c"]) == [(batch(4), "c")]
    assert made.workers == {"b", "c"}


def test_a_worker_without_work_takes_from_one_where_a_batch_waits() -> None:
    made = places("a", "b", batches=4)
    assert not made.is_uneven
    made.ended(batch(1))
    made.ended(batch(3))
    assert made.is_uneven
    assert made.to_take_back() == [(batch(2), "a")]
    assert made.to_take_back() == []


def test_nothing_is_taken_while_something_waits_to_be_sent() -> None:
    made = places("a", batches=3)
    assert made.to_take_back() == []
