"""Batches and reports as opaque bytes: what crosses to worker processes and back.

The outside of a message is plain data that always loads; programs, inputs and values are pickled inside it,
and are loaded where an exception is an item's failure, not the worker's end.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import pickle
import sys
import time
import types
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

from graphflow.common.importing import RUN_IN_IMPORT
from graphflow.common.pickling import hindrance
from graphflow.common.wording import with_article
from graphflow.errors import RemoteError, SerializationError
from graphflow.graph.fragments import Fragment
from graphflow.graph.mapping import FailedInput
from graphflow.identity.carrying import Carrier, carried
from graphflow.identity.origins import is_installed
from graphflow.model.orders import (
    BatchOrder,
    BundleOrder,
    Column,
    Elements,
    Gathered,
    Given,
    Hole,
    Input,
    Literals,
    Pace,
    Program,
    Ref,
    Spread,
    StepOrder,
    Whole,
)
from graphflow.model.policies import all_successful
from graphflow.model.reports import ErrorRecord, Faults, Graft, Report, StepReport
from graphflow.model.states import Code
from graphflow.runner.faults import error_record

__all__ = [
    "Header",
    "OrderEncoder",
    "check_constants",
    "decode_order",
    "decode_report",
    "encode_report",
    "refs_of",
    "refused_report",
    "unbegun_report",
]

_SURE = frozenset({int, float, complex, str, bytes, bool, type(None), Hole, Spread})
MAX_PROGRAM = 32_768
MAX_INPUTS = 262_144


@dataclass(frozen=True, slots=True)
class Header:
    """The plain outside of an order; `programs` are (id, bytes or ref), `inputs` bytes or a ref, `results` a store's pickle."""

    batch: int
    run_id: str
    nodes: tuple[int, ...]
    indices: Sequence[int]
    width: int | None
    slice_seconds: float | None
    programs: tuple[tuple[str, bytes | Ref], ...]
    steps: bytes
    inputs: bytes | Ref
    tries: tuple[bytes | None, ...]
    concurrency: int | None
    pace: Pace | None
    results: bytes | None = None
    epoch: int = 0
    bundle: BundleOrder | None = None
    tell_seconds: float | None = None


def refs_of(order: BatchOrder) -> list[Ref]:
    """Return all columns that an order's inputs refer to."""
    refs: dict[int, Ref] = {}
    for each in order.inputs:
        if isinstance(each, Whole | Elements):
            refs[id(each.ref)] = each.ref
        elif isinstance(each, Column | Gathered):
            refs.update((id(ref), ref) for ref, _ in each.parts)
    return list(refs.values())


class OrderEncoder:
    """Turns orders into bytes; programs are pickled once each.

    Parameters
    ----------
    share
        Stores bytes where all workers reach them, once, and gives a ref.
    by_value
        Whether modules of the user are sent along (workers may lack them); else only those that a
        fresh process could not import.
    """

    def __init__(self, *, share: Callable[[bytes], Ref], by_value: bool) -> None:
        self._share = share
        self._by_value = by_value
        self._programs: dict[str, tuple[Program, str, bytes | Ref]] = {}
        self._modules: set[str] = set()

    def check(self, order: BatchOrder) -> None:
        """Raise `SerializationError` if a program of an order cannot be pickled."""
        for step in order.steps:
            self._program(order.run_id, step)

    def encode(self, order: BatchOrder, *, is_strict: bool = False) -> bytes:
        """Return the bytes of an order.

        An input that cannot be pickled becomes the failure of its item, unless `is_strict`.

        Raises
        ------
        SerializationError
            If a program or a constant (or, with `is_strict`, an input) cannot be pickled.
        """
        programs = tuple(self._program(order.run_id, step) for step in order.steps)
        steps = pickle.dumps(
            [
                (
                    step.node,
                    step.slots,
                    step.wants_info,
                    step.timeout_seconds,
                    step.tolerates,
                    step.keeps,
                    step.persists,
                    step.wants_digests,
                    step.cache,
                )
                for step in order.steps
            ],
            protocol=5,
        )
        data, has_secrets = self._inputs(order, is_strict)
        inputs = data if has_secrets or len(data) <= MAX_INPUTS else self._share(data)
        header = Header(
            order.id,
            order.run_id,
            tuple(step.node for step in order.steps),
            order.indices,
            order.width,
            order.slice_seconds,
            programs,
            steps,
            inputs,
            tuple(step.tries for step in order.steps),
            order.concurrency,
            order.pace,
            None if order.results is None else pickle.dumps(order.results, protocol=5),
            order.epoch,
            order.bundle,
            order.tell_seconds,
        )
        return pickle.dumps(header, protocol=5)

    def forget(self, run_id: str) -> None:
        """Programs of a run that ended are not needed any more."""
        for key in [key for key in self._programs if key.startswith(f"{run_id}/")]:
            del self._programs[key]

    def _program(self, run_id: str, step: StepOrder) -> tuple[str, bytes | Ref]:
        place = f"{run_id}/{step.node}"
        known = self._programs.get(place)
        if known is not None and known[0] is step.program:
            return known[1], known[2]
        program = step.program
        options = replace(
            program.options, on_running=(), on_completion=(), on_failure=(), trigger=all_successful
        )
        self.send_module(program.fn)
        sent = replace(program, options=options)
        try:
            try:
                pickled, has_secrets = carried(sent)
            except Exception:
                # What the flow was given concerns a task only where it is asked for.
                pickled, has_secrets = carried(
                    replace(sent, flow_parameters=_sendable(program.flow_parameters))
                )
        except Exception as error:
            check_constants(program)
            raise SerializationError(
                f"task {program.options.name!r} cannot be sent to a worker process, because its function or its options "
                f"cannot be pickled: {type(error).__name__}: {error}; create what it needs inside "
                "the task, or run on the threads backend"
            ) from error
        # What is shared may be a file.
        data = pickled if has_secrets or len(pickled) <= MAX_PROGRAM else self._share(pickled)
        # Workers keep programs by this: a policy may change while the run goes on, and a run's id may be somebody else's too.
        key = hashlib.blake2b(pickled, digest_size=16).hexdigest()
        self._programs[place] = (program, key, data)
        return key, data

    def send_module(self, fn: Any) -> None:
        """See to it that the module of a function travels by value, where workers could not import it."""
        module = sys.modules.get(_module_name(fn) or "")
        if module is None or module.__name__ in self._modules or module.__name__ == "__main__":
            return
        self._modules.add(module.__name__)
        if is_installed(module):
            return
        if self._by_value:
            for each in _project_modules(module):
                cloudpickle.register_pickle_by_value(each)
        elif module.__name__ in RUN_IN_IMPORT or not _is_importable(module):
            cloudpickle.register_pickle_by_value(module)

    def _inputs(self, order: BatchOrder, is_strict: bool) -> tuple[bytes, bool]:
        mended = order.inputs
        try:
            return carried(order.inputs)
        except Exception:
            if not is_strict:
                mended = tuple(_mended(each) for each in order.inputs)
        try:
            return carried(mended)
        except Exception as error:
            raise SerializationError(
                f"an argument of task {order.label!r} cannot be sent to a worker process: {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class Unsent:
    """Stands in a worker process for a parameter of the flow that cannot be pickled."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _sendable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        if hindrance(value, kind=Carrier) is None
        else Unsent(f"<{with_article(type(value).__qualname__)} that cannot be pickled>")
        for name, value in parameters.items()
    }


def check_constants(program: Program) -> None:
    """Raise `SerializationError` if a constant argument of a task cannot be pickled, as far as a look at its beginning shows."""
    names = program.parameter_names
    places = (
        names[place] if place < len(names) else f"argument {place}" for place in range(len(program.args))
    )
    for name, value in [*zip(places, program.args, strict=True), *program.kwargs.items()]:
        if type(value) in _SURE:
            continue
        error = hindrance(value, kind=Carrier)
        if error is None and isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO):
            error = TypeError("it is an open file")
        if error is not None:
            raise SerializationError(
                f"task {program.options.name!r}: argument {name!r}, {with_article(type(value).__qualname__)}, cannot be sent to a "
                f"worker process: {type(error).__name__}: {error}; create it inside the task, from plain data such as a path or "
                "URL, or run on the threads backend"
            ) from error


def _mended(source: Input) -> Input:
    """Return the input with what cannot be pickled replaced by the reason."""
    if isinstance(source, Literals):
        return Literals([_carried(value) for value in source.values])
    if isinstance(source, Column):
        return replace(
            source, overrides={place: _carried(value) for place, value in source.overrides.items()}
        )
    if isinstance(source, Gathered):
        return replace(
            source, overrides={place: _carried(value) for place, value in source.overrides.items()}
        )
    if isinstance(source, Given):
        return Given(_carried(source.value))
    return source


def _carried(value: Any) -> Any:
    try:
        carried(value)
    except Exception as error:
        if isinstance(value, BaseException):
            return RemoteError(type(value).__name__, str(value))
        return FailedInput(
            SerializationError(
                f"an argument, {with_article(type(value).__qualname__)}, cannot be sent to a worker process: "
                f"{type(error).__name__}: {error}; give plain data, or run on the threads backend"
            )
        )
    return value


def _module_name(fn: Any) -> str | None:
    while hasattr(fn, "func") and callable(fn.func):
        fn = fn.func
    name = getattr(fn, "__module__", None) or type(fn).__module__
    return name if isinstance(name, str) else None


def _is_importable(module: types.ModuleType) -> bool:
    """Return whether a fresh process with this one's `sys.path` would import the same file."""
    try:
        parts = module.__name__.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[:depth]) not in sys.modules:
                return False
        parent = sys.modules.get(module.__name__.rpartition(".")[0])
        search = getattr(parent, "__path__", None)
        spec = importlib.machinery.PathFinder.find_spec(module.__name__, search)
    except Exception:
        return False
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def _project_modules(module: types.ModuleType) -> list[types.ModuleType]:
    """Return the module and the user's other modules beside it."""
    folder = Path(str(module.__file__)).parent
    found = [module]
    for each in list(sys.modules.values()):
        path = getattr(each, "__file__", None)
        if (
            each is not module
            and each.__name__ != "__main__"
            and path is not None
            and Path(path).is_relative_to(folder)
            and not is_installed(each)
        ):
            found.append(each)
    return found


# -- on the worker -----------------------------------------------------------------------------------------


def decode_order(
    header: Header, load_program: Callable[[str, bytes | Ref], Program], load_bytes: Callable[[Ref], bytes]
) -> BatchOrder:
    """Return the order behind a header; raises whatever user code raises as it is unpickled."""
    programs = [load_program(key, data) for key, data in header.programs]
    inputs = pickle.loads(load_bytes(header.inputs) if isinstance(header.inputs, Ref) else header.inputs)
    steps = tuple(
        StepOrder(
            node=node,
            program=program,
            slots=slots,
            tries=tries,
            wants_info=wants_info,
            timeout_seconds=timeout,
            tolerates=tolerates,
            keeps=keeps,
            persists=persists,
            wants_digests=wants_digests,
            cache=cache,
        )
        for (
            node,
            slots,
            wants_info,
            timeout,
            tolerates,
            keeps,
            persists,
            wants_digests,
            cache,
        ), program, tries in zip(pickle.loads(header.steps), programs, header.tries, strict=True)
    )
    return BatchOrder(
        id=header.batch,
        run_id=header.run_id,
        steps=steps,
        indices=header.indices,
        width=header.width,
        inputs=inputs,
        slice_seconds=header.slice_seconds,
        concurrency=header.concurrency,
        pace=header.pace,
        results=None if header.results is None else pickle.loads(header.results),
        epoch=header.epoch,
        bundle=header.bundle,
        tell_seconds=header.tell_seconds,
    )


def refused_report(header: Header | BatchOrder, error: BaseException, *, worker: str) -> Report:
    """Return the report of a batch that could not begin: all its items fail with the error."""
    if isinstance(header, BatchOrder):
        batch, nodes = header.id, tuple(step.node for step in header.steps)
        tries: Sequence[bytes | None] = [step.tries for step in header.steps]
    else:
        batch, nodes, tries = header.batch, header.nodes, header.tries
    size = len(header.indices)

    now = time.time()
    steps = []
    for number, node in enumerate(nodes):
        code = Code.FAILED if number == 0 else Code.UPSTREAM_FAILED
        before = tries[number] or bytes(size)
        steps.append(
            StepReport(
                node=node,
                states=bytes([code]) * size,
                attempts=bytes(min(255, each + (number == 0)) for each in before),
                starts=array("f", bytes(4 * size)),
                durations=array("f", bytes(4 * size)),
                faults=Faults(positions=range(size), errors=1) if number == 0 else Faults(),
            )
        )
    return Report(
        batch=batch,
        worker=worker,
        started=now,
        elapsed=0.0,
        reached=size,
        steps=tuple(steps),
        errors=(error_record(error, is_local=False),),
        is_remote=True,
        is_refused=True,
    )


def unbegun_report(header: Header, *, worker: str) -> Report:
    """Return the report of a batch that gives itself back whole."""
    return Report(
        batch=header.batch,
        worker=worker,
        started=time.time(),
        elapsed=0.0,
        reached=0,
        steps=(),
        is_remote=True,
    )


def encode_report(report: Report) -> bytes:
    """Return the bytes of a report; fragments are pickled inside it."""
    steps = []
    for step in report.steps:
        if not step.grafts:
            steps.append(step)
            continue
        grafts = []
        for graft in step.grafts:
            try:
                content: Any = carried(graft.fragment)[0]
            except Exception as error:
                problem = SerializationError(
                    "the calls that a task made and returned cannot be carried back from the worker: "
                    f"{type(error).__name__}: {error}"
                )
                content = error_record(problem, is_local=False)
            grafts.append(Graft(position=graft.position, fragment=content))
        steps.append(replace(step, grafts=tuple(grafts)))
    return pickle.dumps(replace(report, steps=tuple(steps)), protocol=5)


def decode_report(data: bytes) -> Report:
    """Return the report behind bytes; a fragment that does not load here becomes an error record."""
    report: Report = pickle.loads(data)
    if not any(step.grafts for step in report.steps):
        return report
    steps = [
        replace(
            step, grafts=tuple(replace(graft, fragment=_fragment(graft.fragment)) for graft in step.grafts)
        )
        for step in report.steps
    ]
    return replace(report, steps=tuple(steps))


def _fragment(content: Any) -> Fragment | ErrorRecord:
    if isinstance(content, ErrorRecord):
        return content
    try:
        fragment: Fragment = pickle.loads(content)
    except Exception as error:
        problem = SerializationError(
            f"the calls that a task made and returned cannot be restored: {type(error).__name__}: {error}"
        )
        return error_record(problem, is_local=False)
    return fragment
