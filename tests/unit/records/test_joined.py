"""Several reports in one record say what each says in a record of its own."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

import pytest

from graphflow.errors import HistoryDamaged, HistoryTooNew
from graphflow.model.anomalies import Faults
from graphflow.model.records import Dispatch, Kind, Record
from graphflow.model.reports import StepReport, Stored
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter, Reported, decode, join
from graphflow.records.facts import encode_dispatches
from graphflow.records.items import ItemsBody
from graphflow.records.joined import Joined, Part, can_join


def a_part(dice: random.Random, number: int) -> Part:
    size = dice.randint(1, 40)
    lo = dice.randrange(1_000_000)
    indices: Sequence[int] = range(lo, lo + size)
    if dice.random() < 0.5:
        indices = array("I", sorted(dice.sample(range(2**31), size)))
    stored = None
    if dice.random() < 0.5:
        stored = Stored(
            name=dice.choice(["a.pack", "b.pack"]),
            offset=dice.randrange(2**40),
            nbytes=dice.randrange(2**30),
            digest=dice.randbytes(16),
            count=size,
            missing=tuple(sorted(dice.sample(range(size), dice.randint(0, size)))),
            is_whole=dice.random() < 0.5,
        )
    step = StepReport(
        node=7,
        states=bytes(dice.choices([Code.COMPLETED, Code.SKIPPED], k=size)),
        attempts=dice.randbytes(size),
        starts=array("f", [dice.random() * 1e6 for _ in range(size)]),
        durations=array("f", [dice.random() for _ in range(size)]),
        stored=stored,
        digests=dice.randbytes(8 * size) if dice.random() < 0.5 else b"",
    )
    held: Sequence[int] | None = dice.choice([None, (), range(size, size + 5), array("I", [3, 9])])
    labels: list[str | None] | None = None
    if dice.random() < 0.5:
        labels = [dice.choice([None, "a", "\ud800", "é" * 9]) for _ in range(size)]
    made = ItemsBody(
        batch=number,
        worker=dice.choice(["w1", "w2"]),
        started=dice.random() * 2e9,
        indices=indices,
        step=step,
        held=held,
    )
    return Part(made, labels)


def some_parts(seed: int) -> list[Part]:
    dice = random.Random(seed)
    return [a_part(dice, number) for number in range(1, dice.randint(2, 6) + 1)]


def plain(each: ItemsBody) -> tuple[object, ...]:
    step = each.step
    held = None if each.held is None else list(each.held)
    labels = None if step.labels is None else list(step.labels.data)
    return (
        each.batch,
        each.worker,
        each.started,
        list(each.indices),
        held,
        labels,
        step.states,
        step.attempts,
        step.starts,
        step.durations,
        step.stored,
        step.digests,
    )


@pytest.mark.parametrize("seed", range(40))
def test_what_was_joined_comes_back_as_from_records_of_their_own(seed: int) -> None:
    reported = [Reported(7, 5.0, part) for part in some_parts(seed)]
    record = join(reported)
    assert record.kind == Kind.JOINED and record.node == 7
    told = decode(record)
    assert isinstance(told, Joined)
    alone = [decode(each.record()) for each in reported]
    assert [plain(each) for each in told.bodies] == [plain(each) for each in alone]
    for each in told.bodies:
        assert record.lo <= min(each.indices) and max(each.indices) < record.lo + record.count


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_is_refused_or_read_but_never_breaks_the_reader(seed: int) -> None:
    record = join([Reported(7, 5.0, part) for part in some_parts(seed)])
    dice = random.Random(seed)
    for _ in range(50):
        at = dice.randrange(8 * len(record.body))
        flipped = bytearray(record.body)
        flipped[at // 8] ^= 1 << at % 8
        try:
            decode(Record(Kind.JOINED, 5.0, bytes(flipped), record.node, record.lo, record.count))
        except (HistoryDamaged, HistoryTooNew) as error:
            assert "is damaged" in str(error) or "newer" in str(error)


def test_what_failed_is_told_alone() -> None:
    step = StepReport(
        node=1,
        states=bytes([Code.FAILED]),
        attempts=b"\1",
        starts=array("f", [0]),
        durations=array("f", [0]),
        faults=Faults(positions=(0,), errors=0),
    )
    assert not can_join(ItemsBody(batch=1, worker="w", started=0.0, indices=range(1), step=step))


@pytest.mark.parametrize("count", [1, 3])
def test_batches_that_are_sent_together_are_one_record(count: int) -> None:
    sent = [
        Dispatch(batch=5 + at, nodes=(2, 3), indices=range(10 * at, 10 * at + 7), is_fresh=bool(at % 2))
        for at in range(count)
    ]
    record = RecordWriter().dispatches(sent, 9.0)
    told = decode(record)
    found = [told] if count == 1 else list(told.each)
    assert [(each.batch, tuple(each.nodes), list(each.indices), each.is_fresh) for each in found] == [
        (each.batch, each.nodes, list(each.indices), each.is_fresh) for each in sent
    ]
    assert record.node == 2 and record.lo == 0
    assert count == 1 or record.count == 10 * count - 3
    assert encode_dispatches(sent)
