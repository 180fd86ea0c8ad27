"""A run as its records tell it: what is under way, what ended, what is lost with a driver."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from graphflow.errors import HistoryDamaged, RemoteError
from graphflow.model.anomalies import ErrorRecord, Faults, Variants, pack_chunk
from graphflow.model.records import Alias, Dispatch, Ended, Entry, Launch, Lost, NodeEntry, Record, Transition
from graphflow.model.reports import LogRecord, Report, StepReport, Stored
from graphflow.model.states import Code
from graphflow.records import codec
from graphflow.records.codec import RecordWriter
from graphflow.records.errors import exception_of
from graphflow.records.plain import told
from graphflow.records.replay import Replay
from graphflow.runner.faults import ErrorTable

OK = Code.COMPLETED


class Written:
    """A run that is written down and replayed at once, as a watcher would."""

    def __init__(self, nodes: int = 1) -> None:
        self.writer = RecordWriter()
        self.replay = Replay()
        self.entries: list[Entry] = []
        self._seqs = itertools.count(1)
        self.begin()
        for number in range(nodes):
            entry = NodeEntry(
                number=number, key=f"k{number}", name=f"n{number}", task_name="t", is_mapped=True
            )
            self.add(self.writer.node(entry, 1.0))

    def begin(self, reason: str = "start") -> None:
        launch = Launch(epoch=1, reason=reason, host="h", pid=1, boot_id="", flow_name="f", run_name="r")
        self.add(self.writer.launch(launch, 1.0))

    def add(self, *records: Record | None) -> None:
        seq = next(self._seqs)
        for place, record in enumerate(each for each in records if each is not None):
            self.entries.append(Entry(seq, place, 1, record))
            self.replay.add(self.entries[-1])

    def send(self, batch: int, indices: Sequence[int], *, nodes: Sequence[int] = (0,)) -> None:
        dispatch = Dispatch(batch=batch, nodes=nodes, indices=indices, is_fresh=True)
        self.add(self.writer.dispatch(dispatch, 2.0))

    def tell(
        self,
        batch: int,
        indices: Sequence[int],
        codes: Sequence[Code] | None = None,
        *,
        held: Sequence[int] = (),
        stored: Stored | None = None,
        digests: bytes = b"",
        errors: Sequence[ErrorRecord] = (),
        marks: array[int] | None = None,
        variants: Variants | None = None,
        logs: Sequence[LogRecord] = (),
        inputs: dict[int, str] | None = None,
    ) -> None:
        size = len(indices)
        states = bytes(codes if codes is not None else [OK] * size)
        step = StepReport(
            node=0,
            states=states,
            attempts=b"\1" * size,
            starts=array("f", bytes(4 * size)),
            durations=array("f", bytes(4 * size)),
            faults=Faults() if marks is None else Faults.of(states, marks, inputs),
            stored=stored,
            digests=digests,
        )
        report = Report(
            batch=batch,
            worker="w",
            started=1.0,
            elapsed=0.0,
            reached=size,
            steps=(step,),
            errors=tuple(errors),
            variants=variants,
            logs=logs,
            held=held,
        )
        self.add(*self.writer.report(report, indices, number=lambda node: node, load=_none, at=3.0))

    def counts(self, node: int = 0) -> dict[str, int]:
        return dict(self.replay.nodes[node].counts())


def _none(ref: Any) -> list[Any]:
    raise AssertionError("no labels were written")


def error(text: str, *, exception: BaseException | None = None, kind: str = "ValueError") -> ErrorRecord:
    return ErrorRecord(
        type_name=kind, message=text, traceback="Traceback\n", exception=exception, place="a.py:1"
    )


def test_what_was_sent_is_running_until_it_is_reported() -> None:
    run = Written()
    run.add(run.writer.state(0, Transition(code=Code.RUNNING, width=10), 1.0))
    assert run.counts() == {"Pending": 10}
    run.send(1, range(4))
    run.send(2, [7, 9])
    assert run.counts() == {"Running": 6, "Pending": 4}
    # Positions 2 and 3 are held: they execute on.
    run.tell(1, range(2), held=(2, 3))
    assert run.counts() == {"Completed": 2, "Running": 4, "Pending": 4}
    node = run.replay.nodes[0]
    assert node.code_of(2) is Code.RUNNING and node.code_of(4) is Code.PENDING
    run.tell(1, [3], [Code.AWAITING_RETRY])
    # Item 2 was handed back.
    assert run.counts() == {"Completed": 2, "AwaitingRetry": 1, "Running": 2, "Pending": 5}
    run.send(3, [3])
    assert run.counts() == {"Completed": 2, "Retrying": 1, "Running": 2, "Pending": 5}
    assert node.codes(0, 12) == bytes(
        [OK, OK, 0, Code.RETRYING, 0, 0, 0, Code.RUNNING, 0, Code.RUNNING, 0, 0]
    )
    assert node.is_final is False and node.first_open() == 2


def test_what_was_under_way_is_lost_with_its_driver() -> None:
    run = Written()
    run.send(1, range(100))
    run.tell(1, range(50), held=(60,))
    run.begin("resume")
    node = run.replay.nodes[0]
    assert run.counts() == {"Completed": 50, "Pending": 50} and not run.replay.flights
    assert node.deaths(60) == 1 and node.deaths(61) == 0
    run.send(1, [60, 70])
    run.begin("resume")
    assert node.died() == {60: 2, 70: 1} == {index: node.deaths(index) for index in (60, 70)}
    assert [launch.reason for launch in run.replay.launches] == ["start", "resume", "resume"]


def test_what_was_under_way_when_two_drivers_died_is_suspected_in_parts() -> None:
    run = Written()
    node = run.replay.nodes[0]
    run.send(1, range(100))
    run.begin("resume")
    assert node.suspects(2, 4) == []
    run.send(2, range(100))
    run.send(3, range(100, 104))
    assert node.suspects(2, 4) == [[*range(at, at + 25)] for at in (0, 25, 50, 75)]
    run.tell(2, range(25), held=range(25, 100))
    run.begin("resume")
    assert node.suspects(2, 4) == [[*range(25, 44)], [*range(44, 63)], [*range(63, 82)], [*range(82, 100)]]
    # The one that does it is in ever smaller company, and alone in the end.
    run.send(4, range(25, 44))
    run.begin("resume")
    assert node.suspects(2, 4)[:2] == [[*range(25, 30)], [*range(30, 35)]]
    run.send(5, range(25, 30))
    run.send(6, range(30, 35))
    run.tell(6, range(30, 35))
    run.begin("resume")
    assert node.suspects(2, 4)[:4] == [[25, 26], [27, 28], [29], [*range(35, 40)]]
    run.send(7, [25, 26])
    assert node.suspects(2, 4)[:3] == [[25], [26], [27, 28]]


def test_an_item_that_killed_its_worker_is_blamed_and_used_an_attempt() -> None:
    run = Written(nodes=2)
    run.send(1, range(4))
    run.add(run.writer.lost(Lost(batch=1, executing=2), 2.0))
    node = run.replay.nodes[0]
    assert node.attempts[2] == 1 and node.deaths(2) == 1 and run.counts() == {"Pending": 4}
    run.send(2, [2], nodes=(0, 1))
    run.add(run.writer.lost(Lost(batch=2, executing=2), 2.0))
    # Nobody knows which of the two tasks it was.
    assert node.attempts[2] == 1 and node.deaths(2) == 2 and run.replay.nodes[1].deaths(2) == 1


def test_items_that_end_without_running_and_items_that_are_taken_back() -> None:
    run = Written()
    run.tell(1, range(3), [OK, Code.FAILED, OK])
    run.add(run.writer.ended(Ended(node=0, indices=[5, 4], code=Code.UPSTREAM_FAILED), 9.0))
    assert run.counts() == {"Completed": 2, "Failed": 1, "UpstreamFailed": 2, "Pending": 1}
    assert run.replay.history.node(0).ended_at(5) == 9.0
    run.add(run.writer.ended(Ended(node=0, indices=[1, 5], code=Code.SCHEDULED), 10.0))
    assert run.counts() == {"Completed": 2, "UpstreamFailed": 1, "Pending": 3}
    assert run.replay.history.node(0).ended_at(5) is None


def test_a_watcher_sees_the_same_as_who_reads_all_at_once() -> None:
    run = Written()
    run.send(1, range(6))
    run.tell(1, range(3), digests=bytes(range(24)))
    run.tell(2, [1], [Code.FAILED], digests=b"\xff" * 8)
    again = Replay()
    for entry in run.entries:
        again.add(entry)
    ours, theirs = run.replay.nodes[0], again.nodes[0]
    assert ours.states == theirs.states and ours.counts() == theirs.counts()
    assert (
        ours.digests(0, 4)
        == theirs.digests(0, 4)
        == bytes(range(8)) + b"\xff" * 8 + bytes(range(16, 24)) + bytes(8)
    )
    assert ours.digest_of(1) == b"\xff" * 8 and ours.digest_of(3) is None
    assert again.seq == run.entries[-1].seq


def test_values_are_where_the_newest_segment_says() -> None:
    run = Written(nodes=2)
    first = Stored(name="a.pack", offset=10, nbytes=5, digest=b"d", count=4, missing=(2,))
    run.tell(1, range(4), stored=first)
    run.tell(2, [3])
    node = run.replay.nodes[0]
    assert node.valued(0, 5) == bytes([1, 1, 0, 0, 0])
    place = run.replay.history.node(0).place(1)
    assert place is not None and (place.ref.kind, place.ref.path, place.position) == ("stored", "a.pack", 1)
    run.add(run.writer.alias(Alias(node=1, index=0, root=0), 4.0))
    assert run.replay.nodes[1].aliases == {0: 0} and run.replay.nodes[1].valued(0, 2) == bytes([1, 0])
    assert run.replay.history.node(1).place(0) == run.replay.history.node(0).place(0)


def test_a_node_moves_and_so_does_the_run() -> None:
    run = Written()
    run.add(run.writer.state(None, Transition(code=Code.RUNNING), 1.0))
    run.add(run.writer.state(0, Transition(code=Code.RUNNING, width=2), 2.0))
    run.add(run.writer.state(0, Transition(code=Code.FAILED, message="why", width=2), 3.0))
    run.add(run.writer.state(None, Transition(code=Code.FAILED), 4.0))
    node = run.replay.nodes[0]
    assert node.width == 2 and node.is_final and node.has_started and node.transitions[-1].message == "why"
    assert [moved.at for moved in run.replay.transitions] == [1.0, 4.0] and run.replay.code is Code.FAILED
    run.add(run.writer.change(0, {"max_concurrency": 3}, 5.0))
    assert node.changes == [(5.0, {"max_concurrency": 3})]


# -- errors ----------------------------------------------------------------------------------------------------


def kinds(run: Written) -> list[str]:
    return [codec.Kind(entry.record.kind).name for entry in run.entries]


def test_an_error_is_written_once_over_all_launches() -> None:
    run = Written()
    one = array("i", [1, 1])
    run.tell(1, range(2), [Code.FAILED] * 2, errors=[error("bad")], marks=one)
    run.tell(2, range(2, 4), [Code.FAILED] * 2, errors=[error("bad")], marks=one)
    run.writer = RecordWriter.continuing(run.replay)
    run.tell(
        3, range(4, 6), [Code.FAILED] * 2, errors=[error("worse"), error("bad")], marks=array("i", [1, 2])
    )
    assert kinds(run).count("ERRORS") == 2 and [each.message for each in run.replay.errors] == [
        "bad",
        "worse",
    ]
    found = [run.replay.history.last_error(0, index) for index in range(6)]
    assert [each.message for each in found if each] == ["bad"] * 4 + ["worse", "bad"]
    errors = run.replay.history.node(0).errors()
    assert [(each.message, each.count) for each in errors] == [("bad", 5), ("worse", 1)]


@pytest.mark.parametrize(
    "made", [ValueError("x: 1"), KeyError("a key"), ZeroDivisionError("division by zero")], ids=repr
)
def test_plain_builtin_exceptions_come_back_as_themselves(made: Exception) -> None:
    run = Written()
    record = error(str(made), exception=made, kind=type(made).__name__)
    run.tell(1, [0], [Code.FAILED], errors=[record], marks=array("i", [1]))
    found = exception_of(run.replay.errors[0])
    assert type(found) is type(made) and found.args == made.args and "Traceback" in found.__notes__[0]


class Coded(Exception):
    __slots__ = ("level",)

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code, self.level = code, 2


def made_with(error: BaseException, cause: BaseException | None = None, **attributes: Any) -> BaseException:
    error.__cause__ = cause
    for name, value in attributes.items():
        setattr(error, name, value)
    error.add_note("noted")
    return error


@pytest.mark.parametrize(
    "made",
    [
        OSError(2, "no such file", "a", None, "b"),
        FileNotFoundError(2, "no such file", "a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        SyntaxError("bad", ("f.py", 1, 2, "x y", 1, 3)),
        ImportError("bad", name="n", path="p"),
        KeyError(4),
        ValueError(float("inf"), (1, [b"x", {"a": None}])),
        ExceptionGroup("g", [OSError(1, "x"), made_with(KeyError("k"), cause=Coded(3))]),
        made_with(Coded(7), cause=made_with(ValueError("x"), extra=(1, 2)), more=[1]),
    ],
    ids=repr,
)
def test_exceptions_of_plain_data_come_back_as_they_were(made: Exception) -> None:
    run = Written()
    record = error(str(made), exception=made, kind=type(made).__name__)
    run.tell(1, [0], [Code.FAILED], errors=[record], marks=array("i", [1]))
    found = exception_of(run.replay.errors[0])
    assert "Traceback" in found.__notes__.pop()
    if not found.__notes__:
        del found.__notes__
    assert told(found) == told(made) is not None and str(found) == str(made)


@pytest.mark.parametrize(
    "made", [ValueError(object()), made_with(ValueError("x"), lock=iter([]))], ids=["object", "lock"]
)
def test_other_exceptions_come_back_as_what_they_said(made: Exception) -> None:
    run = Written()
    record = error(str(made), exception=made, kind=type(made).__name__)
    run.tell(1, [0], [Code.FAILED], errors=[record], marks=array("i", [1]))
    found = exception_of(run.replay.errors[0])
    assert isinstance(found, RemoteError) and found.message == str(made)


def test_an_exception_whose_class_is_not_loaded_comes_back_as_what_it_said() -> None:
    run = Written()
    made = type("Gone", (Exception,), {})("bad")
    record = error("bad", exception=made, kind="Gone")
    run.tell(1, [0], [Code.FAILED], errors=[record], marks=array("i", [1]))
    found = exception_of(run.replay.errors[0])
    assert isinstance(found, RemoteError) and (found.type_name, found.message) == ("Gone", "bad")


def test_errors_that_differ_by_their_text_come_back_from_what_a_worker_tells() -> None:
    table = ErrorTable(is_local=False)
    numbers = array("i")
    for number in range(3_000):
        try:
            raise ValueError(f"line {number}") if number else ValueError("line", 0)
        except ValueError as raised:
            numbers.append(table.add(raised))
    run = Written()
    run.tell(
        1,
        range(3_000),
        [Code.FAILED] * 3_000,
        errors=table.records,
        marks=numbers,
        variants=table.variants(),
    )
    texts = {index: run.replay.history.last_error(0, index) for index in (1, 1_500, 2_999)}
    assert [each and each.message for each in texts.values()] == ["line 1", "line 1500", "line 2999"]
    assert sum(len(entry.record.body) for entry in run.entries) < 20_000


def test_a_variant_of_a_plain_exception_is_one_too() -> None:
    run = Written()
    like = error("first", exception=ValueError("first"))
    variants = Variants(
        records=array("I", [0]), chunks=(pack_chunk(["second", "('third', 2)"], {1: (("third", 2), {})}),)
    )
    run.tell(1, range(3), [Code.FAILED] * 3, errors=[like], marks=array("i", [1, -1, -2]), variants=variants)
    found = [run.replay.history.last_error(0, index) for index in range(3)]
    made = [exception_of(each) for each in found if each is not None]
    assert [type(each) for each in made] == [ValueError, ValueError, ValueError]
    assert [each.args for each in made] == [("first",), ("second",), ("third", 2)]
    assert "Traceback" in made[1].__notes__[0]


def test_too_many_different_errors_are_written_without_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_RECORDS", 3)
    run = Written()
    errors = [error(f"bad {number}") for number in range(5)]
    run.tell(1, range(5), [Code.FAILED] * 5, errors=errors, marks=array("i", range(1, 6)))
    assert [each.traceback for each in run.replay.errors] == ["Traceback\n"] * 3 + ["", ""]
    monkeypatch.setattr(codec, "MAX_NBYTES", 0)
    variants = Variants(records=array("I", [0]), chunks=(pack_chunk(["second"], {}),))
    run.tell(2, [5], [Code.FAILED], errors=errors[:1], marks=array("i", [-1]), variants=variants)
    found = run.replay.history.last_error(0, 5)
    assert found is not None and "not kept" in found.message


def test_summaries_of_arguments_and_lines_of_the_log_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_INPUTS", 3)
    monkeypatch.setattr(codec, "MAX_LOG_LINES", 3)
    run = Written()
    line = LogRecord(1.0, 20, "hello")
    for batch in range(4):
        run.tell(
            batch,
            [batch],
            [Code.FAILED],
            errors=[error("bad")],
            marks=array("i", [1]),
            inputs={0: f"x={batch}"},
            logs=[line],
        )
    history = run.replay.history
    assert [history.node(0).inputs_of(index) for index in range(4)] == ["x=0", "x=1", "x=2", ""]
    assert len(history.logs) == 3 and history.logs_dropped == 1
    assert RecordWriter.continuing(run.replay).log([line], 0, 1.0) is not None
    assert run.writer.log([], 0, 1.0) is None


def test_records_that_do_not_fit_are_damage() -> None:
    run = Written()
    stray = RecordWriter()
    with pytest.raises(HistoryDamaged, match="commit 9 does not fit"):
        run.replay.add(Entry(9, 0, 1, stray.state(5, Transition(code=Code.RUNNING), 1.0)))
    with pytest.raises(HistoryDamaged, match="does not fit"):
        run.replay.add(Entry(9, 0, 1, stray.state(0, Transition(code=99), 1.0)))
    body = codec.encode_errors([error("x")])
    with pytest.raises(HistoryDamaged, match="errors from number 4 on"):
        run.replay.add(Entry(9, 0, 1, Record(codec.Kind.ERRORS, 1.0, body, lo=4, count=1)))
