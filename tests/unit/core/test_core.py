"""Single rules of the core, one event after the other; `tests/simulation` covers how they play together."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.errors import MapTypeError, MapWidthError, ValueUnavailable
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.model.policies import all_finished, any_failed
from graphflow.model.reports import Anomaly, Graft, Report, StepReport, ValueInfo
from graphflow.model.states import Code
from graphflow.ports import Capacity

T = TypeVar("T", bound=ev.Command)


def dep(
    upstream: int, kind: DepKind, *, slot: int = 0, index: int | None = None, allows: bool = False
) -> Dep:
    return Dep(
        upstream=upstream, kind=kind, slot=slot, index=index, argument=f"a{slot}", allows_failure=allows
    )


def node(id_: int, *deps: Dep, width: int | None = None, lazy: bool = False) -> Node:
    """A node; `width` or `lazy` give it a sequence of its own, in slot 9."""
    has_own = width is not None or lazy
    sources = (Source(slot=9, argument="own", length=width),) if has_own else ()
    is_mapped = has_own or any(each.kind in (DepKind.ITEMS, DepKind.ELEMENTS) for each in deps)
    return Node(
        id=id_,
        key=str(id_),
        name=f"n{id_}",
        task_name=f"n{id_}",
        is_mapped=is_mapped,
        deps=deps,
        sources=sources,
    )


class Driven:
    """A core with the commands that it gave."""

    def __init__(self, *nodes: Node, slots: int = 4) -> None:
        self.core = Core(capacity=Capacity(slots=slots))
        self.now = 0.0
        self.commands: list[ev.Command] = []
        self.tell(ev.NodesRecorded(nodes))

    def tell(self, event: ev.Event) -> list[ev.Command]:
        new = self.core.handle(event, self.now)
        self.commands += new
        return new

    def all(self, kind: type[T]) -> list[T]:
        return [command for command in self.commands if isinstance(command, kind)]

    def batch(self, *nodes: int) -> ev.SubmitBatch:
        """The oldest batch under way for just these nodes."""
        return next(
            each
            for each in self.all(ev.SubmitBatch)
            if each.nodes == nodes and each.batch in self.core.flights
        )

    def report(
        self,
        batch: ev.SubmitBatch,
        codes: Sequence[Code] | None = None,
        *,
        info: ValueInfo | None = None,
        anomalies: Iterable[Anomaly] = (),
        grafts: Iterable[Graft] = (),
    ) -> Report:
        """Report the first items of a batch; all of it as completed by default."""
        codes = [Code.COMPLETED] * len(batch.indices) if codes is None else codes
        size = len(codes)
        tries = [each or bytes(len(batch.indices)) for each in batch.tries]
        report = Report(
            batch=batch.batch,
            worker="w",
            started=0.0,
            elapsed=0.01 * size,
            reached=size,
            steps=tuple(
                StepReport(
                    node=id_,
                    states=bytes(codes),
                    attempts=bytes(min(255, tried + 1) for tried in tries[step][:size]),
                    starts=array("f", [0.0] * size),
                    durations=array("f", [0.0] * size),
                    info=info,
                    anomalies=tuple(anomalies),
                    grafts=tuple(grafts),
                )
                for step, id_ in enumerate(batch.nodes)
            ),
        )
        self.tell(ev.BatchReported(report))
        return report

    def work_off(self) -> None:
        """Complete all that is under way, and what follows from it."""
        while self.core.flights:
            number = next(iter(self.core.flights))
            self.report(next(each for each in self.all(ev.SubmitBatch) if each.batch == number))

    def states(self, id_: int) -> list[Code]:
        return [Code(code) for code in self.core.books[id_].states]

    def final(self, id_: int) -> Code:
        return Code(self.core.books[id_].final)

    def finish(self) -> ev.FinishRun:
        self.tell(ev.RecordingClosed())
        self.work_off()
        (finish,) = self.all(ev.FinishRun)
        return finish


def retry(position: int, attempt: int, delay: float) -> Anomaly:
    return Anomaly(
        position=position, attempt=attempt, code=Code.AWAITING_RETRY, started=0.0, duration=0.0, delay=delay
    )


# -- maps -------------------------------------------------------------------------------------------------


def test_a_map_of_width_0_completes_at_once() -> None:
    run = Driven(node(1, width=0), node(2, dep(1, DepKind.GATHER)))
    assert run.final(1) is Code.COMPLETED
    assert run.batch(2).indices == range(1)


def test_a_map_over_a_value_has_the_values_length() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.ELEMENTS)))
    run.report(run.batch(1), info=ValueInfo(kind="sized", type_name="list", length=3))
    run.work_off()
    assert run.states(2) == [Code.COMPLETED] * 3


def test_a_map_over_what_is_no_sequence_fails_with_the_helper_to_use() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.ELEMENTS)))
    run.report(run.batch(1), info=ValueInfo(kind="refused", type_name="dict", hint="Use items(...)"))
    (failed,) = run.all(ev.NodeFailed)
    assert isinstance(failed.error, MapTypeError)
    assert "n2 cannot be mapped over a0: n1 returned a dict. Use items(...)" in str(failed.error)
    assert run.finish() == ev.FinishRun(Code.FAILED, (2,))


def test_zipped_arguments_of_different_lengths_name_each_width() -> None:
    run = Driven(node(1, width=2), node(2, dep(1, DepKind.ITEMS), width=3))
    (failed,) = run.all(ev.NodeFailed)
    assert isinstance(failed.error, MapWidthError)
    assert failed.error.widths == {"a0": 2, "own": 3}
    assert run.final(2) is Code.FAILED
    assert run.states(2) == []


def test_a_pick_beyond_the_end_says_how_many_items_there_are() -> None:
    run = Driven(node(1, width=2), node(2, dep(1, DepKind.PICK, index=5)))
    run.work_off()
    (failed,) = run.all(ev.NodeFailed)
    assert isinstance(failed.error, ValueUnavailable)
    assert "n2 needs item 5 of n1, which has only 2 items" in str(failed.error)
    assert run.states(2) == [Code.FAILED]


def test_a_pick_waits_for_its_item_alone() -> None:
    run = Driven(replace(node(1, width=2), batch_size=1), node(2, dep(1, DepKind.PICK, index=0)))
    run.report(run.batch(1))
    assert run.batch(2).indices == range(1)
    assert not run.core.books[1].is_final


def test_items_that_end_in_any_order_go_on_at_once() -> None:
    run = Driven(replace(node(1, width=3), batch_size=1), node(2, dep(1, DepKind.ITEMS)))
    run.report(next(each for each in run.all(ev.SubmitBatch) if each.indices == range(2, 3)))
    assert run.batch(2).indices == range(2, 3)


def test_an_iterator_is_pulled_and_its_end_gives_the_width() -> None:
    run = Driven(node(1, lazy=True))
    assert run.all(ev.PullSource)
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=3))
    run.work_off()
    assert not run.core.books[1].is_final
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=0, ended=True))
    assert run.final(1) is Code.COMPLETED
    assert run.core.books[1].width == 3


def test_an_iterator_that_raises_fails_its_map_after_the_items_that_it_gave() -> None:
    run = Driven(node(1, lazy=True))
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=2, failed=True))
    run.work_off()
    assert run.states(1) == [Code.COMPLETED] * 2
    assert run.final(1) is Code.FAILED
    assert run.all(ev.NodeFailed) == [ev.NodeFailed(node=1)]


def test_what_a_batch_hands_back_runs_again_before_the_rest() -> None:
    run = Driven(replace(node(1, width=9), batch_size=4), slots=1)
    first = run.batch(1)
    run.report(first, [Code.COMPLETED])
    assert run.all(ev.SubmitBatch)[-1].indices == range(1, 4)


# -- failures, skips and triggers ---------------------------------------------------------------------------


def test_a_failed_item_fails_its_lane_and_no_sibling() -> None:
    run = Driven(node(1, width=3), node(2, dep(1, DepKind.ITEMS)), slots=1)
    run.report(run.batch(1), [Code.COMPLETED, Code.FAILED])
    run.work_off()
    assert run.states(2) == [Code.COMPLETED, Code.UPSTREAM_FAILED, Code.COMPLETED]
    assert run.core.root_of(2, 1) == (1, 1, [2])


def test_skipped_items_drop_out_of_a_gather_but_skip_what_needs_them_alone() -> None:
    run = Driven(
        replace(node(1, width=2), batch_size=2),
        node(2, dep(1, DepKind.GATHER)),
        node(3, dep(1, DepKind.PICK, index=0)),
    )
    run.report(run.batch(1), [Code.SKIPPED, Code.COMPLETED])
    run.work_off()
    assert run.final(2) is Code.COMPLETED
    assert run.final(3) is Code.SKIPPED


def test_failure_beats_skip() -> None:
    run = Driven(node(1), node(2), node(3, dep(1, DepKind.VALUE), dep(2, DepKind.VALUE, slot=1)))
    run.report(run.batch(1), [Code.SKIPPED])
    run.report(run.batch(2), [Code.FAILED])
    assert run.final(3) is Code.UPSTREAM_FAILED


def test_failure_beats_skip_where_a_map_is_over_the_skipped_value() -> None:
    run = Driven(node(1), node(2), node(3, dep(1, DepKind.ELEMENTS), dep(2, DepKind.VALUE, slot=1)))
    run.report(run.batch(1), [Code.SKIPPED])
    run.report(run.batch(2), [Code.FAILED])
    assert run.final(3) is Code.UPSTREAM_FAILED


def test_a_map_over_a_skipped_map_of_unknown_width_is_skipped() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.ELEMENTS)), node(3, dep(2, DepKind.ITEMS)))
    run.report(run.batch(1), [Code.SKIPPED])
    assert (run.final(2), run.final(3)) == (Code.SKIPPED, Code.SKIPPED)


def test_a_map_over_items_that_ended_as_a_whole_ends_with_them() -> None:
    failing = node(2, dep(1, DepKind.VALUE), width=2)
    run = Driven(node(1), failing, node(3, dep(2, DepKind.ITEMS)))
    run.report(run.batch(1), [Code.FAILED])
    assert run.states(3) == [Code.UPSTREAM_FAILED] * 2
    assert run.finish() == ev.FinishRun(Code.FAILED, (1,))


def test_a_gather_with_a_trigger_of_its_own_runs_with_failed_items() -> None:
    gather = replace(node(2, dep(1, DepKind.GATHER)), trigger=all_finished)
    run = Driven(replace(node(1, width=2), batch_size=2), gather)
    run.report(run.batch(1), [Code.FAILED, Code.COMPLETED])
    assert run.finish() == ev.FinishRun(Code.COMPLETED, ())


def test_a_trigger_that_did_not_run_its_task_has_seen_nothing() -> None:
    late = replace(node(3, dep(1, DepKind.ITEMS), dep(2, DepKind.VALUE, slot=1)), trigger=any_failed)
    run = Driven(node(1, width=0), node(2), late)
    run.report(run.batch(2), [Code.FAILED])
    assert run.finish() == ev.FinishRun(Code.FAILED, (2,))


def test_a_failure_that_is_allowed_is_seen() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.VALUE, allows=True)))
    run.report(run.batch(1), [Code.FAILED])
    assert run.finish() == ev.FinishRun(Code.COMPLETED, ())


def test_a_failure_far_upstream_is_seen_through_what_it_failed() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.VALUE)), node(3, dep(2, DepKind.VALUE, allows=True)))
    run.report(run.batch(1), [Code.FAILED])
    assert run.finish() == ev.FinishRun(Code.COMPLETED, ())


def test_a_failure_that_the_body_looked_at_is_seen() -> None:
    run = Driven(node(1))
    run.report(run.batch(1), [Code.FAILED])
    run.tell(ev.FailureHandled(1))
    assert run.finish() == ev.FinishRun(Code.COMPLETED, ())


# -- retries, pauses, crashes -------------------------------------------------------------------------------


def test_a_retry_waits_for_its_time_and_holds_no_slot() -> None:
    run = Driven(node(1), node(2), slots=1)
    run.core.run.capacity = Capacity(slots=1, queue=0)
    run.report(run.batch(1), [Code.AWAITING_RETRY], anomalies=[retry(0, 1, 5.0)])
    assert run.all(ev.SetTimer) == [ev.SetTimer(5.0)]
    assert run.batch(2).tries == (None,)
    run.report(run.batch(2))
    assert not run.core.flights
    run.now = 5.0
    run.tell(ev.TimerDue())
    assert run.batch(1).tries == (b"\x01",)


def test_only_the_last_attempt_of_a_report_sets_the_time() -> None:
    run = Driven(node(1))
    batch = run.batch(1)
    early = replace(retry(0, 0, 0.0), attempt=0)
    run.report(batch, [Code.AWAITING_RETRY], anomalies=[early, retry(0, 1, 9.0)])
    assert run.all(ev.SetTimer) == [ev.SetTimer(9.0)]


def test_an_item_that_was_tried_more_than_255_times_is_still_tried_again() -> None:
    run = Driven(node(1))
    for _ in range(300):
        batch = run.batch(1)
        tries = batch.tries[0]
        attempt = 1 + (tries[0] if tries is not None else 0)
        run.report(batch, [Code.AWAITING_RETRY], anomalies=[retry(0, attempt, 0.0)])
    run.report(run.batch(1))
    assert run.final(1) is Code.COMPLETED


def test_a_paused_item_runs_again_when_it_is_resumed() -> None:
    run = Driven(node(1))
    paused = replace(retry(0, 1, 0.0), code=Code.PAUSED)
    run.report(run.batch(1), [Code.PAUSED], anomalies=[paused])
    assert not run.core.flights
    run.tell(ev.ResumeRequested())
    assert run.batch(1).tries == (b"\x01",)


def test_an_item_that_kills_two_workers_is_crashed_and_its_siblings_complete() -> None:
    run = Driven(replace(node(1, width=3), batch_size=3))
    run.tell(ev.BatchWasLost(batch=1, executing=1, had_started=True))
    alone = next(each for each in run.all(ev.SubmitBatch) if list(each.indices) == [1])
    run.tell(ev.BatchWasLost(batch=alone.batch, executing=1, had_started=True))
    run.work_off()
    assert run.states(1) == [Code.COMPLETED, Code.CRASHED, Code.COMPLETED]
    assert run.core.books[1].attempts[1] == 2


def test_where_nobody_knows_what_was_executing_a_lost_batch_is_halved() -> None:
    run = Driven(replace(node(1, width=4), batch_size=4))
    run.tell(ev.BatchWasLost(batch=1))
    assert [list(each.indices) for each in run.all(ev.SubmitBatch)[1:]] == [[0, 1], [2, 3]]


def test_a_batch_that_had_not_started_is_sent_again_as_it_was() -> None:
    run = Driven(replace(node(1, width=4), batch_size=4))
    run.tell(ev.BatchWasLost(batch=1, had_started=False))
    assert run.all(ev.SubmitBatch)[1].indices == range(4)
    assert run.core.books[1].attempts == bytearray(4)


def test_a_report_of_a_batch_that_was_given_up_changes_nothing() -> None:
    run = Driven(node(1))
    batch = run.batch(1)
    run.tell(ev.BatchWasLost(batch=batch.batch, had_started=False))
    before = len(run.commands)
    run.report(batch)
    assert len(run.commands) == before


# -- grafts -------------------------------------------------------------------------------------------------


def test_an_item_takes_the_outcome_of_the_fragment_that_it_recorded() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.ELEMENTS)))
    run.report(run.batch(1), [Code.GRAFTED], grafts=[Graft(position=0, fragment="f")])
    assert run.all(ev.GraftItem) == [ev.GraftItem(node=1, index=0, fragment="f")]
    run.tell(ev.Grafted(node=1, index=0, nodes=[node(3)], root=3))
    run.report(run.batch(3), info=ValueInfo(kind="sized", type_name="list", length=2))
    assert run.all(ev.Alias) == [ev.Alias(node=1, index=0, root=3)]
    assert run.final(1) is Code.COMPLETED
    assert run.core.books[2].width == 2


def test_a_fragment_whose_root_is_a_map_counts_as_a_list_of_its_items() -> None:
    run = Driven(node(1), node(2, dep(1, DepKind.ELEMENTS)))
    run.report(run.batch(1), [Code.GRAFTED], grafts=[Graft(position=0, fragment="f")])
    run.tell(ev.Grafted(node=1, index=0, nodes=[node(3, width=4)], root=3))
    run.work_off()
    assert run.core.books[2].width == 4


def test_the_failure_of_a_fragment_is_the_items_upstream_failure() -> None:
    run = Driven(node(1))
    run.report(run.batch(1), [Code.GRAFTED], grafts=[Graft(position=0, fragment="f")])
    run.tell(ev.Grafted(node=1, index=0, nodes=[node(3)], root=3))
    run.report(run.batch(3), [Code.FAILED])
    assert run.final(1) is Code.UPSTREAM_FAILED
    assert run.core.root_of(1, 0) == (3, 0, [1])


def test_a_fragment_that_cannot_be_decoded_fails_its_item() -> None:
    run = Driven(node(1))
    run.report(run.batch(1), [Code.GRAFTED], grafts=[Graft(position=0, fragment="f")])
    run.tell(ev.Grafted(node=1, index=0, failed=True))
    assert run.final(1) is Code.FAILED


# -- throttle, stop, end ------------------------------------------------------------------------------------


def test_no_more_batches_are_under_way_than_the_capacity_allows() -> None:
    run = Driven(replace(node(1, width=100), batch_size=1), slots=3)
    assert len(run.core.flights) == 6
    run.tell(ev.CapacitySet(Capacity(slots=4, queue=2)))
    assert len(run.core.flights) == 12


def test_without_slots_a_run_waits_and_has_not_stalled() -> None:
    run = Driven(node(1), slots=0)
    run.tell(ev.RecordingClosed())
    assert not run.core.flights
    assert not run.core.is_stalled()
    run.tell(ev.CapacitySet(Capacity(slots=1)))
    assert run.finish() == ev.FinishRun(Code.COMPLETED, ())


def test_a_stop_cancels_what_has_not_begun_and_keeps_what_ends() -> None:
    run = Driven(replace(node(1, width=8), batch_size=4), node(2), slots=1)
    run.core.run.capacity = Capacity(slots=1, queue=0)
    batch = run.all(ev.SubmitBatch)[0]
    run.tell(ev.StopRequested())
    run.report(batch, [Code.COMPLETED, Code.FAILED, Code.AWAITING_RETRY], anomalies=[retry(2, 1, 1.0)])
    while run.core.flights:
        number = next(iter(run.core.flights))
        run.tell(ev.BatchWasLost(batch=number))
    assert run.states(1)[:4] == [Code.COMPLETED, Code.FAILED, Code.CANCELLED, Code.CANCELLED]
    assert run.states(1)[7] is Code.CANCELLED
    run.tell(ev.RecordingClosed())
    (finish,) = run.all(ev.FinishRun)
    assert finish.code == Code.CANCELLED


def test_a_map_that_was_stopped_before_its_iterator_ended_is_cancelled() -> None:
    run = Driven(node(1, lazy=True))
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=2))
    run.work_off()
    run.tell(ev.StopRequested())
    assert run.states(1) == [Code.COMPLETED] * 2
    assert run.final(1) is Code.CANCELLED
    assert run.finish().code == Code.CANCELLED


def test_nodes_that_are_recorded_after_a_stop_are_cancelled() -> None:
    run = Driven(node(1))
    run.tell(ev.StopRequested())
    run.tell(ev.NodesRecorded([node(2, width=2)]))
    assert run.states(2) == [Code.CANCELLED] * 2


@pytest.mark.parametrize("hard", [False, True])
def test_a_second_stop_is_passed_on(hard: bool) -> None:
    run = Driven(node(1))
    run.tell(ev.StopRequested())
    run.tell(ev.StopRequested(hard))
    assert run.all(ev.StopBatches) == [ev.StopBatches(False), ev.StopBatches(hard)]


def test_a_run_without_nodes_finishes_when_its_body_ends() -> None:
    assert Driven().finish() == ev.FinishRun(Code.COMPLETED, ())


# -- forecasts --------------------------------------------------------------------------------------------


def test_the_work_that_is_left_is_the_items_times_their_mean() -> None:
    run = Driven(node(1, width=100), slots=1)
    assert run.core.remaining_seconds() == 0.0
    run.report(run.batch(1))
    done = 100 - run.core.books[1].states.count(Code.COMPLETED)
    assert run.core.remaining_seconds() == pytest.approx(0.01 * done)
    run.work_off()
    assert run.core.remaining_seconds() == 0.0


def test_nodes_of_a_task_that_was_measured_count_before_they_began() -> None:
    nodes = [replace(node(id_), task_name="same") for id_ in range(1, 21)]
    run = Driven(*nodes, slots=1)
    run.report(run.batch(1))
    assert run.core.remaining_seconds() == pytest.approx(0.01 * 19)


def test_an_iterator_is_taken_to_give_as_much_again_as_it_gave() -> None:
    run = Driven(node(1, lazy=True))
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=8))
    run.work_off()
    assert run.core.remaining_seconds() == pytest.approx(0.01 * 8)
    run.tell(ev.SourceAdvanced(node=1, slot=9, count=0, ended=True))
    assert run.core.remaining_seconds() == 0.0
