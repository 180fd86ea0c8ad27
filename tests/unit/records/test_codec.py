"""What is written down of a run is read back exactly."""

from __future__ import annotations

import functools
import itertools
import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphflow.errors import HistoryDamaged, HistoryTooNew
from graphflow.model.anomalies import CHUNK, AnomalyTable, ErrorRecord, Faults, Variants, pack_chunk
from graphflow.model.orders import Ref
from graphflow.model.records import (
    Alias,
    Answer,
    Dispatch,
    Ended,
    Entry,
    EntryDep,
    Kind,
    Launch,
    Lost,
    NodeEntry,
    Record,
    Transition,
)
from graphflow.model.reports import LogRecord, Report, StepReport, Stored, ValueInfo
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter, decode
from graphflow.records.item_index import MemoryHistory, Segment
from graphflow.records.replay import Replay


class ListHistory:
    """A history in a list: commits of records."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._seqs = itertools.count(1)

    def commit(self, records: Iterable[Record | None]) -> int:
        seq = next(self._seqs)
        kept = [record for record in records if record is not None]
        self.entries += [Entry(seq, place, 1, record) for place, record in enumerate(kept)]
        return seq

    def read(self) -> Iterator[Entry]:
        return iter(self.entries)


short = st.text(max_size=12)
seconds = st.floats(min_value=0, max_value=1e6, width=32)
codes = st.sampled_from(list(Code))
# Made once: a strategy that is made for each draw costs more than the draw.
infos = st.none() | st.builds(
    ValueInfo, kind=st.just("sized"), type_name=short, length=st.integers(0, 99), hint=short
)
stores = st.none() | st.builds(
    Stored,
    name=short,
    offset=st.integers(0, 1 << 40),
    nbytes=st.integers(0, 1 << 40),
    digest=st.binary(max_size=16),
    count=st.just(0),
)
label_texts = st.lists(st.none() | st.text(max_size=9), min_size=1, max_size=20)
messages = st.text(max_size=30)
times = st.floats(0, 4e9)
few = st.integers(0, 3)
attempts = st.integers(0, 300)
delays = st.floats(0, 1e6)
input_texts = st.text(min_size=1, max_size=9)
sizes = st.one_of(st.integers(0, 5), st.integers(0, 150))
log_indices = st.none() | st.integers(0, 9)
held = st.lists(st.integers(0, 500), max_size=3, unique=True)
type_names = st.sampled_from(["ValueError", "KeyError", "my.Broken"])


@functools.cache
def below(size: int) -> st.SearchStrategy[int]:
    return st.integers(0, size - 1)


def each_of(draw: Any, choices: Sequence[Any], size: int) -> list[Any]:
    """`size` of some choices, by one draw: a draw per item would take most of the time."""
    return [choices[each % len(choices)] for each in draw(st.binary(min_size=size, max_size=size))]


def floats_of(draw: Any, size: int) -> array[float]:
    """Seconds from 0 to a million, of any bits, by one draw."""
    drawn = array("f", draw(st.binary(min_size=4 * size, max_size=4 * size)))
    return array("f", [abs(each) if abs(each) <= 1e6 else 1e6 for each in drawn])


@st.composite
def index_sequences(draw: Any, size: int) -> Sequence[int]:
    if draw(st.booleans()):
        lo = draw(st.integers(0, 1 << 12))
        return range(lo, lo + size)
    return random.Random(draw(st.integers(0, 1 << 32))).sample(range(1 << 12), size)


@st.composite
def errors(draw: Any) -> tuple[tuple[ErrorRecord, ...], Variants | None]:
    count = draw(st.integers(1, 4))
    records = tuple(
        ErrorRecord(
            type_name=draw(type_names),
            message=draw(messages) + str(number),
            traceback=draw(short),
            place=f"a.py:{number}",
        )
        for number in range(count)
    )
    if not draw(st.booleans()):
        return records, None
    chunks = draw(st.integers(1, 2))
    packed = []
    for number in range(chunks):
        size = CHUNK if number + 1 < chunks else draw(st.integers(1, 20))
        texts = [f"{draw(short) if place < 10 else ''}-{number}-{place}" for place in range(size)]
        parts: dict[int, Any] = {0: ((1, "two"), {"code": 3})} if draw(st.booleans()) else {}
        packed.append(pack_chunk(texts, parts))
    places = array("I", draw(st.lists(st.integers(0, count - 1), min_size=chunks, max_size=chunks)))
    return records, Variants(records=places, chunks=tuple(packed))


@st.composite
def reports(draw: Any) -> tuple[Report, Sequence[int]]:
    """A report with all that may be in one, and the indices that it is of."""
    size = draw(sizes)
    records, variants = draw(errors())
    numbers = list(range(1, len(records) + 1)) + ([-1] if variants is not None else [])
    steps = tuple(draw(steps_of(node, size, numbers)) for node in range(draw(st.integers(1, 2))))
    report = Report(
        batch=draw(st.integers(0, 1 << 40)),
        worker=draw(short),
        started=draw(times),
        elapsed=1.0,
        reached=size,
        steps=steps,
        errors=records,
        variants=variants,
        logs=[
            LogRecord(draw(seconds), 20, draw(short), "log", "n0", draw(log_indices), 1, "w", "r")
            for _ in range(draw(few))
        ],
        logs_dropped=draw(few),
        held=draw(held),
    )
    return report, draw(index_sequences(size))


@st.composite
def steps_of(draw: Any, node: int, size: int, numbers: list[int]) -> StepReport:
    states = bytes(each_of(draw, list(Code), size))
    if draw(st.booleans()):
        states = bytes([Code.COMPLETED]) * size
    marks = array("i", each_of(draw, numbers, size))
    inputs = {draw(below(size)): draw(short)} if size and draw(st.booleans()) else {}
    anomalies = AnomalyTable()
    for _ in range(draw(few) if size else 0):
        if draw(st.booleans()):
            anomalies.inputs[len(anomalies)] = draw(input_texts)
        anomalies.book(
            draw(below(size)),
            draw(attempts),
            draw(codes),
            draw(codes),
            [0, *numbers][draw(below(len(numbers) + 1))],
            draw(times),
            draw(seconds),
            draw(delays),
        )
    texts = draw(label_texts)
    labels = each_of(draw, texts, size) if draw(st.booleans()) else None
    stored = draw(stores)
    if stored is not None:
        missing = {draw(below(size)): None for _ in range(draw(st.integers(0, 2)))} if size else {}
        stored = replace(stored, count=size, missing=tuple(missing))
    return StepReport(
        node=node,
        states=states,
        attempts=draw(st.binary(min_size=size, max_size=size)),
        starts=floats_of(draw, size),
        durations=floats_of(draw, size),
        labels=None if labels is None else Ref(kind="local", id="l", count=size, data=labels),
        info=draw(infos),
        faults=Faults.of(states, marks, inputs),
        anomalies=anomalies if len(anomalies) else (),
        stored=stored,
        digests=draw(st.binary(min_size=8 * size, max_size=8 * size)) if draw(st.booleans()) else b"",
    )


def node_entry(number: int, **more: Any) -> NodeEntry:
    return NodeEntry(
        number=number, key=f"key{number}", name=f"n{number}", task_name="t", is_mapped=True, **more
    )


def written(report: Report, indices: Sequence[int]) -> Replay:
    writer, history, replay = RecordWriter(), ListHistory(), Replay()
    history.commit(writer.node(node_entry(10 + step.node), 1.0) for step in report.steps)
    history.commit(
        writer.report(report, indices, number=lambda node: 10 + node, load=lambda ref: ref.data, at=2.0)
    )
    for entry in history.read():
        replay.add(entry)
    return replay


def told(segment: Segment) -> dict[str, Any]:
    """All that a segment tells, without how it is stored."""
    step = segment.step
    numbers = {*step.faults.numbers(), *(each.error for each in step.anomalies)}
    found = {number: segment.error(number) for number in numbers}
    return {
        "indices": list(segment.indices),
        "is_range": isinstance(segment.indices, range),
        "started": segment.started,
        "worker": segment.worker,
        "states": step.states,
        "attempts": step.attempts,
        "starts": step.starts,
        "durations": step.durations,
        "labels": None if step.labels is None else list(step.labels.data),
        "info": step.info,
        "faults": (list(step.faults.positions), list(step.faults.numbers()), dict(step.faults.inputs)),
        "anomalies": list(step.anomalies),
        "errors": {
            number: None if record is None else (*record.key, record.traceback)
            for number, record in found.items()
        },
        "stored": step.stored and replace(step.stored, missing=tuple(step.stored.missing)),
        "digests": step.digests,
    }


def newest(history: MemoryHistory, node: int, indices: Sequence[int]) -> Segment | None:
    found = history.node(node).find(indices[0]) if len(indices) else None
    return None if found is None else found[0]


@settings(max_examples=200, deadline=None)
@given(made=reports())
def test_a_report_is_read_back_exactly(made: tuple[Report, Sequence[int]]) -> None:
    report, indices = made
    plain = MemoryHistory()
    plain.commit(report, indices)
    replay = written(report, indices)
    for step in report.steps:
        before, after = newest(plain, step.node, indices), newest(replay.history, 10 + step.node, indices)
        assert (before is None) == (after is None)
        if before is None or after is None:
            continue
        assert told(after) == told(before)
        node = replay.nodes[10 + step.node]
        for place, index in enumerate(indices):
            assert node.code_of(index) == step.states[place]
            assert node.attempts[index] == step.attempts[place]
            is_done = step.states[place] in (Code.COMPLETED, Code.CACHED)
            has_value = is_done and step.stored is not None and place not in step.stored.missing
            assert node.valued(index, index + 1) == bytes([has_value])
            expected = step.digests[8 * place : 8 * place + 8]
            assert node.digests(index, index + 1) == (expected or bytes(8))
            assert replay.history.node(10 + step.node).inputs_of(index) == plain.node(step.node).inputs_of(
                index
            )
    assert replay.history.logs == plain.logs
    assert replay.history.logs_dropped == plain.logs_dropped


@pytest.mark.parametrize(
    "value",
    [
        Launch(
            epoch=2,
            reason="resume",
            host="h",
            pid=7,
            boot_id="b",
            flow_name="f",
            run_name="r",
            flow={"module": "m", "qualname": "f", "file": "/x.py"},
            code="abc",
            parameters={"n": "3"},
            stored={"name": "p", "offset": 3},
            versions={"graphflow": "1"},
            settings={"limit": 4, "names": ["a"]},
            backend="threads(2)",
            results="file:///x",
        ),
        node_entry(
            3,
            deps=(
                EntryDep(upstream=1, kind="ITEMS", argument="x"),
                EntryDep(upstream=2, kind="PICK", index=4),
            ),
            options={"retries": 2},
            parent=(1, 5),
            sources=("x: list",),
            width=9,
        ),
        Dispatch(batch=4, nodes=(3, 4), indices=range(5, 900), is_fresh=True),
        Dispatch(batch=4, nodes=(3,), indices=[9, 2, 1 << 33], is_fresh=False),
        Ended(node=3, indices=range(4), code=Code.UPSTREAM_FAILED),
        Ended(node=3, indices=[7, 3], code=Code.CANCELLED),
        Transition(code=Code.RUNNING, message="m", width=4),
        Lost(batch=4, executing=5, reason="died"),
        Alias(node=3, index=2, root=8),
        Answer(request=4, kind="cancel", body={"now": True}, error="no"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_facts_are_read_back(value: Any) -> None:
    writer = RecordWriter()
    record = {
        Launch: lambda: writer.launch(value, 1.0),
        NodeEntry: lambda: writer.node(value, 1.0),
        Dispatch: lambda: writer.dispatch(value, 1.0),
        Ended: lambda: writer.ended(value, 1.0),
        Transition: lambda: writer.state(3, value, 1.0),
        Lost: lambda: writer.lost(value, 1.0),
        Alias: lambda: writer.alias(value, 1.0),
        Answer: lambda: writer.answer(value, 1.0),
    }[type(value)]()
    found = decode(record)
    if isinstance(value, Dispatch | Ended):
        assert list(found.indices) == list(value.indices)
        assert isinstance(found.indices, range) == isinstance(value.indices, range)
        found, value = found.__class__, value.__class__
    assert found == value


def test_every_body_that_is_cut_or_changed_is_damaged_or_something_else_but_no_crash() -> None:
    writer = RecordWriter()
    records = [
        writer.launch(
            Launch(epoch=1, reason="start", host="h", pid=1, boot_id="", flow_name="f", run_name="r"), 0.0
        ),
        writer.dispatch(Dispatch(batch=1, nodes=(1,), indices=[5, 3], is_fresh=True), 0.0),
        writer.node(node_entry(1), 0.0),
        writer.log([], 4, 0.0),
    ]
    for record in records:
        assert record is not None
        for size in range(len(record.body)):
            with pytest.raises(HistoryDamaged, match=Kind(record.kind).name):
                decode(
                    Record(record.kind, 0.0, record.body[:size], record.node, record.lo, record.count), seq=3
                )


@settings(max_examples=100, deadline=None)
@given(made=reports(), seed=st.integers(0, 1 << 30))
def test_bodies_that_were_changed_are_damaged_or_read_as_something_else(
    made: tuple[Report, Sequence[int]], seed: int
) -> None:
    report, indices = made
    rng = random.Random(seed)
    for record in RecordWriter().report(
        report, indices, number=lambda node: node, load=lambda ref: ref.data, at=2.0
    ):
        body = bytearray(record.body)
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(1, len(body))] = rng.randrange(256)
        if rng.random() < 0.3:
            del body[rng.randrange(1, len(body)) :]
        with suppress(HistoryDamaged):
            decode(replace(record, body=bytes(body)))


def test_a_later_layout_is_refused_as_too_new() -> None:
    with pytest.raises(HistoryTooNew, match="commit 7"):
        decode(Record(Kind.STATE, 0.0, b"\x63{}"), seq=7)
    with pytest.raises(HistoryTooNew, match="newer graphflow"):
        decode(Record(99, 0.0, b"\1{}"))
