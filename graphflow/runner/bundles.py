"""A batch whose positions are nodes that are not mapped: how each is called, and what is told of each.

A step of such a batch has arrays over its nodes as it would over items. What differs between them is switched as each is called.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Protocol

from graphflow.graph.mapping import FailedInput, value_info
from graphflow.graph.owning import PLAIN
from graphflow.model.orders import BatchOrder, BundleOrder, Earlier, Hole, Ref, StepOrder
from graphflow.model.reports import NO_FAULTS, Faults, StepReport, ValueInfo
from graphflow.model.states import Code
from graphflow.results.packs.sections import Section
from graphflow.runner.capture import LogSink
from graphflow.runner.host import BatchHost, Packed, SerializationFailure
from graphflow.runner.inputs import Constant, Ready, failed_input, make_call
from graphflow.runner.owned import OwnArguments
from graphflow.runner.packing import encoded, write_sections
from graphflow.runner.positions import inputs_of, records_of
from graphflow.runner.step import Step

__all__ = ["BundleStep", "bundle_reports"]

_SUCCESS = int(Code.COMPLETED)


class ReportingBatch(Protocol):
    """A batch, as what makes its report sees it."""

    order: BatchOrder
    host: BatchHost

    def storing(self) -> AbstractContextManager[None]:
        """Measure the store's time."""
        ...

    def stored(
        self,
        columns: Sequence[list[Any]],
        packed: Sequence[Packed | None],
        labelled: Sequence[list[str | None]],
        *,
        travels: bool,
    ) -> tuple[list[Ref | SerializationFailure], list[Ref | SerializationFailure]]:
        """Keep columns of values and of labels."""
        ...

    def uncarried(self, step: Step, position: int, error: Exception) -> None:
        """Fail an item whose result cannot be stored."""
        ...


class BundleStep(Step):
    """What becomes of each node of a batch; a position is a node."""

    def __init__(self, order: StepOrder, size: int, batch: BatchOrder, sink: LogSink) -> None:
        super().__init__(order, size, batch, sink)
        assert batch.bundle is not None
        self.bundle: BundleOrder = batch.bundle
        self.fn = self._run
        self.infos: list[ValueInfo | None] = [None] * size
        self._shapes: Sequence[Any] = ()
        self._inputs: Sequence[Ready] = ()
        self._owns: list[OwnArguments] = []
        self._is_doubtful = False

    def prepare(self, slots: Sequence[Ready]) -> None:
        """Take the inputs of the batch: the shapes of the calls, then what fills their holes."""
        shapes = slots[0]
        assert not isinstance(shapes, Constant)
        self._shapes, self._inputs = shapes, slots
        self._is_doubtful = (
            any(self.bundle.after)
            or any(type(shape) is FailedInput for shape in shapes)
            or any(failed_input(each.value) is not None for each in slots[1:] if isinstance(each, Constant))
        )
        self.call = self._call

    def finish(self) -> None:
        for own in self._owns:
            own.finish(self._run_id)

    @property
    def has_doubtful_input(self) -> bool:
        return self._is_doubtful

    def lost_input(self, position: int) -> FailedInput | None:
        shape = self._shapes[position]
        if type(shape) is FailedInput:
            return shape
        return next(
            (lost for each in self._values(position) if (lost := failed_input(each)) is not None), None
        )

    def is_due(self, position: int) -> bool:
        """Return whether the nodes of this batch that a node needs have succeeded."""
        return all(self.states[earlier] == _SUCCESS for earlier in self.bundle.after[position])

    def name_of(self, index: int) -> str:
        return self.bundle.names[index]

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task; what a node sets of context variables is not seen by the next."""
        return copy_context().run(self.program.fn, *args, **kwargs)

    def _values(self, position: int) -> list[Any]:
        values = []
        for source in self.bundle.slots[position]:
            if isinstance(source, Earlier):
                values.append(self.values[source.position])
            else:
                ready = self._inputs[source]
                assert isinstance(ready, Constant)
                values.append(ready.value)
        return values

    def _call(self, position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a node's call, and make the context that node's."""
        bundle, context = self.bundle, self.context
        context.node = bundle.names[position]
        context.node_key = bundle.keys[position]
        args, kwargs = self._shapes[position]
        values = self._values(position)
        if not kwargs and not bundle.nested[position]:
            made = tuple([values[each.slot] if type(each) is Hole else each for each in args])
            if PLAIN.issuperset(map(type, made)):
                return made, {}
        program = replace(
            self.program,
            args=args,
            kwargs=kwargs,
            has_nested=bool(bundle.nested[position]),
            node_name=bundle.names[position],
        )
        if program.kind == "builtin":
            return make_call(program, [Constant(each) for each in values])(0)
        own = OwnArguments(program, dict(enumerate(values)), ())
        self._owns.append(own)
        return own.over(make_call(program, [Constant(each) for each in values]))(0)


def bundle_reports(
    batch: ReportingBatch, step: BundleStep, positions: Sequence[int], *, travels: bool
) -> tuple[tuple[StepReport, ...], str]:
    """Return a report per node that was begun, as if each had been a batch; and why values could not be stored."""
    told = [position for position in positions if step.states[position] != Code.PENDING]
    for position in told:
        if step.states[position] == _SUCCESS:
            step.values[position], step.infos[position] = value_info(
                step.values[position], is_mapped_over=bool(step.bundle.wants_info[position])
            )
    columns = [[step.values[position]] for position in told]
    with batch.storing():
        packed, store_error = _packed(batch, step, told, columns)
    labelled = [] if step.labels is None else [[step.labels[position]] for position in told]
    stored, labels = batch.stored(columns, packed, labelled, travels=travels)
    for position, outcome in zip(told, stored, strict=True):
        if isinstance(outcome, SerializationFailure):
            batch.uncarried(step, position, outcome.errors[0])
            step.infos[position] = None
    reports = []
    for place, position in enumerate(told):
        outcome, label = stored[place], labels[place] if labels else None
        if not step.is_due(position):
            # What it was given could not be kept after all.
            continue
        reports.append(
            StepReport(
                node=step.bundle.nodes[position],
                states=bytes((step.states[position],)),
                attempts=bytes((step.attempts[position],)),
                starts=array("f", (step.starts[position],)),
                durations=array("f", (step.durations[position],)),
                values=outcome.ref if isinstance(outcome, SerializationFailure) else outcome,
                labels=None if isinstance(label, SerializationFailure) else label,
                info=step.infos[position],
                faults=_faults(step, position),
                anomalies=step.anomalies.part([position]) if step.anomalies else (),
                grafts=records_of(step.grafts, [position]),
                stored=own.stored if packed and (own := packed[place]) is not None else None,
            )
        )
    return tuple(reports), store_error


def _faults(step: BundleStep, position: int) -> Faults:
    if step.states[position] == _SUCCESS:
        return NO_FAULTS
    states = bytes((step.states[position],))
    return Faults.of(states, step.faults[position : position + 1], inputs_of(step.fault_inputs, [position]))


def _packed(
    batch: ReportingBatch, step: BundleStep, told: Sequence[int], columns: Sequence[list[Any]]
) -> tuple[Sequence[Packed | None], str]:
    """Write the nodes' values as one pack, of a section each."""
    order = batch.order
    if order.results is None or not step.order.persists:
        return (), ""
    packed: list[Packed | None] = []
    sections: list[Section] = []
    for position, column in zip(told, columns, strict=True):
        if step.states[position] != _SUCCESS:
            packed.append(None)
            continue
        data, errors = encoded(batch.host, order, step, [position], column)
        packed.append(Packed(data, errors, None))
        sections.append(
            Section(
                node=step.bundle.nodes[position], data=data, count=1, missing=sorted(errors), is_whole=True
            )
        )
    return write_sections(batch.host, order, packed, sections)
