"""What one report says of one node: columns, with the indices that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphflow.model.anomalies import Anomaly, AnomalyTable, ErrorRecord
from graphflow.model.reports import StepReport
from graphflow.records.errors import BatchErrors

__all__ = ["Segment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """What one report says of one node: `indices` and the step's arrays stand side by side."""

    indices: Sequence[int]
    step: StepReport
    started: float
    worker: str
    errors: BatchErrors | None = None

    def error(self, number: int) -> ErrorRecord | None:
        """Return the error of a number in its batch."""
        return None if self.errors is None else self.errors.record(number)

    def anomalies(self, position: int) -> list[Anomaly]:
        """Return the attempts at a position that did not simply succeed, in order."""
        step = self.step
        found: list[Anomaly] = []
        if step.anomalies:
            table = AnomalyTable.of(step.anomalies)
            found = [table[row] for row in table.rows_of(position)]
        number = step.faults.error_at(position)
        if number is not None:
            found.append(
                Anomaly(
                    position=position,
                    attempt=step.attempts[position],
                    code=step.states[position],
                    outcome=step.states[position],
                    started=self.started + step.starts[position],
                    duration=step.durations[position],
                    error=number,
                    inputs=step.faults.inputs.get(position, ""),
                )
            )
        return found
