"""What earlier launches left, matched with what is recorded now; histories are written record by record."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from graphflow.core.nodes import Past
from graphflow.driver.recovery import Recovery, Selection
from graphflow.errors import FlowChanged, RunNotFound, SourceChanged
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.identity.hashing import source_digests
from graphflow.model.map_options import MapOptions
from graphflow.model.orders import Program
from graphflow.model.policies import RetryPolicy, TaskOptions
from graphflow.model.records import (
    Alias,
    Dispatch,
    Ended,
    Entry,
    EntryDep,
    Launch,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.model.reports import Report, StepReport, Stored, ValueInfo
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter
from graphflow.records.replay import Replay

DONE, FAILED, OPEN = Code.COMPLETED, Code.FAILED, Code.PENDING


def _body() -> None:
    pass


class Written:
    """A history, written record by record; nodes go by their numbers, their keys are `key<number>`."""

    def __init__(self) -> None:
        self.replay = Replay()
        self.writer = RecordWriter()
        self.seq = 0
        self.launch()

    def add(self, *records: Record) -> None:
        self.seq += 1
        for place, record in enumerate(records):
            self.replay.add(Entry(self.seq, place, 1, record))

    def launch(self, code: str = "") -> None:
        told = Launch(
            epoch=1,
            reason="start",
            host="h",
            pid=1,
            boot_id="b",
            flow_name="flow",
            run_name="run",
            code=code,
        )
        self.add(self.writer.launch(told, 0.0))

    def node(self, number: int, *deps: tuple[int, str], width: int | None = None, **given: Any) -> None:
        entry = NodeEntry(
            number=number,
            key=f"key{number}",
            name=f"n{number}",
            task_name=f"n{number}",
            is_mapped=width is not None or "sources" in given or any(kind == "ITEMS" for _, kind in deps),
            deps=[EntryDep(upstream=upstream, kind=kind) for upstream, kind in deps],
            width=width,
            **given,
        )
        self.add(self.writer.node(entry, 0.0))

    def items(
        self,
        number: int,
        states: Sequence[Code],
        *,
        first: int = 0,
        attempts: Sequence[int] = (),
        is_stored: bool = True,
        missing: Sequence[int] = (),
        is_whole: bool = True,
        **given: Any,
    ) -> None:
        size = len(states)
        stored = Stored(
            name=f"pack{self.seq}",
            offset=0,
            nbytes=1,
            digest=b"d",
            count=size,
            missing=missing,
            is_whole=is_whole,
        )
        step = StepReport(
            node=number,
            states=bytes(states),
            attempts=bytes(attempts or [1] * size),
            starts=array("f", [0.0] * size),
            durations=array("f", [0.0] * size),
            stored=stored if is_stored else None,
            **given,
        )
        report = Report(batch=99, worker="w", started=0.0, elapsed=0.0, reached=size, steps=(step,))
        records = self.writer.report(
            report, range(first, first + size), number=lambda node: node, load=lambda ref: [], at=0.0
        )
        self.add(*records)

    def moved(self, number: int, code: Code, width: int | None = None) -> None:
        self.add(self.writer.state(number, Transition(code=code, width=width), 0.0))

    def done(self, number: int, states: Sequence[Code], code: Code = DONE, **given: Any) -> None:
        """All that a map came to."""
        self.items(number, states, **given)
        self.moved(number, code, len(states))

    def sent(self, number: int, indices: Sequence[int], batch: int = 1) -> None:
        told = Dispatch(batch=batch, nodes=(number,), indices=indices, is_fresh=True)
        self.add(self.writer.dispatch(told, 0.0))


def mapped(
    number: int,
    *deps: tuple[int, DepKind],
    values: Sequence[Any] | None = None,
    lazy: int = 0,
    retries: int = 0,
    **given: Any,
) -> Node:
    """A node of now; its id is 100 more than its number was."""
    sources = [] if values is None else [Source(slot=9, argument="own", length=len(values), values=values)]
    sources += [Source(slot=slot, argument=f"it{slot}", length=None) for slot in range(lazy)]
    program = Program(
        id="p",
        fn=_body,
        kind="sync",
        args=(),
        kwargs={},
        has_nested=False,
        options=TaskOptions(name=f"n{number}", retry=RetryPolicy(retries=retries)),
        node_name=f"n{number}",
        node_key=f"key{number}",
        flow_name="flow",
        is_mapped=True,
    )
    return Node(
        id=100 + number,
        key=f"key{number}",
        name=f"n{number}",
        task_name=f"n{number}",
        is_mapped=bool(sources) or any(kind is DepKind.ITEMS for _, kind in deps),
        deps=tuple(Dep(upstream=100 + upstream, kind=kind) for upstream, kind in deps),
        sources=tuple(sources),
        program=program,
        **given,
    )


def past_of(recovery: Recovery, node: Node, *, is_inner: bool = False) -> Past:
    past = recovery.past_of(node, is_inner)
    assert past is not None
    return past


@pytest.fixture
def written() -> Written:
    return Written()


# -- which outcomes are kept ----------------------------------------------------------------------------------


def test_what_ended_well_is_kept_and_what_did_not_runs_again_with_all_its_attempts(written: Written) -> None:
    written.node(0, width=5)
    states = [DONE, FAILED, Code.SKIPPED, Code.CACHED, Code.CANCELLED]
    written.done(0, states, FAILED, attempts=(2, 3, 1, 1, 1))
    recovery = Recovery(written.replay)
    past = past_of(recovery, mapped(0, values=[1, 2, 3, 4, 5]))
    assert [*past.states] == [DONE, OPEN, Code.SKIPPED, Code.CACHED, OPEN]
    assert [*past.attempts] == [2, 0, 1, 1, 0]
    assert past.width is None
    assert [(number, [*indices]) for number, indices in recovery.taken_back()] == [(0, [1, 4])]


def test_a_node_that_nobody_knows_begins_anew(written: Written) -> None:
    assert Recovery(written.replay).past_of(mapped(3, values=[1]), False) is None


def test_failures_that_a_finished_map_tolerated_are_kept(written: Written) -> None:
    written.node(0, width=2)
    written.done(0, [DONE, FAILED])
    tolerant = mapped(0, values=[1, 2], map_options=MapOptions(tolerated_count=1))
    assert [*past_of(Recovery(written.replay), tolerant).states] == [DONE, FAILED]


def test_an_attempt_under_way_when_the_driver_died_counts_but_neither_as_first_nor_as_last(
    written: Written,
) -> None:
    written.node(0, width=4)
    written.items(0, [Code.AWAITING_RETRY] * 3, attempts=(1, 2, 1))
    written.sent(0, [0, 1, 3])
    past = past_of(Recovery(written.replay), mapped(0, values=[1, 2, 3, 4], retries=2))
    assert [*past.attempts] == [2, 2, 1, 0]


def test_what_was_under_way_when_two_drivers_died_runs_alone(written: Written) -> None:
    written.node(0, width=3)
    written.sent(0, range(3))
    written.launch()
    written.sent(0, [1], batch=2)
    past = past_of(Recovery(written.replay), mapped(0, values=[1, 2, 3]))
    assert past.suspects == ([1],)


# -- values ---------------------------------------------------------------------------------------------------


def test_values_that_are_damaged_missing_or_never_kept_are_told_apart(written: Written) -> None:
    written.node(0, width=7)
    written.items(0, [DONE, Code.SKIPPED])
    written.items(0, [DONE, DONE], first=2, missing=[1])
    written.items(0, [DONE, DONE], first=4, missing=[0], is_whole=False)
    written.items(0, [DONE], first=6, is_stored=False)
    written.moved(0, DONE, 7)
    (first, *_) = written.replay.stored()
    past = past_of(Recovery(written.replay, damaged=[first]), mapped(0, values=range(7)))
    there, gone, never = Past.THERE, Past.GONE, Past.NEVER_KEPT
    assert [*past.valued] == [gone, there, there, gone, never, there, never]


def test_columns_that_are_damaged_are_referred_to_no_more(written: Written) -> None:
    written.node(0, width=2)
    written.items(0, [DONE, Code.SKIPPED])
    recovery = Recovery(written.replay, damaged=[*written.replay.stored()])
    node = mapped(0, values=[1, 2])
    past_of(recovery, node)
    assert recovery.history_of(node).place(1) is None


def test_an_item_that_ended_in_a_column_without_a_value_has_none(written: Written) -> None:
    """It ran again for its value, and the run was stopped before it had one."""
    written.node(0, width=1)
    written.items(0, [DONE])
    written.items(0, [Code.AWAITING_RETRY])
    written.add(written.writer.ended(Ended(node=0, indices=range(1), code=DONE), 0.0))
    past = past_of(Recovery(written.replay), mapped(0, values=[1]))
    assert ([*past.states], [*past.valued]) == ([DONE], [Past.GONE])


def test_what_a_value_is_to_a_map_is_that_of_the_node_that_stands_in(written: Written) -> None:
    listed = ValueInfo(kind="sized", type_name="list", length=4)
    written.node(0)
    written.node(1, parent=(0, 0))
    written.items(0, [Code.GRAFTED], is_stored=False)
    written.items(1, [DONE], info=listed)
    written.moved(1, DONE, 1)
    written.add(
        written.writer.alias(Alias(node=0, index=0, root=1), 0.0),
        written.writer.ended(Ended(node=0, indices=[0], code=DONE), 0.0),
    )
    written.moved(0, DONE, 1)
    past = past_of(Recovery(written.replay), mapped(0))
    assert (past.info, [*past.states], [*past.valued]) == (listed, [DONE], [Past.THERE])


def test_an_item_whose_fragment_did_not_end_well_records_it_again(written: Written) -> None:
    written.node(0)
    written.node(1, parent=(0, 0))
    written.node(2, parent=(0, 0))
    written.items(0, [Code.GRAFTED], is_stored=False)
    written.items(1, [DONE])
    written.moved(1, DONE, 1)
    written.add(
        written.writer.alias(Alias(node=0, index=0, root=1), 0.0),
        written.writer.ended(Ended(node=0, indices=[0], code=DONE), 0.0),
    )
    written.moved(0, DONE, 1)
    recovery = Recovery(written.replay)
    past = past_of(recovery, mapped(0))
    # It is done, but what stands beside its root is not.
    assert ([*past.states], [*past.valued]) == ([DONE], [Past.GONE])
    assert [*past_of(recovery, mapped(1), is_inner=True).states] == [DONE]
    assert recovery.taken_back() == []


# -- what runs anew -------------------------------------------------------------------------------------------


def test_what_depends_on_an_item_that_runs_anew_is_taken_back_with_it(written: Written) -> None:
    written.node(0, width=3)
    written.node(1, (0, "ITEMS"))
    written.node(2, (1, "GATHER"))
    written.node(3, (0, "ORDER"))
    written.done(0, [DONE, FAILED, DONE], FAILED)
    written.done(1, [DONE, DONE, DONE])
    written.done(2, [DONE])
    written.done(3, [DONE])
    recovery = Recovery(written.replay)
    past_of(recovery, mapped(0, values=[1, 2, 3]))
    taken = {number: [*indices] for number, indices in recovery.taken_back()}
    assert taken == {0: [1], 1: [1], 2: [0]}
    assert [*past_of(recovery, mapped(1, (0, DepKind.ITEMS))).states] == [DONE, OPEN, DONE]
    assert [*past_of(recovery, mapped(2, (1, DepKind.GATHER))).states] == [OPEN]
    assert [*past_of(recovery, mapped(3, (0, DepKind.ORDER))).states] == [DONE]
    assert recovery.taken_back() == []


def test_items_that_are_mapped_over_something_else_run_anew_and_so_does_what_they_recorded(
    written: Written,
) -> None:
    written.node(0, width=3)
    written.node(1, parent=(0, 1))
    written.done(0, [DONE] * 3, digests=source_digests([[10, 20, 30]]))
    written.done(1, [DONE])
    recovery = Recovery(written.replay)
    past = past_of(recovery, mapped(0, values=[10, 21, 30, 40]))
    assert [*past.states] == [DONE, OPEN, DONE]
    assert {number: [*indices] for number, indices in recovery.taken_back()} == {0: [1], 1: [0]}


def test_a_shorter_list_takes_the_items_beyond_it_back(written: Written) -> None:
    written.node(0, width=3)
    written.done(0, [DONE] * 3, digests=source_digests([[1, 2, 3]]))
    recovery = Recovery(written.replay)
    assert [*past_of(recovery, mapped(0, values=[1])).states] == [DONE, OPEN, OPEN]
    assert [[*indices] for _, indices in recovery.taken_back()] == [[1, 2]]


def test_what_took_all_of_a_map_is_taken_back_when_its_width_is_another(written: Written) -> None:
    written.node(0, width=2)
    written.node(1, (0, "ITEMS"))
    written.node(2, (0, "GATHER"))
    for number in range(2):
        written.done(number, [DONE] * 2)
    written.done(2, [DONE])
    recovery = Recovery(written.replay)
    past_of(recovery, mapped(0, values=[1, 2, 3]))
    recovery.width_known(100, 2)
    assert recovery.taken_back() == []
    recovery = Recovery(written.replay)
    past_of(recovery, mapped(0, values=[1, 2, 3]))
    recovery.width_known(100, 3)
    assert [(number, [*indices]) for number, indices in recovery.taken_back()] == [(2, [0])]


def test_what_the_core_has_taken_over_by_now_is_not_taken_back(written: Written) -> None:
    written.node(0, width=1)
    written.node(1, (0, "GATHER"))
    written.done(0, [DONE])
    written.done(1, [DONE])
    recovery = Recovery(written.replay)
    past_of(recovery, mapped(0, values=[1]))
    past = past_of(recovery, mapped(1, (0, DepKind.GATHER)))
    past.taken[:] = b"\1"
    recovery.width_known(100, 2)
    assert recovery.taken_back() == []
    assert [*past.states] == [DONE]


def test_a_task_that_takes_other_inputs_than_before_runs_anew(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    written.node(0, width=1)
    written.node(1, (0, "ITEMS"))
    written.done(0, [DONE])
    written.done(1, [DONE])
    recovery = Recovery(written.replay)
    past_of(recovery, mapped(0, values=[1]))
    with caplog.at_level(logging.WARNING, "graphflow.recovery"):
        assert recovery.past_of(mapped(1, (0, DepKind.GATHER)), False) is None
    assert "has different inputs than before" in caplog.text
    assert [(number, [*indices]) for number, indices in recovery.taken_back()] == [(1, [0])]


# -- selections -----------------------------------------------------------------------------------------------


def test_selected_items_run_again_with_what_depends_on_them_and_nothing_else_does(written: Written) -> None:
    written.node(0, width=3)
    written.node(1, (0, "ITEMS"))
    written.done(0, [DONE, FAILED, DONE], FAILED)
    written.items(1, [DONE, DONE])
    written.items(1, [Code.UPSTREAM_FAILED], first=2)
    chosen = Selection(node="n0", indices=frozenset({0}))
    recovery = Recovery(written.replay, selections=[chosen])
    assert [*past_of(recovery, mapped(0, values=[1, 2, 3])).states] == [OPEN, FAILED, DONE]
    after = past_of(recovery, mapped(1, (0, DepKind.ITEMS)))
    assert [*after.states] == [OPEN, DONE, Code.UPSTREAM_FAILED]


def test_a_selection_of_what_is_not_there_is_refused(written: Written) -> None:
    written.node(0, width=2)
    written.done(0, [DONE, DONE])
    with pytest.raises(RunNotFound, match="no node 'n7'"):
        Recovery(written.replay, selections=[Selection(node="n7")])
    with pytest.raises(IndexError, match="there is no item 5"):
        Recovery(written.replay, selections=[Selection(node="", indices=frozenset({1, 5}))])


# -- iterators ------------------------------------------------------------------------------------------------


def test_an_iterator_that_gives_another_item_is_refused_by_name(written: Written) -> None:
    written.node(0, width=None, sources=("it0: iterator",))
    written.items(0, [DONE, DONE], digests=source_digests([[5, 6]]))
    node = mapped(0, lazy=1)
    with pytest.raises(SourceChanged, match="a different item 1"):
        _match(written, node).check_source(node, 0, 0, [5, 7], has_ended=False)
    with pytest.raises(SourceChanged, match="ended after 1 items"):
        _match(written, node).check_source(node, 0, 0, [5], has_ended=True)
    recovery = _match(written, node)
    recovery.check_source(node, 0, 0, [5], has_ended=False)
    recovery.check_source(node, 0, 1, [6, 7], has_ended=True)


def test_iterators_are_compared_together_once_each_gave_the_item(written: Written) -> None:
    written.node(0, width=None, sources=("it0: iterator", "it1: iterator"))
    written.items(0, [DONE, DONE], digests=source_digests([[5, 6], [7, 8]]))
    node = mapped(0, lazy=2)
    recovery = _match(written, node)
    recovery.check_source(node, 0, 0, [5, 6], has_ended=False)
    recovery.check_source(node, 1, 0, [7], has_ended=False)
    with pytest.raises(SourceChanged, match="a different item 1"):
        recovery.check_source(node, 1, 1, [9], has_ended=False)


def test_an_item_of_a_list_beside_an_iterator_runs_anew_where_it_differs(written: Written) -> None:
    written.node(0, width=None, sources=("own: list", "it0: iterator"))
    written.items(0, [DONE, DONE], digests=source_digests([[1, 2], [5, 6]]))
    node = mapped(0, values=[1, 3], lazy=1)
    recovery = _match(written, node)
    recovery.check_source(node, 0, 0, [5, 6], has_ended=False)
    assert [(number, [*indices]) for number, indices in recovery.taken_back()] == [(0, [1])]


def _match(written: Written, node: Node) -> Recovery:
    recovery = Recovery(written.replay)
    past = past_of(recovery, node)
    assert [*past.states] == [DONE, DONE]
    return recovery


# -- flows whose code changed ---------------------------------------------------------------------------------


def test_a_changed_flow_must_make_the_same_calls_unless_it_is_forced(written: Written) -> None:
    written.replay.launches.clear()
    written.launch(code="before")
    written.node(0, width=1)
    written.node(1, (0, "ITEMS"))
    other = mapped(5, values=[1])
    with pytest.raises(FlowChanged, match="call 1 was 'n0'"):
        Recovery(written.replay, code="now").past_of(other, False)
    assert Recovery(written.replay, code="now", is_forced=True).past_of(other, False) is None
    assert Recovery(written.replay, code="before").past_of(other, False) is None
