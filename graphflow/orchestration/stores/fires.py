"""Fires become runs: each is decided once, in one transaction that also moves its schedule on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from graphflow.common import ids
from graphflow.common.failpoints import failpoint
from graphflow.errors import RequestRefused, RunNotFound
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.deployed import Deployment
from graphflow.model.records import Plan, RunHeader
from graphflow.orchestration.deciding import Active, catch_up, meet, overlap_key
from graphflow.orchestration.naming import run_id_of
from graphflow.orchestration.stores.events import LATE_AFTER_SECONDS
from graphflow.orchestration.stores.plans import Plans, Stored, StoredSchedule, schedule_of
from graphflow.orchestration.timing.times import fires_after, jitter_of, next_fire
from graphflow.ports import Clock

__all__ = ["Fired", "Fires", "Made"]

SCHEDULES_AT_ONCE = 100
SKEW_SECONDS = 10.0
"""A run that is due so soon is active: the clock of who made it may be ahead."""
REPLACED = "a newer run of its deployment took its place before it began"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What one turn of the clock did."""

    schedules: int = 0
    runs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What became of a run that was asked for: it is there, it was there before, or it was skipped, and why."""

    run_id: str | None
    is_new: bool = True
    why: str = ""


class Fires:
    """What makes runs of deployments."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock, plans: Plans) -> None:
        self._catalog = catalog
        self._clock = clock
        self._plans = plans

    def next_due(self) -> float | None:
        """Return when the next schedule is due; cheap."""
        rows = self._catalog.rows(statements.NEXT_DUE)
        return rows[0][0] if rows else None

    def fire(self, *, most: int = SCHEDULES_AT_ONCE) -> Fired:
        """Decide about what is due now, of up to `most` schedules."""
        failpoint("clock.fire.before")
        with self._catalog.transaction():
            now = self._clock.wall()
            if self._setting("is_paused") == "1":
                return Fired()
            late_after = float(self._setting("late_after_seconds") or LATE_AFTER_SECONDS)
            due = [schedule_of(row) for row in self._catalog.rows(statements.DUE_SCHEDULES, (now, most))]
            of: dict[str, Stored | None] = {}
            runs = 0
            for each in due:
                if each.deployment_id not in of:
                    of[each.deployment_id] = self._plans.by_id(each.deployment_id)
                stored = of[each.deployment_id]
                if stored is None or stored.deployment.is_paused or each.schedule.is_paused:
                    self._plans.move(each, None)
                else:
                    runs += self._fire_one(stored, each, now, late_after)
            failpoint("clock.fire.decided")
        failpoint("clock.fire.after")
        return Fired(schedules=len(due), runs=runs)

    def run(
        self,
        stored: Stored,
        parameters: Mapping[str, Any],
        *,
        origin: str,
        due: float | None = None,
        request_key: str | None = None,
        tags: Sequence[str] = (),
        depth: int = 0,
    ) -> Made:
        """Make a run of a deployment now; the same `request_key` makes no second one."""
        with self._catalog.whole():
            now = self._clock.wall()
            if request_key is not None:
                known = self._catalog.rows(statements.RUN_OF_KEY, (request_key,))
                if known:
                    return Made(run_id=known[0][0], is_new=False)
            return self._make(
                stored,
                ids.run_id(now=now),
                {**stored.deployment.parameters, **parameters},
                now=now,
                due=now if due is None else due,
                origin=origin,
                request_key=request_key,
                tags=tags,
                depth=depth,
            )

    def again(self, header: RunHeader, *, request_key: str | None = None) -> Made:
        """Make another run with the parameters and the source of one before."""
        plan = header.plan
        with self._catalog.transaction():
            if request_key is not None:
                known = self._catalog.rows(statements.RUN_OF_KEY, (request_key,))
                if known:
                    return Made(run_id=known[0][0], is_new=False)
            now = self._clock.wall()
            found = self._plans.by_id(plan.deployment_id)
            if found is None:
                return Made(run_id=None, why=f"its deployment {plan.deployment} is not there any more")
            return self._make(
                found,
                ids.run_id(now=now),
                json.loads(plan.parameters or "{}"),
                now=now,
                due=now,
                origin=f"rerun:{header.id}",
                nominal=plan.nominal,
                request_key=request_key,
                source=plan.source,
                tags=plan.tags,
            )

    def retry(self, run_id: str, *, why: str) -> None:
        """Let a run that ended without success wait for a worker, which runs again what failed.

        Raises
        ------
        RunNotFound
            If there is no such run.
        RequestRefused
            If it has not ended, or completed, or was not made of a deployment that is still there.
        """
        with self._catalog.whole():
            row = self._catalog.run(run_id)
            if row is None:
                raise RunNotFound(f"there is no run {run_id!r}")
            header, plan = row[0], row[0].plan
            stored = self._plans.by_id(plan.deployment_id) if plan.deployment_id else None
            if header.work is not None or header.state not in ("Failed", "Crashed", "Cancelled", "TimedOut"):
                raise RequestRefused(f"run {run_id} is {header.state}; only what failed can be retried")
            if stored is None:
                raise RequestRefused(
                    f"run {run_id} was not made of a deployment that is there, so no worker can retry it; use"
                    f" `graphflow runs retry {run_id}`"
                )
            at, of = self._clock.wall(), stored.deployment
            overlap = overlap_key(of.concurrency, json.loads(plan.parameters or "{}"))
            # Claims of before had smaller numbers, whose events have theirs.
            values = (
                run_id,
                of.pool,
                of.queue,
                of.priority,
                at,
                overlap,
                stored.id,
                json.dumps(of.needs),
                int(at),
            )
            self._catalog.execute(statements.RETRY_WORK, values)
            self._catalog.ask(run_id, header.epoch, "retry", {}, at=at)
            self._catalog.set_run(
                run_id, "Resuming", at=at, ended=None, message=why, key=f"resuming.{int(at)}"
            )

    def backfill(
        self,
        stored: Stored,
        of: StoredSchedule,
        nominal: float,
        *,
        again: int = 0,
        priority: int | None = None,
        tags: Sequence[str] = (),
    ) -> Made:
        """Make the run of one nominal time, unless it is there; `again` numbers repetitions."""
        with self._catalog.transaction():
            now = self._clock.wall()
            run_id = run_id_of(of.id, nominal, again=again)
            made = self._make(
                stored,
                run_id,
                {**stored.deployment.parameters, **of.schedule.parameters},
                now=now,
                due=now,
                origin="backfill",
                nominal=nominal,
                priority=priority,
                tags=tags,
            )
            if made.is_new and made.run_id is not None:
                self._catalog.execute(statements.ADD_FIRE, (of.id, nominal, "run", 1, run_id, now))
            return made

    # -- parts -----------------------------------------------------------------------------------------------

    def _fire_one(self, stored: Stored, each: StoredSchedule, now: float, late_after: float) -> int:
        schedule = each.schedule
        caught = catch_up(
            takewhile(lambda nominal: self._due(each, nominal) <= now, self._nominals(each)),
            now,
            catchup=schedule.catchup,
            window_seconds=schedule.window_seconds,
            limit=schedule.catchup_limit,
            late_after_seconds=late_after,
        )
        runs = sum(self._fire_at(stored, each, nominal, now) for nominal in caught.run)
        if caught.missed:
            self._miss(stored, each, caught.missed, now)
        if caught.last is not None:
            self._plans.move(each, next_fire(schedule, caught.last))
        return runs

    def _nominals(self, each: StoredSchedule) -> Iterator[float]:
        if each.next_nominal is not None:
            yield each.next_nominal
            yield from fires_after(each.schedule, each.next_nominal)

    def _due(self, each: StoredSchedule, nominal: float) -> float:
        return nominal + jitter_of(each.deployment_id, nominal, each.schedule.jitter_seconds)

    def _fire_at(self, stored: Stored, each: StoredSchedule, nominal: float, now: float) -> int:
        run_id = run_id_of(each.id, nominal)
        made = self._make(
            stored,
            run_id,
            {**stored.deployment.parameters, **each.schedule.parameters},
            now=now,
            due=self._due(each, nominal),
            origin=f"schedule:{each.id}",
            nominal=nominal,
        )
        is_run = made.run_id is not None
        outcome = "run" if is_run else "skipped"
        if self._catalog.execute(statements.ADD_FIRE, (each.id, nominal, outcome, 1, made.run_id, now)):
            told = {"nominal": nominal, **({"run": made.run_id} if is_run else {"why": made.why})}
            self._tell(stored, each, "fired" if is_run else "skipped", nominal, told, now)
        return int(is_run and made.is_new)

    def _miss(self, stored: Stored, each: StoredSchedule, missed: Sequence[float], now: float) -> None:
        first, last = missed[0], missed[-1]
        if self._catalog.execute(statements.ADD_FIRE, (each.id, first, "missed", len(missed), None, now)):
            told = {"count": len(missed), "first": first, "last": last}
            self._tell(stored, each, "missed", first, told, now)

    def _tell(
        self,
        stored: Stored,
        each: StoredSchedule,
        verb: str,
        nominal: float,
        data: Mapping[str, Any],
        now: float,
    ) -> None:
        name = stored.deployment.full_name
        self._catalog.emit(
            id=f"{each.id}:{nominal:.3f}",
            at=now,
            type=f"graphflow.schedule.{verb}",
            subject=name,
            related={"deployment": name, "flow": stored.deployment.flow_name, "schedule": each.schedule.slug},
            data=data,
        )

    def _make(
        self,
        stored: Stored,
        run_id: str,
        parameters: Mapping[str, Any],
        *,
        now: float,
        due: float,
        origin: str,
        nominal: float | None = None,
        request_key: str | None = None,
        source: str = "",
        tags: Sequence[str] = (),
        priority: int | None = None,
        depth: int = 0,
    ) -> Made:
        """Insert a run with its work, unless it is there or its deployment's limit says otherwise; in a transaction."""
        if self._catalog.run(run_id) is not None:
            return Made(run_id=run_id, is_new=False)
        of = stored.deployment
        key = overlap_key(of.concurrency, parameters)
        verdict = meet(of.concurrency, self._active(stored.id, key, max(now, due)) if of.concurrency else ())
        if not verdict.is_made:
            return Made(run_id=None, why=verdict.why)
        for each in verdict.replaces:
            self._catalog.set_run(each, "Cancelled", at=now, ended=now, message=REPLACED, key="replaced")
        for each in verdict.cancels:
            row = self._catalog.run(each)
            if row is not None:
                self._catalog.ask(each, row[0].epoch, "cancel", {"force": False}, at=now)
        header = RunHeader(
            id=run_id,
            name=f"{of.name}-{run_id[-6:].lower()}",
            flow_name=of.flow_name,
            state="Scheduled",
            created=now,
            plan=Plan(
                deployment_id=stored.id,
                deployment=of.full_name,
                revision=stored.revision,
                nominal=nominal,
                origin=origin,
                parameters=json.dumps(dict(parameters)),
                tags=tuple(dict.fromkeys((*of.tags, *tags))),
                source=source or of.setup.to_json(),
                request_key=request_key,
                depth=depth,
            ),
        )
        self._catalog.add(header)
        self._add_work(run_id, of, stored.id, key, due, priority)
        self._catalog.emit(
            id=f"{run_id}:scheduled",
            at=now,
            type="graphflow.run.scheduled",
            subject=run_id,
            related={"deployment": of.full_name, "flow": of.flow_name, "origin": origin},
            data={"due": due, "nominal": nominal},
            depth=depth,
        )
        return Made(run_id=run_id)

    def _add_work(
        self, run_id: str, of: Deployment, key: str, overlap: str, due: float, priority: int | None
    ) -> None:
        own = of.priority if priority is None else priority
        values = (run_id, of.pool, of.queue, own, due, overlap, key, json.dumps(of.needs))
        self._catalog.execute(statements.ADD_WORK, values)

    def _active(self, key: str, overlap: str, until: float) -> list[Active]:
        rows = self._catalog.rows(statements.KEY_ACTIVE, (key, overlap, until + SKEW_SECONDS))
        return [Active(run_id=run_id, is_waiting=state != "claimed") for run_id, state, _ in rows]

    def _setting(self, name: str) -> str | None:
        rows = self._catalog.rows(statements.SETTING, (name,))
        return str(rows[0][0]) if rows else None
