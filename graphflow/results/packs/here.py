"""Reports whose values did not reach the result store where they were made: written by the driver instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from graphflow.errors import GraphflowError
from graphflow.graph.mapping import DROPPED
from graphflow.model.orders import Ref
from graphflow.model.reports import Report, StepReport
from graphflow.model.states import Code
from graphflow.ports import ResultStore
from graphflow.results.packs.packs import Section, publish
from graphflow.results.packs.pickling import encode

__all__ = ["store_report"]

logger = logging.getLogger("graphflow.results")
_VALUED = bytes(code in (Code.COMPLETED, Code.CACHED) for code in range(256))


def store_report(
    report: Report,
    store: ResultStore,
    load: Callable[[Ref], list[Any]],
    *,
    run_id: str,
    epoch: int,
    nodes: Collection[int] | None = None,
) -> Report:
    """Return the report with its values in the store, in one pack; if its batch could write there itself, the report as it is.

    Never raises: what cannot be written is reported by `store_error`, as on workers.

    Parameters
    ----------
    load
        Gives the values of a column, such as `backend.fetch([ref])[0]`.
    nodes
        Those whose values persist; None for all.
    """
    if report.is_packed:
        return report
    sections: list[Section] = []
    places: list[int] = []
    for place, step in enumerate(report.steps):
        if step.stored is None and (nodes is None or step.node in nodes):
            section = _section(step, load, run_id)
            if section is not None:
                sections.append(section)
                places.append(place)
    if not sections:
        return replace(report, is_packed=True)
    try:
        stored = publish(store, sections, run_id=run_id, batch=report.batch, epoch=epoch)
    except Exception as error:
        return replace(report, store_error=str(error) or type(error).__name__)
    steps = list(report.steps)
    for place, found in zip(places, stored, strict=True):
        steps[place] = replace(steps[place], stored=found)
    return replace(report, steps=tuple(steps), is_packed=True)


def _section(step: StepReport, load: Callable[[Ref], list[Any]], run_id: str) -> Section | None:
    """Return the values of a step as they are to be written; None where there are none."""
    ref = step.values
    if ref is None or ref.kind == "gone" or 1 not in step.states.translate(_VALUED):
        return None
    if ref.kind == "inline" and b"DROPPED" not in ref.data:
        # These bytes came from a worker, where they were tried.
        return Section(node=step.node, data=ref.data, count=len(step.states))
    try:
        values = load(ref)
    except GraphflowError as error:
        logger.warning(
            "run %s: values of node %s cannot be stored, and are recomputed when the run is resumed: %s",
            run_id,
            step.node,
            error,
        )
        return None
    data, errors = encode(values)
    for position in sorted(errors)[:1]:
        logger.warning(
            "run %s: a value of node %s, a %s, cannot be stored, and is recomputed when the run is resumed: %s",
            run_id,
            step.node,
            type(values[position]).__qualname__,
            errors[position],
        )
    dropped = [position for position, value in enumerate(values) if value is DROPPED]
    return Section(
        node=step.node,
        data=data,
        count=len(values),
        missing=sorted([*errors, *dropped]),
        is_whole=not dropped,
    )
