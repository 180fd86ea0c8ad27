"""One item of a node, while the run goes on and after."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from graphflow.driver.driver import Driver
from graphflow.driver.values import item_label
from graphflow.errors import ValueUnavailable
from graphflow.graph.graph import Node
from graphflow.model.reports import CachedItem, LogRecord
from graphflow.model.states import FAILED_CODES, Code, State

__all__ = ["Item", "moment"]


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)


class Item:
    """One item of a node: its state, attempts, times, value or exception, log and full history."""

    __slots__ = ("_driver", "_node", "_place")

    def __init__(self, driver: Driver, node: Node, place: int) -> None:
        self._driver = driver
        self._node = node
        self._place = place

    def __repr__(self) -> str:
        return f"<Item {self.label}: {self.state.name}>"

    @property
    def index(self) -> int | None:
        """The map index, None where the node is not mapped."""
        return self._place if self._node.is_mapped else None

    @property
    def label(self) -> str:
        """Its task run name."""
        return item_label(self._driver, self._node, self._place)

    @property
    def name(self) -> str:
        """The same as `label`: what Prefect's hooks know a task run by."""
        return self.label

    def _code(self) -> Code:
        return self._driver.code_of(self._node.id, self._place)

    @property
    def state(self) -> State:
        """Where it stands now."""
        code = self._code()
        ended = self.ended
        message = ""
        if code in FAILED_CODES:
            error = self.exception
            message = f"{type(error).__name__}: {error}"
        return State.of(code, at=ended.timestamp() if ended else None, message=message)

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        book = self._driver.core.books.get(self._node.id)
        return book.attempts[self._place] if book is not None and self._place < len(book.attempts) else 0

    def _times(self) -> tuple[float, float] | None:
        history = self._driver.history.node(self._node.id)
        found = history.find(self._place)
        if found is None:
            return None
        segment, position = found
        start = segment.started + segment.step.starts[position]
        return start, start + segment.step.durations[position]

    @property
    def started(self) -> datetime | None:
        """When its last attempt began, None if it never ran."""
        times = self._times()
        return moment(times[0]) if times and self.attempts else None

    @property
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""
        if not self._driver.is_final(self._node.id, self._place):
            return None
        at = self._driver.history.node(self._node.id).ended_at(self._place)
        if at is not None:
            return moment(at)
        times = self._times()
        return moment(times[1]) if times else None

    @property
    def duration_seconds(self) -> float | None:
        """Seconds of the last attempt."""
        times = self._times()
        return times[1] - times[0] if times and self.attempts else None

    @property
    def value(self) -> Any:
        """Its value.

        Raises
        ------
        ValueUnavailable
            If it has none: not ended, failed or skipped.
        """
        code = self._code()
        if code not in (Code.COMPLETED, Code.CACHED):
            raise ValueUnavailable(f"{self.label} is {code.state_name}: it has no value")
        place = self._driver.history.node(self._node.id).place(self._place)
        if place is None:
            raise ValueUnavailable(f"the value of {self.label} is not kept")
        return self._driver.fetch([place])[0]

    @property
    def cached_from(self) -> CachedItem | None:
        """Which run made its value, where and when; None if it was executed in this run."""
        found = self._driver.history.node(self._node.id).find(self._place)
        if found is None or found[0].step.cached is None:
            return None
        segment, position = found
        assert segment.step.cached is not None
        return segment.step.cached.at(position, self._place)

    @property
    def exception(self) -> BaseException | None:
        """What it failed with, None if it did not fail."""
        code = self._code()
        if code not in FAILED_CODES and code != Code.CANCELLED:
            return None
        return self._driver.exception_of(self._node.id, self._place)

    @property
    def log(self) -> list[LogRecord]:
        """Its log lines, in order."""
        return self._driver.history.log_of(self._node.name, self.index)

    @property
    def history(self) -> list[State]:
        """All its states, oldest first, with their times."""
        driver, node = self._driver, self._node.id
        transitions = driver.history.node(node).transitions
        begun = transitions[0].at if transitions else time.time()
        states = [State.of(Code.PENDING, at=begun)]
        has_ended = False
        for anomaly, record, _ in driver.history.node(node).anomalies_of(self._place):
            if anomaly.attempt:
                running = Code.RUNNING if anomaly.attempt == 1 else Code.RETRYING
                states.append(State.of(running, at=anomaly.started))
            code = Code.AWAITING_RETRY if anomaly.code == Code.RETRYING else Code(anomaly.code)
            message = f"{record.type_name}: {record.message}" if record is not None else ""
            states.append(State.of(code, at=anomaly.started + anomaly.duration, message=message))
            has_ended = code.type is not states[0].type and driver.code_of(node, self._place) == code
        code = self._code()
        if not has_ended and driver.is_final(node, self._place):
            started, ended = self.started, self.ended
            if started is not None and self.attempts:
                running = Code.RUNNING if self.attempts == 1 else Code.RETRYING
                states.append(State.of(running, at=started.timestamp()))
            states.append(State.of(code, at=ended.timestamp() if ended else time.time()))
        return states
