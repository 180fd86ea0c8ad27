"""The process that drives one run for a worker: `python -m graphflow.launching.child RUN CLAIM GRACE`.

It knows the catalog and its run, nothing of the worker. What cannot begin here ends the run with the reason; what fails in
passing leaves the run to the next worker.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from graphflow.common.failpoints import failpoint
from graphflow.common.service import Service
from graphflow.errors import GraphflowError, HistoryError, LeaseHeld, LeaseLost, ParameterError
from graphflow.launching.loading import load_source
from graphflow.launching.output import Output
from graphflow.model.records import RunHeader
from graphflow.model.sourced import Setup
from graphflow.orchestration.stores.work import open_work

if TYPE_CHECKING:
    from graphflow.authoring.execution import Execution
    from graphflow.authoring.flows import Flow

__all__ = ["main"]

logger = logging.getLogger("graphflow.launching.child")
DONE, LEFT, NOT_OURS, HANDED_OVER = 0, 1, 3, 75
TOLD_TO_STOP = "its worker was told to stop; it waits for another one, which resumes it"
PATIENCE_SECONDS = 15.0
"""How long a driver that handed the run over may take to be gone."""
POLL_SECONDS = 0.05


class Stopping:
    """SIGTERM: the run is handed over, once; the handler only notes it, as what it interrupts may hold a lock."""

    def __init__(self, run_id: str, claim: int, grace_seconds: float) -> None:
        self._run_id = run_id
        self._claim = claim
        self._grace_seconds = grace_seconds
        self._asked = threading.Event()
        self._service = Service(self._look, name="graphflow-stopping", interval=POLL_SECONDS)
        self.execution: Execution | None = None
        """What drives the run, once it does."""

    def install(self) -> None:
        """Handle SIGTERM from now on; SIGINT is for the worker."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._service.start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()

    def _look(self) -> None:
        if self._asked.is_set():
            yield_run(self._run_id, self._claim, self.execution, self._grace_seconds)
            self._service.stop()


def yield_run(run_id: str, claim: int, execution: Execution | None, grace_seconds: float) -> None:
    """Let the run wait for the next worker, and end this process.

    Nothing new is sent, and what is under way may end and become durable; what takes longer than the time of grace runs
    again there. Returns if the run has ended: then this process is about to end by itself.
    """
    recorder = None if execution is None else execution.record.recorder
    if recorder is not None and not recorder.drain(grace_seconds):
        logger.warning("run %s: items that take longer than %g s run again", run_id, grace_seconds)
    with open_work() as work:
        if not work.give_back(run_id, claim, why=TOLD_TO_STOP):
            return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(HANDED_OVER)


def main(arguments: list[str]) -> int:
    """Drive a run; return the exit code: 0 if it ended, whatever its state."""
    run_id, claim, grace_seconds = arguments[0], int(arguments[1]), float(arguments[2])
    stopping = Stopping(run_id, claim, grace_seconds)
    stopping.install()
    output = Output()
    with output.installed(), open_work() as work:
        header = work.header(run_id)
        if header is None or header.work is None or header.work.epoch != claim:
            logger.warning("run %s is not this worker's any more; nothing was done", run_id)
            return NOT_OURS
        if not header.is_verified:
            told = "what was planned for this run is not what was written, so it does not run"
            work.end(run_id, claim, "Crashed", told)
            return DONE
        try:
            flow, execution = _begun(header, claim, output, retries=work.is_retry(header))
        except LeaseLost as error:
            logger.warning("%s", error)
            return NOT_OURS
        except HistoryError:
            logger.exception("run %s cannot begin now", run_id)
            return LEFT
        except GraphflowError as error:
            logger.error("run %s cannot begin: %s", run_id, error)
            state = "Failed" if isinstance(error, ParameterError) else "Crashed"
            work.end(run_id, claim, state, f"{type(error).__name__}: {error}")
            return DONE
        stopping.execution = execution
        try:
            _drive(flow, execution)
        except Exception:
            # It is the run's, which has it.
            logger.debug("run %s", run_id, exc_info=True)
        return DONE


def _begun(
    header: RunHeader, claim: int, output: Output, *, retries: bool
) -> tuple[Flow[Any, Any], Execution]:
    setup = Setup.from_json(header.plan.source)
    os.environ.update(setup.env)
    flow, note = load_source(setup.source)
    if setup.backend:
        flow = flow.with_options(backend=setup.backend)
    parameters: Mapping[str, Any] = json.loads(header.plan.parameters or "{}")
    failpoint("child.begin.before")
    execution = _taken(flow, header, parameters, claim, retries=retries)
    record = execution.record
    output.attach(sink=record.sink, run_id=record.id, flow_name=record.flow_name, run_name=record.name)
    if note:
        output.add(logging.WARNING, note)
    return flow, execution


def _taken(
    flow: Flow[Any, Any], header: RunHeader, parameters: Mapping[str, Any], claim: int, *, retries: bool
) -> Execution:
    """Become the run's driver; one that hands it over may still be about to end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while True:
        try:
            return flow._for_work(
                header.id,
                parameters,
                work=claim,
                created=header.created,
                is_new=header.epoch == 0,
                retries=retries,
            )
        except LeaseHeld:
            if time.monotonic() >= deadline:
                raise
            pause.wait(POLL_SECONDS)


def _drive(flow: Flow[Any, Any], execution: Execution) -> None:
    if flow.is_async:
        import asyncio

        asyncio.run(execution.execute_async())
    else:
        execution.execute()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
