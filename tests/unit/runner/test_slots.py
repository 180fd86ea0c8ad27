"""The slot of a worker process: one batch runs, another waits."""

from __future__ import annotations

import threading

from graphflow.runner.slots import Slot

SECONDS = 30.0


def waiting(slot: Slot, batch: str, seconds: float = SECONDS) -> tuple[threading.Thread, list[bool]]:
    """A thread that waits for the slot, once it does."""
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(slot.enter(batch, seconds)))
    thread.start()
    while batch not in slot._waiting and thread.is_alive():
        pass
    return thread, outcome


def test_a_batch_that_waits_begins_when_the_slot_is_left() -> None:
    slot = Slot()
    assert slot.enter("first", 0)
    thread, outcome = waiting(slot, "second")
    slot.leave()
    thread.join(SECONDS)
    assert outcome == [True]
    assert not slot.enter("third", 0)


def test_a_batch_gives_itself_back_when_its_patience_ends() -> None:
    slot = Slot()
    assert slot.enter("first", 0)
    assert not slot.enter("second", 0.01)
    slot.leave()
    assert slot.enter("second", 0)


def test_a_batch_that_waits_gives_itself_back_when_it_is_asked() -> None:
    slot = Slot()
    assert slot.enter("first", 0)
    thread, outcome = waiting(slot, "second")
    slot.give_back("second")
    thread.join(SECONDS)
    assert outcome == [False]


def test_a_batch_that_runs_or_is_not_there_is_not_given_back() -> None:
    slot = Slot()
    assert slot.enter("first", 0)
    slot.give_back("first")
    slot.give_back("another")
    slot.leave()
    assert slot.enter("another", 0)


def test_batches_run_in_the_order_in_which_they_arrived() -> None:
    slot = Slot()
    slot.arrive("first")
    slot.arrive("second")
    assert not slot.enter("second", 0), "the first is still being read"
    slot.arrive("second")
    assert slot.enter("first", 0)
    thread, outcome = waiting(slot, "second")
    slot.leave()
    thread.join(SECONDS)
    assert outcome == [True]


def test_a_batch_that_cannot_be_read_holds_up_nobody() -> None:
    slot = Slot()
    slot.arrive("first")
    slot.arrive("second")
    thread, outcome = waiting(slot, "second")
    slot.withdraw("first")
    thread.join(SECONDS)
    assert outcome == [True]
