"""A run of this process: what `flow.run(...)` returns."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any

from graphflow.common.times import moment
from graphflow.common.waiting import check_timeout, waiting_seconds
from graphflow.driver.run_record import RunRecord
from graphflow.errors import ValueUnavailable
from graphflow.graph.graph import Graph
from graphflow.model.states import State
from graphflow.ports import RunEvent
from graphflow.records.spans import Span, launch_seconds
from graphflow.runs.logs import Logs
from graphflow.runs.run import Run

if TYPE_CHECKING:
    from graphflow.model.records import Launch
    from graphflow.runs.events import Event
    from graphflow.runs.nodes import Nodes

__all__ = ["LiveRun"]


class LiveRun(Run):
    """A run that this process drives, or drove to its end."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def flow_name(self) -> str:
        return self._record.flow_name

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self._record.parameters

    @property
    def attempt(self) -> int:
        """The attempt of the flow as a whole, from 1."""
        return self._record.attempt

    @property
    def host(self) -> str:
        return socket.gethostname()

    @property
    def pid(self) -> int:
        return os.getpid()

    @property
    def created(self) -> datetime:
        return moment(self._record.created)

    @property
    def started(self) -> datetime | None:
        return self._record.started

    @property
    def ended(self) -> datetime | None:
        return self._record.ended

    @property
    def lease_until(self) -> datetime | None:
        durable = self._record.durability
        return None if durable is None else moment(durable.lease_until)

    @property
    def launches(self) -> Sequence[Launch]:
        durable = self._record.durability
        return [] if durable is None else list(durable.launches)

    @property
    def spans(self) -> Sequence[Span]:
        durable, record = self._record.durability, self._record
        return [] if durable is None else durable.spans(record.ended.timestamp() if record.ended else inf)

    @property
    def seconds(self) -> float | None:
        spans = self.spans
        return launch_seconds(spans, time.time()) if spans else super().seconds

    @property
    def state(self) -> State:
        return self._record.state

    @property
    def history(self) -> list[State]:
        return list(self._record.states)

    @property
    def value(self) -> Any:
        return self._record.value

    @property
    def exception(self) -> BaseException | None:
        return self._record.exception

    @property
    def traceback(self) -> str:
        error = self._record.exception
        if error is None:
            return ""
        from graphflow.runner.faults import user_traceback

        return user_traceback(error)

    @property
    def nodes(self) -> Nodes:
        recorder = self._record.recorder
        if recorder is None:
            raise ValueUnavailable(f"run {self.name} has not started")
        # The engine is loaded with the first run, not by `import graphflow`.
        from graphflow.runs.nodes import Nodes

        return Nodes(recorder.known)

    @property
    def graph(self) -> Graph:
        recorder = self._record.recorder
        return Graph(name=self.flow_name) if recorder is None else recorder.graph

    @property
    def logs(self) -> Logs:
        record = self._record
        lines, dropped = [*record.sink.records, *record.earlier_logs], record.sink.dropped
        if record.recorder is not None and record.recorder.has_driver:
            history = record.recorder.driver.history
            lines, dropped = lines + history.logs, dropped + history.logs_dropped
        return Logs(lines, dropped=dropped)

    @property
    def events(self) -> list[Event]:
        from graphflow.runs.events import events_of

        record = self._record
        durable = record.durability
        return events_of(
            launches=[] if durable is None else durable.launches,
            states=record.states,
            nodes=() if record.recorder is None else self.nodes,
            changes=record.changes,
            answers=() if durable is None else durable.books.answers,
        )

    # -- waiting ----------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        check_timeout(timeout)
        record = self._record
        if record.ended is not None and threading.get_ident() == record.ending_thread:
            # A hook asks: the run has ended for it.
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        while not record.done.wait(waiting_seconds(deadline)):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        self._wait_for_result(timeout)
        error = self._record.exception
        if error is None:
            return self._record.value
        if raise_on_failure:
            raise error
        return error

    def subscribe(self, callback: Callable[[RunEvent], None]) -> None:
        """Call a function for each change, on the driver's thread; it must be quick."""
        self._record.subscribe(callback)

    # -- control ----------------------------------------------------------------------------------------------

    def cancel(self, force: bool = False) -> None:
        self._record.cancel(force=force)

    def pause(self) -> None:
        self._record.pause()

    def resume(self) -> None:
        self._record.resume()

    def update(self, node: Any, **options: Any) -> None:
        self._record.update(self._name_of(node), options)
