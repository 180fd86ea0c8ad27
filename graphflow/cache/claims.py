"""Claims: who executes what at the moment, so that equal work is done once, also by several drivers on one store.

There are two kinds. A *flight* names the keys that one batch is about to execute; flights are numbered objects, each created only
where its number is free, so that they have one order that all see. A *once* claim stands for one key of a task that runs once
only, and outlives its holder: without a result, nobody knows what became of it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphflow.common import settings
from graphflow.common.failpoints import failpoint
from graphflow.common.machine import boot_id
from graphflow.errors import GraphflowError, ResultDamaged, ResultStoreError
from graphflow.identity.cache_keys import KEY_NBYTES
from graphflow.ports import ResultStore

__all__ = [
    "Claimed",
    "Flights",
    "Holder",
    "OnceClaim",
    "OnceClaims",
    "View",
    "flights_of",
    "once_claims",
    "this_process",
]

logger = logging.getLogger("graphflow.results")
MAX_TRIED = 10_000
MANY_FLIGHTS = 1_000
KEPT_FLIGHTS = 32
"""Flights that ended are removed when they are so many numbers behind the newest."""
_MAGIC = b"GFCLAIM1"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds claims."""

    host: str
    boot: str
    pid: int
    begun: str
    """When the process began, as its system tells: a later process may have the same pid."""

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine since its start."""
        me = this_process()
        return (self.host, self.boot) == (me.host, me.boot)

    def is_alive(self) -> bool:
        """Whether a process of this machine still runs."""
        return _begun(self.pid) == self.begun


_me: tuple[int, Holder] | None = None


def this_process() -> Holder:
    """The process that asks."""
    global _me
    pid = os.getpid()
    if _me is None or _me[0] != pid:
        _me = (pid, Holder(socket.gethostname(), boot_id(), pid, _begun(pid)))
    return _me[1]


def _begun(pid: int) -> str:
    """When a process began; empty if there is none of this number."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        # A zombie holds nothing any more.
        return "" if fields[0] in ("Z", "X") else fields[19]
    except (OSError, ValueError, IndexError):
        if os.path.isdir("/proc/self"):
            return ""
    try:
        import psutil

        return str(psutil.Process(pid).create_time())
    except Exception:
        return ""


def _body(header: dict[str, Any], keys: Sequence[bytes] = ()) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, *keys))


def _parsed(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    if data[:8] != _MAGIC or len(data) < 12:
        raise ResultDamaged("a claim is not what was written")
    (size,) = _LENGTH.unpack_from(data, 8)
    try:
        header = json.loads(data[12 : 12 + size])
    except ValueError as error:
        raise ResultDamaged("a claim is not what was written") from error
    rest = data[12 + size :]
    return header, [rest[at : at + KEY_NBYTES] for at in range(0, len(rest), KEY_NBYTES)]


def _holder(header: dict[str, Any]) -> Holder:
    return Holder(str(header["host"]), str(header["boot"]), int(header["pid"]), str(header["begun"]))


# -- flights -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """Which flights there were at a time: the newest number, and those that had not ended."""

    newest: int
    live: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A flight that began.

    `taken` are those of its keys that an earlier flight of a living process has. `has_news` tells that others ended since the
    view that it was given, so that results are to be looked up again; where it `must_list`, they are to be listed before.
    `view` is to be told back with `listed` then.
    """

    number: int
    taken: frozenset[bytes]
    has_news: bool
    must_list: bool
    view: View


class Flights:
    """The flights of one task's folder, as one process knows them. Used by several threads.

    Parameters
    ----------
    folder
        The task's.
    """

    def __init__(self, store: ResultStore, folder: str) -> None:
        self._store = store
        self._prefix = f"claims/{folder}/"
        self._lock = threading.Lock()
        self._known: dict[int, tuple[Holder, frozenset[bytes]]] = {}
        self._ended_here: set[int] = set()
        self._view = View(0, frozenset())

    @property
    def view(self) -> View:
        """Which flights there were when results were listed last: to be asked for before results are looked up."""
        return self._view

    def claim(self, keys: Sequence[bytes], seen: View) -> Claimed:
        """Say that these keys are about to be executed.

        Parameters
        ----------
        seen
            The view from before they were looked up.

        Raises
        ------
        ResultStoreError
            If the store cannot be used, or cannot claim.
        """
        me = this_process()
        wanted = frozenset(keys)
        header = {**asdict(me), "at": time.time(), "token": os.urandom(8).hex()}
        body = _body(header, list(wanted))
        found = self._listed()
        first = number = max(found, default=0) + 1
        while not self._store.create(self._name(number), body, is_lasting=False):
            # Another was quicker; of many at once, each takes the next number that is free.
            number += 1
            if number - first > MAX_TRIED:
                raise ResultStoreError(
                    f"no flight could be claimed in {self._store.url}, {self._prefix}: {MAX_TRIED} numbers after {first} were taken "
                    "meanwhile; resume the run"
                )
        if number > first:
            found = {each: known for each, known in self._listed().items() if each < number}
        failpoint("claims.flight.after")
        _beating.begin(self._store, self._name(number))
        live = {each for each, (_, is_done) in found.items() if not is_done}
        taken: set[bytes] = set()
        for each in live:
            taken |= self._keys_of(each, found[each][0], wanted)
        # Numbers are consecutive: what is not there any more was removed after it had ended.
        ended = {*seen.live, *range(seen.newest + 1, number)} - live
        # Somebody removed all flights where the numbers begin anew.
        is_anew = number <= seen.newest
        with self._lock:
            self._known[number] = (me, wanted)
            is_known = ended <= self._ended_here and not is_anew
            if is_anew:
                self._view = View(0, frozenset())
        self._clean(found, number)
        return Claimed(
            number=number,
            taken=frozenset(taken),
            has_news=bool(ended) or is_anew,
            must_list=not is_known,
            view=View(number, frozenset(live | {number})),
        )

    def listed(self, view: View) -> None:
        """Results were listed after a flight was claimed, or nothing had ended before it."""
        with self._lock:
            if view.newest > self._view.newest:
                self._view = view
                self._ended_here = {each for each in self._ended_here if each > view.newest - MANY_FLIGHTS}
                for each in [each for each in self._known if each < view.newest - MANY_FLIGHTS]:
                    if each not in view.live:
                        del self._known[each]

    def release(self, number: int) -> None:
        """What was claimed has been executed, or was given back."""
        _beating.end(self._name(number))
        try:
            self._store.create(f"{self._name(number)}.done", os.urandom(8), is_lasting=False)
        except GraphflowError as error:
            # The process goes on holding it; others see that when it ends.
            logger.debug("flight %d could not be ended: %s", number, error)
        with self._lock:
            # What it made is known here: it was published before.
            self._ended_here.add(number)

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number:012d}"

    def _listed(self) -> dict[int, tuple[int, bool]]:
        """All flights: their sizes, and whether they ended."""
        sizes: dict[int, int] = {}
        done: set[int] = set()
        for each in self._store.entries(self._prefix):
            stem, _, suffix = each.name[len(self._prefix) :].partition(".")
            if stem.isdigit():
                if suffix == "done":
                    done.add(int(stem))
                elif not suffix:
                    sizes[int(stem)] = each.nbytes
        return {number: (nbytes, number in done) for number, nbytes in sizes.items()}

    def _keys_of(self, number: int, nbytes: int, wanted: frozenset[bytes]) -> frozenset[bytes]:
        """The keys that a flight of another has; none if its process is gone."""
        known = self._known.get(number)
        if known is None:
            try:
                header, keys = _parsed(self._store.read(self._name(number), 0, nbytes))
                known = (_holder(header), frozenset(keys))
            except (ResultDamaged, KeyError, TypeError, ValueError):
                return frozenset()
            with self._lock:
                self._known[number] = known
        shared = wanted & known[1]
        if not shared or is_held(self._store, self._name(number), known[0]):
            return shared
        # Its process is gone; nobody needs to ask again.
        self._store.create(f"{self._name(number)}.done", os.urandom(8), is_lasting=False)
        return frozenset()

    def _clean(self, found: dict[int, tuple[int, bool]], newest: int) -> None:
        """Remove flights that ended long ago; never the newest, whose number orders the next."""
        old = [number for number, (_, is_done) in found.items() if is_done and number < newest - KEPT_FLIGHTS]
        if len(old) < KEPT_FLIGHTS:
            return
        try:
            self._store.delete(
                name
                for number in old
                for name in (self._name(number), f"{self._name(number)}.done", f"{self._name(number)}.beat")
            )
        except GraphflowError as error:
            logger.debug("old flights could not be removed: %s", error)


MAX_KNOWN = 256
_flights: dict[tuple[int, str, str], Flights] = {}
_flights_lock = threading.Lock()


def flights_of(store: ResultStore, folder: str) -> Flights:
    """The flights of a task's folder, one object per process."""
    place = (os.getpid(), store.url, folder)
    with _flights_lock:
        known = _flights.get(place)
        if known is None:
            while len(_flights) >= MAX_KNOWN:
                del _flights[next(iter(_flights))]
            known = _flights[place] = Flights(store, folder)
        return known


# -- whether a holder lives --------------------------------------------------------------------------------


def is_held(store: ResultStore, name: str, holder: Holder) -> bool:
    """Whether the process behind a claim still lives: asked of the system here, told by its beats elsewhere."""
    if holder.is_here:
        return holder.is_alive()
    term = settings.lease_seconds()
    beats = [each.modified for each in store.entries(name) if each.name in (name, f"{name}.beat")]
    if not beats:
        return False
    # The store's clock, not this machine's.
    probe = f"claims/clock/{os.urandom(8).hex()}"
    store.create(probe, os.urandom(8), is_lasting=False)
    try:
        now = next((each.modified for each in store.entries(probe)), None)
    finally:
        store.delete([probe])
    return now is None or now - max(beats) < term


class _Beating:
    """Tells processes of other machines that the holder of claims lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, ResultStore] = {}
        self._pid = 0

    def begin(self, store: ResultStore, name: str) -> None:
        if not store.is_shared:
            return
        with self._lock:
            self._claims[name] = store
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="graphflow-claims", daemon=True).start()

    def end(self, name: str) -> None:
        with self._lock:
            self._claims.pop(name, None)

    def _run(self) -> None:
        while True:
            time.sleep(settings.lease_seconds() / 3)
            with self._lock:
                claims = list(self._claims.items())
            for name, store in claims:
                try:
                    store.publish(f"{name}.beat", [b"beat"])
                except GraphflowError as error:
                    logger.debug("a claim could not be renewed: %s", error)


_beating = _Beating()


def _begin_anew() -> None:
    """A process that was forked holds nothing."""
    global _beating, _flights_lock
    _flights.clear()
    _flights_lock = threading.Lock()
    _beating = _Beating()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


# -- once only ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceClaim:
    """Who began to execute an item that is to be executed once only; `at` is seconds since the epoch."""

    key: bytes
    holder: Holder
    run_id: str
    node: str
    index: int | None
    at: float


class OnceClaims:
    """The claims of a task whose items are executed once only.

    Parameters
    ----------
    folder
        The task's.
    """

    def __init__(self, store: ResultStore, folder: str) -> None:
        self._store = store
        self._prefix = f"claims/{folder}/once/"

    def take(self, key: bytes, *, run_id: str, node: str, index: int | None) -> OnceClaim | None:
        """Claim a key before its item begins: None if that succeeded, else the claim that is there.

        Raises
        ------
        ResultStoreError
            If the store cannot be used, or cannot claim.
        """
        name = self._name(key)
        header = {**asdict(this_process()), "run": run_id, "node": node, "index": index}
        header |= {"at": time.time(), "token": os.urandom(8).hex()}
        for _ in range(3):
            if self._store.create(name, _body(header)):
                _beating.begin(self._store, name)
                failpoint("claims.once.after")
                return None
            known = self.find(key)
            if known is not None:
                return known
            # It was given back in between.
        raise ResultStoreError(f"the claim {name} in {self._store.url} comes and goes; resume the run")

    def find(self, key: bytes) -> OnceClaim | None:
        """The claim of a key, None where there is none.

        Raises
        ------
        ResultStoreError
            If it cannot be read, or is not what was written: nothing is guessed from it.
        """
        name = self._name(key)
        found = next((each for each in self._store.entries(name) if each.name == name), None)
        if found is None:
            return None
        try:
            header, _ = _parsed(self._store.read(name, 0, found.nbytes))
            return OnceClaim(
                key=key,
                holder=_holder(header),
                run_id=str(header["run"]),
                node=str(header["node"]),
                index=header["index"],
                at=float(header["at"]),
            )
        except (ResultDamaged, KeyError, TypeError, ValueError) as error:
            raise ResultStoreError(
                f"the claim {name} in {self._store.url} is damaged, so nobody knows whether its item was executed; find out, "
                "then remove it with `graphflow cache release`"
            ) from error

    def is_held(self, claim: OnceClaim) -> bool:
        """Whether the process that has it still lives."""
        return is_held(self._store, self._name(claim.key), claim.holder)

    def give_back(self, keys: Iterable[bytes]) -> None:
        """The outcome of these is known: they may be executed again."""
        names = [self._name(key) for key in keys]
        for name in names:
            _beating.end(name)
        self._store.delete([*names, *(f"{name}.beat" for name in names)])

    def settled(self, key: bytes) -> None:
        """Its result is in the store: the claim stays, and needs no beats."""
        _beating.end(self._name(key))

    def _name(self, key: bytes) -> str:
        return f"{self._prefix}{key.hex()}"


def once_claims(store: ResultStore) -> dict[str, OnceClaims]:
    """The claims of all tasks in a store, by the key's hexadecimal digits. One listing."""
    found: dict[str, OnceClaims] = {}
    for each in store.entries("claims/"):
        above, _, last = each.name.rpartition("/")
        if above.endswith("/once") and "." not in last:
            folder = above.removeprefix("claims/").removesuffix("/once")
            found[last] = OnceClaims(store, folder)
    return found
