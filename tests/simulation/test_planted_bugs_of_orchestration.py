"""The simulation of orchestration is tested itself: each planted bug must be caught within a few seeds."""

from __future__ import annotations

import os

from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.orchestration import deciding
from graphflow.orchestration.stores import fires
from graphflow.orchestration.stores.fires import Fires
from graphflow.orchestration.stores.rules import Rules
from simulator.orchestrated import BrokenPromise, live_home

SEEDS = 150


def caught() -> str:
    for seed in range(SEEDS):
        try:
            live_home(seed)
        except BrokenPromise as broken:
            return str(broken)
    return ""


def test_a_driver_that_begins_whatever_its_claim_is_caught(monkeypatch) -> None:
    unguarded = statements.DRIVE_CLAIMED.replace("epoch = ? AND state = 'claimed'", "(epoch = ? OR 1 = 1)")
    assert unguarded != statements.DRIVE_CLAIMED
    monkeypatch.setattr(statements, "DRIVE_CLAIMED", unguarded)
    assert caught()


def test_a_schedule_that_is_moved_before_its_run_is_made_is_caught(monkeypatch) -> None:
    fire = Fires._fire_one

    def moved_first(self, stored, each, now, late_after):
        self._plans.move(each, fires.next_fire(each.schedule, now))
        self._catalog._opened.connection.execute("COMMIT")
        self._catalog._opened.connection.execute("BEGIN IMMEDIATE")
        return fire(self, stored, each, now, late_after)

    monkeypatch.setattr(Fires, "_fire_one", moved_first)
    assert "left a trace" in caught()


def test_an_id_of_a_random_number_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(fires, "run_id_of", lambda schedule, nominal, again=0: os.urandom(8).hex())
    assert caught()


def test_a_catch_up_that_forgets_one_is_caught(monkeypatch) -> None:
    decide = deciding.catch_up

    def forgets(nominals, now, **given):
        found = decide(nominals, now, **given)
        return deciding.CaughtUp(run=found.run, missed=found.missed[1:], last=found.last)

    monkeypatch.setattr(fires, "catch_up", forgets)
    assert "left a trace" in caught()


def test_a_skip_that_is_decided_at_the_claim_alone_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(fires, "meet", lambda concurrency, active: deciding.Verdict())
    assert "are active" in caught()


def test_a_pool_that_is_counted_without_others_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(statements, "POOL_USE", statements.POOL_USE.replace("'claimed'", "'nobody'"))
    assert "are claimed in a pool" in caught()


def test_a_limit_that_is_not_looked_at_again_when_a_run_is_claimed_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(statements, "KEY_USE", statements.KEY_USE.replace("'claimed'", "'nobody'"))
    assert "with a limit of 2" in caught()


def test_work_that_outlives_its_run_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(statements, "END_WORK", "DELETE FROM work WHERE run_id = ? AND 1 = 0")
    assert caught()


def test_a_run_that_is_made_apart_from_its_fire_is_caught(monkeypatch) -> None:
    add = SqliteCatalog.add

    def apart(self, header):
        add(self, header)
        self._opened.connection.execute("COMMIT")
        self._opened.connection.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(SqliteCatalog, "add", apart)
    assert caught()


def test_a_cursor_in_place_of_what_is_pending_is_caught(monkeypatch) -> None:
    # As numbers of concurrent transactions become visible out of order, one that is later has passed some by.
    passed = statements.EVENT_IS_DONE.replace("seq = ?", "seq <= ? + 2")
    assert passed != statements.EVENT_IS_DONE
    monkeypatch.setattr(statements, "EVENT_IS_DONE", passed)
    assert "its rule did not fire" in caught()


def test_a_firing_outside_the_transaction_of_its_actions_is_caught(monkeypatch) -> None:
    add = Rules.add_firing

    def apart(self, rule, event_id, key):
        added = add(self, rule, event_id, key)
        self._catalog._opened.connection.execute("COMMIT")
        self._catalog._opened.connection.execute("BEGIN IMMEDIATE")
        return added

    monkeypatch.setattr(Rules, "add_firing", apart)
    assert "firings" in caught()


def test_a_rule_that_fires_as_often_as_it_sees_an_event_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(statements, "EVENT_IS_DONE", "UPDATE event SET is_pending = ? * 0 + is_pending")
    monkeypatch.setattr(Rules, "add_firing", lambda *_: True)
    assert "firings" in caught()
