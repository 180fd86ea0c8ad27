"""What is decided of fires: which missed ones still run, and what happens to a run beside others of its kind. Pure."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.errors import DeploymentError
from graphflow.model.deployed import Catchup, Concurrency

__all__ = ["Active", "CaughtUp", "Verdict", "are_met", "catch_up", "check_key", "meet", "overlap_key"]

MOST_AT_ONCE = 10_000
"""So many nominal times are decided in one turn; the others in the next."""
RUNS_PER_TURN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """What becomes of the nominal times of a schedule up to now."""

    run: tuple[float, ...] = ()
    missed: tuple[float, ...] = ()
    last: float | None = None
    """The last one that was decided; the schedule goes on after it."""


def catch_up(
    nominals: Iterable[float],
    now: float,
    *,
    catchup: Catchup,
    window_seconds: float,
    limit: int,
    late_after_seconds: float,
) -> CaughtUp:
    """Decide about nominal times that are due, in order.

    One that is older than `late_after_seconds` was missed: nobody was there to decide in time. Of the missed ones within the
    window, `latest` lets the last one run unless a later time is due as well, `all` the last `limit` of them, oldest first and a few per turn, `none` none.
    """
    due: list[float] = []
    is_whole = True
    for nominal in nominals:
        if len(due) >= MOST_AT_ONCE:
            is_whole = False
            break
        due.append(nominal)
    late = [each for each in due if each < now - late_after_seconds]
    in_time = due[len(late) :]
    within = [each for each in late if each >= now - window_seconds]
    match catchup:
        case "none":
            chosen: list[float] = []
        case "latest":
            # A later one, in time or among those of the next turn, is the latest.
            chosen = within[-1:] if is_whole and not in_time else []
        case "all":
            chosen = within[-limit:]
    if len(chosen) > RUNS_PER_TURN:
        chosen, in_time = chosen[:RUNS_PER_TURN], []
        late = [each for each in late if each <= chosen[-1]]
    kept = set(chosen)
    run = (*chosen, *in_time)
    missed = tuple(each for each in late if each not in kept)
    decided = (*run, *missed)
    return CaughtUp(run=run, missed=missed, last=max(decided, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """A run that is due and has not ended."""

    run_id: str
    is_waiting: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What happens to a new run, and to others for it."""

    is_made: bool = True
    replaces: tuple[str, ...] = ()
    """Runs that wait, and will not run."""
    cancels: tuple[str, ...] = ()
    """Runs that are being driven, and are asked to end."""
    why: str = ""


def meet(concurrency: Concurrency | None, active: Sequence[Active]) -> Verdict:
    """Decide about a new run beside those that are active, oldest first."""
    if concurrency is None or len(active) < concurrency.limit:
        return Verdict()
    told = f"{len(active)} of {concurrency.limit} {'run is' if len(active) == 1 else 'runs are'} active"
    match concurrency.on_collision:
        case "queue":
            return Verdict()
        case "skip":
            return Verdict(is_made=False, why=told)
        case "queue-latest":
            return Verdict(replaces=tuple(each.run_id for each in active if each.is_waiting))
        case "cancel-running":
            over = active[: len(active) - concurrency.limit + 1]
            return Verdict(
                replaces=tuple(each.run_id for each in over if each.is_waiting),
                cancels=tuple(each.run_id for each in over if not each.is_waiting),
            )


class _Strict(string.Formatter):
    """Formats by names alone: no attributes, no items."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if not field_name.isidentifier():
            raise DeploymentError(
                f"{{{field_name}}} is not the name of a parameter; a key has plain names in braces"
            )
        if field_name not in kwargs:
            raise DeploymentError(
                f"the key names a parameter {field_name!r}, which the run does not have; it has {', '.join(kwargs) or 'none'}"
            )
        return kwargs[field_name], field_name


def overlap_key(concurrency: Concurrency | None, parameters: Mapping[str, Any]) -> str:
    """Return what the limit of a deployment is counted by.

    Raises
    ------
    DeploymentError
        If the key names a parameter that is not there.
    """
    if concurrency is None:
        return ""
    return _Strict().vformat(concurrency.key, (), dict(parameters))


def check_key(concurrency: Concurrency | None, names: Sequence[str]) -> None:
    """Raise `DeploymentError` if a key cannot be made of parameters of these names."""
    if concurrency is not None:
        try:
            overlap_key(concurrency, dict.fromkeys(names, ""))
        except ValueError as error:
            raise DeploymentError(f"the key {concurrency.key!r} is wrong: {error}") from None


def are_met(needs: Sequence[str], labels: Sequence[str], versions: Mapping[str, str]) -> str:
    """Return what a worker lacks of what a run needs; empty if it has all."""
    from packaging.requirements import InvalidRequirement, Requirement

    for need in needs:
        if need in labels:
            continue
        try:
            wanted = Requirement(need)
        except InvalidRequirement:
            return need
        found = versions.get(wanted.name.lower())
        if not wanted.specifier or found is None or not wanted.specifier.contains(found, prereleases=True):
            return need
    return ""
