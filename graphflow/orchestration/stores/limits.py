"""Limits and rates that runs share: what there is, who has slots of it, and changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from graphflow.common import ids
from graphflow.common.acting import ACTOR
from graphflow.errors import NotFound, ParameterError
from graphflow.histories import statements
from graphflow.histories.catalogs import SqliteCatalog
from graphflow.histories.limiting import WAITS_FOR_LIMIT, Held, holders_of
from graphflow.ports import Clock

__all__ = ["Limit", "Limits", "Rate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A number of slots that runs share, and who has or wants some."""

    name: str
    size: int
    holders: tuple[Held, ...] = ()

    @property
    def in_use(self) -> int:
        """The slots that holders have."""
        return sum(held.slots for held in self.holders)

    @property
    def wanted(self) -> int:
        """The slots that holders lack."""
        return sum(max(0, held.want - held.slots) for held in self.holders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Starts per second that runs share; after a pause `burst` of them at once."""

    name: str
    per_second: float
    burst: int = 1


class Limits:
    """The limits and rates of a home."""

    def __init__(self, catalog: SqliteCatalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def all(self) -> list[Limit]:
        """Return all limits with their holders, by name."""
        sizes = self._sizes()
        every = holders_of(self._catalog, self._clock, sizes.keys())
        return [
            Limit(name=name, size=size, holders=tuple(every[name].values())) for name, size in sizes.items()
        ]

    def _sizes(self) -> dict[str, int]:
        return dict(self._catalog.rows(statements.LIMITS))

    def set(self, name: str, size: int) -> None:
        """Make a limit, or change its size; what is in use stays so until it ends.

        Raises
        ------
        ParameterError
            If the name is empty, or the size is below 0.
        """
        _check_name(name)
        if size < 0:
            raise ParameterError(f"the size of a limit is 0 or more slots, not {size}; 0 lets nothing begin")
        with self._catalog.whole():
            before = self._sizes().get(name)
            if before != size:
                self._catalog.execute(statements.SET_LIMIT, (name, size))
                self._tell("limit", name, {"size": size, "before": before})

    def remove(self, name: str) -> None:
        """Remove a limit: its name holds nothing up any more.

        Raises
        ------
        NotFound
            If there is none of this name.
        """
        with self._catalog.whole():
            sizes = self._sizes()
            _check_known("limit", name, sizes, "graphflow limits set NAME SIZE")
            for statement in statements.DELETE_LIMIT:
                self._catalog.execute(statement, (name,))
            self._tell("limit", name, {"size": None, "before": sizes[name]})

    def rates(self) -> list[Rate]:
        """Return all rates, by name."""
        return [
            Rate(name=name, per_second=rate, burst=burst)
            for name, rate, burst, _ in self._catalog.rows(statements.RATES)
        ]

    def set_rate(self, name: str, per_second: float, *, burst: int = 1) -> None:
        """Make a rate, or change it; starting times that are dealt out already stay.

        Raises
        ------
        ParameterError
            If the name is empty, or the burst is below 1.
        """
        _check_name(name)
        if burst < 1:
            raise ParameterError(f"the burst of a rate is 1 start or more, not {burst}")
        with self._catalog.whole():
            before = {each.name: each for each in self.rates()}.get(name)
            new = Rate(name=name, per_second=per_second, burst=burst)
            if before != new:
                self._catalog.execute(statements.SET_RATE, (name, per_second, burst))
                told = None if before is None else before.per_second
                self._tell("rate", name, {"per_second": per_second, "burst": burst, "before": told})

    def remove_rate(self, name: str) -> None:
        """Remove a rate.

        Raises
        ------
        NotFound
            If there is none of this name.
        """
        with self._catalog.whole():
            known = {each.name: each.per_second for each in self.rates()}
            _check_known("rate", name, known, "graphflow rates set NAME 50/s")
            self._catalog.execute(statements.DELETE_RATE, (name,))
            self._tell("rate", name, {"per_second": None, "before": known[name]})

    def full(self, names: Iterable[str]) -> str:
        """Return why a run with these tags cannot begin: a limit that has no free slot for it; empty if it can."""
        named = set(names)
        sizes = {name: size for name, size in self._sizes().items() if name in named}
        if not sizes:
            return ""
        every = holders_of(self._catalog, self._clock, sizes.keys())
        for name, size in sizes.items():
            taken = sum(held.slots for held in every[name].values())
            if taken >= size:
                return f"{WAITS_FOR_LIMIT}{name} is full: {taken} of {size} slots are taken"
        return ""

    def _tell(self, kind: str, name: str, data: dict[str, object]) -> None:
        self._catalog.emit(
            id=ids.run_id(),
            at=self._clock.wall(),
            type=f"graphflow.{kind}.changed",
            subject=name,
            related={},
            data={**data, **ACTOR.get()},
        )


def _check_name(name: str) -> None:
    if not name.strip():
        raise ParameterError("a limit or rate needs a name: a tag of tasks, flows or deployments")


def _check_known(kind: str, name: str, known: Collection[str], how: str) -> None:
    if name not in known:
        there = ", ".join(known) or "none yet"
        raise NotFound(f"there is no {kind} {name!r}; there is {there}. `{how}` makes one")
