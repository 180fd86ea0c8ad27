"""Limits and rates in the catalog, for those who hold slots: drivers, and code that asks for some itself.

No counter is kept: what is in use is the sum of the grants of holders that live, and of the runs that have a slot for as long as
they are claimed. A grant ends with its holder, who is known by a lock on this machine, and by the end of its term on others.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from graphflow.common.failpoints import failpoint
from graphflow.common.machine import boot_id
from graphflow.errors import LeaseLost
from graphflow.histories import statements
from graphflow.histories.leases import is_locked
from graphflow.histories.sharing import TURN_SECONDS, Share, shares
from graphflow.ports import Clock, KnownLimits, Row, WantedSlots

__all__ = ["HOLDERS", "WAITS_FOR_LIMIT", "CatalogLimiter", "Held", "holders_of", "waits_for"]

HOLDERS = "holders"
"""The folder of the locks of holders that are no runs; their names begin with it."""
WAITS_FOR_LIMIT = "the limit "
"""What the reason of a run begins with that waits for a slot of a limit."""


class Statements(Protocol):
    """The part of a catalog that is needed here."""

    path: Path

    def transaction(self) -> AbstractContextManager[None]:
        """Write all or nothing."""
        ...

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a holder has of a limit: `slots` of the `want` that it asked for; `floor` of them for as long as its run is claimed."""

    holder: str
    epoch: int = 0
    slots: int = 0
    want: int = 0
    unit: int = 1
    floor: int = 0


def holders_of(catalog: Statements, clock: Clock, names: Collection[str]) -> dict[str, dict[str, Held]]:
    """Return who has or wants slots of some limits: living holders by name, for each limit."""
    found: dict[str, dict[str, Held]] = {name: {} for name in names}
    here = boot_id()
    living: dict[str, bool] = {}
    for name, holder, epoch, slots, want, unit, steady, wall, boot in catalog.rows(statements.GRANTS):
        if name not in found:
            continue
        if boot != here:
            lives = clock.wall() < wall
        elif holder in living:
            lives = living[holder]
        else:
            lives = clock.steady() < steady and is_locked(_folder(catalog.path.parent, holder))
            living[holder] = lives
        if lives:
            found[name][holder] = Held(holder=holder, epoch=epoch, slots=slots, want=want, unit=unit)
    for run_id, tags, state in catalog.rows(statements.TAGGED_WORK, (f"{WAITS_FOR_LIMIT}%",)):
        for name in found.keys() & set(json.loads(str(tags))):
            held = found[name].get(str(run_id), Held(holder=str(run_id)))
            has = int(state == "claimed")
            found[name][str(run_id)] = replace(
                held, slots=max(has, held.slots), want=max(1, held.want), floor=has
            )
    return found


def waits_for(catalog: Statements, clock: Clock, run_id: str) -> str:
    """Return which limits a run lacks slots of, for people; empty if none."""
    sizes = dict(catalog.rows(statements.LIMITS))
    told = []
    for name, holders in holders_of(catalog, clock, sizes.keys()).items():
        held = holders.get(run_id)
        if held is not None and held.slots < held.want:
            taken = sum(each.slots for each in holders.values())
            told.append(
                f"it waits for the limit {name}: it has {held.slots} of the {held.want} slots that it could use, and {taken} of"
                f" {sizes[name]} are taken"
            )
    return "; ".join(told)


def _folder(home: Path, holder: str) -> Path:
    return home / holder if holder.startswith(HOLDERS) else home / "runs" / holder


class _Catalog(Statements, Protocol):
    def run(self, run_id: str) -> Row | None: ...

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int: ...

    def version(self) -> int: ...


class CatalogLimiter:
    """The part of one holder; see `graphflow.ports.Limiter`.

    Parameters
    ----------
    catalog
        Where limits are; its transactions are the holder's alone.
    polls
        Another connection, for what is only looked at.
    holder, epoch
        The run and the number of its driver; or the folder of a lock, below the home, and 0.
    term_seconds
        How long a grant holds that is not renewed.
    """

    def __init__(
        self,
        catalog: _Catalog,
        polls: _Catalog,
        *,
        clock: Clock,
        holder: str,
        epoch: int = 0,
        term_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._polls = polls
        self._clock = clock
        self._holder = holder
        self._epoch = epoch
        self._term_seconds = term_seconds
        self._guard = threading.RLock()

    def version(self) -> int:
        return self._polls.version()

    def known(self, names: Collection[str]) -> KnownLimits:
        sizes = {str(name): size for name, size in self._polls.rows(statements.LIMITS) if name in names}
        rates = {str(name): rate for name, rate, _, _ in self._polls.rows(statements.RATES) if name in names}
        return KnownLimits(sizes, rates)

    def adjust(self, wants: Mapping[str, WantedSlots], *, writes: bool = True) -> dict[str, int]:
        with self._guard:
            granted, changes = self._decided(self._polls, wants)
            if not changes or not writes:
                return granted
            failpoint("limits.adjust.before")
            with self._catalog.transaction():
                for name in sorted(wants):
                    self._catalog.rows(statements.LOCK_LIMIT, (name,))
                self._check_ours()
                granted, changes = self._decided(self._catalog, wants)
                for name, held in changes.items():
                    self._put(name, held)
                self._sweep(changes)
            failpoint("limits.adjust.after")
            return granted

    def _decided(
        self, catalog: Statements, wants: Mapping[str, WantedSlots]
    ) -> tuple[dict[str, int], dict[str, Held]]:
        """Return what may be used, and the rows that change, by limit."""
        sizes = {str(name): size for name, size in catalog.rows(statements.LIMITS) if name in wants}
        every = holders_of(catalog, self._clock, sizes.keys())
        turn = int(self._clock.wall() / TURN_SECONDS)
        granted: dict[str, int] = {}
        changes: dict[str, Held] = {}
        for name, size in sizes.items():
            want, holders = wants[name], every[name]
            before = holders.get(self._holder, Held(holder=self._holder, epoch=self._epoch))
            mine = replace(
                before, epoch=self._epoch, want=max(want.slots, before.floor), unit=max(1, want.unit)
            )
            others = [held for held in holders.values() if held.holder != self._holder]
            free = int(size) - sum(held.slots for held in others)
            ordered = sorted([*others, mine], key=lambda held: held.holder)
            fair = shares(
                int(size),
                [Share(held.want, held.unit) for held in ordered],
                turn=turn,
            )[ordered.index(mine)]
            # A slot of the run as a whole is there for its items, too.
            granted[name] = max(before.floor, min(fair, max(0, free)) // mine.unit * mine.unit)
            mine = replace(mine, slots=max(want.in_use, granted[name]))
            if mine != before and (mine.want or mine.slots or before.want or before.slots):
                changes[name] = mine
        return granted, changes

    def _put(self, name: str, held: Held) -> None:
        if not held.slots and not held.want:
            self._catalog.execute(statements.DROP_GRANT, (name, held.holder))
            return
        until = self._clock.steady() + self._term_seconds, self._clock.wall() + self._term_seconds
        self._catalog.execute(
            statements.PUT_GRANT,
            (name, held.holder, held.epoch, held.slots, held.want, held.unit, *until, boot_id()),
        )

    def _sweep(self, names: Collection[str]) -> None:
        """Delete grants whose holders are gone: they count for nothing."""
        living = holders_of(self._catalog, self._clock, names)
        for name, holder, *_ in self._catalog.rows(statements.GRANTS):
            if name in living and holder not in living[name]:
                self._catalog.execute(statements.DROP_GRANT, (name, holder))

    def _check_ours(self) -> None:
        """Raise `LeaseLost` if another driver has the run."""
        if self._holder.startswith(HOLDERS):
            return
        row = self._catalog.run(self._holder)
        if row is None or row[0].epoch != self._epoch or row[1] is None:
            raise LeaseLost(
                f"run {self._holder} was taken over by another driver: this driver (epoch {self._epoch}) gets no slots"
            )

    def occupy(self, name: str, slots: int, *, in_use: int) -> bool | None:
        """Take so many slots beside those in use, all or none; None if there is no such limit.

        As long as it is not given them, the holder is one that wants them: others give theirs back.
        """
        with self._guard, self._catalog.transaction():
            found = self._catalog.rows(statements.LOCK_LIMIT, (name,))
            if not found:
                return None
            size = int(found[0][0])
            holders = holders_of(self._catalog, self._clock, {name})[name]
            free = size - sum(held.slots for held in holders.values() if held.holder != self._holder)
            has = in_use + slots <= free
            self._put(
                name,
                Held(
                    holder=self._holder,
                    epoch=self._epoch,
                    slots=in_use + slots if has else in_use,
                    want=in_use + slots,
                    unit=max(1, slots),
                ),
            )
            self._sweep({name})
            return has

    def release(self, name: str, *, in_use: int) -> None:
        """Hold only those that are still in use."""
        with self._guard, self._catalog.transaction():
            self._put(name, Held(holder=self._holder, epoch=self._epoch, slots=in_use, want=in_use, unit=1))

    def renew(self) -> None:
        """Keep what the holder has for another term."""
        until = self._clock.steady() + self._term_seconds, self._clock.wall() + self._term_seconds
        with self._guard:
            self._catalog.execute(statements.RENEW_GRANTS, (*until, self._holder, self._epoch))

    def reserve(self, name: str, count: int) -> float | None:
        with self._guard, self._catalog.transaction():
            now = self._clock.wall()
            found = self._catalog.rows(statements.RESERVE, (now, count, now, now, count, name))
        if not found:
            return None
        end, rate = found[0]
        return float(end) - count / float(rate) - now
