"""One task of a stage in a batch: its arrays, with one entry per position, and how to call it."""

from __future__ import annotations

import itertools
import types
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from graphflow.errors import (
    GraphflowError,
    ItemTimedOut,
    ResultDamaged,
    SerializationError,
    UpstreamFailed,
)
from graphflow.graph.context import TaskContext
from graphflow.graph.fragments import FragmentRecorder
from graphflow.graph.mapping import FailedInput
from graphflow.model.anomalies import AnomalyTable
from graphflow.model.orders import BatchOrder, Hole, Lane, StepOrder
from graphflow.model.reports import Graft, ValueInfo
from graphflow.model.states import FAILED_CODES, Code
from graphflow.runner.capture import LogSink
from graphflow.runner.inputs import (
    Constant,
    MixedColumn,
    Ready,
    digested,
    failed_input,
    make_call,
    make_chunk_call,
)
from graphflow.runner.owned import OwnArguments, is_unchanging
from graphflow.runner.protocols import CacheOfStep

__all__ = ["ONE_SHOT", "Step"]

_ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)
_EMPTIES: tuple[Any, ...] = ([], (), {}, {}.values(), {}.items(), range(0), set(), "")
ONE_SHOT = frozenset(
    [
        types.GeneratorType,
        *(map, filter, zip, enumerate, reversed),
        *(type(iter(each)) for each in _EMPTIES),
        *(each for each in vars(itertools).values() if isinstance(each, type) and each not in _ENDLESS),
    ]
)
"""Iterators of the language: as a task's result they become a list, since they could be read only once."""
_OWN_FAILURES = FAILED_CODES - {Code.UPSTREAM_FAILED}
_WAITING = (Code.PENDING, Code.AWAITING_RETRY, Code.PAUSED, Code.GRAFTED)


class Step:
    """What becomes of each item at one task."""

    def __init__(self, order: StepOrder, size: int, batch: BatchOrder, sink: LogSink) -> None:
        program = order.program
        self.order = order
        self.program = program
        self.options = program.options
        self.fn = program.fn
        self.is_batched = self.options.batched and program.is_mapped
        self.limit = (
            order.timeout_seconds if order.timeout_seconds is not None else self.options.timeout_seconds
        )
        """Seconds that an item may run; a limit that follows from the map's median may come while items run."""
        self.values: list[Any] = [None] * size
        self.states = bytearray(size)
        self.attempts = bytearray(order.tries) if order.tries is not None else bytearray(size)
        self.starts = array("f", bytes(4 * size))
        self.durations = array("f", bytes(4 * size))
        self.labels: list[str | None] | None = (
            [None] * size if self.options.task_run_name is not None else None
        )
        self.anomalies = AnomalyTable()
        self.faults = array("i", bytes(4 * size))
        self.fault_inputs: dict[int, str] = {}
        """The errors that ended items: their numbers; and summaries of some items' arguments."""
        self.sure_ends: dict[type[BaseException], int] = {}
        """The code in which an exception of a type ends an item, 0 where that is decided each time."""
        self.grafts: list[Graft] = []
        self.info: ValueInfo | None = None
        self.call: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]] = _no_call
        self.call_chunk: Callable[[Sequence[int]], tuple[tuple[Any, ...], dict[str, Any]]] = _no_call
        self.in_lane = [source.step for source in order.slots if isinstance(source, Lane)]
        self.rest: list[Step] = []
        self.dooms_rest = False
        """The later steps of the batch, and whether a failure here makes each of them `UpstreamFailed`."""
        self._lost_constant: FailedInput | None = None
        self._mixed: list[Sequence[Any]] = []
        self._own: OwnArguments | None = None
        self._width = batch.width if program.is_mapped else None
        self._run_id = batch.flow_run_id
        self._sink = sink
        self._digests = digested(order, batch) if order.wants_digests else b""
        """What the items are mapped over, 8 bytes each; made before an item can change its input."""
        self.cache: CacheOfStep | None = None
        """What it has in its cache; None without one."""
        self.context = self.new_context()
        self.recorder = self.new_recorder(self.context)
        """Takes the calls of the item that runs, where items run one after the other."""

    def new_context(self) -> TaskContext:
        """Return what the task may ask about itself; the item's place and attempt are filled in."""
        program = self.program
        return TaskContext(
            run_id=self._run_id,
            flow_name=program.flow_name,
            node=program.node_name,
            node_key=program.node_key,
            task_name=self.options.name,
            is_mapped=program.is_mapped,
            width=self._width,
            log_prints=bool(self.options.log_prints),
            sink=self._sink,
            parameters=program.flow_parameters,
        )

    def new_recorder(self, context: TaskContext) -> FragmentRecorder:
        """Return a recording for the calls that an item makes."""
        return FragmentRecorder(
            context=context,
            flow_parameters=self.program.flow_parameters,
            group=self.program.group,
            log_prints=bool(self.options.log_prints),
            results=self.program.defaults,
        )

    def look_ahead(self, place: int, steps: Sequence[Step]) -> None:
        """Note what a failure here means to the later steps; `place` is this one's among them."""
        self.rest = list(steps[place + 1 :])
        doomed = {place}
        for number, step in enumerate(self.rest, place + 1):
            if doomed.intersection(step.in_lane):
                doomed.add(number)
        self.dooms_rest = len(doomed) == len(self.rest) + 1 and not self.order.tolerates

    def prepare(self, slots: Sequence[Ready]) -> None:
        """Prepare the inputs."""
        if self.program.kind == "builtin":
            self.call = make_call(self.program, slots)
            return
        filled = {place for place, each in enumerate(self.order.slots) if isinstance(each, Lane)}
        columns = {place: each for place, each in enumerate(slots) if not isinstance(each, Constant)}
        changing = {place for place, each in columns.items() if place in filled or not is_unchanging(each)}
        args = self.program.args
        is_single = len(columns) == len(slots) == len(args) == 1 and type(args[0]) is Hole
        if is_single and not self.program.kwargs and not self.is_batched:
            self.call = make_call(self.program, slots, copies=bool(changing))
        else:
            constants = {place: each.value for place, each in enumerate(slots) if isinstance(each, Constant)}
            own = self._own = OwnArguments(self.program, constants, changing)
            self.call = own.over(make_call(self.program, slots))
            if self.is_batched:
                self.call_chunk = own.over(make_chunk_call(self.program, slots))
        for each in slots:
            if isinstance(each, Constant):
                self._lost_constant = self._lost_constant or failed_input(each.value)
            elif isinstance(each, MixedColumn):
                self._mixed.append(each)

    def finish(self) -> None:
        """Look for changes of what the items shared."""
        if self._own is not None:
            self._own.finish(self._run_id)

    @property
    def has_limit(self) -> bool:
        """Whether an item's time is limited, or may be before it has ended."""
        return self.limit is not None or self.options.map_options.timeout_factor is not None

    @property
    def is_plain(self) -> bool:
        """Whether nothing surrounds a call: no timeout, label, earlier attempt or doubtful input."""
        return (
            not self.has_limit
            and self.labels is None
            and self.program.kind != "async"
            and self.order.tries is None
            and not self.has_doubtful_input
        )

    @property
    def has_doubtful_input(self) -> bool:
        """Whether an input of some item may have failed upstream."""
        return self._lost_constant is not None or bool(self._mixed)

    def lost_input(self, position: int) -> FailedInput | None:
        """Return the failed upstream behind an input of an item, which then cannot run."""
        if self._lost_constant is not None:
            return self._lost_constant
        return next(
            (lost for each in self._mixed if (lost := failed_input(each[position])) is not None), None
        )

    def is_due(self, position: int) -> bool:
        """Return whether what it waits for in its own batch, beside earlier steps, is there."""
        return True

    def goes_on(self, position: int, steps: Sequence[Step]) -> bool:
        """Return whether it runs for an item, given how that ended at the earlier steps of its lane."""
        codes = [
            Code.SKIPPED
            if steps[each].order.tolerates and steps[each].states[position] in _OWN_FAILURES
            else steps[each].states[position]
            for each in self.in_lane
        ]
        if any(code in FAILED_CODES for code in codes):
            self.states[position] = Code.UPSTREAM_FAILED
        elif any(code in _WAITING for code in codes):
            # It stays Pending, and is sent again once they ended.
            return False
        elif any(code == Code.SKIPPED for code in codes):
            self.states[position] = Code.SKIPPED
        else:
            return all(code != Code.CANCELLED for code in codes)
        return False

    def digests(self, positions: Sequence[int]) -> bytes:
        """Return the digests of the values that these items are mapped over; empty where they are not asked for."""
        digests = self._digests
        if not digests:
            return b""
        if isinstance(positions, range):
            return digests[8 * positions.start : 8 * positions.stop]
        return b"".join(digests[8 * position : 8 * position + 8] for position in positions)

    def name_of(self, index: int) -> str:
        """Return how errors name an item."""
        return f"{self.context.node}[{index}]" if self.program.is_mapped else self.context.node

    def timed_out(self, index: int) -> ItemTimedOut:
        """Return the error of an item whose time was up."""
        limit, factor = self.limit or 0.0, self.options.map_options.timeout_factor
        if factor is not None:
            text = f"{limit:.3g} s, which is timeout={factor * 100:g}% of the map's median"
        else:
            text = f"timeout_seconds={limit:g}"
        return ItemTimedOut(f"{self.name_of(index)} ran longer than {text}")

    def upstream_failed(self, lost: FailedInput, index: int) -> GraphflowError:
        """Return the error of an item of which an input failed."""
        cause = lost.error
        if isinstance(cause, UpstreamFailed | SerializationError | ResultDamaged):
            # An argument that could not be sent, or read, is the item's own failure.
            return cause
        what = f"{lost.origin} failed" if lost.origin else "an input failed"
        error = UpstreamFailed(
            f"{self.name_of(index)} did not run, because {what}: {type(cause).__name__}: {cause}",
            root=lost.origin or f"{type(cause).__name__}: {cause}",
        )
        error.__cause__ = cause
        return error


def _no_call(position: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    raise GraphflowError("a step was called before its inputs were ready")
