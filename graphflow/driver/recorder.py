"""The recorder of a run: it takes the calls of the flow's body and hands them to the run's driver."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from graphflow.common import settings
from graphflow.errors import GraphflowError, TooDeep
from graphflow.graph.binding import Callee
from graphflow.graph.fragments import Fragment
from graphflow.graph.graph import Dep, Graph, Node
from graphflow.graph.recording import Recorder, is_outside, outside_flows
from graphflow.model.cache_policies import NO_DEFAULTS, CacheDefaults
from graphflow.model.orders import RUN_ID_ENDS
from graphflow.model.states import Code
from graphflow.ports import Backend, RunEvent

if TYPE_CHECKING:
    from graphflow.driver.dispatch import Persistence
    from graphflow.driver.driver import Driver
    from graphflow.driver.durability import Durability
    from graphflow.driver.known import DriverRun

__all__ = ["RunRecorder"]


class RunRecorder(Recorder):
    """Records the calls of a run and hands them to its driver.

    Parameters
    ----------
    make_backend
        Gives the backend and is called when the first node is to run.
    max_depth
        How deep tasks that return calls of tasks may be nested; what is set by default.
    durability, persistence
        What makes the run outlive this process; None for a run that is kept in memory alone.
    """

    def __init__(
        self,
        *,
        flow_name: str,
        run_id: str,
        make_backend: Callable[[], Backend],
        flow_parameters: Mapping[str, Any] | None = None,
        attempt: int = 1,
        log_prints: bool = False,
        results: CacheDefaults = NO_DEFAULTS,
        max_depth: int | None = None,
        durability: Durability | None = None,
        persistence: Persistence | None = None,
    ) -> None:
        super().__init__(
            flow_name=flow_name,
            scope=flow_name,
            flow_parameters=flow_parameters,
            log_prints=log_prints,
            results=results,
        )
        self.run_id = run_id
        self.key = run_id if attempt == 1 else f"{run_id}{RUN_ID_ENDS}{attempt}"
        self._durability = durability
        self._persistence = persistence
        if durability is not None and durability.journal.epoch > 1:
            # What an earlier driver left on a cluster that is shared must not be taken for this one's.
            self.key += f"{RUN_ID_ENDS}e{durability.journal.epoch}"
        self.pause_here: Callable[[float | None], None] | None = None
        """Pauses the run and waits until it is resumed."""
        self.by_id: dict[int, Node] = {}
        self.subscribers: list[Callable[[RunEvent], None]] = []
        self.backend: Backend | None = None
        self._make_backend = make_backend
        self.created = time.time()
        self._ids = itertools.count()
        self._depths: dict[int, int] = {}
        """How deep the nodes that tasks recorded are nested."""
        self._max_depth = settings.max_depth() if max_depth is None else max_depth
        self._context: Context | None = None
        self._pending: list[Node] = []
        self.not_asked: list[str] = []
        """The names of what is recorded and was not started; the same list for as long as this lives."""
        self._driver: Driver | None = None
        self.opened: list[Driver] = []
        """The driver once there is one, for closing it after this recorder is gone."""
        self.graph = Graph(name=flow_name, status=self._status)
        self.view: Callable[[int, int | None], Any] | None = None
        self.returned: frozenset[int] = frozenset()
        """Nodes whose futures the flow's body returned."""
        self._stops: Literal["soft", "hard"] | None = None
        self._interruption: BaseException | None = None
        self._is_paused = False
        self._broken: GraphflowError | None = None

    @property
    def known(self) -> DriverRun:
        """What is known of the run, also of nodes that its driver was not told of yet."""
        # The engine is loaded with the first run, not by `import graphflow`.
        from graphflow.driver.known import DriverRun

        return DriverRun(
            lambda: self.driver if self.has_driver else None,
            self.nodes_by_id,
            numbers=lambda: list(self.by_id),
            width=self.known_width,
            idle_code=lambda: self.idle_code,
            created=self.created,
            spans=lambda: [(0.0, inf)] if self._durability is None else self._durability.spans(),
        )

    @property
    def has_driver(self) -> bool:
        """Whether anything was started yet."""
        return self._driver is not None

    @property
    def driver(self) -> Driver:
        """The driver; the backend is brought up at the first use.

        Raises
        ------
        BackendError
            If the backend cannot be brought up.
        """
        with self._lock:
            if self._driver is None:
                # The engine is loaded with the first run, not by `import graphflow`.
                from graphflow.driver.driver import Driver

                persistence = self._persistence or self._outside()
                for node in self._pending:
                    persistence.check(node)
                self.backend = self._make_backend()
                self.backend.start()
                for node in self._pending:
                    if node.program is not None:
                        self.backend.check(node.program.options)
                    self._check_constants(node)
                durable = self._durability
                kept: dict[str, Any] = {"persistence": persistence}
                if durable is not None:
                    durable.books.begin_attempt()
                    kept["books"], kept["recovery"] = durable.books, durable.recovery
                    kept["limiter"], kept["wake_keeper"] = durable.journal.limiter, durable.wake
                self._driver = Driver(
                    run_id=self.key,
                    flow_name=self.flow_name,
                    backend=self.backend,
                    adopt=_weakly(self.adopt),
                    make_run_view=self.view,
                    **kept,
                )
                if durable is not None:
                    durable.limits = self._driver.limits
                self.opened.append(self._driver)
                for subscriber in self.subscribers:
                    self._driver.subscribe(subscriber)
                if self._interruption is not None:
                    self._driver.interrupt(self._interruption)
                if self._stops is not None:
                    self._driver.stop(hard=self._stops == "hard")
                if self._is_paused:
                    self._driver.pause()
                if self._broken is not None:
                    self._driver.give_up(self._broken)
            return self._driver

    def _outside(self) -> Persistence:
        """Return what calls outside flows keep: what is cached, and nothing else."""
        from graphflow.driver.caches import Caches
        from graphflow.driver.dispatch import Persistence

        return Persistence(
            caches=Caches(
                run_id=self.run_id,
                token=self.key,
                refreshes=settings.refresh_cache(),
            )
        )

    def pause(self, is_paused: bool) -> None:
        """Send nothing more until this is taken back."""
        with self._lock:
            self._is_paused = is_paused
            if self._driver is not None:
                if is_paused:
                    self._driver.pause()
                else:
                    self._driver.resume()

    def give_up(self, error: GraphflowError) -> None:
        """Give up the run, which no longer belongs to this process, or cannot be recorded."""
        with self._lock:
            self._broken = error
            self.interrupt(error)
            if self._driver is not None:
                self._driver.give_up(error)

    def drain(self, timeout: float) -> bool:
        """Send nothing more, and wait until what is under way is durable, so that another driver can take the run over."""
        with self._lock:
            self._is_paused = True
            driver = self._driver
        return driver is None or driver.drain(timeout)

    def stop(self, *, hard: bool, interruption: BaseException | None = None) -> None:
        """Start nothing more; what is recorded and did not begin ends Cancelled.

        `hard` also stops running items. Callers that wait for a future raise the interruption.
        """
        with self._lock:
            self._stops = "hard" if hard or self._stops == "hard" else "soft"
            if interruption is not None:
                self.interrupt(interruption)
            if self._driver is not None:
                self._driver.stop(hard=self._stops == "hard")

    def interrupt(self, error: BaseException | None) -> None:
        """Make callers that wait for a future of this run raise `error`; None revokes that."""
        with self._lock:
            self._interruption = error
            if self._driver is not None:
                self._driver.interrupt(error)

    def close(self) -> bool:
        """Close the recording and run what is recorded; return False if that is nothing."""
        with self._lock:
            if self._driver is None and (self._stops is not None or not self._pending):
                return False
            driver = self.driver
        self.interrupt(None)
        self.flush()
        driver.close_recording(self.returned)
        return True

    @property
    def idle_code(self) -> Code:
        """The state of nodes while there is no driver."""
        return Code.PENDING if self._stops is None else Code.CANCELLED

    def next_id(self) -> int:
        return next(self._ids)

    def node_named(self, name: str) -> Node:
        """Return the node of a name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for node in list(self.by_id.values()):
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.by_id.values()) or "none"
        raise KeyError(f"this run has no node {name!r}; its nodes: {names}")

    def nodes_by_id(self, node_id: int) -> Node:
        return self.by_id[node_id]

    def check(self, callee: Callee) -> None:
        if self.backend is not None:
            self.backend.check(callee.options)

    def _check_constants(self, node: Node) -> None:
        """Refuse what cannot be sent to other processes before anything runs."""
        if node.program is not None and self.backend is not None and not self.backend.is_local:
            from graphflow.runner.wire import check_constants

            check_constants(node.program)

    def context_here(self) -> Context | None:
        # Most calls of a body are made in the same context: they share a copy.
        if self._context is None or not is_outside(self._context):
            self._context = outside_flows()
        return self._context

    def added(self, node: Node) -> None:
        self._check_constants(node)
        self.graph.add(node)
        self.by_id[node.id] = node
        self._pending.append(node)
        if not node.is_builtin:
            self.not_asked.append(node.name)

    def flush(self) -> None:
        """Start everything recorded so far."""
        with self._lock:
            pending, driver = self._pending, self.driver
            self._pending = []
            self.not_asked.clear()
        if pending:
            driver.record(pending)

    def adopt(self, fragment: Fragment, parent: Node, index: int) -> tuple[Sequence[Node], int]:
        """Return nodes of a fragment with ids and names of this run; called by the driver.

        Raises
        ------
        TooDeep
            If it is nested in more tasks than the setting `runs.max_depth` allows.
        """
        depth = self._depths.get(parent.id, 0) + 1
        if depth > self._max_depth:
            raise TooDeep(
                f"task {parent.task_name!r} returned a call of a task that is nested {depth} deep, and the limit is "
                f"{self._max_depth}; if that is no recursion without an end, raise the setting runs.max_depth "
                "(GRAPHFLOW_MAX_DEPTH)"
            )
        ids: dict[int, int] = {}
        adopted: list[Node] = []
        with self._lock:
            for node in fragment.nodes:
                ids[node.id] = self.next_id()
                self._depths[ids[node.id]] = depth
                name = self.unique_name(node.task_name)
                program = None if node.program is None else replace(node.program, node_name=name)
                deps: tuple[Dep, ...] = tuple(replace(dep, upstream=ids[dep.upstream]) for dep in node.deps)
                new = replace(
                    node,
                    id=ids[node.id],
                    name=name,
                    deps=deps,
                    program=program,
                    context=parent.context,
                    bundle_key=None,
                )
                self.graph.add(new)
                self.by_id[new.id] = new
                self.nodes.append(new)
                adopted.append(new)
        return adopted, ids[fragment.root]

    def known_width(self, node: Node) -> int | None:
        book = self._driver.core.books.get(node.id) if self._driver is not None and node.is_mapped else None
        return book.width if book is not None and book.width is not None else super().known_width(node)

    def _status(self, node_id: int) -> tuple[str, int | None, Mapping[str, int]]:
        node = self.by_id[node_id]
        if self._driver is None or node_id not in self._driver.core.books:
            return self.idle_code.state_name, self.known_width(node), {}
        book = self._driver.core.books[node_id]
        width = book.width if node.is_mapped else None
        return self._driver.outcomes.code_of(node_id).state_name, width, book.state_counts()


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound method that does not keep its object alive: the driver's thread would, until the process ends."""
    ref = weakref.WeakMethod(method)

    def call(*args: Any) -> Any:
        target = ref()
        if target is None:
            raise GraphflowError("the run was released: nothing refers to it any more")
        return target(*args)

    return call
