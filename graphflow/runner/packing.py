"""The values of a batch on their way to the result store: written before their report is sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.common.wording import with_article
from graphflow.graph.mapping import DROPPED
from graphflow.model.orders import BatchOrder
from graphflow.model.states import GOOD_CODES, Code
from graphflow.results.packs.pickling import encode
from graphflow.results.packs.sections import Section
from graphflow.runner.host import BatchHost, Packed
from graphflow.runner.positions import part_of
from graphflow.runner.step import Step

__all__ = ["encoded", "pack_values", "write_sections"]

logger = logging.getLogger("graphflow.results")
_VALUED = bytes(code in (Code.COMPLETED, Code.CACHED) for code in range(256))


def pack_values(
    order: BatchOrder,
    host: BatchHost,
    steps: Sequence[Step],
    positions: Sequence[int],
    columns: Sequence[list[Any]],
) -> tuple[Sequence[Packed | None], str]:
    """Write the columns of the steps that persist, together.

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
    return write_sections(host, order, packed, sections)


def write_sections(
    host: BatchHost, order: BatchOrder, packed: Sequence[Packed | None], sections: Sequence[Section]
) -> tuple[Sequence[Packed | None], str]:
    """Write columns as one pack, where there are any; return them with their places, and why they could not be written."""
    if not sections:
        return (), ""
    failpoint("batch.pack.before")
    try:
        stored = iter(
            host.growing.append(
                order.results, sections, run_id=order.flow_run_id, batch=order.id, epoch=order.epoch
            )
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
    """Return a column as bytes; None if it has no value that could be needed."""
    if 1 not in part_of(step.states, positions).translate(_VALUED):
        return None
    if not step.order.keeps and all(_has_ended_well(each, positions) for each in steps):
        return None
    data, errors = encoded(host, order, step, positions, column)
    dropped = () if step.order.keeps else [at for at, value in enumerate(column) if value is DROPPED]
    return Packed(data, errors, None, dropped)


def encoded(
    host: BatchHost, order: BatchOrder, step: Step, positions: Sequence[int], column: list[Any]
) -> tuple[bytes, Mapping[int, Exception]]:
    """Return the values of these positions as bytes, with the errors of those that cannot be carried; the first is told."""
    data, errors = encode(column)
    if errors and host.is_local:
        position, error = next(iter(errors.items()))
        index = order.indices[positions[position]]
        host.not_stored(
            order.run_id,
            step.order.node,
            f"the result of {step.name_of(index)}, {with_article(type(column[position]).__qualname__)}, cannot be stored: "
            f"{type(error).__name__}: {error}; it is used in this run, and recomputed when the run is resumed (reported once per "
            "task)",
        )
    return data, errors


def _has_ended_well(step: Step, positions: Sequence[int]) -> bool:
    """Return whether no item of a task runs again, now or when the run is resumed."""
    return 0 not in part_of(step.states, positions).translate(_GOOD_TABLE)


_GOOD_TABLE = bytes(code in GOOD_CODES for code in range(256))
