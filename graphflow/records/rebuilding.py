"""A run rebuilt from its history: from the newest digest that can be used and what came after it, or from all records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from graphflow.errors import HistoryDamaged, HistoryTooNew
from graphflow.ports import History, ResultStore
from graphflow.records.codec import decode
from graphflow.records.digest import DigestUnusable, replay_of
from graphflow.records.folded import FoldedHistory, ItemReader
from graphflow.records.replay import Replay

__all__ = ["catch_up", "folded_replay", "known_replay"]

_logger = logging.getLogger("graphflow.records")


def known_replay(
    history: History, run_id: str, *, store: ResultStore | None = None, folds: bool = False
) -> Replay:
    """Return what is known of a run. Where it has a digest, its items are read again when they are asked for.

    With `folds`, they are in any case: what is kept is 2 bytes per item, and there are figures of durations and workers.

    Raises
    ------
    HistoryDamaged, HistoryTooNew
        If what is read differs from what was written, or cannot be read.
    """
    found = _digested(history, run_id, store)
    if found is not None:
        replay = found[0]
    elif folds:
        reader = ItemReader(partial(history.records, run_id), store)
        replay = Replay(store, folded=FoldedHistory(reader))
    else:
        replay = Replay(store)
    catch_up(replay, history, run_id)
    return replay


def folded_replay(history: History, run_id: str, *, read: Callable[..., Any] = decode) -> tuple[Replay, int]:
    """Return what is known of a run up to its newest digest that can be used, and the number of that; 0 if there is none.

    Items are not kept. `read` reads the bodies of records that are added.
    """
    return _digested(history, run_id, None, read) or (Replay(read=read, folded=FoldedHistory()), 0)


def catch_up(replay: Replay, history: History, run_id: str) -> None:
    """Add what was committed since."""
    for entry in history.read(run_id, after=replay.seq):
        replay.add(entry)


def _digested(
    history: History, run_id: str, store: ResultStore | None, read: Callable[..., Any] = decode
) -> tuple[Replay, int] | None:
    for number in history.digests(run_id):
        try:
            return replay_of(number, partial(history.records, run_id), store=store, decoded=read), number
        except (DigestUnusable, HistoryDamaged, HistoryTooNew) as error:
            # What it says is read from the records instead.
            _logger.debug("run %s: %s", run_id, error)
    return None
