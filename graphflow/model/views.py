"""What programs are shown of runs, deployments, pools and events: the answers of the API and of its client.

Times are ISO 8601 in UTC, durations seconds. Values are JSON; what is not has its `repr` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from graphflow.model.automated import Absence, Action, Hook, Pattern
from graphflow.model.deployed import Concurrency, Deployment, Schedule

__all__ = [
    "AutomationList",
    "AutomationView",
    "BackfillView",
    "DeploymentList",
    "DeploymentView",
    "Done",
    "DoneAction",
    "EventList",
    "EventView",
    "FireList",
    "FireView",
    "HookList",
    "HookView",
    "ItemPage",
    "ItemView",
    "LimitList",
    "LimitView",
    "LinePage",
    "LineView",
    "MadeRun",
    "NewDeployment",
    "NodeList",
    "NodeView",
    "PoolList",
    "PoolView",
    "PreviewView",
    "QueueView",
    "RateList",
    "RateView",
    "RunHead",
    "RunPage",
    "RunView",
    "ScheduleView",
    "SettingsView",
    "SlotsView",
    "TriedAction",
    "TriedList",
    "TriedView",
    "ValueView",
    "WorkerList",
    "WorkerView",
]


class View(BaseModel):
    """A value that is shown; a newer server may tell more than a client knows."""

    model_config = ConfigDict(frozen=True, extra="ignore", serialize_by_alias=True, validate_by_name=True)


class RunHead(View):
    """A run as lists show it."""

    id: str
    name: str
    flow: str
    state: str
    created: str | None = None
    started: str | None = None
    ended: str | None = None
    duration_seconds: float | None = None
    host: str = ""
    pid: int = 0
    lease_until: str | None = None
    deployment: str | None = None
    nominal: str | None = None
    origin: str | None = None
    why: str | None = None
    counts: Mapping[str, int] | None = None
    """Items by state, as far as lists know."""


class RunPage(View):
    """Runs, newest first; `next` is the cursor of the next page, null at the end."""

    runs: Sequence[RunHead]
    next: str | None = None


class ErrorView(View):
    """An exception as text."""

    type: str
    message: str
    traceback: str = ""


class StateView(View):
    """Where a run stands; `message` is the reason for a failure."""

    type: str
    name: str
    message: str = ""


class FailureView(View):
    """A failure of a node, in short."""

    index: int | None = None
    label: str
    attempts: int
    exception: ErrorView | None = None


class NodeView(View):
    """A node with its counts, and its first 100 failures."""

    id: int
    name: str
    task: str
    group: str | None = None
    state: str
    is_mapped: bool
    width: int | None = None
    counts: Mapping[str, int]
    retries: int = 0
    options: Mapping[str, Any] | None = None
    started: str | None = None
    ended: str | None = None
    duration_seconds: float | None = None
    executed: int | None = None
    failures: Sequence[FailureView] = ()


class NodeList(View):
    """The nodes of a run, in the order of their calls."""

    nodes: Sequence[NodeView]


class RunView(View):
    """A run with its launches and nodes; its value is asked for by itself."""

    id: str
    name: str
    flow: str
    state: StateView
    created: str | None = None
    started: str | None = None
    ended: str | None = None
    duration_seconds: float | None = None
    host: str = ""
    pid: int = 0
    lease_until: str | None = None
    deployment: str | None = None
    nominal: str | None = None
    origin: str | None = None
    why: str | None = None
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    exception: ErrorView | None = None
    launches: Sequence[Mapping[str, Any]] = ()
    logs: Mapping[str, int] = Field(default_factory=dict)
    nodes: Sequence[NodeView] = ()


class LineView(View):
    """A line of a log."""

    at: str | None = None
    level: int
    logger: str = ""
    node: str | None = None
    index: int | None = None
    attempt: int | None = None
    worker: str | None = None
    message: str


class LinePage(View):
    """Lines by time; `next` is the `after` of the page that follows, `dropped` how many lines were not kept."""

    lines: Sequence[LineView]
    next: int
    dropped: int = 0


class ItemState(View):
    """One of an item's states."""

    state: str
    at: str | None = None
    message: str | None = ""


class ItemView(View):
    """An item, with its history and log where details were asked for, and its value where values were."""

    node: str
    index: int | None = None
    label: str
    state: str
    attempts: int
    started: str | None = None
    ended: str | None = None
    duration_seconds: float | None = None
    worker: str | None = None
    exception: ErrorView | None = None
    inputs: str | None = None
    history: Sequence[ItemState] | None = None
    log: Sequence[LineView] | None = None
    value: Any = None
    value_repr: str | None = None
    value_error: str | None = None


class ItemPage(View):
    """Items by map index; `next` is the index at which the next page starts, null at the end."""

    items: Sequence[ItemView]
    next: int | None = None


class ValueView(View):
    """A value; `value_repr` where it is not JSON."""

    run: str
    node: str | None = None
    index: int | None = None
    value: Any = None
    value_repr: str | None = None


class Done(View):
    """What was asked of a run, and carried out."""

    run: str
    request: str


class MadeRun(View):
    """A run that was made, or was there already by its key; without a run it was skipped, and `why` says so."""

    run: str | None
    deployment: str | None = None
    is_new: bool = True
    why: str = ""


class ScheduleView(Schedule):
    """A schedule, and when it fires next."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    deployment: str
    next: str | None = None
    next_due: str | None = None


class DeploymentView(View):
    """A deployment as it is stored. The values of its environment's variables are not shown."""

    id: str
    deployment: str
    """`flow/name`."""
    flow_name: str
    name: str
    source: Mapping[str, Any]
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    parameter_schema: Mapping[str, Any] = Field(default_factory=dict)
    pool: str
    queue: str
    priority: int = 0
    tags: Sequence[str] = ()
    concurrency: Concurrency | None = None
    backend: str = ""
    env: Sequence[str] = ()
    """The names of its variables."""
    needs: Sequence[str] = ()
    is_paused: bool = False
    description: str = ""
    version: str = ""
    made_by: str = ""
    revision: int
    """Grows with each change; a change may say with `If-Match` which one it was made from."""
    created: str | None = None
    updated: str | None = None
    next: str | None = None
    schedules: Sequence[ScheduleView] = ()


class DeploymentList(View):
    """Deployments, by flow and name."""

    deployments: Sequence[DeploymentView]


class NewDeployment(Deployment):
    """A deployment to be stored under the name in its address."""


class FireView(View):
    """What became of a time of a schedule."""

    schedule: str
    nominal: str | None
    outcome: str
    count: int
    run: str | None = None
    at: str | None = None


class FireList(View):
    """Fires, newest first."""

    fires: Sequence[FireView]


class FilledView(View):
    """One time of a range, and its run."""

    nominal: str | None
    run: str | None
    is_new: bool
    why: str = ""


class BackfillView(View):
    """What a backfill made, or would make."""

    runs: Sequence[FilledView]


class PreviewedView(View):
    """One time at which a schedule will fire."""

    utc: str | None
    local: str
    offset_seconds: float
    note: str = ""


class PreviewView(View):
    """What a schedule will do."""

    schedule: str
    explanation: str
    fires: Sequence[PreviewedView]


class QueueView(View):
    """A queue of a pool."""

    name: str
    priority: int = 0
    size: int | None = None
    is_paused: bool = False


class PoolView(View):
    """A pool, and how much of it is in use."""

    name: str
    size: int | None = None
    is_paused: bool = False
    claimed: int = 0
    waiting: int = 0
    backend: str = ""
    queues: Sequence[QueueView] = ()


class PoolList(View):
    """Pools, by name."""

    pools: Sequence[PoolView]


class SlotsView(View):
    """What a run has of a limit, and how much it wants."""

    holder: str
    slots: int
    wants: int


class LimitView(View):
    """A number of slots that runs share, by the name of a tag."""

    name: str
    size: int
    in_use: int = 0
    wanted: int = 0
    """Slots that holders lack."""
    holders: Sequence[SlotsView] = ()


class LimitList(View):
    """Limits, by name."""

    limits: Sequence[LimitView]


class RateView(View):
    """Starts per second that runs share, by the name of a tag."""

    name: str
    per_second: float
    burst: int = 1


class RateList(View):
    """Rates, by name."""

    rates: Sequence[RateView]


class DoneAction(View):
    """Something that an automation did, or has to send."""

    at: str | None = None
    action: str
    target: str | None = None
    state: str
    """`done`, `waiting`, `sent` or `failed`."""
    tries: int = 0
    error: str = ""
    event: str
    """The id of the event that it was done for."""
    id: str


class AutomationView(View):
    """An automation as it is stored, and what it did."""

    id: str
    name: str
    description: str = ""
    watches: str
    """What it watches for, in one line."""
    is_paused: bool = False
    revision: int
    since: str | None = None
    """It sees events from then on."""
    made_by: str = ""
    when: Pattern | None = None
    count: int = 1
    within_seconds: float | None = None
    for_each: Sequence[str] = ()
    after: Pattern | None = None
    absent: Absence | None = None
    then: Sequence[Action] = ()
    fired: int = 0
    """How often."""
    last_fired: str | None = None
    actions: Sequence[DoneAction] = ()
    """What it did last, newest first; not in lists."""


class AutomationList(View):
    """Automations, by name."""

    automations: Sequence[AutomationView]


class TriedAction(View):
    """What would be done for an event."""

    state: str
    error: str = ""
    body: Mapping[str, Any] = Field(default_factory=dict)
    """What would be done to what, or sent."""


class TriedView(View):
    """What an automation would do for an event."""

    automation: str
    fires: bool
    why: str
    """Why it would not fire."""
    actions: Sequence[TriedAction] = ()


class TriedList(View):
    """What automations would do for an event, by name."""

    automations: Sequence[TriedView]


class HookView(Hook):
    """A hook as it is stored; `secret` has names of secrets, not their texts."""

    model_config = ConfigDict(extra="ignore")

    made_by: str = ""
    """The file that `deploy apply` made it from."""


class HookList(View):
    """Hooks, by name."""

    hooks: Sequence[HookView]


class WorkerView(View):
    """A worker as it told of itself last."""

    name: str
    pool: str
    state: str
    busy: int
    slots: int
    labels: Sequence[str] = ()
    host: str
    pid: int
    started: str | None = None
    seen: str | None = None
    versions: Mapping[str, str] = Field(default_factory=dict)
    id: str


class WorkerList(View):
    """Workers, by pool."""

    workers: Sequence[WorkerView]


class EventView(View):
    """An event: a CloudEvents 1.0 record with `related`, and its number in this home."""

    seq: int
    specversion: str = "1.0"
    id: str
    source: str = ""
    type: str
    subject: str = ""
    time: str
    related: Mapping[str, Any] = Field(default_factory=dict)
    data: Mapping[str, Any] = Field(default_factory=dict)


class EventList(View):
    """Events, oldest first."""

    events: Sequence[EventView]


class SettingsView(View):
    """Settings of a home."""

    is_paused: bool
    """Whether nothing fires and nothing is claimed."""
    late_after_seconds: float
