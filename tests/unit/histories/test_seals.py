from __future__ import annotations

import struct

import pytest

from graphflow.histories.seals import Seal

HEADS = [(4, 0, 0, 10, 1.5, b"d" * 16), (9, -1, 0, 0, 2.5, b"e" * 16)]
ARGUMENTS = (b"before", 7, 2, 1.25, 30, "Running", HEADS)


def test_a_seal_depends_on_every_column():
    seal = Seal(b"k" * 32, "run")
    assert seal.commit(*ARGUMENTS) == Seal(b"k" * 32, "run").commit(*ARGUMENTS)
    macs = {seal.commit(*ARGUMENTS), Seal(b"K" * 32, "run").commit(*ARGUMENTS)}
    others = (b"Before", 8, 3, 1.5, 31, None)
    for place, other in enumerate(others):
        macs.add(seal.commit(*ARGUMENTS[:place], other, *ARGUMENTS[place + 1 :]))
    for place in range(6):
        head = list(HEADS[0])
        head[place] = b"f" * 16 if place == 5 else head[place] + 1
        macs.add(seal.commit(*ARGUMENTS[:6], [tuple(head), HEADS[1]]))
    macs.add(seal.commit(*ARGUMENTS[:6], HEADS[::-1]))
    macs.add(seal.commit(*ARGUMENTS[:6], HEADS[:1]))
    macs.add(seal.commit(*ARGUMENTS[:5], "", HEADS))
    assert len(macs) == 2 + 6 + 6 + 3
    assert {len(mac) for mac in macs} == {16}


def test_the_beginning_depends_on_what_the_run_is():
    genesis = {
        Seal(key, run).genesis(name, flow, at)
        for key in (b"a", b"b")
        for run in ("x", "y")
        for name, flow in (("ab", "c"), ("a", "bc"))
        for at in (1.0, 2.0)
    }
    assert len(genesis) == 16


def test_what_is_of_another_type_has_no_seal():
    seal = Seal(b"k" * 32, "run")
    for place, other in ((1, 7.0), (3, "1.25"), (4, None)):
        with pytest.raises((struct.error, TypeError)):
            seal.commit(*ARGUMENTS[:place], other, *ARGUMENTS[place + 1 :])


def test_keys_are_told_apart_without_showing_them():
    one, two = Seal(b"k" * 32, "run"), Seal(b"j" * 32, "run")
    assert one.key_id != two.key_id
    assert one.key_id == Seal(b"k" * 32, "other").key_id
    assert len(one.key_id) == 8
