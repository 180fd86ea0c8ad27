"""The log of a run: of its flow's body and of all its tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import overload

from graphflow.common.wording import count_text
from graphflow.model.reports import LogRecord

__all__ = ["Logs"]


class Logs(Sequence[LogRecord]):
    """Lines of a log, by time. `dropped` counts lines that were not kept, because there were too many."""

    def __init__(self, recorded: Sequence[LogRecord], *, dropped: int = 0) -> None:
        self._recorded = recorded
        """In the order in which they were recorded: those of the flow's body come a little later than those of tasks."""
        self._lines = sorted(recorded, key=lambda line: line.timestamp)
        self.dropped = dropped

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, which: int) -> LogRecord: ...
    @overload
    def __getitem__(self, which: slice) -> list[LogRecord]: ...
    def __getitem__(self, which: int | slice) -> LogRecord | list[LogRecord]:
        return self._lines[which]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{count_text(len(self), 'log line')}>"

    def where(
        self,
        *,
        node: str | None = None,
        index: int | None = None,
        level: int | str | None = None,
        after: int = 0,
        most: int | None = None,
    ) -> Logs:
        """Return the lines that meet all conditions.

        Parameters
        ----------
        node, index
            Only lines of a node, or of one of its items.
        level
            Only lines of this level (a number, or a name such as `"WARNING"`) or above.
        after
            Skip this many lines, in the order in which they were recorded.
        most
            Look at this many lines after those only.

        Raises
        ------
        ValueError
            If there is no such level.
        """
        least = _level_number(level)
        lines = [
            line
            for line in self._recorded[after : None if most is None else after + most]
            if (node is None or line.node == node)
            and (index is None or line.index == index)
            and line.level >= least
        ]
        return Logs(lines, dropped=self.dropped)


def _level_number(level: int | str | None) -> int:
    if level is None:
        return 0
    if isinstance(level, int):
        return level
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise ValueError(f"unknown level {level!r}; use DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return names[level.upper()]
