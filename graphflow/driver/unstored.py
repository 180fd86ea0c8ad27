"""Values that workers could not write where they outlive the run: the driver writes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from graphflow.core.core import Core
from graphflow.driver.dispatch import Persistence
from graphflow.model.orders import Ref
from graphflow.model.reports import Report
from graphflow.model.states import Code
from graphflow.ports import Backend
from graphflow.results.packs.here import store_report

__all__ = ["UnstoredValues"]

logger = logging.getLogger("graphflow.driver")


class UnstoredValues:
    """Writes the values of reports that came without them in the store, and warns of that once.

    Parameters
    ----------
    core, backend, persistence
        Those of the run's driver.
    column
        Returns the values of a column.
    """

    def __init__(
        self,
        core: Core,
        persistence: Persistence,
        column: Callable[[Ref], list[Any]],
        *,
        run_id: str,
        backend: Backend,
    ) -> None:
        self._core = core
        self._persistence = persistence
        self._column = column
        self._run_id = run_id
        self._backend = backend
        self._has_warned = False

    def stored(self, report: Report) -> Report:
        """Return the report with its values written, also where the workers did not reach the store."""
        keeping = self._persistence
        if keeping.store is None or report.is_packed or report.store_error or report.is_refused:
            return report
        books = self._core.books
        missing = [
            step.node
            for step in report.steps
            if (Code.COMPLETED in step.states or Code.CACHED in step.states)
            and step.values is not None
            and (program := books[step.node].node.program) is not None
            and keeping.keeps(program)
        ]
        if not missing:
            return report
        # Results in memory are known to be in this process alone.
        if not (self._has_warned or getattr(keeping.store, "is_in_process", False)):
            self._has_warned = True
            logger.warning(
                "run %s: the workers of %s do not reach %s; results go there through this process",
                self._run_id,
                self._backend.name,
                keeping.store.url,
            )
        return store_report(
            report,
            keeping.store,
            self._column,
            run_id=self._run_id,
            epoch=keeping.epoch,
            nodes=missing,
        )
