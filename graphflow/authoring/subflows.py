"""Flows called inside flows, or inside tasks: their calls join the run around them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from graphflow.authoring.execution import (
    Deadline,
    call_end_hooks,
    call_hooks,
    entered,
    failure_of_body,
    is_broken,
    resolved,
    settle,
)
from graphflow.driver.definition import Definition
from graphflow.driver.driver import Driver
from graphflow.driver.in_loop import wait_in_loop
from graphflow.driver.recorder import RunRecorder
from graphflow.driver.run_record import RunRecord
from graphflow.driver.values import node_exception
from graphflow.errors import ForcingError
from graphflow.graph.context import FLOW, FlowContext
from graphflow.graph.fragments import FragmentRecorder
from graphflow.graph.recording import Recorder
from graphflow.model.states import Code
from graphflow.runner.capture import LogSink
from graphflow.runs.live import LiveRun

__all__ = ["InnerCall"]

logger = logging.getLogger("graphflow.authoring.flows")


@dataclass
class InnerCall:
    """A flow called inside a flow, or inside a task: its calls are recorded in the run around it, in a group.

    It stays lazy, unless the flow has retries, a timeout or hooks, for which its outcome must be known: then it
    is run to its end where it is called.
    """

    flow: Definition
    recorder: Recorder
    parameters: dict[str, Any]
    wait_for: Any = None
    _group: str = field(default="", init=False)

    def __post_init__(self) -> None:
        outer = FLOW.get()
        options = self.flow.options
        if options.backend is not None and (outer is None or options.backend != outer.backend):
            logger.warning(
                "flow %r asks for backend %r, but it was called inside another flow, whose backend runs it; pass "
                "the backend to the outer flow",
                self.flow.name,
                options.backend,
            )

    @property
    def is_eager(self) -> bool:
        """Whether it is run to its end where it is called."""
        options = self.flow.options
        has_outcome = bool(options.retries or options.timeout_seconds is not None or options.has_hooks)
        if has_outcome and isinstance(self.recorder, FragmentRecorder):
            raise ForcingError(
                f"flow {self.flow.name!r} was called inside a running task and has retries, a timeout or hooks: that "
                "needs a run of its own, which a task cannot wait for; call it in a flow"
            )
        return has_outcome and isinstance(self.recorder, RunRecorder)

    @contextmanager
    def _inside(self, run: RunRecord | None) -> Iterator[None]:
        outer, flow = FLOW.get(), self.flow
        run_id = outer.run_id if outer is not None else ""
        log_prints = flow.options.log_prints or (outer is not None and outer.log_prints)
        context = FlowContext(
            run_id=run_id,
            flow_name=flow.name,
            run_name=run.name if run is not None else flow.run_name(self.parameters, run_id),
            parameters=self.parameters,
            attempt=run.attempt if run is not None else 1,
            log_prints=log_prints,
            sink=outer.sink if outer is not None else LogSink(),
            backend=outer.backend if outer is not None else None,
        )
        options = flow.options
        inside = self.recorder.inside(
            flow.name,
            log_prints=options.log_prints,
            results=options.results,
            wait_for=self.wait_for,
            persist_result=options.persist_result,
        )
        with inside as self._group, entered(self.recorder, context):
            yield

    def record(self) -> Any:
        """Call the body and return its result, including futures."""
        with self._inside(None):
            return self.flow.call(self.parameters)

    async def record_async(self) -> Any:
        """Do the same for an async flow."""
        with self._inside(None):
            return await self.flow.call(self.parameters)

    # -- run to its end ---------------------------------------------------------------------------------------

    def execute(self) -> Any:
        """Run to the end, with the flow's retries, timeout and hooks; return the value or raise."""
        recorder, run = self._begin()
        while True:
            with Deadline(self.flow, recorder.interrupt) as deadline, self._inside(run):
                value, error = deadline.call(lambda: self.flow.call(self.parameters))
            recorder.interrupt(None)
            driver = recorder.driver if recorder.by_id else None
            if error is None and driver is not None:
                recorder.flush()
                if not driver.wait(partial(self._has_ended, recorder, driver), deadline.left()):
                    error = self.flow.timed_out()
            delay = self._end_attempt(recorder, run, value, error)
            if delay is None:
                return LiveRun(run).result()
            time.sleep(delay)

    async def execute_async(self) -> Any:
        """Do the same for an async flow."""
        import asyncio

        recorder, run = self._begin()
        while True:
            value: Any = None
            error: BaseException | None = None
            try:
                async with asyncio.timeout(self.flow.options.timeout_seconds) as scope:
                    with self._inside(run):
                        value = await self.flow.call(self.parameters)
                    if recorder.by_id:
                        driver = recorder.driver
                        recorder.flush()
                        await wait_in_loop(driver, partial(self._has_ended, recorder, driver))
            except TimeoutError as raised:
                error = self.flow.timed_out() if scope.expired() else raised
            except BaseException as raised:
                error = failure_of_body(raised)
            delay = self._end_attempt(recorder, run, value, error)
            if delay is None:
                return LiveRun(run).result()
            await asyncio.sleep(delay)

    def _begin(self) -> tuple[RunRecorder, RunRecord]:
        recorder = self.recorder
        assert isinstance(recorder, RunRecorder)
        run = RunRecord(
            run_id=recorder.run_id,
            name=self.flow.run_name(self.parameters, recorder.run_id),
            flow_name=self.flow.name,
            parameters=self.parameters,
        )
        run.started = datetime.now(UTC)
        run.recorder = recorder
        run.move(Code.RUNNING)
        call_hooks(self.flow, LiveRun(run), self.flow.options.on_running)
        return recorder, run

    def _nodes(self, recorder: RunRecorder) -> list[int]:
        below = f"{self._group}/"
        return [
            node.id
            for node in list(recorder.by_id.values())
            if node.group == self._group or node.group.startswith(below)
        ]

    def _has_ended(self, recorder: RunRecorder, driver: Driver) -> bool:
        return all(driver.outcomes.is_final(node) for node in self._nodes(recorder))

    def _end_attempt(
        self, recorder: RunRecorder, run: RunRecord, value: Any, error: BaseException | None
    ) -> float | None:
        """Settle the attempt; return the delay before the next one, None if there is none."""
        if recorder.has_driver:
            error = self._taken_failure(recorder, error)
        recorder.effects.settle(set(self._nodes(recorder)))
        if error is None:
            try:
                run.value = resolved(value, recorder)
            except Exception as broken:
                error = broken
        is_engines = recorder.has_driver and is_broken(recorder.driver)
        settle(run, error, is_engines=is_engines)
        if isinstance(error, Exception) and run.attempt <= self.flow.options.retries:
            run.move(Code.AWAITING_RETRY)
            delay = self.flow.options.delay(run.attempt)
            run.attempt += 1
            run.exception = None
            run.move(Code.RETRYING)
            return delay
        run.end()
        call_end_hooks(self.flow, LiveRun(run))
        run.done.set()
        return None

    def _taken_failure(self, recorder: RunRecorder, error: BaseException | None) -> BaseException | None:
        """Return the error, or the first unhandled failure; this call marks all of them as handled."""
        driver = recorder.driver
        for node_id in self._nodes(recorder):
            book = driver.core.books.get(node_id)
            if book is not None and book.unhandled():
                error = error or node_exception(driver, book.node)
                driver.hand_over(node_id, None)
        return error
