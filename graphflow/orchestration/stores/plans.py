"""Deployments and their schedules."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphflow.errors import NotFound, RevisionChanged
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.model.deployed import Concurrency, Deployment, Schedule, Source
from graphflow.orchestration.naming import deployment_id, schedule_id
from graphflow.orchestration.timing.times import check_schedule, jitter_of, next_fire
from graphflow.ports import Clock

__all__ = ["Plans", "Stored", "StoredFire", "StoredSchedule", "schedule_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule, and when it fires next: by its own times, and with jitter."""

    id: str
    deployment_id: str
    schedule: Schedule
    next_nominal: float | None
    next_due: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A deployment as it is stored."""

    id: str
    deployment: Deployment
    revision: int
    created: float
    updated: float
    schedules: tuple[StoredSchedule, ...]

    @property
    def next_due(self) -> float | None:
        """When it is due next."""
        return min((each.next_due for each in self.schedules if each.next_due is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFire:
    """What became of a fire, or of several that were missed."""

    slug: str
    nominal: float
    outcome: str
    count: int
    run_id: str | None
    at: float


class Plans:
    """What is deployed in a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, deployment: Deployment, *, revision: str | None = None) -> tuple[Stored, str]:
        """Store a deployment in place of the one of its name; return it, and `added`, `changed` or `unchanged`.

        A schedule that changed fires next after now; runs that wait already stay. With `revision`, only that one is replaced.

        Raises
        ------
        RevisionChanged
            If the stored one has another revision.
        ScheduleError
            If a schedule is wrong, or never fires; nothing is stored then.
        """
        now = self._clock.wall()
        named = sorted(deployment.named_schedules(), key=lambda each: each.slug)
        deployment = deployment.model_copy(update={"schedules": tuple(named)})
        key = deployment_id(deployment.flow_name, deployment.name)
        with self._catalog.transaction():
            before = self._schedules(key)
            known = self._one(key, before)
            _check_revision(deployment.full_name, known, revision)
            if known is not None and known.deployment.model_dump_json() == deployment.model_dump_json():
                return known, "unchanged"
            as_before = [each.schedule.model_dump_json() for each in before]
            for schedule in named:
                if schedule.model_dump_json() not in as_before:
                    check_schedule(schedule, now)
            self._catalog.execute(statements.ENSURE_POOL, (deployment.pool,))
            self._catalog.execute(statements.ENSURE_QUEUE, (deployment.pool, deployment.queue))
            stored = Stored(
                id=key,
                deployment=deployment,
                revision=1 if known is None else known.revision + 1,
                created=now if known is None else known.created,
                updated=now,
                schedules=tuple(self._planned(key, deployment, each, before, now) for each in named),
            )
            self._write(stored)
            kept = {each.id for each in stored.schedules}
            for each in before:
                if each.id not in kept:
                    self._catalog.execute(statements.DELETE_SCHEDULE, (each.id,))
            verb = "added" if known is None else "changed"
            self._audit(verb, deployment.full_name, now)
        return stored, verb

    def pause(self, name: str, is_paused: bool, *, slug: str = "", catches_up: bool = False) -> Stored:
        """Pause a deployment or one of its schedules, or let it go on from now.

        With `catches_up` the times since it was paused count as missed instead of being left out.

        Raises
        ------
        NotFound
            If there is no such deployment or schedule.
        """
        now = self._clock.wall()
        with self._catalog.whole():
            stored = self.find(name)
            if slug and slug not in [each.schedule.slug for each in stored.schedules]:
                known = ", ".join(each.schedule.slug for each in stored.schedules) or "none"
                raise NotFound(f"the deployment {name} has no schedule {slug!r}; it has {known}")
            paused_at = stored.updated
            schedules = tuple(
                each.schedule.model_copy(update={"is_paused": is_paused})
                if slug == each.schedule.slug
                else each.schedule
                for each in stored.schedules
            )
            changed = stored.deployment.model_copy(
                update={"schedules": schedules, **({} if slug else {"is_paused": is_paused})}
            )
            begin = paused_at if catches_up and not is_paused else now
            stored = replace(
                stored,
                deployment=changed,
                revision=stored.revision + 1,
                updated=now,
                schedules=tuple(
                    self._planned(stored.id, changed, each, stored.schedules, begin)
                    for each in changed.named_schedules()
                ),
            )
            self._write(stored)
            self._audit("paused" if is_paused else "resumed", name, now)
        return stored

    def remove(self, name: str, *, revision: str | None = None) -> Stored:
        """Remove a deployment with its schedules; its runs stay, and those that wait will run.

        Raises
        ------
        NotFound
            If there is none.
        RevisionChanged
            If its revision is not the one that is given.
        """
        with self._catalog.transaction():
            stored = self.find(name)
            _check_revision(name, stored, revision)
            for statement in statements.DELETE_DEPLOYMENT:
                self._catalog.execute(statement, (stored.id,))
            self._audit("removed", name, self._clock.wall())
        return stored

    def recompute(self) -> None:
        """Compute the next fires that lie ahead once more, as the zone database may have changed; missed ones stay."""
        with self._catalog.transaction():
            now = self._clock.wall()
            for stored in self.all():
                if stored.deployment.is_paused:
                    continue
                for each in stored.schedules:
                    if each.next_nominal is None or each.next_nominal > now:
                        self.move(
                            each, next_fire(each.schedule, now) if not each.schedule.is_paused else None
                        )

    def move(self, stored: StoredSchedule, nominal: float | None) -> None:
        """Set when a schedule fires next; in a transaction."""
        due = self._due(stored.deployment_id, stored.schedule, nominal)
        self._catalog.execute(statements.MOVE_SCHEDULE, (nominal, due, stored.id))

    # -- reading ---------------------------------------------------------------------------------------------

    def all(self, *, flow_name: str = "") -> list[Stored]:
        """Return all deployments, by flow and name."""
        schedules: dict[str, list[StoredSchedule]] = {}
        for row in self._catalog.rows(statements.SCHEDULES):
            found = schedule_of(row)
            schedules.setdefault(found.deployment_id, []).append(found)
        rows = self._catalog.rows(statements.DEPLOYMENTS, (flow_name, flow_name))
        return [_stored(row, schedules.get(row[0], [])) for row in rows]

    def find(self, text: str) -> Stored:
        """Return the deployment of a name: `flow/name`, or its name alone where that is clear.

        Raises
        ------
        NotFound
            If there is none, or several.
        """
        flow_name, slash, name = text.partition("/")
        if slash:
            key = deployment_id(flow_name, name)
            found = self._one(key, self._schedules(key))
            if found is not None:
                return found
        every = self.all()
        same = [each for each in every if text in (each.deployment.name, each.id)]
        if len(same) == 1:
            return same[0]
        names = [each.deployment.full_name for each in every]
        if same:
            raise NotFound(
                f"several deployments have the name {text!r}: {', '.join(sorted(names))}; use flow/name"
            )
        close = difflib.get_close_matches(text, names + [each.deployment.name for each in every], n=1)
        hint = f"; did you mean {close[0]}?" if close else "; `graphflow deploy ls` lists them"
        raise NotFound(f"there is no deployment {text!r}{hint}")

    def by_id(self, key: str) -> Stored | None:
        """Return the deployment of an id."""
        return self._one(key, self._schedules(key))

    def fires(self, stored: Stored, *, limit: int = 50) -> list[StoredFire]:
        """Return what became of the fires of a deployment, newest first."""
        rows = self._catalog.rows(statements.FIRES, (stored.id, limit))
        return [
            StoredFire(slug=slug, nominal=nominal, outcome=outcome, count=count, run_id=run_id, at=at)
            for slug, nominal, outcome, count, run_id, at in rows
        ]

    # -- parts -----------------------------------------------------------------------------------------------

    def _one(self, key: str, schedules: Sequence[StoredSchedule]) -> Stored | None:
        rows = self._catalog.rows(statements.DEPLOYMENT, (key,))
        return _stored(rows[0], schedules) if rows else None

    def _schedules(self, key: str) -> list[StoredSchedule]:
        return [schedule_of(row) for row in self._catalog.rows(statements.SCHEDULES_OF, (key,))]

    def _planned(
        self,
        key: str,
        deployment: Deployment,
        schedule: Schedule,
        before: Sequence[StoredSchedule],
        now: float,
    ) -> StoredSchedule:
        """Return a schedule with its next fire: as it was, if nothing about it changed."""
        of_schedule = schedule_id(key, schedule.slug)
        same = next((each for each in before if each.id == of_schedule), None)
        is_active = not (deployment.is_paused or schedule.is_paused)
        if (
            same is not None
            and same.schedule.model_dump_json() == schedule.model_dump_json()
            and is_active
            and same.next_nominal is not None
        ):
            return same
        nominal = next_fire(schedule, now) if is_active else None
        return StoredSchedule(
            id=of_schedule,
            deployment_id=key,
            schedule=schedule,
            next_nominal=nominal,
            next_due=self._due(key, schedule, nominal),
        )

    @staticmethod
    def _due(key: str, schedule: Schedule, nominal: float | None) -> float | None:
        return None if nominal is None else nominal + jitter_of(key, nominal, schedule.jitter_seconds)

    def _write(self, stored: Stored) -> None:
        self._catalog.execute(statements.PUT_DEPLOYMENT, _deployment_row(stored))
        for each in stored.schedules:
            self._catalog.execute(statements.PUT_SCHEDULE, _schedule_row(each))

    def _audit(self, verb: str, name: str, at: float) -> None:
        self._catalog.audit(verb, name, at=at, related={"deployment": name})


def _check_revision(name: str, known: Stored | None, wanted: str | None) -> None:
    if wanted is not None and wanted != str(0 if known is None else known.revision):
        has = "is not there" if known is None else f"has revision {known.revision}"
        raise RevisionChanged(
            f"the deployment {name} {has}, not {wanted}; read it again, and repeat the change"
        )


def _deployment_row(stored: Stored) -> tuple[Any, ...]:
    of = stored.deployment
    return (
        stored.id,
        of.flow_name,
        of.name,
        of.source.to_json(),
        of.version,
        json.dumps(dict(of.parameters)),
        json.dumps(dict(of.parameter_schema)),
        of.pool,
        of.queue,
        of.priority,
        json.dumps(of.tags),
        "" if of.concurrency is None else of.concurrency.model_dump_json(),
        of.backend,
        json.dumps(dict(of.env)),
        json.dumps(of.needs),
        of.description,
        of.made_by,
        stored.revision,
        int(of.is_paused),
        stored.created,
        stored.updated,
    )


def _stored(row: Sequence[Any], schedules: Sequence[StoredSchedule]) -> Stored:
    (
        key,
        flow_name,
        name,
        source,
        version,
        parameters,
        parameter_schema,
        pool,
        queue,
        priority,
        tags,
        concurrency,
        backend,
        env,
        needs,
        description,
        made_by,
        revision,
        is_paused,
        created,
        updated,
    ) = row
    deployment = Deployment(
        flow_name=flow_name,
        name=name,
        source=Source.from_json(source),
        version=version,
        parameters=json.loads(parameters),
        parameter_schema=json.loads(parameter_schema),
        pool=pool,
        queue=queue,
        priority=priority,
        tags=tuple(json.loads(tags)),
        concurrency=Concurrency.model_validate_json(concurrency) if concurrency else None,
        backend=backend,
        env=json.loads(env),
        needs=tuple(json.loads(needs)),
        description=description,
        made_by=made_by,
        is_paused=bool(is_paused),
        schedules=tuple(each.schedule for each in schedules),
    )
    return Stored(
        id=key,
        deployment=deployment,
        revision=revision,
        created=created,
        updated=updated,
        schedules=tuple(schedules),
    )


def _schedule_row(stored: StoredSchedule) -> tuple[Any, ...]:
    of = stored.schedule
    return (
        stored.id,
        stored.deployment_id,
        of.slug,
        of.kind,
        of.spec,
        of.zone,
        json.dumps(dict(of.parameters)),
        of.catchup,
        of.catchup_limit,
        of.window_seconds,
        of.jitter_seconds,
        of.starts,
        of.ends,
        int(of.is_paused),
        stored.next_nominal,
        stored.next_due,
    )


def schedule_of(row: Sequence[Any]) -> StoredSchedule:
    """Return a schedule from its row."""
    key, of_deployment, slug, kind, spec, zone, parameters, catchup, catchup_limit, window, jitter, *rest = (
        row
    )
    starts, ends, is_paused, next_nominal, next_due = rest
    schedule = Schedule(
        kind=kind,
        spec=spec,
        zone=zone,
        slug=slug,
        parameters=json.loads(parameters),
        catchup=catchup,
        catchup_limit=catchup_limit,
        window_seconds=window,
        jitter_seconds=jitter,
        starts=starts,
        ends=ends,
        is_paused=bool(is_paused),
    )
    return StoredSchedule(
        id=key, deployment_id=of_deployment, schedule=schedule, next_nominal=next_nominal, next_due=next_due
    )
