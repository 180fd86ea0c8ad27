from __future__ import annotations

import os

import pytest

from graphflow.errors import HistoryError, LeaseHeld
from graphflow.histories.leases import DriverLock, SystemClock, is_locked, this_process
from graphflow.ports import Holder, claim_of
from graphflow.testing.contracts.histories import ManualClock

ME = Holder("here", 1, "boot-1")


def alive(holder, *, steady=0.0, wall=0.0, has_lock=True, me=ME):
    clock = ManualClock()
    claim = claim_of("run", 1, holder, clock, 30.0)
    clock.steady_time += steady
    clock.wall_time += wall
    return claim.is_alive(me, clock, has_lock=has_lock)


def test_on_one_kernel_the_steady_clock_and_the_lock_decide():
    beside = Holder("another-container", 7, "boot-1")
    assert alive(beside, steady=29, wall=1e9)
    assert not alive(beside, steady=30, wall=-1e9)
    assert not alive(beside, has_lock=False)


def test_a_boot_before_this_one_has_no_process_left():
    assert not alive(Holder("here", 7, "boot-0"))


def test_on_another_machine_the_wall_clock_decides():
    far = Holder("there", 7, "boot-9")
    assert alive(far, steady=1e9, wall=29, has_lock=False)
    assert not alive(far, wall=30)


def test_without_a_name_of_the_boot_the_host_decides():
    me = Holder("here", 1, "")
    assert alive(Holder("here", 7, ""), wall=1e9, me=me)
    assert not alive(Holder("here", 7, ""), has_lock=False, me=me)
    assert alive(Holder("there", 7, ""), has_lock=False, me=me)


def test_the_holder_is_named_with_the_end_of_its_lease():
    clock = ManualClock()
    claim = claim_of("run-1", 3, Holder("here", 7, "boot-1"), clock, 30.0)
    clock.pass_time(10)
    # People see the wall clock as it is now, not as it was when the lease began.
    clock.wall_time += 3600
    error = claim.held(ME, clock, "cannot be taken")
    assert isinstance(error, LeaseHeld)
    assert (error.host, error.pid, error.until) == ("here", 7, clock.wall() + 20)
    for part in ("run-1", "process 7 on here", "20 s from now"):
        assert part in str(error)


def test_a_lock_is_seen_while_it_is_held(tmp_path):
    assert not is_locked(tmp_path)
    lock = DriverLock(tmp_path)
    assert not is_locked(tmp_path)
    lock.publish()
    assert is_locked(tmp_path)
    assert is_locked(tmp_path)
    lock.release()
    lock.release()
    assert not is_locked(tmp_path)


def test_a_new_lock_takes_the_place_of_one_that_is_still_held(tmp_path):
    zombie = DriverLock(tmp_path)
    zombie.publish()
    lock = DriverLock(tmp_path)
    lock.publish()
    zombie.release()
    assert is_locked(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)


def test_a_lock_that_is_not_wanted_leaves_nothing(tmp_path):
    DriverLock(tmp_path).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_said(tmp_path):
    with pytest.raises(HistoryError, match="lock file"):
        DriverLock(tmp_path / "gone")


def test_this_process_is_a_holder_on_this_machine():
    me = this_process()
    assert me.pid == os.getpid()
    assert me.host and me.is_beside(this_process()) and not me.outlived_boot_of(this_process())
    clock = SystemClock()
    assert clock.steady() <= clock.steady()
    assert clock.wall() > 1_700_000_000
