"""Claims: objects in a store that name the process that holds them, and whether that process lives.

A *once* claim stands for one key of a task with `run_once=True`, and outlives its holder: without a result, it is unknown what
became of it. What else is claimed is in `flights` and `sites`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable
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
    "Holder",
    "OnceClaim",
    "OnceClaims",
    "beating",
    "claim_body",
    "holder_of",
    "is_held",
    "once_claims",
    "parsed_claim",
    "this_process",
]

logger = logging.getLogger("graphflow.results")
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
        """Return whether a process of this machine still runs."""
        return _begun(self.pid) == self.begun


_me: tuple[int, Holder] | None = None


def this_process() -> Holder:
    """Return the process that asks."""
    global _me
    pid = os.getpid()
    if _me is None or _me[0] != pid:
        _me = (pid, Holder(socket.gethostname(), boot_id(), pid, _begun(pid)))
    return _me[1]


def _begun(pid: int) -> str:
    """Return when a process began; empty if there is none of this number."""
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


def claim_body(keys: Iterable[bytes] = (), **header: Any) -> bytes:
    """Return the bytes of a claim of this process, unlike those of any other."""
    header = {**asdict(this_process()), "at": time.time(), "token": os.urandom(8).hex(), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, *keys))


def parsed_claim(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the header and the keys of a claim.

    Raises
    ------
    ResultDamaged
        If it differs from what was written.
    """
    if data[:8] != _MAGIC or len(data) < 12:
        raise ResultDamaged("a claim differs from what was written")
    (size,) = _LENGTH.unpack_from(data, 8)
    try:
        header = json.loads(data[12 : 12 + size])
    except ValueError as error:
        raise ResultDamaged("a claim differs from what was written") from error
    rest = data[12 + size :]
    return header, [rest[at : at + KEY_NBYTES] for at in range(0, len(rest), KEY_NBYTES)]


def holder_of(header: dict[str, Any]) -> Holder:
    """Return the process that a claim's header names."""
    return Holder(str(header["host"]), str(header["boot"]), int(header["pid"]), str(header["begun"]))


# -- whether a holder lives --------------------------------------------------------------------------------


def is_held(store: ResultStore, name: str, holder: Holder) -> bool:
    """Return whether the process behind a claim still lives: asked of the system here, told by its beats elsewhere."""
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
        """Start renewing a claim."""
        if not store.is_shared:
            return
        with self._lock:
            self._claims[name] = store
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="graphflow-claims", daemon=True).start()

    def end(self, name: str) -> None:
        """Stop renewing the claim."""
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


def beating() -> _Beating:
    """Return what tells others that this process lives."""
    return _beating


def _begin_anew() -> None:
    """Reset the state of a forked process, which holds nothing."""
    global _beating
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
        for _ in range(3):
            if self._store.create(name, claim_body(run=run_id, node=node, index=index)):
                beating().begin(self._store, name)
                failpoint("claims.once.after")
                return None
            known = self.find(key)
            if known is not None:
                return known
            # It was given back in between.
        raise ResultStoreError(
            f"another process keeps taking and releasing claim {name} in {self._store.url}; resume the run to try again"
        )

    def find(self, key: bytes) -> OnceClaim | None:
        """Return the claim of a key, None where there is none.

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
            header, _ = parsed_claim(self._store.read(name, 0, found.nbytes))
            return OnceClaim(
                key=key,
                holder=holder_of(header),
                run_id=str(header["run"]),
                node=str(header["node"]),
                index=header["index"],
                at=float(header["at"]),
            )
        except (ResultDamaged, KeyError, TypeError, ValueError) as error:
            raise ResultStoreError(
                f"the claim {name} in {self._store.url} is damaged, so it is unknown whether its item was executed; find out, "
                "then remove it with `graphflow cache release`"
            ) from error

    def is_held(self, claim: OnceClaim) -> bool:
        """Return whether the process that has it still lives."""
        return is_held(self._store, self._name(claim.key), claim.holder)

    def give_back(self, keys: Iterable[bytes]) -> None:
        """Release the claims of items with a known outcome: they may be executed again."""
        names = [self._name(key) for key in keys]
        for name in names:
            beating().end(name)
        self._store.delete([*names, *(f"{name}.beat" for name in names)])

    def settled(self, key: bytes) -> None:
        """Stop renewing a claim whose result is in the store; the claim itself stays."""
        beating().end(self._name(key))

    def _name(self, key: bytes) -> str:
        return f"{self._prefix}{key.hex()}"


def once_claims(store: ResultStore) -> dict[str, OnceClaims]:
    """Return the claims of all tasks in a store, by the key's hexadecimal digits. One listing."""
    found: dict[str, OnceClaims] = {}
    for each in store.entries("claims/"):
        above, _, last = each.name.rpartition("/")
        if above.endswith("/once") and "." not in last:
            folder = above.removeprefix("claims/").removesuffix("/once")
            found[last] = OnceClaims(store, folder)
    return found
