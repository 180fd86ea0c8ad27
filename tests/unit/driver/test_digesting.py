"""A driver writes digests when they are due, and never for the price of anything else."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import pytest

from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.digesting import EVERY_SECONDS, Digests
from graphflow.errors import HistoryError, LeaseLost
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.records import Ended, Entry, Kind, Launch, NodeEntry, Record, RunHeader, Transition
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter
from graphflow.records.rebuilding import known_replay
from graphflow.records.replay import Replay

RUN = "01HZZZZZZZZZZZZZZZZZZZZZ01"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run whose driver books ends of single items."""

    def __init__(self, *, every: int = 20, least: int = 5) -> None:
        self.clock = Clock()
        self.history = VolatileHistory()
        self.journal = self.history.create(RunHeader(id=RUN, name="r", flow_name="f"))
        self.every, self.least = every, least
        self.indices = itertools.count()
        self.writer = RecordWriter()
        self.begin("start")
        entry = NodeEntry(number=0, key="k", name="n", task_name="t", is_mapped=True)
        self.books._add(self.writer.node(entry, 1.0))
        self.books.commit()

    def begin(self, reason: str) -> None:
        digests = Digests(self.history, RUN, every=self.every, least=self.least, clock=self.clock)
        self.books = Bookkeeper(self.journal, self.writer, digests=digests, wall=lambda: 1.0)
        launch = Launch(epoch=1, reason=reason, host="h", pid=1, boot_id="", flow_name="f", run_name="r")
        self.books.begin(launch)

    def end(self, count: int) -> None:
        """End items, one commit each."""
        for _ in range(count):
            ended = Ended(node=0, indices=[next(self.indices)], code=Code.CANCELLED)
            self.books._add(self.writer.ended(ended, 2.0))
            self.books.commit()

    def digests(self) -> list[Entry]:
        return list(self.history.read(RUN, kinds=(Kind.DIGEST,)))

    def known(self) -> tuple[dict[str, int], bool]:
        replay = known_replay(self.history, RUN)
        return dict(replay.nodes[0].counts()), replay.folded is not None

    def counts(self) -> dict[str, int]:
        replay = Replay()
        for entry in self.history.read(RUN):
            replay.add(entry)
        return dict(replay.nodes[0].counts())


def test_a_short_run_has_no_digest():
    run = Run()
    run.end(2)
    run.books.end()
    assert run.digests() == [] and run.known() == ({"Cancelled": 2}, False)


def test_one_is_written_after_so_many_records_and_at_the_end():
    run = Run()
    run.end(17)
    assert run.digests() == []
    run.end(1)
    assert len(run.digests()) == 1
    run.end(45)
    assert len(run.digests()) == 3
    run.end(3)
    run.books.end()
    assert [entry.record.kind for entry in run.digests()] == [Kind.DIGEST] * 4
    assert run.known() == ({"Cancelled": 66}, True) and run.counts() == {"Cancelled": 66}
    run.books.end()
    assert len(run.digests()) == 4


def test_one_is_written_after_some_time_if_there_is_enough_to_tell():
    run = Run()
    run.end(1)
    run.clock.now = EVERY_SECONDS
    run.end(1)
    assert run.digests() == []
    run.end(1)
    assert len(run.digests()) == 1
    run.end(10)
    assert len(run.digests()) == 1
    run.clock.now += EVERY_SECONDS
    run.end(1)
    assert len(run.digests()) == 2 and run.known() == ({"Cancelled": 14}, True)


def test_another_launch_goes_on_from_the_digest_of_the_one_before():
    run = Run()
    run.end(25)
    run.begin("resume")
    run.end(40)
    assert len(run.digests()) == 3 and run.known() == ({"Cancelled": 65}, True)
    assert known_replay(run.history, RUN).records == len(list(run.history.read(RUN)))


class _Failing:
    """A journal that fails to commit digests."""

    def __init__(self, run: Run, error: Exception) -> None:
        self.inner, self.error = run.journal, error
        self.run_id, self.epoch = run.journal.run_id, run.journal.epoch

    @property
    def number(self) -> int:
        return self.inner.number

    def commit(self, records: Sequence[Record], *, state: str | None = None) -> int:
        if records[0].kind == Kind.DIGEST:
            raise self.error
        return self.inner.commit(records, state=state)


@pytest.mark.parametrize("error", [HistoryError("the disk is full"), LeaseLost("another driver has it")])
def test_a_digest_that_cannot_be_written_costs_nothing_else(error, caplog):
    run = Run()
    run.books.journal = _Failing(run, error)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        run.end(30)
    assert run.digests() == [] and run.counts() == {"Cancelled": 30}
    assert [*map(str, caplog.messages)] == (
        []
        if isinstance(error, LeaseLost)
        else [f"run {RUN}: its digest could not be written: the disk is full"]
    )
    run.books.journal = run.journal
    run.end(30)
    assert len(run.digests()) > 0 and run.known() == ({"Cancelled": 60}, True)


def test_what_another_process_sees_between_two_digests_is_the_digest_and_what_follows():
    run = Run()
    run.end(30)
    replay = known_replay(run.history, RUN)
    assert replay.folded is not None and replay.nodes[0].counts() == {"Cancelled": 30}
    run.books._add(run.writer.state(0, Transition(code=Code.CANCELLED, width=30), 3.0))
    run.books.commit()
    assert known_replay(run.history, RUN).nodes[0].code == Code.CANCELLED
