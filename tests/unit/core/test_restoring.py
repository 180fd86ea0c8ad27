"""What an earlier launch ended is taken over, as items become ready; the core alone, with pasts made by hand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.core.nodes import Past
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.model.map_options import MapOptions
from graphflow.model.policies import all_finished
from graphflow.model.reports import Report, StepReport, ValueInfo
from graphflow.model.states import Code
from graphflow.ports import Capacity

DONE, FAILED, SKIPPED, OPEN = Code.COMPLETED, Code.FAILED, Code.SKIPPED, Code.PENDING
THERE, GONE, NEVER = Past.THERE, Past.GONE, Past.NEVER_KEPT


def dep(
    upstream: int, kind: DepKind, *, index: int | None = None, slot: int = 0, allows: bool = False
) -> Dep:
    return Dep(
        upstream=upstream, kind=kind, slot=slot, index=index, argument=f"a{slot}", allows_failure=allows
    )


def node(id_: int, *deps: Dep, width: int | None = None, lazy: bool = False, fuses: bool = False) -> Node:
    has_own = width is not None or lazy
    return Node(
        id=id_,
        key=str(id_),
        name=f"n{id_}",
        task_name=f"n{id_}",
        is_mapped=has_own or any(each.kind in (DepKind.ITEMS, DepKind.ELEMENTS) for each in deps),
        deps=deps,
        sources=(Source(slot=9, argument="own", length=width),) if has_own else (),
        fuse_key="one" if fuses else None,
    )


def past(
    *states: Code,
    attempts: Sequence[int] = (),
    valued: Sequence[int] = (),
    width: int | None = -1,
    info: ValueInfo | None = None,
    suspects: Sequence[Sequence[int]] = (),
) -> Past:
    size = len(states)
    return Past(
        width=size if width == -1 else width,
        states=bytearray(states),
        attempts=bytearray(attempts or [int(code != OPEN) for code in states]),
        valued=bytearray(valued or [THERE] * size),
        info=info,
        suspects=suspects,
    )


class Launch:
    """A core that is told of nodes and what is left of them, and the batches that it sends."""

    def __init__(self, *nodes: Node, slots: int = 2, **pasts: Past) -> None:
        self.core = Core(capacity=Capacity(slots=slots, queue=9))
        self.commands: list[ev.Command] = []
        self.tell(ev.NodesRecorded(nodes, {int(name[1:]): each for name, each in pasts.items()}))

    def tell(self, event: ev.Event) -> None:
        self.commands += self.core.handle(event, 0.0)

    @property
    def sent(self) -> list[tuple[tuple[int, ...], list[int]]]:
        return [(each.nodes, [*each.indices]) for each in self.batches]

    @property
    def batches(self) -> list[ev.SubmitBatch]:
        return [each for each in self.commands if isinstance(each, ev.SubmitBatch)]

    def report(self, code: Code = DONE, *, of: int | None = None) -> None:
        """The oldest batch under way (of a node) ends, all of it in one state."""
        number = next(each for each, flight in self.core.flights.items() if of is None or of in flight.nodes)
        batch = next(each for each in self.batches if each.batch == number)
        size = len(batch.indices)
        tries = [each or bytes(size) for each in batch.tries]
        steps = tuple(
            StepReport(
                node=id_,
                states=bytes([code]) * size,
                attempts=bytes(used + 1 for used in tries[step]),
                starts=_floats(size),
                durations=_floats(size),
            )
            for step, id_ in enumerate(batch.nodes)
        )
        self.tell(
            ev.BatchReported(
                Report(batch=number, worker="w", started=0.0, elapsed=0.0, reached=size, steps=steps)
            )
        )

    def states(self, id_: int) -> list[Code]:
        return [Code(code) for code in self.core.books[id_].states]

    def final(self, id_: int) -> Code:
        return Code(self.core.books[id_].final)

    def finish(self) -> ev.FinishRun:
        self.tell(ev.RecordingClosed())
        while self.core.flights:
            self.report()
        (finish,) = [each for each in self.commands if isinstance(each, ev.FinishRun)]
        return finish


def _floats(size: int) -> array[float]:
    return array("f", [0.0] * size)


# -- what is done is done -------------------------------------------------------------------------------------


def test_a_map_that_is_done_ends_without_a_batch() -> None:
    launch = Launch(node(1, width=3), n1=past(DONE, Code.CACHED, SKIPPED, attempts=(2, 1, 1)))
    assert launch.sent == []
    assert launch.final(1) is DONE
    assert [*launch.core.books[1].attempts] == [2, 1, 1]
    assert launch.finish().code == DONE


def test_only_what_is_missing_runs() -> None:
    launch = Launch(node(1, width=5), n1=past(DONE, OPEN, DONE, OPEN, DONE))
    assert sorted(index for _, indices in launch.sent for index in indices) == [1, 3]
    assert launch.finish().code == DONE


def test_maps_of_width_0_and_1_are_taken_over_too() -> None:
    gathers = node(3, dep(1, DepKind.GATHER), dep(2, DepKind.GATHER, slot=1))
    launch = Launch(node(1, width=0), node(2, width=1), gathers, n1=past(), n2=past(DONE), n3=past(DONE))
    assert launch.sent == []
    assert (launch.final(1), launch.final(2), launch.final(3)) == (DONE, DONE, DONE)


def test_a_batch_of_an_earlier_launch_is_not_known() -> None:
    core = Core(capacity=Capacity(slots=1), batches=7)
    (sent,) = [
        each
        for each in core.handle(ev.NodesRecorded([node(1, width=1)]), 0.0)
        if isinstance(each, ev.SubmitBatch)
    ]
    assert sent.batch == 8
    late = Report(batch=7, worker="w", started=0.0, elapsed=0.0, reached=0, steps=())
    assert core.handle(ev.BatchReported(late), 0.0) == []


def test_items_go_on_with_the_attempts_that_they_have_used() -> None:
    launch = Launch(node(1, width=3), n1=past(OPEN, OPEN, OPEN, attempts=(0, 2, 1)))
    tried = {
        index: None if each.tries[0] is None else each.tries[0][place]
        for each in launch.batches
        for place, index in enumerate(each.indices)
    }
    assert tried == {0: None, 1: 2, 2: 1}


def test_items_that_killed_two_drivers_run_alone() -> None:
    launch = Launch(node(1, width=4), n1=past(OPEN, OPEN, OPEN, OPEN, suspects=([2],)))
    assert ((1,), [2]) in launch.sent


def test_what_a_value_is_to_a_map_is_known_again() -> None:
    info = ValueInfo(kind="sized", type_name="list", length=2)
    launch = Launch(node(1), node(2, dep(1, DepKind.ELEMENTS)), n1=past(DONE, info=info))
    assert launch.sent == [((2,), [0]), ((2,), [1])] or launch.sent == [((2,), [0, 1])]


# -- values ---------------------------------------------------------------------------------------------------


def test_a_value_that_is_lost_is_made_again_and_what_was_made_of_it_stays() -> None:
    launch = Launch(
        node(1, width=2),
        node(2, dep(1, DepKind.ITEMS)),
        n1=past(DONE, DONE, valued=(THERE, GONE)),
        n2=past(DONE, DONE),
    )
    assert launch.sent == [((1,), [1])]
    launch.report()
    assert launch.states(2) == [DONE, DONE]
    assert launch.sent == [((1,), [1])]


def test_a_value_that_nothing_kept_is_not_made_again_while_all_that_takes_it_is_done() -> None:
    launch = Launch(
        node(1, width=2, fuses=True),
        node(2, dep(1, DepKind.ITEMS), fuses=True),
        n1=past(DONE, DONE, valued=(NEVER, NEVER)),
        n2=past(DONE, OPEN),
    )
    assert launch.sent == [((1, 2), [1])]
    assert launch.states(1)[0] is DONE


def test_a_value_that_nothing_kept_is_made_again_for_whoever_else_takes_it() -> None:
    launch = Launch(
        node(1, width=2, fuses=True),
        node(2, dep(1, DepKind.ITEMS), fuses=True),
        node(3, dep(1, DepKind.PICK, index=1)),
        n1=past(DONE, DONE, valued=(NEVER, NEVER)),
        n2=past(DONE, DONE),
    )
    assert launch.sent == [((1,), [1])]


def test_a_value_that_nobody_takes_is_made_again_if_it_was_not_kept() -> None:
    launch = Launch(node(1, width=2), n1=past(DONE, DONE, valued=(NEVER, THERE)))
    assert launch.sent == [((1,), [0])]


def test_what_a_chain_of_lost_values_needs_is_made_again_with_it() -> None:
    launch = Launch(
        node(1, width=1, fuses=True),
        node(2, dep(1, DepKind.ITEMS), fuses=True),
        node(3, dep(2, DepKind.ITEMS), fuses=True),
        n1=past(DONE, valued=(NEVER,)),
        n2=past(DONE, valued=(NEVER,)),
        n3=past(DONE, valued=(GONE,)),
    )
    assert launch.sent == [((1, 2, 3), [0])]


# -- what it was made of ----------------------------------------------------------------------------------------


def test_what_took_all_of_a_map_counts_no_more_if_that_has_another_width() -> None:
    gathers = node(2, dep(1, DepKind.GATHER))
    launch = Launch(node(1, width=2), gathers, n1=past(DONE, DONE, DONE), n2=past(DONE))
    assert launch.sent == [((2,), [0])]
    assert launch.final(1) is DONE


def test_what_was_made_of_an_outcome_counts_no_more_if_that_is_another_now() -> None:
    anyway = replace(node(2, dep(1, DepKind.ITEMS)), trigger=all_finished)
    launch = Launch(node(1, width=2), anyway, n1=past(DONE, DONE, valued=(THERE, GONE)), n2=past(DONE, DONE))
    assert launch.sent == [((1,), [1])]
    launch.report(FAILED)
    assert launch.sent == [((1,), [1]), ((2,), [1])]
    assert launch.states(2)[0] is DONE


def test_failures_that_were_handed_to_what_is_taken_over_count_as_seen() -> None:
    sees = node(2, dep(1, DepKind.ITEMS, allows=True))
    launch = Launch(node(1, width=1), sees, n1=past(FAILED), n2=past(DONE))
    finish = launch.finish()
    assert (finish.code, finish.unhandled) == (DONE, ())
    launch = Launch(node(1, width=1), n1=past(FAILED))
    assert launch.finish().unhandled == (1,)


# -- maps that end early ------------------------------------------------------------------------------------------


def test_a_run_that_stops_at_once_forgets_nothing_that_had_ended() -> None:
    launch = Launch(
        node(1),
        node(2, dep(1, DepKind.ORDER), width=3),
        node(3, dep(1, DepKind.ORDER), width=2),
        n2=past(DONE, OPEN, SKIPPED),
        n3=past(DONE, DONE),
    )
    launch.tell(ev.StopRequested())
    assert launch.states(2) == [DONE, Code.CANCELLED, SKIPPED]
    assert launch.final(3) is DONE
    told = [each for each in launch.commands if isinstance(each, ev.ItemsEnded) and each.node == 2]
    assert [[*each.indices] for each in told] == [[1]]


def test_a_map_that_a_stopping_run_records_keeps_what_had_ended() -> None:
    launch = Launch(node(1))
    launch.tell(ev.StopRequested())
    launch.tell(ev.NodesRecorded([node(2, lazy=True)], {2: past(DONE, OPEN, DONE, width=None)}))
    assert launch.states(2) == [DONE, Code.CANCELLED, DONE]
    assert launch.final(2) is Code.CANCELLED


def test_an_item_that_ran_for_its_value_alone_stays_done_when_the_run_stops() -> None:
    launch = Launch(node(1, width=1), n1=past(DONE, valued=(GONE,)))
    launch.tell(ev.StopRequested())
    empty = Report(
        batch=launch.batches[0].batch,
        worker="w",
        started=0.0,
        elapsed=0.0,
        reached=0,
        steps=(StepReport(node=1, states=b"", attempts=b"", starts=_floats(0), durations=_floats(0)),),
    )
    launch.tell(ev.BatchReported(empty))
    assert launch.states(1) == [DONE]


def test_a_map_that_fails_early_keeps_what_had_ended() -> None:
    first = replace(node(1, width=4), map_options=MapOptions(fail_fast=True), batch_size=1)
    waits = replace(node(2, dep(1, DepKind.ITEMS)), batch_size=1)
    launch = Launch(first, waits, slots=1, n1=past(OPEN, DONE, OPEN, OPEN), n2=past(OPEN, DONE, OPEN, OPEN))
    launch.report(FAILED)
    assert launch.states(1)[:2] == [FAILED, DONE]
    assert launch.states(2)[1] is DONE
    assert launch.final(1) is OPEN or launch.final(1) is FAILED


def test_what_an_early_end_finds_not_ready_keeps_the_outcome_it_had() -> None:
    """Item 1 is not ready again, since the value that it took is made anew, when the map ends early."""
    second = replace(node(2, dep(1, DepKind.ITEMS)), batch_size=1, map_options=MapOptions(fail_fast=True))
    launch = Launch(
        replace(node(1, width=2), batch_size=1),
        second,
        n1=past(DONE, DONE, valued=[THERE, GONE]),
        n2=past(OPEN, SKIPPED),
    )
    launch.report(Code.FAILED, of=2)
    assert launch.states(2) == [Code.FAILED, SKIPPED]
