"""The contract of a history, as a test suite: an adapter's tests subclass it and give a place.

class TestMine(HistoryContract):
    @pytest.fixture
    def place(self):
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from graphflow.errors import GraphflowError, HistoryDamaged, HistoryError, LeaseHeld, LeaseLost, RunNotFound
from graphflow.histories.checks import GONE
from graphflow.model.records import Entry, Kind, Plan, Record, RunHeader
from graphflow.ports import Clock, History, Holder, Journal

__all__ = ["HERE", "LEASE_SECONDS", "HistoryContract", "ManualClock", "Place", "header"]

LEASE_SECONDS = 30.0
"""How long leases of a place last."""

HERE = Holder("here", 100, "boot-1")
BESIDE = Holder("here", 200, "boot-1")
REBOOTED = Holder("here", 101, "boot-2")
ELSEWHERE = Holder("elsewhere", 100, "boot-9")


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.wall_time = 1_700_000_000.0
        self.steady_time = 5_000.0

    def wall(self) -> float:
        return self.wall_time

    def steady(self) -> float:
        """Return seconds of the clock that cannot be set."""
        return self.steady_time

    def pass_time(self, seconds: float) -> None:
        """Advance the clock."""
        self.wall_time += seconds
        self.steady_time += seconds


class Place(Protocol):
    """Where histories are kept, as several processes see them."""

    @property
    def clock(self) -> ManualClock:
        """The clock that all of them go by."""
        ...

    def history(self, holder: Holder = HERE) -> History:
        """Return the histories as one process sees them; their leases last for `LEASE_SECONDS`."""
        ...

    def kill(self, journal: Any) -> None:
        """Do to a journal what the death of its process does."""
        ...


def header(
    number: int = 1,
    *,
    name: str = "calm-otter",
    flow_name: str = "crawl",
    created: float = 0.0,
    plan: Plan | None = None,
) -> RunHeader:
    """Return a new run; ids of larger numbers are later ones."""
    return RunHeader(
        id=f"01HZZZZZZZZZZZZZZZZZZZZZ{number:02d}",
        name=name,
        flow_name=flow_name,
        created=created,
        plan=plan or Plan(),
    )


def _raised(error: type[BaseException], call: Callable[[], Any]) -> Any:
    try:
        call()
    except error as found:
        return found
    raise AssertionError(f"{error.__name__} was not raised")


def _items(node: int, lo: int, count: int, body: bytes = b"columns") -> Record:
    return Record(Kind.ITEMS, 12.5, body, node, lo, count)


class HistoryContract:
    """What every history does."""

    # -- what is written is read ---------------------------------------------------------------------------

    def test_a_new_run_is_listed_with_its_driver(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        assert (journal.run_id, journal.epoch) == (header().id, 1)
        (found,) = place.history(BESIDE).runs()
        assert (found.id, found.name, found.flow_name, found.state) == (
            header().id,
            "calm-otter",
            "crawl",
            "Pending",
        )
        assert (found.created, found.started, found.ended) == (place.clock.wall(), None, None)
        assert (found.host, found.pid, found.epoch) == ("here", 100, 1)
        assert found.lease is not None
        assert (found.lease.host, found.lease.pid, found.lease.epoch) == ("here", 100, 1)
        assert found.lease.until == place.clock.wall() + LEASE_SECONDS
        assert history.head(found.id) == 0
        assert list(history.read(found.id)) == []
        journal.close()

    def test_an_id_is_given_once(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        journal.commit([_items(0, 0, 1)])
        assert header().id in str(_raised(HistoryError, lambda: history.create(header(name="other"))))
        journal.close()
        _raised(HistoryError, lambda: place.history(BESIDE).create(header(name="other")))
        assert [entry.record for entry in history.read(header().id)] == [_items(0, 0, 1)]
        assert history.find(header().id).name == "calm-otter"

    def test_ids_that_could_not_name_a_folder_are_refused(self, place: Place) -> None:
        history = place.history()
        for text in ("", "../x", "a/b", ".hidden", "x" * 129, "a\0b", "Ä"):
            run = RunHeader(id=text, name="n", flow_name="f")
            _raised(HistoryError, lambda run=run: history.create(run))  # type: ignore[misc]
        assert history.runs() == []

    def test_commits_are_read_back_exactly(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        first = [
            Record(Kind.LAUNCH, 0.1 + 0.2, b'{"a": 1}'),
            _items(3, 10, 1000, bytes(range(256)) * 40),
            Record(Kind.STATE, 1e9 + 1 / 3, b"", 2**62, -(2**63), 2**63 - 1),
        ]
        second = [_items(4, 0, 1, b"x" * 1_000_000)]
        assert journal.commit(first) == 1
        assert journal.commit(second) == 2
        expected = [Entry(1, place, 1, record, place + 1) for place, record in enumerate(first)]
        expected.append(Entry(2, 0, 1, second[0], 4))
        assert list(place.history(BESIDE).read(header().id)) == expected
        assert history.head(header().id) == 2
        journal.close()
        assert list(history.read(header().id)) == expected

    def test_reading_is_narrowed_by_commit_kind_and_node(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        for seq in range(1, 151):
            records = [_items(seq % 3, seq, 1), Record(Kind.LOG, 1.0, str(seq).encode(), 7)]
            assert journal.commit(records) == seq
        run_id = journal.run_id
        assert len(list(history.read(run_id))) == 300
        assert [entry.seq for entry in history.read(run_id, after=149)] == [150, 150]
        assert list(history.read(run_id, after=150)) == []
        assert list(history.read(run_id, after=999)) == []
        logs = list(history.read(run_id, kinds=[Kind.LOG]))
        assert [entry.record.body for entry in logs] == [str(seq).encode() for seq in range(1, 151)]
        assert {entry.place for entry in logs} == {1}
        ones = list(history.read(run_id, kinds={Kind.ITEMS, Kind.STATE}, node=1, after=10))
        assert [entry.seq for entry in ones] == [seq for seq in range(11, 151) if seq % 3 == 1]
        assert len(list(history.read(run_id, node=7))) == 150
        assert list(history.read(run_id, node=8)) == []
        journal.close()

    def test_records_are_read_by_their_numbers(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        for seq in range(1, 101):
            journal.commit([_items(seq % 3, seq, 1), Record(Kind.LOG, 1.0, str(seq).encode(), 7)])
        assert journal.number == 200
        entries = list(place.history(BESIDE).read(journal.run_id))
        assert [entry.number for entry in entries] == list(range(1, 201))
        numbers = [200, 3, 3, 150, 1]
        assert list(history.records(journal.run_id, numbers)) == [entries[each - 1] for each in numbers]
        assert list(history.records(journal.run_id, [])) == []
        for wrong in (0, -1, 201):
            _raised(HistoryDamaged, lambda wrong=wrong: list(history.records(journal.run_id, [1, wrong])))  # type: ignore[misc]
        journal.close()
        assert place.history().take(journal.run_id).number == 200

    def test_digests_are_left_out_unless_they_are_asked_for(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        run_id = journal.run_id
        assert list(history.digests(run_id)) == []
        for seq in range(1, 4):
            journal.commit([_items(0, seq, 1)])
            journal.commit([Record(Kind.DIGEST, 1.0, str(seq).encode())])
        assert [entry.record.kind for entry in history.read(run_id)] == [Kind.ITEMS] * 3
        assert [entry.number for entry in history.read(run_id)] == [1, 3, 5]
        found = list(history.read(run_id, kinds=[Kind.DIGEST]))
        assert [entry.record.body for entry in found] == [b"1", b"2", b"3"]
        assert list(history.digests(run_id)) == [6, 4, 2]
        assert list(history.records(run_id, history.digests(run_id))) == found[::-1]
        assert history.verify(run_id) == []
        journal.close()

    def test_a_reader_goes_on_where_it_was(self, place: Place) -> None:
        journal = place.history().create(header())
        reader = place.history(BESIDE)
        seen = 0
        for seq in range(1, 6):
            journal.commit([_items(0, seq, 1)])
            entries = list(reader.read(journal.run_id, after=seen))
            assert [entry.seq for entry in entries] == [seq]
            seen = reader.head(journal.run_id)
        journal.close()

    def test_nothing_to_write_is_no_commit(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        assert journal.commit([]) == 0
        assert journal.commit([], state="Running") == 1
        assert journal.commit([]) == 1
        assert history.head(journal.run_id) == 1
        journal.close()

    def test_what_does_not_fit_is_refused_whole(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        _raised(ValueError, lambda: journal.commit([_items(0, 0, 1), _items(0, 2**63, 1)]))
        _raised(ValueError, lambda: journal.commit([_items(0, 0, 1), Record(Kind.LOG, float("nan"))]))
        _raised(ValueError, lambda: journal.commit([_items(0, 0, 1)], state="Sleepy"))
        assert list(history.read(journal.run_id)) == []
        assert journal.commit([_items(0, 0, 1)]) == 1
        assert history.verify(journal.run_id) == []
        journal.close()

    def test_unknown_runs_are_not_found(self, place: Place) -> None:
        history = place.history()
        calls: list[Callable[[], Any]] = [
            lambda: history.find("nobody"),
            lambda: history.find(""),
            lambda: history.find("@latest"),
            lambda: history.take("nobody"),
            lambda: list(history.read("nobody")),
            lambda: history.head("nobody"),
            lambda: history.request("nobody", "cancel", {}),
            lambda: history.verify("nobody"),
            lambda: history.remove("nobody"),
        ]
        for call in calls:
            _raised(RunNotFound, call)
        assert history.runs() == []
        history.create(header()).close()
        for call in calls[:2] + calls[3:]:
            _raised(RunNotFound, call)
        _raised(HistoryError, lambda: history.answer_of(1))

    # -- lists ---------------------------------------------------------------------------------------------

    def test_lists_hear_of_a_run_with_its_next_state_or_at_once(self, place: Place) -> None:
        history, reader = place.history(), place.history(BESIDE)
        journal = history.create(header())
        assert reader.summary(journal.run_id) == ""
        journal.summarize("first")
        assert reader.summary(journal.run_id) == ""
        journal.commit([_items(0, 0, 1)], state="Running")
        assert reader.summary(journal.run_id) == "first"
        journal.summarize("second", at_once=True)
        assert reader.summary(journal.run_id) == "second"
        journal.commit([_items(0, 1, 1)], state="Completed")
        journal.close()
        journal.summarize("of one that is closed", at_once=True)
        assert reader.summary(journal.run_id) == "second"
        history.remove(journal.run_id)
        assert reader.summary(journal.run_id) == ""

    def test_states_and_times_are_listed(self, place: Place) -> None:
        history, clock = place.history(), place.clock
        journal = history.create(header())
        clock.pass_time(1)
        began = clock.wall()
        journal.commit([], state="Running")
        clock.pass_time(1)
        journal.commit([], state="Paused")
        clock.pass_time(1)
        journal.commit([], state="Running")
        found = history.find(journal.run_id)
        assert (found.state, found.started, found.ended) == ("Running", began, None)
        clock.pass_time(1)
        journal.commit([_items(0, 0, 1)], state="Completed")
        journal.close()
        found = history.find(journal.run_id)
        assert (found.state, found.started, found.ended, found.lease) == (
            "Completed",
            began,
            clock.wall(),
            None,
        )

    def test_a_run_is_found_by_id_prefix_name_and_age(self, place: Place) -> None:
        history, clock = place.history(), place.clock
        for number, name, state in (
            (11, "a", "Completed"),
            (12, "b", "Failed"),
            (21, "a", "TimedOut"),
            (22, "c", "Cancelled"),
        ):
            clock.pass_time(1)
            journal = history.create(header(number, name=name))
            journal.commit([], state=state)
            journal.close()
        ids = {number: header(number).id for number in (11, 12, 21, 22)}
        assert history.find(ids[11]).id == ids[11]
        assert history.find(ids[12].lower()).id == ids[12]
        assert history.find("b").id == ids[12]
        assert history.find("a").id == ids[21]
        assert history.find("@latest").id == ids[22]
        assert history.find("@latest-failed").id == ids[21]
        history.create(header(33)).close()
        assert history.find(ids[11][:-2] + "3").id == header(33).id
        several = str(_raised(RunNotFound, lambda: history.find(ids[11][:-1].lower())))
        assert ids[11] in several and ids[12] in several
        _raised(RunNotFound, lambda: history.find("01J"))
        _raised(RunNotFound, lambda: history.find("%"))

    def test_runs_are_listed_the_newest_first_and_page_by_page(self, place: Place) -> None:
        history, clock = place.history(), place.clock
        began = clock.wall()
        for number in range(1, 8):
            # Two of them at a moment.
            moment = began + number // 2
            flow_name = "crawl" if number % 3 else "train"
            plan = Plan(deployment="crawl/nightly", tags=("big", f"n{number}")) if number < 3 else None
            journal = history.create(header(number, flow_name=flow_name, created=moment, plan=plan))
            journal.commit([], state="Failed" if number % 2 else "Completed")
            journal.close()
        ids = [header(number).id for number in range(7, 0, -1)]
        assert [run.id for run in history.runs()] == ids
        assert [run.id for run in history.runs(limit=3)] == ids[:3]
        assert [run.id for run in history.runs(limit=3, before=ids[2])] == ids[3:6]
        assert [run.id for run in history.runs(before=ids[5])] == ids[6:]
        assert history.runs(limit=0) == []
        assert [run.id for run in history.runs(flow_name="train")] == [header(6).id, header(3).id]
        assert [run.id for run in history.runs(states=["Completed"], limit=2)] == [header(6).id, header(4).id]
        assert [run.id for run in history.runs(states=["Completed", "Failed"])] == ids
        assert [run.id for run in history.runs(states=["Running"])] == []
        assert [run.id for run in history.runs(since=began + 3)] == ids[:2]
        assert [run.id for run in history.runs(deployment="crawl/nightly")] == ids[-2:]
        assert [run.id for run in history.runs(deployment="crawl/nightly", states=["Failed"])] == ids[-1:]
        assert [run.id for run in history.runs(tag="big", limit=1)] == ids[-2:-1]
        assert [run.id for run in history.runs(tag="n1")] == ids[-1:]
        assert history.runs(deployment="nightly") == history.runs(tag="bi") == []
        _raised(RunNotFound, lambda: history.runs(before="nobody"))

    # -- drivers -------------------------------------------------------------------------------------------

    def test_a_run_has_one_driver(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        for holder in (HERE, BESIDE, ELSEWHERE):
            error = _raised(LeaseHeld, lambda holder=holder: place.history(holder).take(header().id))  # type: ignore[misc]
            assert (error.host, error.pid, error.until) == ("here", 100, place.clock.wall() + LEASE_SECONDS)
            assert "here" in str(error) and "100" in str(error)
        journal.close()
        second = place.history(BESIDE).take(header().id)
        assert second.epoch == 2
        assert history.find(header().id).pid == 200
        second.close()

    def test_the_next_driver_goes_on_where_the_last_one_ended(self, place: Place) -> None:
        history = place.history()
        for epoch in (1, 2, 3):
            journal: Journal = history.create(header()) if epoch == 1 else history.take(header().id)
            assert journal.epoch == epoch
            assert journal.commit([_items(0, epoch, 1)]) == epoch
            journal.close()
        assert [(entry.seq, entry.epoch) for entry in history.read(header().id)] == [(1, 1), (2, 2), (3, 3)]
        assert history.verify(header().id) == []

    def test_a_dead_driver_on_one_machine_is_known_at_once(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([_items(0, 0, 5)], state="Running")
        place.kill(journal)
        beside = place.history(BESIDE)
        assert beside.find("@latest").state == "Crashed"
        assert place.history(ELSEWHERE).find("@latest-failed").id == header().id
        (found,) = beside.runs(states=["Crashed"])
        assert found.ended is not None and found.lease is None
        taken = beside.take(header().id)
        assert taken.epoch == 2
        assert taken.commit([], state="Running") == 2
        found = beside.find(header().id)
        assert (found.state, found.ended) == ("Running", None)
        assert [entry.record for entry in beside.read(header().id)] == [_items(0, 0, 5)]
        taken.close()

    def test_a_driver_that_left_without_an_end_has_crashed(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([], state="Running")
        journal.close()
        assert place.history(BESIDE).find(header().id).state == "Crashed"

    def test_a_driver_that_died_after_its_end_has_not_crashed(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([], state="Completed")
        place.kill(journal)
        assert [run.state for run in place.history(BESIDE).runs()] == ["Completed"]

    def test_a_silent_driver_is_taken_over_and_writes_nothing_more(self, place: Place) -> None:
        history, clock = place.history(), place.clock
        zombie = history.create(header())
        zombie.commit([_items(0, 0, 1)], state="Running")
        clock.pass_time(LEASE_SECONDS - 1)
        _raised(LeaseHeld, lambda: place.history(BESIDE).take(header().id))
        clock.pass_time(1)
        driver = place.history(BESIDE).take(header().id)
        assert driver.epoch == 2
        driver.commit([_items(0, 1, 1)], state="Running")
        _raised(LeaseLost, lambda: zombie.commit([_items(0, 2, 1)], state="Failed"))
        _raised(LeaseLost, zombie.renew)
        zombie.close()
        assert driver.commit([_items(0, 3, 1)]) == 3
        driver.renew()
        assert [entry.record.lo for entry in history.read(header().id)] == [0, 1, 3]
        found = history.find(header().id)
        assert (found.state, found.pid, found.lease is not None) == ("Running", 200, True)
        assert history.verify(header().id) == []
        # The death of the one that was stopped tells nothing of the one that drives.
        _raised(LeaseHeld, lambda: history.take(header().id))
        driver.close()

    def test_a_lease_that_is_renewed_is_kept(self, place: Place) -> None:
        journal = place.history().create(header())
        for _ in range(5):
            place.clock.pass_time(LEASE_SECONDS * 0.9)
            journal.renew()
            _raised(LeaseHeld, lambda: place.history(BESIDE).take(header().id))
            _raised(LeaseHeld, lambda: place.history(ELSEWHERE).take(header().id))
        journal.close()

    def test_a_late_driver_that_nobody_followed_goes_on(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([], state="Running")
        place.clock.pass_time(LEASE_SECONDS * 3)
        assert place.history(BESIDE).find(header().id).state == "Crashed"
        journal.commit([_items(0, 0, 1)])
        journal.renew()
        found = place.history(BESIDE).find(header().id)
        assert (found.state, found.ended) == ("Running", None)
        journal.close()

    def test_a_wall_clock_that_is_set_changes_nothing_on_one_machine(self, place: Place) -> None:
        clock = place.clock
        journal = place.history().create(header())
        journal.commit([], state="Running")
        beside = place.history(BESIDE)
        for jump in (3600.0, -7200.0):
            clock.wall_time += jump
            _raised(LeaseHeld, lambda: beside.take(header().id))
            assert beside.find(header().id).state == "Running"
        clock.steady_time += LEASE_SECONDS
        taken = beside.take(header().id)
        assert taken.epoch == 2
        _raised(LeaseLost, journal.renew)
        journal.close()
        taken.close()

    def test_another_machine_waits_for_the_wall_clock(self, place: Place) -> None:
        clock = place.clock
        journal = place.history().create(header())
        place.kill(journal)
        far = place.history(ELSEWHERE)
        _raised(LeaseHeld, lambda: far.take(header().id))
        # Its steady clock is another one.
        clock.steady_time += 1e6
        _raised(LeaseHeld, lambda: far.take(header().id))
        clock.wall_time += LEASE_SECONDS
        taken = far.take(header().id)
        assert taken.epoch == 2
        taken.close()

    def test_a_machine_that_was_started_again_has_no_old_driver(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([], state="Running")
        after = place.history(REBOOTED)
        assert after.find(header().id).state == "Crashed"
        taken = after.take(header().id)
        assert taken.epoch == 2
        _raised(LeaseLost, lambda: journal.commit([_items(0, 0, 1)]))
        journal.close()
        taken.close()

    def test_a_closed_journal_is_closed(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.close()
        journal.close()
        calls: list[Callable[[], Any]] = [
            lambda: journal.commit([_items(0, 0, 1)]),
            journal.renew,
            journal.requests,
            lambda: journal.answer(1),
        ]
        for call in calls:
            assert header().id in str(_raised(HistoryError, call))

    # -- requests ------------------------------------------------------------------------------------------

    def test_requests_are_answered(self, place: Place) -> None:
        history, outside = place.history(), place.history(BESIDE)
        journal = history.create(header())
        assert journal.requests() == []
        first = outside.request(header().id, "cancel", {"now": True})
        place.clock.pass_time(1)
        second = history.request(
            header().id, "update", {"node": "fetch", "options": {"rate": 2.5, "x": [1, None]}}
        )
        assert second > first
        one, two = journal.requests()
        assert (one.id, one.run_id, one.kind, one.body, one.answer) == (
            first,
            header().id,
            "cancel",
            {"now": True},
            None,
        )
        assert two.body == {"node": "fetch", "options": {"rate": 2.5, "x": [1, None]}}
        assert two.at == one.at + 1
        assert (outside.answer_of(first), outside.answer_of(second)) == (None, None)
        journal.answer(first)
        journal.answer(second, "there is no task 'fetch'")
        journal.answer(second, "again")
        assert journal.requests() == []
        assert outside.answer_of(first) == ""
        assert outside.answer_of(second) == "there is no task 'fetch'"
        third = outside.request(header().id, "pause", {})
        assert [request.id for request in journal.requests()] == [third]
        journal.close()

    def test_requests_reach_their_run_alone(self, place: Place) -> None:
        history = place.history()
        journals = [history.create(header(number)) for number in (1, 2)]
        asked = [place.history(BESIDE).request(journal.run_id, "cancel", {}) for journal in journals]
        for journal, number in zip(journals, asked, strict=True):
            assert [request.id for request in journal.requests()] == [number]
        journals[0].answer(asked[1], "not mine")
        assert history.answer_of(asked[1]) is None
        for journal in journals:
            journal.close()

    def test_a_run_without_a_driver_takes_no_requests(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        place.kill(journal)
        assert "driver" in str(
            _raised(HistoryError, lambda: place.history(BESIDE).request(header().id, "pause", {}))
        )
        journal = history.take(header().id)
        journal.close()
        _raised(HistoryError, lambda: history.request(header().id, "pause", {}))

    def test_requests_to_a_driver_that_is_gone_are_not_its_successors(self, place: Place) -> None:
        history, outside = place.history(), place.history(BESIDE)
        journal = history.create(header())
        lost = outside.request(header().id, "cancel", {})
        place.kill(journal)
        assert outside.answer_of(lost) == GONE
        taken = history.take(header().id)
        assert taken.requests() == []
        assert outside.answer_of(lost) == GONE
        late = outside.request(header().id, "cancel", {})
        taken.close()
        assert outside.answer_of(late) == GONE

    # -- care ----------------------------------------------------------------------------------------------

    def test_a_run_is_removed_when_nobody_drives_it(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header(1))
        other = history.create(header(2))
        other.commit([_items(0, 0, 1)])
        error = _raised(LeaseHeld, lambda: place.history(BESIDE).remove(header(1).id))
        assert (error.host, error.pid) == ("here", 100)
        number = history.request(header(1).id, "pause", {})
        journal.commit([_items(0, 0, 1)])
        journal.close()
        place.history(BESIDE).remove(header(1).id)
        _raised(RunNotFound, lambda: history.find(header(1).id))
        assert [run.id for run in history.runs()] == [header(2).id]
        assert len(list(history.read(header(2).id))) == 1
        # The id is free again, with nothing of the old run in it.
        again = history.create(header(1))
        assert list(history.read(header(1).id)) == []
        assert history.request(header(1).id, "pause", {}) > number
        again.close()
        other.close()

    def test_a_driver_whose_silent_run_was_removed_stops(self, place: Place) -> None:
        journal = place.history().create(header())
        journal.commit([_items(0, 0, 1)], state="Running")
        place.clock.pass_time(LEASE_SECONDS)
        place.history(BESIDE).remove(header().id)
        _raised(LeaseLost, lambda: journal.commit([_items(0, 1, 1)]))
        _raised(GraphflowError, journal.renew)
        journal.close()
        assert place.history().runs() == []

    def test_results_have_a_folder_for_each_run(self, place: Place) -> None:
        history = place.history()
        one, two = (history.results_folder(header(number).id) for number in (1, 2))
        assert one != two and header(1).id in one
        assert one.startswith("/") or "://" in one

    def test_what_was_written_is_found_in_order(self, place: Place) -> None:
        history = place.history()
        journal = history.create(header())
        assert history.verify(header().id) == []
        for seq in range(100):
            journal.commit([_items(0, seq, 1, bytes(100))], state="Running" if seq % 10 == 0 else None)
        assert place.history(BESIDE).verify(header().id) == []
        place.kill(journal)
        assert place.history(BESIDE).verify(header().id) == []
        history.take(header().id).close()
        assert history.verify(header().id) == []

    def test_clocks_and_histories_are_what_the_ports_say(self, place: Place) -> None:
        clock: Clock = place.clock
        assert clock.steady() <= clock.steady()
        history = place.history()
        assert isinstance(history, History)
        journal = history.create(header())
        assert isinstance(journal, Journal)
        journal.close()
