"""A digest says what all records before it say, figure by figure; one that cannot be used is passed over."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from graphflow.errors import HistoryDamaged
from graphflow.model.anomalies import Anomaly, ErrorRecord, Faults, Variants, pack_chunk
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
from graphflow.records.codec import RecordWriter, decode, join
from graphflow.records.digest import DigestUnusable, digest_record, forget_told, replay_of
from graphflow.records.folded import FoldedHistory
from graphflow.records.replay import Replay

WIDTH = 60
ENDS = (
    Code.COMPLETED,
    Code.COMPLETED,
    Code.COMPLETED,
    Code.CACHED,
    Code.FAILED,
    Code.TIMED_OUT,
    Code.SKIPPED,
    Code.UPSTREAM_FAILED,
    Code.AWAITING_RETRY,
)
WITH_ERRORS = (Code.FAILED, Code.TIMED_OUT, Code.SKIPPED, Code.UPSTREAM_FAILED)


class History:
    """A made-up history: any records that fit one another, and digests between them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.writer = RecordWriter()
        self.entries: list[Entry] = []
        self.live = Replay(folded=FoldedHistory(), read=_value)
        self.previous = 0
        self.seq = 0
        self.now = 1000.0
        self.batch = 0
        self.out: dict[int, tuple[tuple[int, ...], list[int]]] = {}
        self.nodes = 0
        self.launches = 0

    def commit(self, *records: Record | None) -> None:
        self.seq += 1
        for place, record in enumerate(each for each in records if each is not None):
            self.entries.append(Entry(self.seq, place, 1, record, len(self.entries) + 1))
            self.live.add(self.entries[-1])

    def digest(self) -> None:
        number = len(self.entries) + 1
        self.live.seq = self.seq
        record = digest_record(self.live, number=number, previous=self.previous, at=self.now)
        self.commit(record)
        self.previous = number

    def read(self, numbers: Iterable[int]) -> Iterator[Entry]:
        for number in list(numbers):
            if not 0 < number <= len(self.entries):
                raise HistoryDamaged(f"no record {number}")
            yield self.entries[number - 1]

    def rebuilt(self, number: int) -> Replay:
        """What a digest says, and what came after it."""
        found = replay_of(number, self.read)
        add_after(found, self.entries)
        return found

    def replayed(self) -> Replay:
        found = Replay()
        for entry in self.entries:
            found.add(entry)
        return found

    # -- what may happen ----------------------------------------------------------------------------------

    def step(self) -> None:
        self.now += self.rng.random()
        if not self.launches:
            self._launch("start")
        if self.nodes < 2:
            self._node()
        what = self.rng.choice(
            [self._send] * 6
            + [self._report] * 12
            + [self._send_several, self._report_together, self._report_together]
            + [
                self._node,
                self._end,
                self._reset,
                self._state,
                self._lose,
                self._alias,
                self._note,
                self._log,
            ]
            + ([self._again] if self.rng.random() < 0.2 else [])
        )
        what()

    def _launch(self, reason: str) -> None:
        self.launches += 1
        self.out.clear()
        launch = Launch(
            epoch=self.launches,
            reason=reason,
            host="h",
            pid=1,
            boot_id="",
            flow_name="f",
            run_name="r",
            began=self.rng.choice((0.0, self.now)),
        )
        self.commit(self.writer.launch(launch, self.now))

    def _again(self) -> None:
        self._launch(self.rng.choice(("resume", "retry", "attempt")))

    def _node(self) -> None:
        rng, number = self.rng, self.nodes
        if self.nodes > 5:
            number = rng.randrange(self.nodes)
        else:
            self.nodes += 1
        entry = NodeEntry(
            number=number,
            key=f"k{number}",
            name=f"n{number}",
            task_name="t",
            is_mapped=number % 3 != 2,
            deps=(EntryDep(upstream=number - 1, kind="ITEMS"),) if number else (),
            options={"retries": rng.randrange(3)},
            width=rng.choice((None, WIDTH)),
        )
        self.commit(self.writer.node(entry, self.now))

    def _mapped(self) -> int:
        return self.rng.choice([each for each in range(self.nodes) if each % 3 != 2])

    def _indices(self) -> Any:
        lo = self.rng.randrange(WIDTH)
        if self.rng.random() < 0.6:
            return range(lo, min(WIDTH, lo + self.rng.randrange(1, 20)))
        return array("I", sorted(self.rng.sample(range(WIDTH), self.rng.randrange(1, 9))))

    def _send(self) -> None:
        self.batch += 1
        nodes = tuple(sorted({self._mapped() for _ in range(self.rng.randrange(1, 3))}))
        indices = self._indices()
        self.out[self.batch] = nodes, list(indices)
        dispatch = Dispatch(batch=self.batch, nodes=nodes, indices=indices, is_fresh=True)
        self.commit(self.writer.dispatch(dispatch, self.now))

    def _report(self) -> None:
        if not self.out:
            self._send()
        rng = self.rng
        batch = rng.choice(list(self.out))
        nodes, indices = self.out[batch]
        held: list[int] = []
        told: Any = indices
        if len(indices) > 2 and rng.random() < 0.3:
            cut = rng.randrange(1, len(indices))
            told, held = indices[:cut], list(range(cut, len(indices)))
        else:
            del self.out[batch]
        if rng.random() < 0.7 and list(told) == list(range(told[0], told[0] + len(told))):
            told = range(told[0], told[0] + len(told))
        errors = tuple(
            ErrorRecord(
                type_name="ValueError",
                message=f"bad {rng.randrange(4)}",
                traceback="Traceback\n",
                place="a.py:1",
            )
            for _ in range(2)
        )
        has_variants = rng.random() < 0.3
        variants = Variants(
            records=array("I", [0]), chunks=(pack_chunk([f"bad {each}" for each in range(30)], {}),)
        )
        steps = tuple(self._step(node, len(told), has_variants=has_variants) for node in nodes)
        has_errors = any(len(each.faults) or len(each.anomalies) for each in steps)
        report = Report(
            batch=batch,
            worker=f"w{rng.randrange(3)}",
            started=self.now - rng.random(),
            elapsed=1.0,
            reached=len(told),
            steps=steps,
            errors=errors if has_errors else (),
            variants=variants if has_errors and has_variants else None,
            logs=[self._line()] if rng.random() < 0.2 else (),
            held=held,
        )
        self.commit(
            *self.writer.report(
                report, told, number=lambda node: node, load=lambda ref: ref.data, at=self.now
            )
        )
        if held:
            self.out[batch] = nodes, indices

    def _send_several(self) -> None:
        nodes = (self._mapped(),)
        sends = []
        for _ in range(self.rng.randrange(1, 4)):
            self.batch += 1
            indices = self._indices()
            self.out[self.batch] = nodes, list(indices)
            sends.append(Dispatch(batch=self.batch, nodes=nodes, indices=indices, is_fresh=True))
        self.commit(self.writer.dispatches(sends, self.now))

    def _report_together(self) -> None:
        """Several batches of one node end well in one commit: one record tells of them."""
        node = self._mapped()
        batches = [batch for batch, (nodes, _) in self.out.items() if nodes == (node,)][:4]
        if not batches:
            return
        told = []
        for batch in batches:
            _, indices = self.out.pop(batch)
            step = replace(
                self._step(node, len(indices), has_variants=False),
                states=bytes([Code.COMPLETED]) * len(indices),
                info=None,
                faults=Faults(),
                anomalies=(),
            )
            report = Report(
                batch=batch,
                worker=f"w{batch % 3}",
                started=self.now,
                elapsed=1.0,
                reached=len(indices),
                steps=(step,),
            )
            told += self.writer.reported(
                report, indices, number=lambda node: node, load=lambda ref: ref.data, at=self.now
            )
        self.commit(join(told))

    def _step(self, node: int, count: int, *, has_variants: bool) -> StepReport:
        rng = self.rng
        states = bytes(rng.choice(ENDS) for _ in range(count))
        marks = array("i", bytes(4 * count))
        for place, state in enumerate(states):
            if state in WITH_ERRORS and rng.random() < 0.8:
                marks[place] = (
                    -rng.randrange(1, 30) if has_variants and rng.random() < 0.7 else rng.randrange(1, 3)
                )
        anomalies = [
            Anomaly(
                position=place,
                attempt=1,
                code=Code.RETRYING,
                outcome=Code.FAILED,
                started=self.now,
                duration=0.5,
                error=1,
                inputs="x=1",
            )
            for place in range(count)
            if rng.random() < 0.1
        ]
        return StepReport(
            node=node,
            states=states,
            attempts=bytes(rng.randrange(0, 4) for _ in range(count)),
            starts=array("f", [rng.random() * place for place in range(count)]),
            durations=array("f", [rng.expovariate(3) for _ in range(count)]),
            info=ValueInfo(kind="sized", type_name="list", length=rng.randrange(9))
            if rng.random() < 0.1
            else None,
            faults=Faults.of(states, marks, {0: "x=2"} if marks and marks[0] else {}),
            anomalies=anomalies,
            stored=None
            if rng.random() < 0.3
            else Stored(
                name=f"p{rng.randrange(9)}",
                offset=rng.randrange(999),
                nbytes=9,
                digest=rng.randbytes(16),
                count=count,
                missing=(0,) if rng.random() < 0.2 else (),
            ),
            digests=rng.randbytes(8 * count),
        )

    def _line(self) -> LogRecord:
        return LogRecord(self.now, 20, f"line {self.rng.random()}", node="n0", index=self.rng.randrange(9))

    def _end(self) -> None:
        code = self.rng.choice((Code.CANCELLED, Code.UPSTREAM_FAILED, Code.SKIPPED, Code.CRASHED))
        ended = Ended(node=self._mapped(), indices=self._indices(), code=code)
        self.commit(self.writer.ended(ended, self.now))

    def _reset(self) -> None:
        node = self._mapped()
        ended = Ended(node=node, indices=self._indices(), code=Code.PENDING)
        self.commit(
            self.writer.ended(ended, self.now),
            self.writer.state(node, Transition(code=Code.PENDING), self.now),
        )

    def _state(self) -> None:
        rng = self.rng
        number = rng.choice((None, *range(self.nodes)))
        code = rng.choice((Code.RUNNING, Code.COMPLETED, Code.FAILED, Code.PENDING, Code.UPSTREAM_FAILED))
        message = "ValueError: no" if code == Code.FAILED and rng.random() < 0.5 else ""
        width = rng.choice((None, WIDTH)) if number is not None else None
        moved = Transition(code=code, message=message, width=width)
        self.commit(self.writer.state(number, moved, self.now))

    def _lose(self) -> None:
        if self.out:
            batch = self.rng.choice(list(self.out))
            _, indices = self.out.pop(batch)
            executing = self.rng.choice((None, self.rng.choice(indices)))
            self.commit(self.writer.lost(Lost(batch=batch, executing=executing), self.now))

    def _alias(self) -> None:
        node, root = self._mapped(), self.rng.randrange(self.nodes)
        if node < root:
            self.commit(self.writer.alias(Alias(node=node, index=self.rng.randrange(5), root=root), self.now))

    def _note(self) -> None:
        self.commit(
            self.writer.answer(Answer(request=1, kind="pause"), self.now),
            self.writer.change(self.rng.choice((None, 0)), {"retries": self.rng.randrange(5)}, self.now),
        )

    def _log(self) -> None:
        self.commit(self.writer.log([self._line(), self._line()], self.rng.randrange(2), self.now))


def add_after(replay: Replay, entries: Iterable[Entry]) -> None:
    """Add the records of commits that a replay has not seen."""
    after = replay.seq
    for entry in entries:
        if entry.seq > after:
            replay.add(entry)


def _value(record: Record, *, seq: int | None = None) -> Any:
    return decode(record, seq=seq) if record.value is None else record.value


def of_run(replay: Replay) -> dict[str, Any]:
    """All that a run's replay tells, but for its items."""
    return {
        "launches": replay.launches,
        "lasts": replay.lasts,
        "transitions": replay.transitions,
        "answers": replay.answers,
        "changes": replay.run_changes,
        "batches": replay.batches,
        "chunks": replay.chunks,
        "errors": replay.error_count,
        "records": replay.records,
        "flights": [(batch, flight.nodes, list(flight.out)) for batch, flight in replay.flying().items()],
        "log": replay.history.logs,
        "dropped": replay.history.logs_dropped,
        "nodes": list(replay.nodes),
    }


def of_node(replay: Replay, number: int) -> dict[str, Any]:
    """All that a node's replay tells, but for its items."""
    node = replay.nodes[number]
    return {
        "entry": node.entry,
        "states": bytes(node.states),
        "attempts": bytes(node.attempts),
        "width": node.width,
        "code": node.code,
        "codes": node.codes(0, WIDTH),
        "counts": node.counts(),
        "retries": node.retries(),
        "transitions": node.transitions,
        "info": node.info,
        "aliases": node.aliases,
        "changes": node.changes,
        "died": node.died(),
        "broke_off": node.broke_off,
        "suspects": node.suspects(1, 4),
        "began": node.history.began,
        "inputs_kept": node.history.inputs_kept,
        "told": node.told(),
        "digests": node.digests(0, WIDTH),
        "missing": node.missing(),
        "errors": list(node.history.errors()),
        "left_out": node.history.errors().left_out,
        "first_errors": node.history.first_errors(3),
        "stored": sorted(
            (each.step.stored.name, each.step.stored.offset)
            for each in node.history.segments()
            if each.step.stored
        ),
        # What stands in for items needs the values of other nodes.
        "valued": node.valued(0, WIDTH) if not node.aliases else b"",
    }


def of_item(replay: Replay, number: int, index: int) -> dict[str, Any]:
    """All that an item's replay tells."""
    node = replay.nodes[number]
    found = node.history.find(index)
    segment, position = found if found is not None else (None, 0)
    return {
        "times": None
        if segment is None
        else (segment.started, segment.step.starts[position], segment.step.durations[position]),
        "worker": None if segment is None else segment.worker,
        "code": node.code_of(index),
        "anomalies": node.history.anomalies_of(index),
        "last_error": node.history.last_error(index),
        "inputs": node.history.inputs_of(index),
        "ended_at": node.history.ended_at(index),
        "label": node.label(index),
        "place": (place.ref.path, place.position)
        if index not in node.aliases and (place := node.history.place(index)) is not None
        else None,
    }


def assert_same(found: Replay, whole: Replay) -> None:
    assert of_run(found) == of_run(whole)
    for number in whole.nodes:
        assert of_node(found, number) == of_node(whole, number)
        for index in range(WIDTH):
            assert of_item(found, number, index) == of_item(whole, number, index), (number, index)


def assert_same_figures(found: Replay, whole: Replay) -> None:
    assert found.timelines == whole.timelines
    for number in whole.nodes:
        assert found.folded is not None and whole.folded is not None
        assert found.folded.node(number).durations == whole.folded.node(number).durations


@pytest.mark.parametrize("seed", range(60))
def test_digests_say_what_all_records_say(seed):
    history = History(seed)
    digests = []
    for place in range(history.rng.choice((20, 60, 150))):
        history.step()
        if place and history.rng.random() < 0.1:
            history.digest()
            digests.append(history.previous)
    whole = history.replayed()
    folded = Replay(folded=FoldedHistory())
    for entry in history.entries:
        folded.add(entry)
    for number in [*digests[:1], *digests[-1:]]:
        found = history.rebuilt(number)
        assert_same(found, whole)
        assert_same_figures(found, folded)
        # Decoded or not, what was written adds up to the same.
        assert_same_figures(history.live, folded)
    # A run that is over has nothing under way.
    for number in digests[-1:]:
        found = history.rebuilt(number)
        found.settle()
        whole.settle()
        assert_same(found, whole)


@pytest.mark.parametrize("seed", range(10))
def test_another_driver_goes_on_from_the_digests_of_the_one_before(seed):
    history = History(seed)
    for place in range(120):
        history.step()
        if place % 20 == 10:
            history.digest()
        if place % 50 == 40:
            # What a driver knows after it read the newest digest, and what came after.
            history.live = replay_of(history.previous, history.read)
            history.live._read = _value
            forget_told(history.live)
            add_after(history.live, history.entries)
    assert_same(history.rebuilt(history.previous), history.replayed())


def _made() -> History:
    history = History(1)
    for place in range(60):
        history.step()
        if place in (20, 40):
            history.digest()
    return history


def _replaced(history: History, number: int, body: bytes) -> None:
    entry = history.entries[number - 1]
    record = Record(Kind.DIGEST, entry.record.at, body)
    history.entries[number - 1] = Entry(entry.seq, entry.place, entry.epoch, record, entry.number)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_digest_of_another_version_is_passed_over(version):
    history = _made()
    body = history.entries[history.previous - 1].record.body
    _replaced(history, history.previous, bytes([version]) + body[1:])
    with pytest.raises(DigestUnusable):
        history.rebuilt(history.previous)


def test_a_digest_at_another_place_is_passed_over():
    history = _made()
    entry = history.entries[history.previous - 1]
    for number, seq in ((entry.number + 1, entry.seq), (entry.number, entry.seq + 1)):
        moved = Entry(seq, 0, 1, entry.record, number)
        with pytest.raises(DigestUnusable):
            replay_of(history.previous, lambda numbers, moved=moved: [moved])


def test_a_digest_whose_predecessor_is_gone_is_passed_over():
    history = _made()
    first = next(entry.number for entry in history.entries if entry.record.kind == Kind.DIGEST)
    _replaced(history, first, b"")
    with pytest.raises(DigestUnusable):
        history.rebuilt(history.previous)
    with pytest.raises(DigestUnusable):
        history.rebuilt(len(history.entries) + 7)
    with pytest.raises(DigestUnusable):
        history.rebuilt(1)


def test_any_truncated_digest_is_passed_over():
    history = _made()
    body = history.entries[history.previous - 1].record.body
    for size in range(0, len(body), 7):
        _replaced(history, history.previous, body[:size])
        with pytest.raises(DigestUnusable):
            history.rebuilt(history.previous)


def test_only_a_replay_that_folds_can_be_written():
    with pytest.raises(TypeError):
        digest_record(Replay(), number=1, previous=0, at=0.0)
