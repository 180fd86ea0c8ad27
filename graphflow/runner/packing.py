"""The values of a batch on their way to the result store: one pack per report, written before that is sent."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphflow.failpoints import failpoint
from graphflow.mapping import DROPPED
from graphflow.orders import BatchOrder
from graphflow.results.packs import Section, publish
from graphflow.results.pickling import encode
from graphflow.runner.host import BatchHost, Packed
from graphflow.runner.progress import part_of
from graphflow.runner.step import Step
from graphflow.states import Code

__all__ = ["pack_values"]

logger = logging.getLogger("graphflow.results")
_COMPLETED = int(Code.COMPLETED)


def pack_values(
    order: BatchOrder,
    host: BatchHost,
    steps: Sequence[Step],
    positions: Sequence[int],
    columns: Sequence[list[Any]],
) -> tuple[Sequence[Packed | None], str]:
    """Write the columns of the steps that persist as one pack.

    Gives an entry per column (none at all where nothing is written), and why they could not be written.
    """
    if order.results is None or not any(step.order.persists for step in steps):
        return (), ""
    packed = [
        _packed(host, order, steps, step, positions, column) if step.order.persists else None
        for step, column in zip(steps, columns, strict=True)
    ]
    sections = [
        Section(
            node=step.order.node,
            data=each.data,
            count=len(column),
            missing=sorted([*each.errors, *each.dropped]),
            is_whole=not each.dropped,
        )
        for step, column, each in zip(steps, columns, packed, strict=True)
        if each is not None
    ]
    if not sections:
        return (), ""
    failpoint("batch.pack.before")
    try:
        stored = iter(
            publish(order.results, sections, run_id=order.run_id, batch=order.id, epoch=order.epoch)
        )
    except Exception as error:
        # Whatever a store raises, the report comes back, and its driver decides.
        logger.debug("batch %s: the result store failed", order.id, exc_info=True)
        return packed, str(error) or type(error).__name__
    return [None if each is None else replace(each, stored=next(stored)) for each in packed], ""


def _packed(
    host: BatchHost,
    order: BatchOrder,
    steps: Sequence[Step],
    step: Step,
    positions: Sequence[int],
    column: list[Any],
) -> Packed | None:
    """A column as bytes; None where there is no value that anything could ask for."""
    is_there = bytes(part_of(step.states, positions)).translate(_COMPLETED_TABLE)
    dropped = array("I")
    if not step.order.keeps:
        open_lanes = _open_lanes(steps, positions)
        dropped.extend(place for place, value in enumerate(is_there) if value and not open_lanes[place])
        is_there = bytes(map(int.__and__, is_there, open_lanes))
        column = [value if is_open else DROPPED for value, is_open in zip(column, open_lanes, strict=True)]
    if 1 not in is_there:
        return None
    data, errors = encode(column)
    if errors and host.is_local:
        position, error = next(iter(errors.items()))
        index = order.indices[positions[position]]
        host.not_stored(
            order.run_id,
            step.order.node,
            f"the result of {step.name_of(index)}, a {type(column[position]).__qualname__}, cannot be stored: "
            f"{type(error).__name__}: {error}; it is used in this run, and made again when the run is resumed (said once per "
            "task)",
        )
    return Packed(data, errors, None, dropped)


def _open_lanes(steps: Sequence[Step], positions: Sequence[int]) -> bytes:
    """1 for each position at which some step has not ended well: it runs again, now or when the run is resumed."""
    ended = [bytes(part_of(step.states, positions)).translate(_GOOD_TABLE) for step in steps]
    if all(0 not in each for each in ended):
        return bytes(len(positions))
    return bytes(0 in codes for codes in zip(*ended, strict=True))


_GOOD_TABLE = bytes(code in (Code.COMPLETED, Code.CACHED, Code.SKIPPED) for code in range(256))
_COMPLETED_TABLE = bytes(code == _COMPLETED for code in range(256))
