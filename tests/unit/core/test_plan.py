from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest

from graphflow.core.core import Core
from graphflow.core.events import BatchReported, NodesRecorded, SubmitBatch
from graphflow.graph.graph import Dep, DepKind, Node, Source
from graphflow.model.policies import all_finished
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import Capacity


def items(upstream: int, **more: bool) -> Dep:
    return Dep(upstream=upstream, kind=DepKind.ITEMS, slot=0, argument="x", **more)


def constant(upstream: int, kind: DepKind = DepKind.VALUE, **more: bool) -> Dep:
    return Dep(upstream=upstream, kind=kind, slot=1, argument="c", **more)


def scalar(id_: int, *deps: Dep) -> Node:
    return Node(id=id_, key=str(id_), name=f"n{id_}", task_name=f"n{id_}", is_mapped=False, deps=deps)


def mapped(id_: int, *deps: Dep) -> Node:
    """A mapped node: over three elements of its own if it has no item-wise input."""
    is_fed = any(dep.kind in (DepKind.ITEMS, DepKind.ELEMENTS) for dep in deps)
    sources = () if is_fed else (Source(slot=0, argument="x", length=3),)
    return Node(
        id=id_,
        key=str(id_),
        name=f"n{id_}",
        task_name=f"n{id_}",
        is_mapped=True,
        deps=deps,
        sources=sources,
        fuse_key="k",
    )


def stages(*nodes: Node) -> list[list[int]]:
    """The ids of fused nodes, stage by stage, when all are recorded at once on a backend without slots."""
    core = Core(capacity=Capacity(slots=0))
    core.handle(NodesRecorded(nodes), 0.0)
    return grouped(core)


def report(batch: SubmitBatch, code: Code) -> Report:
    """All items of a batch ended alike."""
    size = len(batch.indices)
    steps = tuple(
        StepReport(
            node=node,
            states=bytes([code]) * size,
            attempts=b"\x01" * size,
            starts=array("f", [0.0] * size),
            durations=array("f", [0.0] * size),
        )
        for node in batch.nodes
    )
    return Report(batch=batch.batch, worker="w", started=0.0, elapsed=0.0, reached=size, steps=steps)


def grouped(core: Core) -> list[list[int]]:
    found = {book.stage.id: book.stage.members for book in core.books.values()}
    return list(found.values())


def test_a_chain_of_maps_is_one_stage() -> None:
    x = scalar(9)
    over = Dep(upstream=9, kind=DepKind.ELEMENTS, slot=0)
    assert stages(x, mapped(1, over), mapped(2, items(1)), mapped(3, items(2))) == [[9], [1, 2, 3]]


def test_a_chain_whose_leader_waits_for_nothing_is_one_stage_too() -> None:
    assert stages(mapped(1), mapped(2, items(1))) == [[1, 2]]


def test_a_diamond_is_one_stage() -> None:
    assert stages(mapped(1), mapped(2, items(1)), mapped(3, items(1)), mapped(4, items(2), items(3))) == [
        [1, 2, 3, 4]
    ]


def test_a_reduce_ends_a_stage() -> None:
    gather = constant(1, DepKind.GATHER)
    assert stages(mapped(1), scalar(2, gather), mapped(3, items(1), constant(2))) == [[1], [2], [3]]


def test_a_zip_of_two_stages_is_a_third() -> None:
    assert stages(mapped(1), mapped(2), mapped(3, items(1), items(2))) == [[1], [2], [3]]


def test_other_resources_end_a_stage() -> None:
    assert stages(mapped(1), replace(mapped(2, items(1)), fuse_key="gpu")) == [[1], [2]]
    assert stages(mapped(1), replace(mapped(2, items(1)), fuse_key=None)) == [[1], [2]]


def test_another_batch_size_ends_a_stage() -> None:
    assert stages(mapped(1), replace(mapped(2, items(1)), batch_size=5)) == [[1], [2]]


def test_a_trigger_of_its_own_ends_a_stage_but_may_lead_one() -> None:
    assert stages(mapped(1), replace(mapped(2, items(1)), trigger=all_finished), mapped(3, items(2))) == [
        [1],
        [2, 3],
    ]


def test_an_input_whose_failure_is_wanted_ends_a_stage() -> None:
    assert stages(mapped(1), mapped(2, items(1, allows_failure=True))) == [[1], [2]]


def test_a_map_with_a_sequence_of_its_own_begins_a_stage() -> None:
    extra = Source(slot=1, argument="y", length=3)
    assert stages(mapped(1), replace(mapped(2, items(1)), sources=(extra,))) == [[1], [2]]


def test_a_constant_that_is_not_there_yet_ends_a_stage() -> None:
    assert stages(scalar(9), mapped(1), mapped(2, items(1), constant(9))) == [[9], [1], [2]]


def test_a_constant_that_the_leader_waits_for_as_well_ends_no_stage() -> None:
    assert stages(scalar(9), mapped(1, constant(9)), mapped(2, items(1), constant(9))) == [[9], [1, 2]]


def test_a_constant_that_only_the_leader_may_see_failed_ends_a_stage() -> None:
    leader = mapped(1, constant(9, allows_failure=True))
    assert stages(scalar(9), leader, mapped(2, items(1), constant(9))) == [[9], [1], [2]]


def test_a_constant_of_another_kind_ends_a_stage() -> None:
    leader = mapped(1, constant(9, DepKind.ORDER))
    assert stages(scalar(9), leader, mapped(2, items(1), constant(9))) == [[9], [1], [2]]


def test_a_node_that_is_not_mapped_is_a_stage_by_itself() -> None:
    assert stages(scalar(1), scalar(2, constant(1))) == [[1], [2]]


def test_a_stage_that_has_begun_takes_no_more_nodes() -> None:
    core = Core(capacity=Capacity(slots=1))
    core.handle(NodesRecorded([mapped(1)]), 0.0)
    core.handle(NodesRecorded([mapped(2, items(1))]), 0.0)
    assert grouped(core) == [[1], [2]]


@pytest.mark.parametrize("code", [Code.COMPLETED, Code.FAILED, Code.SKIPPED])
def test_a_constant_that_has_ended_joins_only_if_it_succeeded(code: Code) -> None:
    core = Core(capacity=Capacity(slots=1))
    (batch,) = (
        each for each in core.handle(NodesRecorded([scalar(9)]), 0.0) if isinstance(each, SubmitBatch)
    )
    core.handle(BatchReported(report(batch, code)), 0.0)
    core.handle(NodesRecorded([scalar(8), mapped(1, constant(8)), mapped(2, items(1), constant(9))]), 0.0)
    assert grouped(core) == ([[9], [8], [1, 2]] if code is Code.COMPLETED else [[9], [8], [1], [2]])


def test_deeper_stages_go_first() -> None:
    core = Core(capacity=Capacity(slots=0))
    nodes: Sequence[Node] = [mapped(1), scalar(2, constant(1, DepKind.GATHER)), scalar(3, constant(2))]
    core.handle(NodesRecorded(nodes), 0.0)
    assert [core.books[id_].stage.depth for id_ in (1, 2, 3)] == [1, 2, 3]
