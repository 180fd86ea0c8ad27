"""`graphflow.connect()`: the runs and deployments of a home, here or behind a server, by the same methods and models."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from graphflow.client.calling import Caller, LocalCaller, RemoteCaller
from graphflow.client.governing import Automations, Hooks, Limits, Rates
from graphflow.common import settings
from graphflow.common.waiting import check_timeout
from graphflow.errors import (
    AccessDenied,
    GraphflowError,
    NotFound,
    RemoteError,
    RequestRefused,
    RunCancelled,
    ValueUnavailable,
)
from graphflow.model.access import NewToken, Token
from graphflow.model.states import FINAL_CODES, Code
from graphflow.model.views import (
    BackfillView,
    DeploymentView,
    EventView,
    FireView,
    ItemView,
    LineView,
    MadeRun,
    NodeView,
    PoolView,
    PreviewView,
    RunHead,
    RunView,
    SettingsView,
    WorkerView,
)
from graphflow.operations.home import open_home

__all__ = ["Connection", "RemoteDeployment", "RemoteRun", "connect"]

POLL_SECONDS = 0.1
LONGEST_POLL_SECONDS = 2.0
PAGE = 500
TOKEN_VARIABLE = "GRAPHFLOW_API_TOKEN"


def connect(
    url: str | None = None, *, token: str | None = None, home: str | Path | None = None
) -> Connection:
    """Connect to a server, or open the home of this machine.

    Parameters
    ----------
    url
        The address of `graphflow serve`, such as `https://host`. Without one, `GRAPHFLOW_API_URL`, else `api.url` of your profile,
        else the home here.
    token
        What the server is asked with; by default `GRAPHFLOW_API_TOKEN`, else `api.token` of the profile that has the
        address.
    home
        The folder of a home, in place of `GRAPHFLOW_HOME`.

    Raises
    ------
    AccessDenied
        If there is no token for a server.
    ApiError
        If the address is wrong.
    """
    known, known_token = settings.api_server() if url is None and home is None else ("", "")
    address = url if url is not None else known or None
    if address is None:
        return Connection(LocalCaller(open_home(home)))
    if home is not None:
        raise GraphflowError("a connection is to a server or to a home here; give url or home")
    given = token or (known_token if url is None else os.environ.get(TOKEN_VARIABLE, ""))
    if not given:
        raise AccessDenied(
            f"{address} needs a token: connect(url, token=...), or {TOKEN_VARIABLE}; `graphflow token create` makes one there"
        )
    return Connection(RemoteCaller(address, given))


class Connection:
    """A home, here or behind a server; a context manager."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.deployments = Deployments(caller)
        self.pools = Pools(caller)
        self.limits = Limits(caller)
        self.rates = Rates(caller)
        self.automations = Automations(caller)
        self.hooks = Hooks(caller)
        self.events = Events(caller)
        self.tokens = Tokens(caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._caller.close()

    def runs(
        self,
        *,
        flow: str | None = None,
        state: str | Sequence[str] | None = None,
        since: str | None = None,
        deployment: str | None = None,
        tag: str | None = None,
        limit: int | None = 50,
    ) -> Iterator[RemoteRun]:
        """Yield runs, newest first, page by page; all of them if `limit` is None. `deployment` is `flow/name`."""
        states = [state] if isinstance(state, str) else list(state or ()) or None
        cursor, left = None, limit
        while left is None or left > 0:
            most = PAGE if left is None else min(PAGE, left)
            page = self._caller.call(
                "runs.list",
                flow=flow,
                state=states,
                since=since,
                deployment=deployment,
                tag=tag,
                limit=most,
                cursor=cursor,
            )
            for head in page.runs:
                yield RemoteRun(self._caller, head.id, head=head)
            cursor, left = page.next, None if left is None else left - len(page.runs)
            if cursor is None:
                return

    def run(self, run: str) -> RemoteRun:
        """Return the run with an id, a unique prefix of one, a name, `@latest` or `@latest-failed`.

        Raises
        ------
        RunNotFound
            If there is none, or several.
        """
        view = self._caller.call("runs.show", run=run)
        return RemoteRun(self._caller, view.id, view=view)

    def workers(self) -> Sequence[WorkerView]:
        """Return the workers that are there."""
        found: Sequence[WorkerView] = self._caller.call("workers.list").workers
        return found

    def settings(self) -> SettingsView:
        """Return the settings of the home."""
        found: SettingsView = self._caller.call("settings.show")
        return found

    def pause_all(self, is_paused: bool = True) -> SettingsView:
        """Pause everything, or let it go on."""
        found: SettingsView = self._caller.call("settings.set", changes={"is_paused": is_paused})
        return found


class RunNodes(Sequence[NodeView]):
    """The nodes of a run, in the order of their calls; also by name."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self._nodes = list(nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, which: Any) -> Any:
        if not isinstance(which, str):
            return self._nodes[which]
        for each in self._nodes:
            if each.name == which:
                return each
        raise NotFound(
            f"the run has no node {which!r}; it has {', '.join(each.name for each in self._nodes)}"
        )


class RemoteRun:
    """A run. It is read when it is first looked at, and does not change until `refresh` or `wait`."""

    def __init__(
        self, caller: Caller, id: str, *, head: RunHead | None = None, view: RunView | None = None
    ) -> None:
        self.id = id
        self._caller = caller
        self._head = head
        self._view = view

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def view(self) -> RunView:
        """All that is known of it but its items, its log and its value."""
        if self._view is None:
            self._view = self._caller.call("runs.show", run=self.id)
        return self._view

    @property
    def head(self) -> RunHead | RunView:
        """What lists know of it, if it came from a list."""
        return self._view or self._head or self.view

    @property
    def name(self) -> str:
        """Its name."""
        return self.head.name

    @property
    def flow_name(self) -> str:
        """The name of its flow."""
        return self.head.flow

    @property
    def state_name(self) -> str:
        """The name of its state."""
        head = self.head
        return head.state.name if isinstance(head, RunView) else head.state

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return Code.by_name(self.state_name) in FINAL_CODES

    @property
    def nodes(self) -> RunNodes:
        """Its nodes; `run.nodes["fetch"].counts`."""
        return RunNodes(self.view.nodes)

    @property
    def exception(self) -> Exception | None:
        """The exception it failed with, by type and text; None if it did not fail."""
        error = self.view.exception
        return None if error is None else RemoteError(error.type, error.message, error.traceback)

    def refresh(self) -> Self:
        """Read it again, and return it."""
        self._view, self._head = None, None
        _ = self.view
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return False after `timeout` seconds."""
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, seconds = threading.Event(), POLL_SECONDS
        while not self.refresh().is_over:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            pause.wait(seconds if left is None else min(seconds, left))
            seconds = min(1.5 * seconds, LONGEST_POLL_SECONDS)
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, and return the flow's value.

        Raises
        ------
        TimeoutError
            If it has not ended within `timeout` seconds.
        RemoteError, RunCancelled
            If it failed or was cancelled.
        ValueUnavailable
            If the value is not JSON, which is all that connections carry.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"run {self.name} did not end within {timeout:g} s; it is {self.state_name}")
        if self.exception is not None:
            raise self.exception
        if not Code.by_name(self.state_name) == Code.COMPLETED:
            raise RunCancelled(f"run {self.name} is {self.state_name}; it has no value")
        return self.value()

    def value(self, node: str | None = None, index: int | None = None) -> Any:
        """Return the value of the run, of a node, or of one of its items; errors as for `result`."""
        found = self._caller.call("runs.result", run=self.id, node=node, index=index)
        if found.value_repr is not None:
            raise ValueUnavailable(
                f"the value is not JSON, which is all that connections carry: {found.value_repr[:200]}; read it where the home is,"
                " with graphflow.history()"
            )
        return found.value

    def items(
        self,
        node: str | None = None,
        *,
        state: str | Sequence[str] | None = None,
        values: bool = False,
        details: bool = False,
    ) -> Iterator[ItemView]:
        """Yield items of a node, by default of the only map, in map order, page by page."""
        states = [state] if isinstance(state, str) else list(state or ()) or None
        start: int | None = 0
        while start is not None:
            page = self._caller.call(
                "runs.items",
                run=self.id,
                node=node,
                state=states,
                start=start,
                limit=PAGE,
                values=values,
                details=details,
            )
            yield from page.items
            start = page.next

    def failures(self, node: str | None = None, *, limit: int = PAGE) -> Sequence[ItemView]:
        """Return items that failed, with their tracebacks and logs; at most 500."""
        found: Sequence[ItemView] = self._caller.call(
            "runs.failures", run=self.id, node=node, limit=limit
        ).items
        return found

    def logs(
        self, *, node: str | None = None, index: int | None = None, level: str | None = None
    ) -> Iterator[LineView]:
        """Yield lines of its log, page by page."""
        after = 0
        while True:
            page = self._caller.call(
                "runs.logs", run=self.id, node=node, index=index, level=level, after=after, limit=5_000
            )
            yield from page.lines
            if page.next == after:
                return
            after = page.next

    def events(self) -> Sequence[EventView]:
        """Return its events, oldest first; at most 500."""
        found: Sequence[EventView] = self._caller.call("runs.events", run=self.id, limit=PAGE).events
        return found

    def cancel(self, force: bool = False) -> None:
        """Cancel it: running items finish, unless forced."""
        self._ask("runs.cancel", force=force)

    def pause(self) -> None:
        """Pause it: start no new batches until it is resumed."""
        self._ask("runs.pause")

    def resume(self) -> None:
        """Resume it after `pause`, or let a worker finish what a deployment's run that ended lacks."""
        self._ask("runs.resume")

    def retry(self, *, failed: bool = True) -> None:
        """Let a worker run again what failed in a deployment's run that ended."""
        self._ask("runs.retry", failed=failed)

    def rerun(self, *, idempotency_key: str | None = None) -> RemoteRun:
        """Make another run of it: the same parameters and the same version of its source."""
        made = self._caller.call("runs.rerun", run=self.id, idempotency_key=idempotency_key)
        return RemoteRun(self._caller, made.run)

    def update(self, node: str, **options: Any) -> None:
        """Change options of a node during the run."""
        self._ask("runs.update", changes={"node": node, "options": options})

    def _ask(self, name: str, **arguments: Any) -> None:
        self._caller.call(name, run=self.id, **arguments)
        self._view = self._head = None


class Deployments:
    """What is deployed: by `flow/name`, or by its name alone where that is clear."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getitem__(self, name: str) -> RemoteDeployment:
        return RemoteDeployment(self._caller, name)

    def __iter__(self) -> Iterator[RemoteDeployment]:
        for view in self._caller.call("deployments.list").deployments:
            yield RemoteDeployment(self._caller, view.deployment, view=view)

    def list(self, *, flow: str = "") -> Sequence[DeploymentView]:
        """Return all, or those of a flow."""
        found: Sequence[DeploymentView] = self._caller.call("deployments.list", flow=flow).deployments
        return found

    def put(self, definition: Mapping[str, Any] | Any, *, if_match: int | None = None) -> RemoteDeployment:
        """Store a deployment (`graphflow.model.deployed.Deployment`, or its fields) in place of the one of its name."""
        fields = definition if isinstance(definition, Mapping) else definition.model_dump(mode="json")
        name = f"{fields['flow_name']}/{fields['name']}"
        revision = None if if_match is None else str(if_match)
        view = self._caller.call(
            "deployments.put", deployment=name, definition=dict(fields), if_match=revision
        )
        return RemoteDeployment(self._caller, name, view=view)


class RemoteDeployment:
    """A deployment; it is read when it is first looked at."""

    def __init__(self, caller: Caller, name: str, *, view: DeploymentView | None = None) -> None:
        self.name = name
        self._caller = caller
        self._view = view

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def view(self) -> DeploymentView:
        """All that is known of it.

        Raises
        ------
        NotFound
            If there is none.
        """
        if self._view is None:
            self._view = self._caller.call("deployments.show", deployment=self.name)
        return self._view

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        due: str | None = None,
        tags: Sequence[str] = (),
        **given: Any,
    ) -> RemoteRun:
        """Make a run with these parameters; the same key makes no second one.

        Raises
        ------
        ParameterError
            If a parameter is wrong, or the key was used with others.
        RequestRefused
            If its limit says that the run is skipped.
        """
        made = self.make(parameters, idempotency_key=idempotency_key, due=due, tags=tags, **given)
        if made.run is None:
            raise RequestRefused(f"the run of {self.name} is skipped: {made.why}")
        return RemoteRun(self._caller, made.run)

    def make(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        due: str | None = None,
        tags: Sequence[str] = (),
        **given: Any,
    ) -> MadeRun:
        """Make a run as `run` does, and return what became of it: made, there already, or skipped."""
        asked = {"parameters": {**(parameters or {}), **given}, "due": due, "tags": list(tags)}
        made: MadeRun = self._caller.call(
            "deployments.run", deployment=self.name, asked=asked, idempotency_key=idempotency_key
        )
        return made

    def pause(self, *, schedule: str = "") -> None:
        """Pause it, or one of its schedules."""
        self._view = self._caller.call("deployments.pause", deployment=self.name, schedule=schedule)

    def resume(self, *, schedule: str = "", catchup: bool = False) -> None:
        """Let it, or one of its schedules, go on."""
        self._view = self._caller.call(
            "deployments.resume", deployment=self.name, schedule=schedule, catchup=catchup
        )

    def remove(self, *, if_match: int | None = None) -> None:
        """Remove it with its schedules; its runs stay."""
        revision = None if if_match is None else str(if_match)
        self._caller.call("deployments.remove", deployment=self.name, if_match=revision)
        self._view = None

    def backfill(
        self, begin: str, end: str, *, schedule: str = "", again: int = 0, dry_run: bool = False
    ) -> BackfillView:
        """Make the runs of a range of a schedule's times."""
        asked = {"begin": begin, "end": end, "schedule": schedule, "again": again, "dry_run": dry_run}
        found: BackfillView = self._caller.call("deployments.backfill", deployment=self.name, asked=asked)
        return found

    def fires(self, *, limit: int = 50) -> Sequence[FireView]:
        """Return what became of its schedules' times, newest first."""
        found: Sequence[FireView] = self._caller.call(
            "deployments.fires", deployment=self.name, limit=limit
        ).fires
        return found

    def preview(self, *, schedule: str = "", after: str | None = None, count: int = 10) -> PreviewView:
        """Return when a schedule fires next."""
        found: PreviewView = self._caller.call(
            "deployments.preview", deployment=self.name, schedule=schedule, after=after, count=count
        )
        return found


class Pools:
    """Pools, by name."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __getitem__(self, name: str) -> PoolView:
        found: PoolView = self._caller.call("pools.show", pool=name)
        return found

    def __iter__(self) -> Iterator[PoolView]:
        yield from self._caller.call("pools.list").pools

    def put(self, name: str, **changes: Any) -> PoolView:
        """Make a pool, or change its `size`, `is_paused` or `backend`."""
        found: PoolView = self._caller.call("pools.put", pool=name, changes=changes)
        return found

    def pause(self, name: str, *, queue: str = "") -> PoolView:
        """Claim nothing of a pool, or of a queue of it."""
        found: PoolView = self._caller.call("pools.pause", pool=name, queue=queue)
        return found

    def resume(self, name: str, *, queue: str = "") -> PoolView:
        """Let a pool, or a queue of it, go on."""
        found: PoolView = self._caller.call("pools.resume", pool=name, queue=queue)
        return found


class Events:
    """What happened, and what happens."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(
        self, *, type: str = "*", subject: str = "", since: str | None = None, limit: int = 50
    ) -> Sequence[EventView]:
        """Return the last events, oldest first."""
        found: Sequence[EventView] = self._caller.call(
            "events.list", type=type, subject=subject, since=since, limit=limit
        ).events
        return found

    def follow(self, *, type: str = "*", subject: str = "", after: int | None = None) -> Iterator[EventView]:
        """Yield events from now on, or after a number, as they happen, for ever."""
        return self._caller.follow(type=type, subject=subject, after=after)

    def emit(
        self, type: str, *, subject: str = "", data: Mapping[str, Any] | None = None, id: str | None = None
    ) -> str:
        """Write an event of your own, and return its id; the same id is written once."""
        event = {"type": type, "subject": subject, "data": dict(data or {})}
        return str(self._caller.call("events.emit", event=event, idempotency_key=id).id)


class Tokens:
    """Tokens of the API."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self) -> Sequence[Token]:
        """Return them, without their texts."""
        found: Sequence[Token] = self._caller.call("tokens.list").tokens
        return found

    def create(self, name: str, role: str, *, expires_seconds: float | None = None) -> NewToken:
        """Make a token; its text is not shown again."""
        asked = {"name": name, "role": role, "expires_seconds": expires_seconds}
        found: NewToken = self._caller.call("tokens.create", token=asked)
        return found

    def remove(self, name: str) -> None:
        """Remove a token."""
        self._caller.call("tokens.remove", token=name)
