"""A run in a few lines: bounded, exact, and read back as it was."""

from __future__ import annotations

import json
import random
from array import array

import pytest

from graphflow.model.anomalies import ErrorRecord, Faults
from graphflow.model.records import Entry, Launch, NodeEntry, Record, Transition
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.records.codec import RecordWriter
from graphflow.records.replay import Replay
from graphflow.records.summary import MAX_NBYTES, MAX_NODES, NodeSummary, RunSummary, summary_of


class Known:
    """A run as a replay knows it."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay

    def numbers(self):
        return list(self.replay.nodes)

    def known(self, number):
        return self.replay.nodes[number]


def _replay(*records: Record) -> Replay:
    found = Replay()
    for number, record in enumerate(records, 1):
        found.add(Entry(number, 0, 1, record, number))
    return found


def _node(writer: RecordWriter, number: int, width: int | None, **more) -> Record:
    entry = NodeEntry(
        number=number,
        key=f"k{number}",
        name=f"n{number}",
        task_name="t",
        is_mapped=width is not None,
        width=width,
        **more,
    )
    return writer.node(entry, 1.0)


def test_it_tells_counts_times_and_the_first_failures():
    writer = RecordWriter()
    states = bytes([Code.COMPLETED, Code.FAILED, Code.FAILED])
    step = StepReport(
        node=1,
        states=states,
        attempts=b"\1" * 3,
        starts=array("f", bytes(12)),
        durations=array("f", bytes(12)),
        faults=Faults.of(states, array("i", [0, 1, 1])),
    )
    error = ErrorRecord(type_name="ValueError", message="no", traceback="", place="a.py:1")
    report = Report(batch=1, worker="w", started=2.0, elapsed=1.0, reached=3, steps=(step,), errors=(error,))
    replay = _replay(
        writer.launch(
            Launch(epoch=1, reason="start", host="h", pid=1, boot_id="", flow_name="f", run_name="r"), 1.0
        ),
        _node(writer, 0, None),
        _node(writer, 1, 5),
        _node(writer, 2, 9, is_builtin=True),
        writer.state(1, Transition(code=Code.RUNNING, width=5), 2.0),
        *writer.report(report, range(3), number=lambda node: node, load=lambda ref: ref.data, at=3.0),
        writer.state(1, Transition(code=Code.FAILED, width=5), 4.0),
    )
    found = summary_of(Known(replay), message="ValueError: no")
    assert found.nodes == (
        NodeSummary(
            name="n1", width=5, counts={"Completed": 1, "Failed": 2, "Pending": 2}, started=2.0, ended=4.0
        ),
        NodeSummary(name="n0", width=1, counts={"Pending": 1}),
    )
    assert found.failures == ("n1: ValueError: no",) and found.message == "ValueError: no"
    assert found.counts == {"Completed": 1, "Failed": 2, "Pending": 3}
    assert RunSummary.of_text(found.text()) == found
    assert summary_of(Known(replay), with_failures=False).failures == ()


@pytest.mark.parametrize("seed", range(20))
def test_it_never_grows_beyond_its_bound_and_loses_no_item(seed):
    rng = random.Random(seed)
    writer = RecordWriter()
    count = rng.randrange(1, 300)
    widths = [rng.choice((None, rng.randrange(1, 1000))) for _ in range(count)]
    found = summary_of(Known(_replay(*[_node(writer, number, width) for number, width in enumerate(widths)])))
    assert len(found.nodes) <= MAX_NODES and len(found.text()) <= MAX_NBYTES
    read = RunSummary.of_text(found.text())
    assert read is not None
    assert read.counts == found.counts == {"Pending": sum(width or 1 for width in widths)}
    assert len(read.nodes) + read.other_nodes == count
    shown = [node.width for node in read.nodes]
    assert shown == sorted((width or 1 for width in widths), reverse=True)[: len(shown)]


def test_long_names_and_messages_are_cut():
    found = RunSummary(
        nodes=[NodeSummary(name="n" * 100, width=1, counts={"Completed": 1})] * 50,
        failures=["f" * 300] * 5,
        message="ü" * 300,
    )
    assert len(found.text()) <= MAX_NBYTES
    assert RunSummary.of_text(found.text()).counts == {"Completed": 50}


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"nodes":[],"others":[]}', json.dumps({"nodes": 3})]
)
def test_what_is_no_summary_is_none(text):
    assert RunSummary.of_text(text) is None
