"""The contract of a catalog, as a test suite: an adapter's tests subclass it and give a place.

class TestMine(CatalogContract):
    @pytest.fixture
    def connect(self):
        ...
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from graphflow.model.records import Plan, RunHeader
from graphflow.ports import Catalog, Claim, Holder

__all__ = ["CatalogContract", "Connect"]

Connect = Callable[[], Catalog]
"""Makes another connection to the test's one catalog; the fixture closes all of them."""

HERE = Holder("here", 100, "boot-1")
THERE = Holder("there", 200, "boot-9")
BEGAN = 1_700_000_000.0


def _header(number: int, **changes: Any) -> RunHeader:
    plain = RunHeader(
        id=f"01HZZZZZZZZZZZZZZZZZZZZZ{number:02d}",
        name="calm-otter",
        flow_name="crawl",
        created=BEGAN + number,
    )
    return replace(plain, **changes)


def _claim(run_id: str, epoch: int, holder: Holder = HERE) -> Claim:
    return Claim(
        run_id=run_id, epoch=epoch, holder=holder, steady_until=50.0 + epoch, wall_until=BEGAN + epoch
    )


def _ids(catalog: Catalog, **chosen: Any) -> list[int]:
    return [int(header.id[-2:]) for header, _ in catalog.runs(**chosen)]


class CatalogContract:
    """What every catalog does. The fixture `connect` begins with an empty one for each test."""

    def test_an_adapter_is_what_the_port_says(self, connect: Connect) -> None:
        assert isinstance(connect(), Catalog)

    # -- runs ----------------------------------------------------------------------------------------------

    def test_a_run_is_read_back_by_every_connection(self, connect: Connect) -> None:
        one, other = connect(), connect()
        header = _header(1, state="Running", started=BEGAN + 0.1, host="here", pid=7, epoch=3)
        one.add(header)
        assert other.run(header.id) == (header, None)
        assert list(other.runs()) == [(header, None)]
        assert other.run(header.id.lower()) is None

    def test_runs_are_listed_newest_first_in_pages(self, connect: Connect) -> None:
        catalog = connect()
        with catalog.transaction():
            for number in range(1, 8):
                flow_name = "crawl" if number % 3 else "train"
                catalog.add(_header(number, created=BEGAN + number // 2, flow_name=flow_name))
        assert _ids(catalog) == [7, 6, 5, 4, 3, 2, 1]
        assert _ids(catalog, flow_name="train") == [6, 3]
        assert _ids(catalog, since=BEGAN + 2) == [7, 6, 5, 4]
        before = catalog.run(_header(6).id)
        assert before is not None
        assert _ids(catalog, before=before[0]) == [5, 4, 3, 2, 1]
        assert _ids(catalog, since=BEGAN + 1, before=before[0], flow_name="crawl") == [5, 4, 2]

    def test_long_lists_are_whole(self, connect: Connect) -> None:
        catalog = connect()
        with catalog.transaction():
            for number in range(250):
                catalog.add(_header(0, id=f"run-{number:03d}", created=BEGAN))
        assert [header.id for header, _ in catalog.runs()] == [f"run-{n:03d}" for n in reversed(range(250))]

    def test_a_text_names_an_id_then_its_beginning_then_a_name(self, connect: Connect) -> None:
        catalog = connect()
        for number, name in ((11, "a"), (12, "b"), (21, "a"), (22, "01h")):
            catalog.add(_header(number, name=name))

        def named(text: str) -> list[int]:
            return [int(header.id[-2:]) for header, _ in catalog.named(text)]

        assert named(_header(11).id) == [11]
        assert named(_header(11).id.lower()) == [11]
        assert named(_header(11).id[:-1]) == [12, 11]
        assert named("01hzzzz") == [22, 21, 12, 11]
        # A beginning of several ids, and a name.
        assert named("01h") == [22]
        assert (named("a"), named("b"), named("A"), named("%")) == ([21], [12], [], [])

    def test_states_follow_their_driver_alone(self, connect: Connect) -> None:
        catalog, run_id = connect(), _header(1).id
        catalog.add(_header(1))
        catalog.grant(_claim(run_id, 2))

        def known() -> tuple[str, float | None, float | None]:
            row = connect().run(run_id)
            assert row is not None
            return row[0].state, row[0].started, row[0].ended

        catalog.set_state(run_id, 2, "Running", started=5.0, ended=None)
        catalog.set_state(run_id, 2, "Paused", started=None, ended=None)
        catalog.set_state(run_id, 2, "Running", started=9.0, ended=None)
        assert known() == ("Running", 5.0, None)
        catalog.set_state(run_id, 1, "Failed", started=None, ended=7.0)
        assert known() == ("Running", 5.0, None)
        crashed = _header(1, state="Crashed", ended=8.0, epoch=2)
        catalog.note_state(crashed, "Paused")
        catalog.note_state(replace(crashed, epoch=1), "Running")
        assert known() == ("Running", 5.0, None)
        catalog.note_state(crashed, "Running")
        assert known() == ("Crashed", 5.0, 8.0)
        catalog.mend_state(run_id, 1, "Running", ended=None)
        assert known() == ("Crashed", 5.0, 8.0)
        catalog.mend_state(run_id, 2, "Running", ended=None)
        assert known() == ("Running", 5.0, None)

    def test_a_summary_is_what_the_runs_driver_told_last(self, connect: Connect) -> None:
        one, other = connect(), connect()
        header = _header(1)
        assert one.summary(header.id) == ""
        one.set_summary(header.id, 0, "of no run")
        assert one.summary(header.id) == ""
        one.add(header)
        one.grant(_claim(header.id, 2))
        one.set_summary(header.id, 2, '{"a":1}')
        with other.transaction():
            other.set_state(header.id, 2, "Running", started=BEGAN, ended=None)
            other.set_summary(header.id, 2, '{"a":"ü"}')
        assert one.summary(header.id) == other.summary(header.id) == '{"a":"ü"}'
        one.set_summary(header.id, 1, "of a driver that lost the run")
        assert other.summary(header.id) == '{"a":"ü"}'
        other.forget(header.id)
        assert one.summary(header.id) == ""

    def test_a_run_is_forgotten_with_its_lease_and_requests(self, connect: Connect) -> None:
        catalog, one, two = connect(), _header(1).id, _header(2).id
        for number in (1, 2):
            catalog.add(_header(number))
            catalog.grant(_claim(_header(number).id, 1))
        with catalog.transaction():
            first = catalog.ask(one, 1, "cancel", {}, at=1.0)
            second = catalog.ask(two, 1, "cancel", {}, at=1.0)
        catalog.forget(one)
        assert (catalog.run(one), catalog.answer_of(first)) == (None, None)
        assert not catalog.renew(_claim(one, 1))
        assert [request.id for request in catalog.waiting(two, 1)] == [second]
        # The id may be given again, with nothing of before; the number of a request never.
        catalog.forget(two)
        catalog.add(_header(1))
        assert catalog.run(one) == (_header(1), None)
        with catalog.transaction():
            assert catalog.ask(one, 1, "cancel", {}, at=1.0) > second

    # -- leases --------------------------------------------------------------------------------------------

    def test_a_lease_shows_who_drives(self, connect: Connect) -> None:
        catalog, run_id = connect(), _header(1).id
        catalog.add(_header(1))
        catalog.grant(_claim(run_id, 1))
        row = connect().run(run_id)
        assert row is not None
        assert row[1] == _claim(run_id, 1)
        assert (row[0].host, row[0].pid, row[0].epoch) == ("here", 100, 1)
        catalog.grant(_claim(run_id, 2, THERE))
        row = connect().run(run_id)
        assert row is not None
        assert row[1] == _claim(run_id, 2, THERE)
        assert (row[0].host, row[0].pid, row[0].epoch) == ("there", 200, 2)

    def test_a_lease_is_renewed_and_given_back_by_its_epoch_alone(self, connect: Connect) -> None:
        catalog, run_id = connect(), _header(1).id
        catalog.add(_header(1))
        catalog.grant(_claim(run_id, 2))
        assert not connect().renew(_claim(run_id, 1))
        connect().give_back(run_id, 1)
        longer = replace(_claim(run_id, 2), steady_until=80.0, wall_until=BEGAN + 30)
        assert connect().renew(longer)
        row = catalog.run(run_id)
        assert row is not None and row[1] == longer
        connect().give_back(run_id, 2)
        row = catalog.run(run_id)
        assert row is not None and row[1] is None
        # Who drove it last stays known.
        assert (row[0].host, row[0].epoch) == ("here", 2)
        assert not catalog.renew(longer)

    # -- work ----------------------------------------------------------------------------------------------

    def test_a_run_that_no_worker_has_is_driven_by_who_names_no_claim(self, connect: Connect) -> None:
        catalog = connect()
        catalog.add(_header(1))
        with catalog.transaction():
            assert catalog.drive(_claim(_header(1).id, 1), None)
            assert not catalog.drive(_claim(_header(1).id, 1), 1)

    def test_a_run_without_work_loses_none(self, connect: Connect) -> None:
        catalog = connect()
        catalog.add(_header(1, state="Running", epoch=1))
        row = catalog.run(_header(1).id)
        assert row is not None
        assert not catalog.lose(row[0], at=BEGAN, crashes=1, most=3, why="it died")
        assert catalog.run(_header(1).id) == row

    def test_a_run_keeps_what_it_was_planned_for(self, connect: Connect) -> None:
        one, other = connect(), connect()
        plan = Plan(
            deployment_id="d",
            deployment="crawl/nightly",
            revision=2,
            nominal=BEGAN,
            origin="schedule:s",
            parameters='{"n": 1}',
            tags=("a", "b"),
            source="{}",
            depth=1,
            request_key="k",
        )
        header = _header(1, plan=plan, message="because")
        one.add(header)
        assert other.run(header.id) == (header, None)
        renamed = replace(header, name="tall-fox", state="Pending")
        one.begin(renamed)
        found = other.run(header.id)
        assert found is not None and found[0].plan == plan

    # -- requests ------------------------------------------------------------------------------------------

    def test_requests_wait_for_the_driver_that_they_were_made_to(self, connect: Connect) -> None:
        catalog, outside, run_id = connect(), connect(), _header(1).id
        catalog.add(_header(1))
        body = {"node": "fetch", "options": {"rate": 2.5, "x": [1, None]}}
        with outside.transaction():
            first = outside.ask(run_id, 1, "cancel", {"force": True}, at=1.5)
            second = outside.ask(run_id, 1, "update", body, at=2.5)
            later = outside.ask(run_id, 2, "pause", {}, at=3.5)
        assert first < second < later
        one, two = catalog.waiting(run_id, 1)
        assert (one.id, one.run_id, one.kind, one.body, one.at, one.answer) == (
            first,
            run_id,
            "cancel",
            {"force": True},
            1.5,
            None,
        )
        assert (two.id, two.kind, two.body) == (second, "update", body)
        assert [request.id for request in catalog.waiting(run_id, 2)] == [later]
        assert catalog.waiting("another", 1) == []

    def test_only_the_first_answer_counts_and_only_the_drivers(self, connect: Connect) -> None:
        catalog, outside, run_id = connect(), connect(), _header(1).id
        catalog.add(_header(1))
        with outside.transaction():
            asked = [outside.ask(run_id, epoch, "cancel", {}, at=1.0) for epoch in (1, 2, 3)]
        catalog.answer(asked[1], run_id, 1, "not its driver", at=2.0)
        catalog.answer(asked[1], "another", 2, "not its run", at=2.0)
        assert outside.answer_of(asked[1]) == (run_id, None)
        catalog.answer(asked[1], run_id, 2, "", at=2.0)
        catalog.answer(asked[1], run_id, 2, "again", at=3.0)
        catalog.answer_all(run_id, 2, "gone", at=4.0)
        assert [outside.answer_of(each) for each in asked] == [(run_id, "gone"), (run_id, ""), (run_id, None)]
        assert outside.answer_of(max(asked) + 1) is None
        assert [catalog.waiting(run_id, epoch) for epoch in (1, 2)] == [[], []]

    def test_a_new_request_changes_the_version(self, connect: Connect) -> None:
        catalog, outside = connect(), connect()
        catalog.add(_header(1))
        before = catalog.version()
        assert catalog.version() == before
        with outside.transaction():
            outside.ask(_header(1).id, 1, "cancel", {}, at=1.0)
        assert catalog.version() != before

    # -- transactions --------------------------------------------------------------------------------------

    def test_a_transaction_that_fails_leaves_nothing(self, connect: Connect) -> None:
        catalog, run_id = connect(), _header(1).id
        catalog.add(_header(1))
        catalog.grant(_claim(run_id, 1))
        before = list(catalog.runs())
        number = 0
        with suppress(ZeroDivisionError), catalog.transaction():
            catalog.add(_header(2))
            catalog.grant(_claim(run_id, 2, THERE))
            number = catalog.ask(run_id, 2, "cancel", {}, at=1.0)
            raise ZeroDivisionError
        assert number
        assert list(connect().runs()) == before
        assert catalog.answer_of(number) is None
        catalog.add(_header(2))

    def test_of_all_who_take_a_run_at_once_each_sees_the_one_before(self, connect: Connect) -> None:
        run_id = _header(1).id
        connect().add(_header(1))
        found: list[int] = []

        def take() -> None:
            catalog = connect()
            for _ in range(10):
                with catalog.transaction():
                    row = catalog.run(run_id)
                    assert row is not None
                    epoch = row[0].epoch + 1
                    catalog.grant(_claim(run_id, epoch))
                    found.append(epoch)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == list(range(1, 41))

    def test_a_closed_connection_closes_no_other(self, connect: Connect) -> None:
        one, other = connect(), connect()
        one.add(_header(1))
        one.close()
        one.close()
        assert _ids(other) == [1]
