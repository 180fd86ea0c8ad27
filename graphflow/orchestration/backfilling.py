"""Runs of times that have passed: the same ids as the clock would give, so that nothing runs twice unless it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile

from graphflow.errors import DeploymentError, NotFound
from graphflow.orchestration.naming import run_id_of
from graphflow.orchestration.stores.opening import Stores
from graphflow.orchestration.stores.plans import Stored, StoredSchedule
from graphflow.orchestration.timing.times import fires_after

__all__ = ["Filled", "backfill", "limit_name"]

MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """One nominal time of a range, and its run; none where the deployment's limit skipped it."""

    nominal: float
    run_id: str | None
    is_new: bool
    why: str = ""


def backfill(
    stores: Stores,
    stored: Stored,
    begin: float,
    end: float,
    *,
    slug: str = "",
    again: int = 0,
    makes_runs: bool = True,
    limit: int | None = None,
    is_missing_only: bool = False,
) -> list[Filled]:
    """Make the runs of a schedule's nominal times from `begin` to `end`, both included, oldest first.

    Parameters
    ----------
    limit
        How many of these runs are driven at once, with others that were made so: the size of the limit `limit_name`, which they are
        tagged with. None for no limit.
    is_missing_only
        Leave out the times that have a run.

    Raises
    ------
    NotFound
        If there is no such schedule.
    DeploymentError
        If the range has no time, or more than 10,000.
    """
    schedule = _schedule(stored, slug)
    nominals = list(
        takewhile(
            lambda nominal: nominal <= end, islice(fires_after(schedule.schedule, begin - 0.001), MOST + 1)
        )
    )
    if len(nominals) > MOST:
        raise DeploymentError(f"the range has over {MOST:,} times; use a shorter one")
    if not nominals:
        raise DeploymentError(
            f"the schedule {schedule.schedule} has no time in this range; see `graphflow schedule preview`"
        )
    tags = () if limit is None else (limit_name(stored),)
    if limit is not None and makes_runs:
        stores.limits.set(limit_name(stored), limit)
    filled = []
    for nominal in nominals:
        run_id = run_id_of(schedule.id, nominal, again=again)
        if is_missing_only and stores.work.header(run_id) is not None:
            continue
        if makes_runs:
            made = stores.fires.backfill(stored, schedule, nominal, again=again, tags=tags)
            filled.append(
                Filled(
                    nominal=nominal,
                    run_id=made.run_id,
                    is_new=made.is_new and made.run_id is not None,
                    why=made.why,
                )
            )
        else:
            filled.append(Filled(nominal=nominal, run_id=run_id, is_new=stores.work.header(run_id) is None))
    return filled


def limit_name(stored: Stored) -> str:
    """Return the limit of a deployment's backfilled runs, which `--limit` sets."""
    return f"backfill:{stored.deployment.full_name}"


def _schedule(stored: Stored, slug: str) -> StoredSchedule:
    names = [each.schedule.slug for each in stored.schedules]
    if not slug and len(names) == 1:
        return stored.schedules[0]
    for each in stored.schedules:
        if each.schedule.slug == slug:
            return each
    known = ", ".join(names) or "none"
    name = stored.deployment.full_name
    if slug:
        raise NotFound(f"the deployment {name} has no schedule {slug!r}; it has {known}")
    raise NotFound(f"the deployment {name} has {len(names)} schedules ({known}); choose one: --schedule SLUG")
