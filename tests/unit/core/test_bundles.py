"""Nodes that are not mapped and run together: which, and what becomes of a batch of them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from graphflow.core import events as ev
from graphflow.core.core import Core
from graphflow.graph.graph import Dep, DepKind, Node
from graphflow.model.policies import all_finished
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import Capacity


def node(id_: int, *needs: int, key: str | None = "f", own_trigger: bool = False) -> Node:
    deps = [
        Dep(upstream=need, kind=DepKind.VALUE, slot=slot, argument=f"a{slot}")
        for slot, need in enumerate(needs)
    ]
    node = Node(
        id=id_,
        key=str(id_),
        name=f"n{id_}",
        task_name="f",
        is_mapped=False,
        deps=tuple(deps),
        bundle_key=key,
    )
    return (
        node
        if not own_trigger
        else Node(
            id=id_,
            key=str(id_),
            name=f"n{id_}",
            task_name="f",
            is_mapped=False,
            deps=tuple(deps),
            trigger=all_finished,
        )
    )


def core_of(*nodes: Node, slots: int = 1) -> tuple[Core, list[ev.SubmitBatch]]:
    core = Core(capacity=Capacity(slots=slots, queue=0))
    return core, sent(core.handle(ev.NodesRecorded(nodes), 0.0))


def sent(commands: Sequence[ev.Command]) -> list[ev.SubmitBatch]:
    return [each for each in commands if isinstance(each, ev.SubmitBatch)]


def report(
    core: Core,
    batch: ev.SubmitBatch,
    codes: Mapping[int, Code],
    *,
    reached: int | None = None,
    positions: Sequence[int] | None = None,
    held: Sequence[int] = (),
    is_refused: bool = False,
) -> list[ev.Command]:
    steps = [
        StepReport(
            node=id_,
            states=bytes([code]),
            attempts=b"\1",
            starts=array("f", [0.0]),
            durations=array("f", [0.001]),
        )
        for id_, code in codes.items()
    ]
    told = len(batch.indices) if reached is None else reached
    told = told if positions is None else len(positions)
    made = Report(
        batch=batch.batch,
        worker="w",
        started=0.0,
        elapsed=0.001,
        reached=told,
        steps=tuple(steps),
        positions=range(told) if held else positions,
        held=held,
        is_refused=is_refused,
    )
    return core.handle(ev.BatchReported(made), 1.0)


def test_nodes_of_one_task_that_are_ready_together_share_a_batch() -> None:
    core, (batch,) = core_of(*(node(id_) for id_ in range(8)))
    assert batch.is_bundle and batch.nodes == (0, 1, 2, 3)
    (rest,) = sent(report(core, batch, dict.fromkeys(batch.nodes, Code.COMPLETED)))
    assert rest.nodes == (4, 5, 6, 7)
    report(core, rest, dict.fromkeys(rest.nodes, Code.COMPLETED))
    assert all(book.final == Code.COMPLETED for book in core.books.values())


def test_nodes_of_other_tasks_and_with_triggers_stay_alone() -> None:
    core, _ = core_of(node(0, key="f"), node(1, key="g"), node(2, key=None), node(3, 0, own_trigger=True))
    batches: list[ev.SubmitBatch] = []
    while core.flights:
        (number,) = core.flights
        flight = core.flights[number]
        assert flight.bundle is None and len(flight.nodes) == 1
        batch = ev.SubmitBatch(
            batch=number, nodes=flight.nodes, indices=flight.indices, width=1, tries=(), slice_seconds=None
        )
        batches.append(batch)
        report(core, batch, {flight.nodes[0]: Code.COMPLETED})
    assert len(batches) == 4


def test_a_chain_follows_its_first_node_in_one_batch() -> None:
    core, (batch,) = core_of(node(0), node(1, 0), node(2, 1), node(3, 2, key="other"))
    assert batch.nodes == (0, 1, 2)
    running = [core.books[id_].has_started for id_ in range(3)]
    assert running == [True, False, False]
    commands = report(core, batch, dict.fromkeys(batch.nodes, Code.COMPLETED))
    assert isinstance(commands[0], ev.CommitReport)
    moved = [
        (each.node, Code(each.code).name)
        for each in commands
        if isinstance(each, ev.NodeChanged) and each.node in (1, 2)
    ]
    assert moved == [(1, "RUNNING"), (1, "COMPLETED"), (2, "RUNNING"), (2, "COMPLETED")]
    assert [each.nodes for each in sent(commands)] == [(3,)]


def test_what_followed_a_failed_node_was_not_begun_and_fails_upstream() -> None:
    core, (batch,) = core_of(node(0), node(1, 0), node(2, 1))
    report(core, batch, {0: Code.FAILED})
    assert [core.books[id_].final for id_ in range(3)] == [
        Code.FAILED,
        Code.UPSTREAM_FAILED,
        Code.UPSTREAM_FAILED,
    ]
    assert not core.flights


def test_nodes_that_a_batch_did_not_reach_are_sent_again_in_their_order() -> None:
    core, (batch,) = core_of(*(node(id_) for id_ in range(8)))
    (again,) = sent(report(core, batch, {0: Code.COMPLETED}, reached=1))
    assert again.nodes[:3] == (1, 2, 3)


def test_a_follower_that_is_held_is_not_sent_again_when_its_input_ends() -> None:
    core, (batch,) = core_of(node(0), node(1, 0), slots=2)
    commands = report(core, batch, {0: Code.COMPLETED}, reached=1, held=[1])
    assert not sent(commands) and not core.books[1].is_final
    report(core, batch, {1: Code.COMPLETED}, positions=[1])
    assert core.books[1].final == Code.COMPLETED and not core.flights


def test_the_node_that_killed_a_worker_runs_alone_and_the_others_without_blame() -> None:
    core, (batch,) = core_of(*(node(id_) for id_ in range(8)))
    commands = core.handle(ev.BatchWasLost(batch=batch.batch, executing=1, had_started=True), 1.0)
    seen = sent(commands)
    while len(core.flights) and core.books[1].final == 0:
        (number,) = core.flights
        flight = core.flights[number]
        if flight.nodes == (1,):
            commands = core.handle(ev.BatchWasLost(batch=number, executing=0, had_started=True), 2.0)
            if core.books[1].final:
                break
        else:
            now = next(each for each in seen if each.batch == number)
            commands = report(core, now, dict.fromkeys(now.nodes, Code.COMPLETED))
        seen += sent(commands)
    assert core.books[1].final == Code.CRASHED
    assert core.books[1].attempts == b"\2"
    assert all(not core.books[id_].attempts[0] for id_ in (0, 2, 3) if not core.books[id_].final)


def test_a_batch_that_cannot_be_read_runs_node_by_node() -> None:
    core, (batch,) = core_of(*(node(id_) for id_ in range(4)))
    assert len(batch.nodes) == 2
    commands = report(core, batch, {}, is_refused=True)
    assert not any(isinstance(each, ev.CommitReport) for each in commands)
    single = []
    while core.flights:
        (number,) = core.flights
        flight = core.flights[number]
        single += [flight.nodes] if flight.bundle is None else []
        commands = report(
            core,
            ev.SubmitBatch(
                batch=number,
                nodes=flight.nodes,
                indices=flight.indices,
                width=None,
                tries=(),
                slice_seconds=None,
            ),
            dict.fromkeys(flight.nodes, Code.COMPLETED),
        )
    assert {(0,), (1,)} <= {*single}
