"""What is piled up is found as if it were not."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

import pytest

from graphflow.model.anomalies import Faults
from graphflow.model.orders import Ref
from graphflow.model.reports import StepReport, Stored, stored_ref
from graphflow.model.states import Code
from graphflow.records import item_index
from graphflow.records.item_index import NodeHistory
from graphflow.records.piles import Pile
from graphflow.records.segments import Segment

STORE = "the store"
FILLER = Ref(kind="local", id="none", count=1, data=[None])


def segment(lo: int, size: int, number: int, kind: str) -> Segment:
    stored = Stored(
        name=f"p{number % 3}", offset=10 * number, nbytes=9, digest=bytes([number % 256] * 16), count=size
    )
    values = {
        "stored": stored_ref(stored, STORE),
        "local": Ref(kind="local", id="", count=size, data=list(range(size))),
        "inline": Ref(kind="inline", id=f"i{number}", count=size, data=b"x"),
        "none": None,
        "failed": stored_ref(stored, STORE),
    }[kind]
    step = StepReport(
        node=3,
        states=bytes([Code.FAILED if kind == "failed" else Code.COMPLETED]) * size,
        attempts=bytes([1 + number % 3]) * size,
        starts=array("f", [number + 0.5] * size),
        durations=array("f", range(size)),
        stored=None if kind == "none" else stored,
        values=values,
        faults=Faults(positions=tuple(range(size)), errors=0) if kind == "failed" else Faults(),
    )
    return Segment(range(lo, lo + size), step, 100.0 + number, f"w{number % 2}")


KINDS = ["stored", "local", "inline", "stored", "none", "failed"]


def segments(seed: int) -> list[Segment]:
    dice = random.Random(seed)
    found, lo = list[Segment](), 0
    for number in range(dice.randint(1, 60)):
        lo += dice.choice([0, 0, 0, 5])
        size = dice.randint(1, 9)
        found.append(segment(lo, size, number, dice.choice(KINDS)))
        lo += size
    dice.shuffle(found)
    return found


@pytest.fixture(autouse=True, scope="module")
def soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_index, "PILE_AFTER", 7)
        yield


def told(each: Segment) -> tuple[object, ...]:
    step = each.step
    where = None if step.stored is None else (step.stored.name, step.stored.offset, step.stored.digest)
    return (
        each.indices,
        each.started,
        each.worker,
        step.states,
        step.attempts,
        step.starts,
        step.durations,
        where,
        step.values is None,
    )


@pytest.mark.parametrize("seed", range(60))
def test_items_are_found_as_before(seed: int) -> None:
    given_segments = segments(seed)
    history, plain = NodeHistory(STORE), NodeHistory(STORE)
    plain.may_pile = False
    for each in given_segments:
        history.add(each)
        plain.add(each)
    assert [told(each) for each in history.segments()] == [told(each) for each in plain.segments()]
    width = max(each.indices.stop for each in given_segments) + 2
    for index in range(width):
        found, expected = history.find(index), plain.find(index)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert told(found[0]) == told(expected[0]) and found[1] == expected[1]
        assert (history.place(index) is None) == (plain.place(index) is None)
    for lo in range(0, width, 3):
        count = [len(entries) for _, entries in history.parts(range(lo, width), FILLER)]
        assert sum(count) == width - lo
    fillers = sum(len(entries) for ref, entries in history.parts(range(width), FILLER) if ref is FILLER)
    assert fillers == sum(len(entries) for ref, entries in plain.parts(range(width), FILLER) if ref is FILLER)


def test_neighbours_are_piled_up_and_forget_what_is_lost() -> None:
    history = NodeHistory(STORE)
    for number in range(14):
        history.add(segment(10 * number, 10, number, "stored"))
    assert [len(each) for each in history.ranges if isinstance(each, Pile)] == [14]
    history.forget(lambda ref: ref.offset == 30)
    assert history.place(35) is None and history.place(45) is not None


def test_what_is_only_in_memory_is_not_piled_up() -> None:
    history = NodeHistory(None)
    for number in range(20):
        history.add(segment(10 * number, 10, number, "local"))
    assert all(isinstance(each, Segment) for each in history.ranges)
    assert history.place(5) is not None
