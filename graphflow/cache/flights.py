"""Flights: the keys that a batch is about to execute, announced in one order that all see.

They are numbered objects of a store, each created only where its number is free. Of two with a key in common the earlier
executes it. When a flight ends, an object beside it says which keys it has made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from graphflow.cache.claims import Holder, beating, claim_body, holder_of, is_held, parsed_claim, this_process
from graphflow.common.failpoints import failpoint
from graphflow.errors import GraphflowError, ResultDamaged, ResultStoreError
from graphflow.ports import ResultStore

__all__ = ["Claimed", "Flights", "Listing", "View"]

logger = logging.getLogger("graphflow.results")
MAX_TRIED = 10_000
MANY_FLIGHTS = 1_000
KEPT_FLIGHTS = 128
"""Flights that ended are removed when they are so many numbers behind the newest."""
MAX_UNSEEN = 65_536
"""Results are listed at the latest when others made so many that are not known here."""
HERE = "here/"


@dataclass(frozen=True, slots=True)
class View:
    """Which flights there were at a time: the newest number, below 0 if none was read, and those that had not ended."""

    newest: int
    live: frozenset[int]


NOTHING_SEEN = View(-1, frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A flight that began.

    `taken` are those of its keys that an earlier flight of a living process has. `has_news` tells that others ended since the
    view that it was given, so that results are to be looked up again; where it `must_list`, they are to be listed before.
    `view` is to be told back with `listed` where they were.
    """

    number: int
    taken: frozenset[bytes]
    has_news: bool
    must_list: bool
    view: View


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder of claims has: by number the size of each flight, and of the marker of its end (None while it runs); and
    the names of those who are there."""

    flights: dict[int, tuple[int, int | None]]
    present: dict[str, int]

    @property
    def live(self) -> set[int]:
        """The flights that did not end."""
        return {number for number, (_, done) in self.flights.items() if done is None}


class Flights:
    """The flights of one task's folder in one store, as one process knows them. Used by several threads.

    Parameters
    ----------
    folder
        The task's.
    """

    def __init__(self, store: ResultStore, folder: str) -> None:
        self.store = store
        self.prefix = f"claims/{folder}/"
        self.view = NOTHING_SEEN
        """Which flights there were when results were listed last: to be asked for before results are looked up."""
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._known: dict[int, tuple[Holder, frozenset[bytes]]] = {}
        self._ended_here: set[int] = set()
        self._read: set[int] = set()
        self._unseen: dict[bytes, int] = {}
        """Keys that others made since results were listed, and in which flight."""

    def claim(
        self, keys: Iterable[bytes], seen: View, *, may_begin: Callable[[Listing], bool] | None = None
    ) -> Claimed | None:
        """Announce that these keys are about to be executed.

        Parameters
        ----------
        seen
            The view from before they were looked up.
        may_begin
            Given what is there; where it is False, nothing is claimed, and the answer is None.

        Raises
        ------
        ResultStoreError
            If the store cannot be used, or cannot claim.
        """
        wanted = frozenset(keys)
        # Of one process, one at a time: its batches need not race each other for numbers.
        with self._turn:
            found = self.look()
            if may_begin is not None and not may_begin(found):
                return None
            number, found = self._take(wanted, found)
        failpoint("claims.flight.after")
        beating().begin(self.store, self._name(number))
        live = found.live
        taken: set[bytes] = set()
        for each in live:
            taken |= self._keys_of(each, found.flights[each][0], wanted)
        # Somebody removed all flights where the numbers begin anew.
        is_anew = number <= seen.newest
        has_news = seen.newest < 0 or is_anew or bool(_ended(seen, number, live))
        with self._lock:
            self._known[number] = (this_process(), wanted)
            if is_anew:
                self.view = NOTHING_SEEN
            view = self.view
        must_list = view.newest < 0 or (has_news and self._are_unseen(wanted, view, number, found))
        now = View(number, frozenset(live | {number}))
        if not must_list and not self._unseen:
            # All that ended since was made here.
            self.listed(now)
        self._clean(found, number)
        return Claimed(
            number=number,
            taken=frozenset(taken),
            has_news=has_news or must_list,
            must_list=must_list,
            view=now,
        )

    def listed(self, view: View) -> None:
        """Mark what had ended at this view as known: results were listed since, or are about to be."""

        def is_open(number: int) -> bool:
            return number > view.newest or number in view.live

        with self._lock:
            if view.newest > self.view.newest:
                self.view = view
                self._ended_here = set(filter(is_open, self._ended_here))
                self._read = set(filter(is_open, self._read))
                self._unseen = {key: each for key, each in self._unseen.items() if is_open(each)}

    def release(self, number: int, made: Iterable[bytes]) -> None:
        """Release claims whose items were executed or handed back; these keys have published results."""
        beating().end(self._name(number))
        with self._lock:
            # What it made is known here: it was published before.
            self._ended_here.add(number)
        try:
            self._end(number, made)
        except GraphflowError as error:
            # The process goes on holding it; others see that when it ends.
            logger.debug("the registration of batch %d could not be removed: %s", number, error)
        with self._lock:
            self._known.pop(number, None)

    def look(self) -> Listing:
        """Return what is there. One listing."""
        sizes: dict[int, int] = {}
        done: dict[int, int] = {}
        present: dict[str, int] = {}
        for each in self.store.entries(self.prefix):
            name = each.name[len(self.prefix) :]
            stem, _, suffix = name.partition(".")
            if stem.isdigit():
                if suffix == "done":
                    done[int(stem)] = each.nbytes
                elif not suffix:
                    sizes[int(stem)] = each.nbytes
            elif name.startswith(HERE):
                present[name[len(HERE) :]] = each.nbytes
        return Listing({number: (nbytes, done.get(number)) for number, nbytes in sizes.items()}, present)

    def first_view(self) -> View:
        """Return which flights there are before results are listed for the first time."""
        found = self.look()
        return View(max(found.flights, default=0), frozenset(found.live))

    def keys_under_way(self) -> dict[int, frozenset[bytes]]:
        """Return the keys of the flights of living processes, by number."""
        found = self.look()
        held = {each: self._keys_of(each, found.flights[each][0], None) for each in found.live}
        return {each: keys for each, keys in held.items() if keys}

    def _take(self, wanted: Collection[bytes], found: Listing) -> tuple[int, Listing]:
        """Create a flight under the next free number; return it, and those before it."""
        body = claim_body(wanted)
        first = number = max(found.flights, default=0) + 1
        while not self.store.create(self._name(number), body, is_lasting=False):
            number += 1
            if number - first > MAX_TRIED:
                raise ResultStoreError(
                    f"could not register this batch in {self.store.url}, {self.prefix}: {MAX_TRIED} sequence numbers after {first} were taken "
                    "by other processes; resume the run"
                )
        if number > first:
            again = self.look()
            before = {each: known for each, known in again.flights.items() if each < number}
            found = Listing(before, again.present)
        return number, found

    def _are_unseen(self, wanted: frozenset[bytes], view: View, number: int, found: Listing) -> bool:
        """Return whether results that are not known here may have been made for these keys since they were listed."""
        with self._lock:
            new = _ended(view, number, found.live) - self._ended_here - self._read
        for each in sorted(new):
            done = found.flights[each][1] if each in found.flights else None
            if done is None:
                # It was removed, some time after it had ended.
                return True
            try:
                _, keys = parsed_claim(self.store.read(f"{self._name(each)}.done", 0, done))
            except ResultDamaged:
                return True
            with self._lock:
                self._read.add(each)
                self._known.pop(each, None)
                self._unseen.update(dict.fromkeys(keys, each))
        with self._lock:
            is_old = number - view.newest > MANY_FLIGHTS or len(self._unseen) > MAX_UNSEEN
            return is_old or any(key in self._unseen for key in wanted)

    def _name(self, number: int) -> str:
        return f"{self.prefix}{number:012d}"

    def _end(self, number: int, made: Iterable[bytes]) -> None:
        self.store.create(f"{self._name(number)}.done", claim_body(made), is_lasting=False)

    def _keys_of(self, number: int, nbytes: int, wanted: frozenset[bytes] | None) -> frozenset[bytes]:
        """Return the keys that a flight of another has (of these, where some are wanted); none if its process is gone."""
        known = self._known.get(number)
        if known is None:
            try:
                header, keys = parsed_claim(self.store.read(self._name(number), 0, nbytes))
                known = (holder_of(header), frozenset(keys))
            except (ResultDamaged, KeyError, TypeError, ValueError):
                return frozenset()
            with self._lock:
                self._known[number] = known
        shared = known[1] if wanted is None else wanted & known[1]
        if not shared or is_held(self.store, self._name(number), known[0]):
            return shared
        # Its process is gone, and may have published all of them; nobody needs to ask again.
        self._end(number, known[1])
        return frozenset()

    def _clean(self, found: Listing, newest: int) -> None:
        """Remove flights that ended long ago; never the newest, whose number orders the next."""
        old = [
            number
            for number, (_, done) in found.flights.items()
            if done is not None and number < newest - KEPT_FLIGHTS
        ]
        if len(old) < KEPT_FLIGHTS:
            return
        try:
            self.store.delete(
                name
                for number in old
                for name in (self._name(number), f"{self._name(number)}.done", f"{self._name(number)}.beat")
            )
        except GraphflowError as error:
            logger.debug("registrations of old batches could not be removed: %s", error)


def _ended(view: View, number: int, live: set[int]) -> set[int]:
    """Return the flights before a number that ended since a view: what is not there any more was removed after it had ended."""
    before = {each for each in view.live if each < number}
    return {*before, *range(max(view.newest, 0) + 1, number)} - live
