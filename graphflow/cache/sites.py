"""Sites: drivers that execute equal work for one store at the same time detect that, at no cost while there is only one.

A *site* is a folder on the disk of one machine. Batches of all drivers that use it settle among themselves, by flights in that
folder, who executes what: the store is asked nothing for that. In the store each driver only says that it is there. Of two
sites, each says so before it looks who else is there, so at least one sees the other, and waits until that one has announced
what its batches execute (it has *answered*); from then on, both announce their flights in the store.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from graphflow.cache.claims import Holder, beating, claim_body, holder_of, is_held, parsed_claim, this_process
from graphflow.cache.flights import HERE, Claimed, Flights, Listing, View
from graphflow.cache.nearby import prune_ends
from graphflow.common import settings
from graphflow.common.machine import boot_id
from graphflow.common.service import Service
from graphflow.errors import GraphflowError, ResultDamaged
from graphflow.ports import ResultStore
from graphflow.results.stores.local import LocalStore

__all__ = ["Claims", "Flight", "Presence", "Site", "claims_of", "site_of"]

logger = logging.getLogger("graphflow.results")
LOOK_SECONDS = 2.0
MAX_LOOK_SHARE = 0.2
"""A driver looks whether another has come after some seconds, and less often the longer it has been there alone."""
SETTLE_SECONDS = 0.1
LEAVE_SECONDS = 60.0
"""How long a turn that asks the store is waited for at the end."""
ANSWER = ".loud"


# -- where processes of a machine meet ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the processes of one machine settle who executes what of a store that others reach too.

    `place` is a folder of theirs, `name` sets it apart from those of others.
    """

    place: LocalStore
    name: str

    def is_here(self) -> bool:
        """Return whether this process has the same folder, on the same machine."""
        try:
            return _site_name(self.place) == self.name
        except GraphflowError:
            return False


def site_of(store: ResultStore) -> Site:
    """Return the site of this process for a store.

    Raises
    ------
    ResultStoreError
        If its folder cannot be used.
    """
    place = LocalStore(settings.home() / "sites" / _short(store.url), key=store.keys[0])
    if not any(place.names("site")):
        place.create("site", os.urandom(16))
    return Site(place=place, name=_site_name(place))


def _site_name(place: LocalStore) -> str:
    # A folder may be shared by machines; a site is not.
    return _short(place.read("site", 0, 16).hex() + boot_id())


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


# -- who is there ------------------------------------------------------------------------------------------


class _Others:
    """The drivers of other sites that announced themselves in a task's folder."""

    def __init__(self, store: ResultStore, folder: str, site: str) -> None:
        self._store = store
        self._above = f"claims/{folder}/{HERE}"
        self._site = site
        self._holders: dict[str, Holder] = {}

    def add(self, path: str) -> None:
        """Add a presence of this process."""
        self._holders[path.removeprefix(self._above)] = this_process()

    def unanswered(self, present: dict[str, int]) -> list[str]:
        """Return the live drivers that have not announced yet what they execute."""
        return [
            name
            for name, nbytes in present.items()
            if "." not in name
            and not name.startswith(self._site)
            and name + ANSWER not in present
            and self._is_live(name, nbytes)
        ]

    def living(self, present: dict[str, int]) -> bool:
        """Return whether a driver of another site is alive; leftovers of dead ones are removed, of this site too."""
        living = [name for name, nbytes in present.items() if "." not in name and self._is_live(name, nbytes)]
        return any(not name.startswith(self._site) for name in living)

    def _is_live(self, name: str, nbytes: int) -> bool:
        path = self._above + name
        try:
            if name not in self._holders:
                header, _ = parsed_claim(self._store.read(path, 0, nbytes))
                self._holders[name] = holder_of(header)
        except (ResultDamaged, KeyError, TypeError, ValueError):
            # It went away in between, or is no presence.
            return False
        if is_held(self._store, path, self._holders[name]):
            return True
        self._store.delete([path, path + ANSWER, f"{path}.beat"])
        return False


@dataclass(frozen=True, slots=True)
class _Late:
    """A flight in the store, of the keys that some flights of a site had when another site came."""

    number: int
    keys: frozenset[bytes]
    flights: frozenset[int]


class Presence:
    """A driver's word that it works in a task's folder of a store that others reach too; there from its making until it is closed.

    While there is a mark on the site's disk that is not old, this driver's batches announce nothing in the store. The mark is
    renewed only after the presence, so it expires before the presence does: a driver that was suspended for longer announces what it starts.

    Parameters
    ----------
    token
        The driver's.

    Raises
    ------
    ResultStoreError
        If the store or the site's folder cannot be used.
    """

    def __init__(self, store: ResultStore, folder: str, token: str, site: Site) -> None:
        self._store = store
        self._folder = folder
        self._site = site
        self._others = _Others(store, folder, site.name)
        self._mark = _mark(folder, token)
        self._prefix = f"claims/{folder}/{HERE}"
        self._name = f"{self._prefix}{site.name}-{_short(os.urandom(16).hex())}"
        self._near = Flights(site.place, folder)
        self._far = Flights(store, folder)
        self._body = claim_body()
        self._others.add(self._name)
        self._is_loud = False
        self._settling: _Late | None = None
        self._began = self._told = time.monotonic()
        self._watch = Service(
            self._turn, name="graphflow-presence", interval=self._pause, on_error=self._turn_failed
        )
        try:
            store.publish(self._name, [self._body])
            site.place.create(self._mark, b"quiet", is_lasting=False)
            # Whoever came before sees this one from now on, or is seen here.
            self._look()
        except BaseException:
            # Others would wait for its answer.
            self._leave()
            raise
        self._watch.start()

    def close(self) -> None:
        """Take back the presence of this driver, whose batches have ended."""
        self._watch.stop(LEAVE_SECONDS)
        self._leave()
        try:
            prune_ends(self._site.place, self._folder, now=time.time())
        except GraphflowError as error:
            logger.debug("the ends of packs of %s stay on this machine: %s", self._folder, error)

    def _leave(self) -> None:
        try:
            if self._settling is not None:
                self._far.release(self._settling.number, self._settling.keys)
            self._site.place.delete([self._mark])
            # Processes on other machines said that they are there for this driver.
            away = (
                [each for each in self._store.names(self._prefix) if _short(self._mark) in each]
                if self._is_loud
                else []
            )
            self._store.delete([self._name, self._name + ANSWER, *away])
        except GraphflowError as error:
            # Others see it when this process ends.
            logger.debug("the presence file %s could not be removed: %s", self._name, error)

    def _turn(self) -> None:
        self._look()
        self._tell()

    def _turn_failed(self, error: Exception) -> None:
        if isinstance(error, GraphflowError):
            logger.debug("could not find out which other drivers use %s: %s", self._prefix, error)
        else:
            logger.error("nobody knows who else works in %s", self._prefix, exc_info=error)

    def _pause(self) -> float:
        term = settings.lease_seconds() / 3
        if self._settling is not None:
            return min(SETTLE_SECONDS, term)
        if self._is_loud:
            return term
        return min(max(LOOK_SECONDS, MAX_LOOK_SHARE * (time.monotonic() - self._began)), term)

    def _tell(self) -> None:
        """Show others that this process lives, and batches that others see it."""
        now, term = time.monotonic(), settings.lease_seconds() / 3
        if now - self._told < 0.9 * term:
            return
        self._store.publish(self._name, [self._body])
        self._told = now
        if not self._is_loud and time.monotonic() - now < term:
            self._site.place.publish(self._mark, [b"quiet"])

    def _look(self) -> None:
        self._settle()
        present = self._present()
        if self._others.living(present):
            if not self._is_loud:
                self._announce()
            elif self._name[len(self._prefix) :] + ANSWER not in present:
                self._answer()
        elif self._is_loud and self._settling is None:
            self._be_quiet()

    def _present(self) -> dict[str, int]:
        cut = len(self._prefix)
        return {each.name[cut:]: each.nbytes for each in self._store.entries(self._prefix)}

    def _answer(self) -> None:
        self._store.publish(self._name + ANSWER, [claim_body()])

    def _be_quiet(self) -> None:
        """Mark the site as left. Drivers that come later wait for another answer, and earlier ones are seen."""
        self._store.delete([self._name + ANSWER])
        if self._others.living(self._present()):
            # Batches announced all they began meanwhile.
            self._answer()
            return
        self._store.publish(self._name, [self._body])
        self._told = time.monotonic()
        self._site.place.publish(self._mark, [b"quiet"])
        self._is_loud = False

    def _announce(self) -> None:
        """Announce what running batches execute, as another site exists; batches announce it themselves from now on.

        A batch first begins its flight at this site, and then looks for the mark. If it saw the mark, its flight is among those
        that are found here afterwards.
        """
        self._site.place.delete([self._mark])
        flights = self._near.keys_under_way()
        keys = frozenset(key for each in flights.values() for key in each)
        if keys:
            before = self._settling
            claimed = self._far.claim(keys, self._far.view)
            assert claimed is not None
            self._settling = _Late(claimed.number, keys, frozenset(flights))
            if before is not None:
                self._far.release(before.number, before.keys)
        self._answer()
        self._is_loud = True

    def _settle(self) -> None:
        """End the flight of what was executed already, once those have ended."""
        late = self._settling
        if late is not None and not late.flights & self._near.look().live:
            # All of them may have been made.
            self._far.release(late.number, late.keys)
            self._settling = None


def _mark(folder: str, token: str) -> str:
    return f"quiet/{folder}/{_short(token)}"


# -- what batches ask --------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What was known before keys were looked up: of the site, and of the store."""

    near: View
    far: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Keys that a batch may execute now, all but those `taken`; the rest as `Claimed` says."""

    near: Claimed | None
    far: Claimed | None
    taken: frozenset[bytes]

    @property
    def has_news(self) -> bool:
        """Whether results are to be looked up again."""
        return any(each is not None and each.has_news for each in (self.near, self.far))

    @property
    def must_list(self) -> bool:
        """Whether they are to be listed before."""
        return any(each is not None and each.must_list for each in (self.near, self.far))


class Claims:
    """Who executes what of a task's folder at the moment, as batches of one driver ask in one process.

    Parameters
    ----------
    token
        The driver's.
    site
        The driver's; None where the store itself is on a disk.
    """

    def __init__(self, store: ResultStore, folder: str, token: str, site: Site | None) -> None:
        self._store = store
        self._mark = _mark(folder, token)
        self._site = site
        self._is_here = site is None or site.is_here()
        self._far = None if site is None else Flights(store, folder)
        self._near: Flights | None = None
        own = "" if site is None else site.name
        if self._is_here:
            self._near = Flights(store if site is None else site.place, folder)
            self._near.listed(self._near.first_view())
        else:
            # A process on another machine is a site of its own, which announces all that it executes.
            own = _short(os.urandom(16).hex())
        self._name = f"claims/{folder}/{HERE}{own}-{_short(self._mark)}"
        self._open = 0
        self._told = -math.inf
        self._lock = threading.Lock()
        self._others = _Others(store, folder, own)

    @property
    def seen(self) -> Seen:
        """What is known now: to be asked for before results are looked up."""
        none = View(-1, frozenset())
        return Seen(
            none if self._near is None else self._near.view, none if self._far is None else self._far.view
        )

    def claim(self, keys: Iterable[bytes], seen: Seen) -> Flight:
        """Announce that these keys are about to be executed.

        Raises
        ------
        ResultStoreError
            If the store cannot be used, or cannot claim.
        """
        wanted = frozenset(keys)
        if not self._is_here:
            self._begin()
        near = None if self._near is None else self._near.claim(wanted, seen.near)
        taken: frozenset[bytes] = frozenset() if near is None else near.taken
        far = None
        if self._far is not None and not self._is_quiet() and (left := wanted - taken):
            far = self._far.claim(left, seen.far, may_begin=self._have_answered)
            taken = wanted if far is None else taken | far.taken
        return Flight(near=near, far=far, taken=taken)

    def listed(self, flight: Flight) -> None:
        """Results were listed after a claim that asked for it."""
        for log, claimed in ((self._near, flight.near), (self._far, flight.far)):
            if log is not None and claimed is not None:
                log.listed(claimed.view)

    def release(self, flight: Flight, made: Iterable[bytes]) -> None:
        """Release claims whose items were executed or handed back; these keys have published results."""
        made = list(made)
        for log, claimed in ((self._far, flight.far), (self._near, flight.near)):
            if log is not None and claimed is not None:
                log.release(claimed.number, made)
        if not self._is_here:
            with self._lock:
                self._open -= 1
                if not self._open:
                    beating().end(self._name)

    def _begin(self) -> None:
        """Begin a presence while something is executed; the driver ends it."""
        with self._lock:
            self._open += 1
            now = time.monotonic()
            if self._open > 1 or now - self._told < settings.lease_seconds() / 3:
                return
            self._store.publish(self._name + ANSWER, [claim_body()])
            self._store.publish(self._name, [claim_body()])
            beating().begin(self._store, self._name)
            self._told = now

    def _is_quiet(self) -> bool:
        """Return whether no driver outside the site must be informed; checked after the flight began at the site."""
        if self._site is None or not self._is_here:
            return False
        oldest = time.time() - settings.lease_seconds() * 2 / 3
        return any(
            each.name == self._mark and each.modified >= oldest
            for each in self._site.place.entries(self._mark)
        )

    def _have_answered(self, found: Listing) -> bool:
        return not self._others.unanswered(found.present)


MAX_KNOWN = 256
_claims: dict[tuple[int, str, str, str], Claims] = {}
_claims_lock = threading.Lock()


def claims_of(store: ResultStore, folder: str, token: str, site: Site | None = None) -> Claims:
    """Return the claims of a driver's batches in a task's folder, one object per process; to be asked for before results are listed."""
    place = (os.getpid(), store.url, folder, token)
    with _claims_lock:
        known = _claims.get(place)
        if known is None:
            while len(_claims) >= MAX_KNOWN:
                del _claims[next(iter(_claims))]
            known = _claims[place] = Claims(store, folder, token, site)
        return known


def _begin_anew() -> None:
    """Reset the state of a forked process, which holds nothing."""
    global _claims_lock
    _claims.clear()
    _claims_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
