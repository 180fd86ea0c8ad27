"""Commands become records, and those are committed before anybody is told; the journal is in memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.driver.bookkeeping import Bookkeeper
from graphflow.driver.turns import Turns
from graphflow.errors import HistoryError, LeaseLost, MapWidthError
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.histories.journals import RunJournal
from graphflow.histories.volatile import VolatileHistory
from graphflow.model.orders import Ref
from graphflow.model.records import Kind, Launch, Record, RunHeader
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import BatchLost, Capacity
from graphflow.records.codec import RecordWriter, decode
from graphflow.records.item_index import MemoryHistory
from graphflow.records.replay import Replay

RUN = "01HZZZZZZZZZZZZZZZZZZZZZZZ"


def launch(epoch: int) -> Launch:
    return Launch(
        epoch=epoch, reason="start", host="here", pid=1, boot_id="b", flow_name="flow", run_name="run"
    )


def mapped(id_: int, width: int, *deps: Dep) -> Node:
    source = Source(slot=9, argument="own", length=width)
    return Node(
        id=id_,
        key=f"key{id_}",
        name=f"n{id_}",
        task_name=f"n{id_}",
        is_mapped=True,
        deps=deps,
        sources=(source,),
    )


class Durable:
    """One launch of a run: a core, its books, and a journal that may fail."""

    def __init__(self, history: VolatileHistory, numbers: dict[str, int] | None = None) -> None:
        self.history = history
        is_new = not history.runs()
        header = RunHeader(id=RUN, name="run", flow_name="flow")
        self.journal = history.create(header) if is_new else history.take(RUN)
        self.books = Bookkeeper(self.journal, RecordWriter(), numbers=numbers, wall=lambda: 5.0)
        self.core = Core(capacity=Capacity(slots=2))
        self.turns = Turns(self.core, MemoryHistory(), column=_no_column, books=self.books)
        self.books.begin(launch(self.journal.epoch))

    def record(self, *nodes: Node) -> None:
        self.turns.handle(ev.NodesRecorded(nodes, self.turns.recorded(nodes)), 0.0)

    def report(self, batch: int, states: Sequence[Code], node: int = 1) -> None:
        size = len(states)
        step = StepReport(
            node=node,
            states=bytes(states),
            attempts=b"\1" * size,
            starts=array("f", [0.0] * size),
            durations=array("f", [0.0] * size),
        )
        report = Report(batch=batch, worker="w", started=0.0, elapsed=0.0, reached=size, steps=(step,))
        self.turns.handle(ev.BatchReported(report), 0.0)

    def kinds(self) -> list[list[Kind]]:
        """The kinds of records, per commit."""
        found: dict[int, list[Kind]] = {}
        for entry in self.history.read(RUN):
            found.setdefault(entry.seq, []).append(Kind(entry.record.kind))
        return [*found.values()]

    def replay(self) -> Replay:
        replay = Replay()
        for entry in self.history.read(RUN):
            replay.add(entry)
        return replay

    def told(self, kind: Kind) -> list[Any]:
        return [decode(each.record) for each in self.history.read(RUN) if each.record.kind == kind]


def _no_column(ref: Ref) -> list[Any]:
    raise AssertionError("no labels are read")


@pytest.fixture
def history() -> VolatileHistory:
    return VolatileHistory()


def test_a_batch_is_durable_before_it_is_told(history: VolatileHistory) -> None:
    run = Durable(history)
    run.record(mapped(1, 3))
    assert run.kinds() == []
    told = run.turns.commit()
    assert run.kinds() == [[Kind.LAUNCH, Kind.NODE, Kind.STATE, Kind.STATE, Kind.DISPATCHES]]
    (sent,) = run.told(Kind.DISPATCHES)
    assert len(_sent(told)) > 1
    assert [(each.batch, each.indices) for each in sent.each] == [
        (each.batch, each.indices) for each in _sent(told)
    ]
    assert run.turns.commit() == []
    assert len(run.kinds()) == 1


def test_what_happened_in_one_turn_is_one_commit(history: VolatileHistory) -> None:
    run = Durable(history)
    run.record(mapped(1, 2))
    batches = [each.batch for each in _sent(run.turns.commit())]
    for batch in batches:
        run.report(batch, [Code.COMPLETED] * (2 // len(batches)))
    run.turns.handle(ev.RecordingClosed(), 0.0)
    told = run.turns.commit()
    assert isinstance(told[-1], ev.FinishRun)
    assert len(batches) > 1 and run.kinds()[1:] == [[Kind.JOINED, Kind.STATE]]
    assert run.replay().nodes[0].counts() == {"Completed": 2}


def test_nothing_is_told_where_it_could_not_be_committed(
    history: VolatileHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Durable(history)
    run.record(mapped(1, 1))

    def full(self: RunJournal, records: Sequence[Record], *, state: str | None = None) -> int:
        raise HistoryError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunJournal, "commit", full)
        with pytest.raises(HistoryError, match="full"):
            run.turns.commit()
    assert run.kinds() == []
    # Nothing of it is lost.
    assert len(_sent(run.turns.commit())) == 1
    assert run.kinds()[0][-1] is Kind.DISPATCH


def test_a_driver_that_another_took_the_run_from_can_tell_nothing(history: VolatileHistory) -> None:
    first = Durable(history)
    first.record(mapped(1, 1))
    first.turns.commit()
    first.journal.abandon()
    second = Durable(history)
    second.turns.commit()
    first.report(1, [Code.COMPLETED])
    with pytest.raises((LeaseLost, HistoryError)):
        first.turns.commit()
    assert second.told(Kind.ITEMS) == []


def test_nodes_keep_their_numbers_over_launches(history: VolatileHistory) -> None:
    first = Durable(history)
    first.record(mapped(1, 1), mapped(2, 1))
    first.turns.commit()
    first.journal.close()
    second = Durable(history, numbers={"key1": 0, "key2": 1})
    # Ids are those of this launch, in the order in which it records.
    second.record(mapped(7, 1))
    with pytest.raises(KeyError):
        second.books.number(1)
    assert second.books.number(7) == 2
    second.books.begin_attempt()
    second.record(Node(id=9, key="key2", name="n2", task_name="n2", is_mapped=False))
    assert second.books.number(9) == 1
    second.turns.commit()
    assert [entry.key for entry in second.told(Kind.NODE)] == ["key1", "key2", "key7", "key2"]


def test_edges_and_sources_are_told_by_numbers_and_names(history: VolatileHistory) -> None:
    run = Durable(history)
    picks = Dep(upstream=4, kind=DepKind.PICK, slot=0, index=2, argument="x")
    run.record(mapped(4, 3), mapped(5, 1, picks))
    run.turns.commit()
    first, second = run.told(Kind.NODE)
    assert (first.number, first.width, first.sources) == (0, 3, ("own: list",))
    (edge,) = second.deps
    assert (edge.upstream, edge.kind, edge.index, edge.argument) == (0, "PICK", 2, "x")


def test_why_a_node_failed_beside_its_items_is_told_with_its_end(history: VolatileHistory) -> None:
    run = Durable(history)
    odd = Node(
        id=1,
        key="key1",
        name="n1",
        task_name="n1",
        is_mapped=True,
        sources=(
            Source(slot=0, argument="a", length=1),
            Source(slot=1, argument="b", length=2),
        ),
    )
    run.record(odd)
    told = run.turns.commit()
    (failed,) = [each for each in told if isinstance(each, ev.NodeFailed)]
    assert isinstance(failed.error, MapWidthError)
    (moved,) = run.told(Kind.STATE)
    assert moved.code == Code.FAILED
    assert moved.message.startswith("MapWidthError: n1 is mapped over arguments of different lengths")


def test_a_lost_batch_is_told_once_and_counts_as_an_attempt(history: VolatileHistory) -> None:
    run = Durable(history)
    run.record(mapped(1, 1))
    run.turns.commit()
    lost = BatchLost(batch=1, executing=0, had_started=True, reason="its worker died")
    run.turns.lost(lost, 0.0)
    run.turns.lost(lost, 0.0)
    run.turns.commit()
    (told,) = run.told(Kind.LOST)
    assert (told.batch, told.executing, told.reason) == (1, 0, "its worker died")
    assert [*run.replay().nodes[0].attempts] == [1]


def test_outcomes_that_are_taken_back_are_pending_for_whoever_reads(history: VolatileHistory) -> None:
    run = Durable(history)
    run.record(mapped(1, 2))
    for batch in [each.batch for each in _sent(run.turns.commit())]:
        run.report(batch, [Code.COMPLETED])
    run.turns.commit()
    assert run.replay().nodes[0].counts()["Completed"] == 2
    run.books.taken_back(0, range(1, 2))
    run.turns.commit()
    (known,) = run.replay().nodes.values()
    assert known.code == Code.PENDING
    assert known.width is None
    assert known.counts() == {"Completed": 1}
    assert [*known.attempts] == [1]


def test_nothing_follows_the_end_of_a_run(history: VolatileHistory) -> None:
    run = Durable(history)
    run.record(mapped(1, 0))
    run.turns.handle(ev.RecordingClosed(), 0.0)
    assert run.core.is_finished
    assert run.turns.handle(ev.StopRequested(), 0.0) == ()


def test_a_request_is_answered_after_its_answer_is_durable(history: VolatileHistory) -> None:
    run = Durable(history)
    run.turns.commit()
    number = history.request(RUN, "cancel", {"now": True})
    (request,) = run.journal.requests()
    run.books.answered(request, "")
    assert history.answer_of(number) == ""
    (answer,) = run.told(Kind.ANSWER)
    assert (answer.request, answer.kind, answer.body, answer.error) == (number, "cancel", {"now": True}, "")


def test_the_run_moves_with_what_led_to_it(history: VolatileHistory) -> None:
    run = Durable(history)
    run.books.run_moved(Code.RUNNING)
    assert history.find(RUN).state == "Pending"
    run.books.commit()
    assert history.find(RUN).state == "Running"
    assert run.kinds() == [[Kind.LAUNCH, Kind.STATE]]
    assert {each.record.at for each in history.read(RUN)} == {5.0}


def _sent(commands: Sequence[ev.Command]) -> list[ev.SubmitBatch]:
    return [each for each in commands if isinstance(each, ev.SubmitBatch)]
