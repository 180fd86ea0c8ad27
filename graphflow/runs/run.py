"""A run to inspect and control: what live and recorded runs have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphflow.model.states import State
from graphflow.runs.listed import Listed

if TYPE_CHECKING:
    from graphflow.graph.graph import Graph
    from graphflow.model.records import Launch, Plan
    from graphflow.records.figures import Timeline
    from graphflow.records.spans import Span
    from graphflow.runs.events import Event
    from graphflow.runs.logs import Logs
    from graphflow.runs.nodes import Item, Items, Nodes

__all__ = ["Run"]


class Run(ABC):
    """One execution of a flow, in this process or another, active or ended.

    It has the same attributes and controls wherever it comes from: from `flow.run(...)` and `flow.start(...)`
    as a `LiveRun`, from `graphflow.history()` as a `RecordedRun`.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.flow_name!r}: {self.state_name}>"

    def _repr_html_(self) -> str:
        # What only notebooks show is loaded by them alone.
        from graphflow.runs.html import run_html

        return run_html(self)

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def id(self) -> str:
        """Its id, by default a ULID: sorts by creation time."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name."""

    @property
    @abstractmethod
    def flow_name(self) -> str:
        """The name of its flow."""

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of its flow; of a recorded run, as texts."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The machine of its driver, or of the last one."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The process of its driver, or of the last one."""

    @property
    @abstractmethod
    def created(self) -> datetime:
        """When it was created."""

    @property
    @abstractmethod
    def started(self) -> datetime | None:
        """When it began to run."""

    @property
    @abstractmethod
    def ended(self) -> datetime | None:
        """When it ended, None while it has not."""

    @property
    @abstractmethod
    def lease_until(self) -> datetime | None:
        """When its driver's lease ends, unless it is renewed; None if it has no driver."""

    @property
    def spans(self) -> Sequence[Span]:
        """From when to when its launches lasted, in seconds since the epoch."""
        return []

    @property
    def timelines(self) -> Sequence[Timeline]:
        """By launch, how busy its workers were; none where that is not added up."""
        return []

    @property
    def seconds(self) -> float | None:
        """How long drivers worked at it, summed over its launches; None if it has not started."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None

    @property
    @abstractmethod
    def launches(self) -> Sequence[Launch]:
        """Its launches: when, where and why a driver took the run, with which versions."""

    @property
    def plan(self) -> Plan:
        """What it was started for: its deployment, the time that its schedule says, and what made it."""
        # With the engine, not with `import graphflow`.
        from graphflow.model.records import Plan

        return Plan()

    @property
    def why(self) -> str:
        """Why it waits, or was ended from outside; empty where there is nothing to say."""
        return ""

    # -- where it stands --------------------------------------------------------------------------------------

    @property
    def state_name(self) -> str:
        """The name of its state."""
        return self.state.name

    @property
    @abstractmethod
    def state(self) -> State:
        """Its state; the reason for a failure is its message."""

    @property
    @abstractmethod
    def history(self) -> list[State]:
        """All its states, oldest first."""

    @property
    @abstractmethod
    def value(self) -> Any:
        """What the flow returned; None if it did not complete."""

    @property
    @abstractmethod
    def exception(self) -> BaseException | None:
        """The exception it failed with, None if it did not fail."""

    @property
    @abstractmethod
    def traceback(self) -> str:
        """The traceback of its exception as text, user frames only; empty if it did not fail."""

    @property
    @abstractmethod
    def nodes(self) -> Nodes:
        """Its nodes, in the order of their calls; also by name: `run.nodes["fetch"]`."""

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """Its graph, with states and counts."""

    @property
    @abstractmethod
    def logs(self) -> Logs:
        """Its log, by time: of the flow's body and of all tasks."""

    @property
    @abstractmethod
    def events(self) -> list[Event]:
        """The events of the run and its nodes, oldest first; those of items are in `item.history`."""

    def items(self, node: str) -> Items:
        """Return the items of a node; `.where(...)` chooses among them.

        Raises
        ------
        KeyError
            If there is no such node.
        """
        return self.nodes[node].items

    def failures(self, node: str | None = None) -> Sequence[Item]:
        """Return the items that failed, of one node or of all."""
        if node is not None:
            return self.nodes[node].failures()
        return Listed(item for each in self.nodes for item in each.failures())

    def report(self, path: str | Path, *, has_plots: bool = True, overwrites: bool = False) -> Path:
        """Write the run as one HTML file that opens offline, and return where.

        Parameters
        ----------
        has_plots
            Whether plots are in it, with the 1.3 MB that draw them; the same figures are there as tables.
        overwrites
            Whether a file that is there is replaced.

        Raises
        ------
        ValueError
            If the file is there, or cannot be written.
        """
        from graphflow.runs.saving import save_report

        return save_report(self, Path(path), has_plots=has_plots, overwrites=overwrites)

    # -- waiting ----------------------------------------------------------------------------------------------

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, and a live run's hooks were called; return False after `timeout` seconds."""

    @abstractmethod
    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Wait for the end and return the flow's value. For the value of a node or item: `run.nodes["fetch"].result()`.

        Raises
        ------
        TimeoutError
            If it has not ended within `timeout` seconds.
        ResultDamaged
            If the value of a recorded run differs from what was written.
        Exception
            The exception the run failed with, unless `raise_on_failure` is False: then it is returned.
        """

    def _wait_for_result(self, timeout: float | None) -> None:
        if not self.wait(timeout):
            raise TimeoutError(f"run {self.name} did not end within {timeout:g} s; it is {self.state_name}")

    # -- control ----------------------------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, force: bool = False) -> None:
        """Cancel the run: start nothing more; running items finish, the rest are Cancelled.

        Parameters
        ----------
        force
            Stop running items too, killing their workers if necessary.

        Raises
        ------
        RequestRefused
            If a recorded run has no driver.
        TimeoutError
            If its driver, in another process, does not answer within 10 s.
        """

    @abstractmethod
    def pause(self) -> None:
        """Pause the run: start nothing more until `resume`; running items finish, and no slot is held. Errors as for `cancel`."""

    @abstractmethod
    def resume(self) -> None:
        """Resume the run after `pause`, and rerun what a `Pause` signal paused. Errors as for `cancel`."""

    @abstractmethod
    def update(self, node: Any, **options: Any) -> None:
        """Change options of a node during the run; they take effect with the next batches, within a time slice.

        Parameters
        ----------
        node
            Its name in this run (such as `"fetch"`), the `Node`, or its future.
        options
            `max_concurrency`, `rate_limit`, `tolerated_failure_count`, `tolerated_failure_percentage`, `fail_fast`,
            `timeout` (a percentage) or `batch_size` of a map, and of any task its policies `retries`,
            `retry_delay_seconds`, `retry_jitter_factor` and `timeout_seconds`; as in `with_options`; None removes a
            limit.

        Raises
        ------
        TaskOptionError
            If an option is unknown or wrong.
        KeyError
            If there is no such node.
        GraphflowError
            If it is not a map, has ended, or is not known to the run yet.
        """

    @staticmethod
    def _name_of(node: Any) -> str:
        given = getattr(node, "_node", node)
        return node if isinstance(node, str) else str(getattr(given, "name", repr(node)))
