"""The cache of a batch's task: items that need not be executed, and results that are kept by their keys.

Keys are made and looked up for many items at once. What others execute at the moment is waited for; what is to be executed once only is claimed first.
"""

from __future__ import annotations

import contextlib
import logging
import time
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from graphflow.cache.cached import MISSING, CacheFolder, Made, cache_folder
from graphflow.cache.claims import OnceClaim, OnceClaims, this_process
from graphflow.cache.sites import Flight, Seen, claims_of
from graphflow.common.failpoints import failpoint
from graphflow.common.wording import with_article
from graphflow.errors import ResultStoreError
from graphflow.identity.cache_keys import KEY_NBYTES, NO_KEY
from graphflow.model.anomalies import Anomaly
from graphflow.model.orders import CacheOrder
from graphflow.model.policies import Retry
from graphflow.model.reports import CachedFrom, CachedOrigin
from graphflow.model.states import Code
from graphflow.results.packs.pickling import decode, encode
from graphflow.runner.inputs import Ready
from graphflow.runner.keymaking import KeyMaker
from graphflow.runner.labels import label_of
from graphflow.runner.marks import DONE, ODD
from graphflow.runner.once import indeterminate, unresolved
from graphflow.runner.positions import part_of
from graphflow.runner.step import Step

if TYPE_CHECKING:
    from graphflow.runner.batch import Batch

__all__ = ["BatchCache", "StepCache"]

logger = logging.getLogger("graphflow.cache")
CHUNK = 16_384
"""Items that are looked up at once."""
WAIT_SECONDS = 0.1
MAX_WAIT_SECONDS = 2.0
_CACHED = int(Code.CACHED)
_COMPLETED = int(Code.COMPLETED)
_IS_DONE = bytes(code != 0 for code in range(256))
_ATOMS = frozenset({int, float, complex, str, bytes, bool, type(None), range})
_warned: set[tuple[str, int, str]] = set()


def _apart(values: list[Any], *, is_shared: bool = False) -> list[Any]:
    """Return values from one place as separate objects, so that one item's changes do not show in another."""
    if _ATOMS.issuperset(map(type, values)):
        return values
    seen: set[int] = set()
    for at, value in enumerate(values):
        if type(value) in _ATOMS or value is MISSING:
            continue
        if is_shared or id(value) in seen:
            data, errors = encode([value])
            # What cannot be copied so stays shared.
            if not errors:
                (values[at],) = decode(data, "a cached value")
        seen.add(id(value))
    return values


class BatchCache:
    """What a batch's task has in its cache. A cached task is alone in its stage.

    Parameters
    ----------
    batch
        The batch; its step is ready.
    slots
        The step's inputs.
    """

    def __init__(self, batch: Batch, slots: Sequence[Ready]) -> None:
        (step,) = batch.steps
        assert step.order.cache is not None
        self._batch = batch
        self._step = step
        step.cache = self._cache = StepCache(batch, step, step.order.cache, slots)
        self._looked = 0
        self.marks = bytearray(batch.size)
        """`DONE` or `ODD` per position that was looked up; 0 where an item is simply executed."""

    def look_ahead(self, position: int) -> int:
        """Look up this position, and many after it; return the first that was not."""
        if position >= self._looked:
            self._look_up(position, min(self._batch.size, position + CHUNK))
        return self._looked

    def _look_up(self, start: int, stop: int) -> None:
        self._looked = stop
        step, cache = self._step, self._cache
        positions: Sequence[int] = range(start, stop)
        if step.has_doubtful_input:
            positions = [each for each in positions if step.lost_input(each) is None]
        if len(positions):
            cache.look_up(positions)
        marks = self.marks
        if step.has_doubtful_input or cache.runs_once:
            marks[start:stop] = bytes([ODD]) * (stop - start)
        for position in cache.odd:
            if position >= start:
                marks[position] = ODD
        found = bytes(step.states[start:stop]).translate(_IS_DONE)
        at = found.find(1)
        while at >= 0:
            marks[start + at] = DONE
            at = found.find(1, at + 1)

    def is_done(self, position: int) -> bool:
        """Return whether nothing of an item is left to be executed."""
        return bool(self._step.states[position])

    def is_found(self, position: int) -> bool:
        """Return whether a position was looked up, and nothing of its item is left to be executed."""
        return position < self._looked and self.is_done(position)

    def keep(self, positions: Sequence[int]) -> None:
        """Cache the results of these positions; they are reported next.

        Raises
        ------
        ResultStoreError
            If the store cannot be written.
        """
        self._cache.keep(positions)

    def land(self, held: Sequence[int]) -> None:
        """Release items that were not started here; held ones are being executed."""
        self._cache.land(held)

    def close(self) -> None:
        """Release all claims, as nothing more is executed."""
        self._cache.close()


class StepCache:
    """The cache of one task in one batch."""

    def __init__(self, batch: Batch, step: Step, order: CacheOrder, slots: Sequence[Ready]) -> None:
        options = step.options.cache
        assert options is not None
        self._batch = batch
        self._step = step
        self._order = order
        self._options = options
        self._maker = KeyMaker(step.program, order.spec, slots)
        # What had ended before results are listed is known then.
        self._claims = (
            claims_of(order.store, order.folder, order.token, order.site)
            if order.can_claim and not options.run_once
            else None
        )
        place = order.site.place if order.site is not None and order.site.is_here() else None
        self._folder: CacheFolder = cache_folder(order.store, order.folder, order.token, place)
        self._once = OnceClaims(order.store, order.folder) if options.run_once else None
        size = batch.size
        self._keys = bytearray(KEY_NBYTES * size)
        self._kept = bytearray(size)
        self._parts: dict[str, bytes | bytearray] = {}
        self._fresh: dict[bytes, int] = {}
        """Where the first item of a key is in this batch."""
        self.odd: set[int] = set()
        """Positions where something is to be done at their turn: an equal one came before, or others execute it."""
        self.runs_once = options.run_once
        self._waits: set[int] = set()
        """Positions that others execute at the moment."""
        self._claimed: dict[int, bytes] = {}
        self._open: list[Flight] = []
        self._made: list[bytes] = []
        """Keys that were published since the last flight ended."""
        self._origins: dict[Any, int] = {}
        self._listed: list[CachedOrigin] = []
        self._numbers = array("I", bytes(4 * size))
        self._indices = array("I", bytes(4 * size))

    def key(self, position: int) -> bytes:
        """Return the key of an item, zeros where it has none."""
        return bytes(self._keys[KEY_NBYTES * position : KEY_NBYTES * (position + 1)])

    # -- looking up -------------------------------------------------------------------------------------

    def look_up(self, positions: Sequence[int]) -> None:
        """Find the values of these items; those that are there are `Cached`."""
        keys = self._make_keys(positions)
        seen = None if self._claims is None else self._claims.seen
        missing = self._find(positions, keys, is_again=False)
        if not missing:
            return
        keys_of = self._keys_of(missing)
        fresh = self._fresh
        if fresh or len(set(keys_of)) < len(keys_of):
            for key, position in zip(keys_of, missing, strict=True):
                if fresh.setdefault(key, position) != position:
                    self.odd.add(position)
        else:
            fresh.update(zip(keys_of, missing, strict=True))
        if seen is not None:
            self._fly(missing, keys_of, seen)

    def _keys_of(self, positions: Sequence[int]) -> list[bytes]:
        keys = bytes(self._keys)
        return [keys[KEY_NBYTES * position : KEY_NBYTES * (position + 1)] for position in positions]

    def _make_keys(self, positions: Sequence[int]) -> bytes:
        made = self._maker.keys(positions)
        keys = made.keys
        if isinstance(positions, range) and positions.step == 1:
            self._keys[KEY_NBYTES * positions.start : KEY_NBYTES * positions.stop] = keys
        else:
            for at, position in enumerate(positions):
                self._keys[KEY_NBYTES * position : KEY_NBYTES * (position + 1)] = keys[
                    KEY_NBYTES * at : KEY_NBYTES * (at + 1)
                ]
        for name, part in made.parts.items():
            column = self._parts.get(name)
            # Of two positions, 8 bytes are 4 of each; what is the same for all has the same 4 bytes twice.
            is_same = len(part) == 8 and len(positions) != 2
            if is_same and not isinstance(column, bytearray):
                self._parts[name] = part
                continue
            if not isinstance(column, bytearray):
                column = bytearray((column[:4] if column else bytes(4)) * self._batch.size)
                self._parts[name] = column
            if is_same:
                part = part[:4] * len(positions)
            if isinstance(positions, range) and positions.step == 1:
                column[4 * positions.start : 4 * positions.stop] = part
            else:
                for at, position in enumerate(positions):
                    column[4 * position : 4 * position + 4] = part[4 * at : 4 * at + 4]
        for position, problem in made.problems.items():
            self._warn("key", f"{self._name(position)} is not cached: {problem}")
            break
        return keys

    def _find(self, positions: Sequence[int], keys: bytes, *, is_again: bool) -> list[int]:
        """Mark the cached positions; return those with a key that are not cached."""
        step = self._step
        missing: list[int] = list(positions)
        if NO_KEY in keys:
            missing = [
                position
                for at, position in enumerate(positions)
                if keys[KEY_NBYTES * at : KEY_NBYTES * (at + 1)] != NO_KEY
            ]
        if self._order.refreshes and not is_again:
            return missing
        if not missing:
            return []
        found = self._folder.find(keys, now=time.time())
        hits = found.hits
        if not any(hits):
            return missing
        values = _apart(self._folder.load(found, range(len(positions))))
        left: list[int] = []
        for at, position in enumerate(positions):
            value = values[at]
            if not hits[at] or value is MISSING:
                if keys[KEY_NBYTES * at : KEY_NBYTES * (at + 1)] != NO_KEY:
                    left.append(position)
                continue
            step.values[position] = value
            step.states[position] = _CACHED
            self._note(position, found.made(at))
        if step.labels is not None:
            for position in positions:
                if step.states[position] == _CACHED:
                    self._label(position)
        return left

    def _note(self, position: int, made: Made) -> None:
        place = (made.pack, made.run_id, made.node, made.host, made.created)
        number = self._origins.get(place)
        if number is None:
            self._listed.append(
                CachedOrigin(
                    store=self._order.store.url,
                    pack=made.pack,
                    run_id=made.run_id,
                    node=made.node,
                    host=made.host,
                    created=made.created,
                )
            )
            number = self._origins[place] = len(self._listed)
        self._numbers[position] = number
        self._indices[position] = made.index

    def _label(self, position: int) -> None:
        step = self._step
        assert step.labels is not None
        with contextlib.suppress(Exception):
            args, kwargs = step.call(position)
            context = step.new_context()
            context.map_index = self._batch.order.indices[position] if context.is_mapped else None
            step.labels[position] = label_of(step.program, args, kwargs, context)

    def _fly(self, missing: list[int], keys: list[bytes], seen: Seen) -> None:
        """Announce that these are executed here now; find those that others execute, or have just executed."""
        assert self._claims is not None
        with self._batch.storing(in_slice=True):
            flight = self._claims.claim(keys, seen)
            self._open.append(flight)
            if flight.must_list:
                self._folder.refresh()
                self._claims.listed(flight)
        if flight.has_news and not self._order.refreshes:
            self._find(missing, b"".join(keys), is_again=True)
        if flight.taken:
            self._waits.update(
                position
                for key, position in zip(keys, missing, strict=True)
                if key in flight.taken and not self._step.states[position]
            )
            self.odd |= self._waits

    # -- at an item's turn ------------------------------------------------------------------------------

    def take(self, position: int) -> bool:
        """Return whether an item need not, or may not, be executed here: that is booked.

        Otherwise it is begun: an equal item of this batch waits for its end.
        """
        step = self._step
        if step.states[position]:
            return True
        key = self.key(position)
        if key == NO_KEY:
            if self._once is not None:
                self._refuse(position)
                return True
            return False
        leader = self._fresh.setdefault(key, position)
        if leader != position:
            if step.states[leader] in (_COMPLETED, _CACHED):
                self._follow(position, leader)
                return True
            if not step.states[leader]:
                return False
            self._fresh[key] = position
        if position in self._waits:
            self._wait(position)
            return True
        return self._once is not None and position not in self._claimed and not self._claim(position, key)

    def leader(self, position: int) -> int | None:
        """Return the position of an equal item that is being executed in this batch; None if there is none."""
        found = self._fresh.get(self.key(position))
        if found is None or found == position or self._step.states[found]:
            return None
        return found

    def _follow(self, position: int, leader: int) -> None:
        """Give an item the value of an equal item of this batch."""
        step, indices = self._step, self._batch.order.indices
        (step.values[position],) = _apart([step.values[leader]], is_shared=True)
        step.states[position] = _CACHED
        if self._numbers[leader]:
            self._numbers[position], self._indices[position] = self._numbers[leader], self._indices[leader]
        else:
            made = Made(
                pack="",
                run_id=self._batch.order.flow_run_id,
                node=step.context.node,
                index=indices[leader],
                created=self._batch.started_wall,
                host=this_process().host,
            )
            self._note(position, made)
        if step.labels is not None:
            self._label(position)

    def _wait(self, position: int) -> None:
        """Postpone an item, without an attempt, as another batch executes an equal one."""
        step, batch = self._step, self._batch
        step.states[position] = Code.AWAITING_RETRY
        now = time.perf_counter() - batch.started
        step.starts[position] = now
        waited = min(MAX_WAIT_SECONDS, max(WAIT_SECONDS, now))
        step.anomalies.add(
            Anomaly(
                position=position,
                attempt=0,
                code=Code.AWAITING_RETRY,
                started=batch.started_wall + now,
                duration=0.0,
                delay=waited,
            )
        )

    # -- once only --------------------------------------------------------------------------------------

    def _refuse(self, position: int) -> None:
        """Refuse an item without a key: it would be unknown whether it was executed."""
        error = ResultStoreError(
            f"{self._name(position)} is not executed: run_once needs a key for each item, but its arguments have no canonical "
            "form; use register_hash or cache_key_fn"
        )
        self._batch.book_end(self._step, position, error, Code.FAILED, time.perf_counter())

    def _claim(self, position: int, key: bytes) -> bool:
        """Claim an item before it begins; False if it does not begin."""
        assert self._once is not None
        step, batch, start = self._step, self._batch, time.perf_counter()
        index = batch.order.indices[position] if step.program.is_mapped else None
        claim = self._once.take(key, run_id=batch.order.flow_run_id, node=step.context.node, index=index)
        if claim is None:
            self._claimed[position] = key
            return True
        is_held = self._once.is_held(claim)
        # Whoever had it may have ended well in the meantime.
        self._folder.refresh()
        if not self._find((position,), key, is_again=True):
            return False
        signer = self._folder.signed_elsewhere(key)
        if is_held and not signer:
            self._wait(position)
            return False
        return self._resolve(position, key, claim, start, signer)

    def _resolve(self, position: int, key: bytes, claim: OnceClaim, start: float, signer: str) -> bool:
        """Decide an item whose holder left no usable result: call the task's `resolve`, else it is `Indeterminate`.

        It died at an unknown point; or its result is signed with the foreign key of that fingerprint.
        """
        assert self._once is not None
        step, batch = self._step, self._batch
        cause: BaseException | None = None
        resolve: Callable[..., Any] | None = self._options.resolve
        if resolve is not None:
            try:
                args, kwargs = step.call(position)
                value = resolve(unresolved(key, claim, step, args, kwargs))
            except Retry:
                # It was not done: it begins anew.
                self._once.give_back([key])
                return self._claim(position, key)
            except Exception as raised:
                cause = raised
            else:
                step.values[position] = value
                step.states[position] = _COMPLETED
                batch.ended(step, position, start)
                self._claimed[position] = key
                return False
        error = indeterminate(self._name(position), key, claim, self._folder.store, signer, cause)
        batch.book_end(step, position, error, Code.INDETERMINATE, start)
        return False

    # -- what is kept -----------------------------------------------------------------------------------

    def keep(self, positions: Sequence[int]) -> None:
        """Publish what was executed at these positions, once each."""
        step = self._step
        states = part_of(step.states, positions)
        if _COMPLETED in states:
            made = [
                position
                for position, code, is_kept in zip(
                    positions, states, part_of(self._kept, positions), strict=True
                )
                if code == _COMPLETED and not is_kept
            ]
            keyed = {
                position: key
                for position, key in zip(made, self._keys_of(made), strict=True)
                if key != NO_KEY
            }
            if keyed:
                self._publish(list(keyed), b"".join(keyed.values()))
        if self._once is not None and self._claimed:
            failed = [
                position
                for position, code in zip(positions, states, strict=True)
                if position in self._claimed and code != _COMPLETED and code != _CACHED
            ]
            if failed:
                # That an attempt failed is known: another may be made.
                self._once.give_back(self._claimed.pop(position) for position in failed)

    def _publish(self, positions: list[int], keys: bytes) -> None:
        step, batch = self._step, self._batch
        order, options = self._order, self._options
        now = time.time()
        parts: dict[str, bytes] = {}
        for name, column in self._parts.items():
            parts[name] = (
                b"".join(column[4 * position : 4 * position + 4] for position in positions)
                if isinstance(column, bytearray)
                else column
            )
        failpoint("batch.cache.before")
        indices = batch.order.indices
        published = self._folder.publish(
            keys=keys,
            values=list(map(step.values.__getitem__, positions)),
            indices=list(map(indices.__getitem__, positions)),
            run_id=batch.order.flow_run_id,
            node=step.context.node,
            created=now,
            expires=None if options.expiration_seconds is None else now + options.expiration_seconds,
            parts=parts,
            serializer=order.serializer,
        )
        failpoint("batch.cache.after")
        self._made += [keys[at : at + KEY_NBYTES] for at in range(0, len(keys), KEY_NBYTES)]
        for position in positions:
            self._kept[position] = 1
            if self._once is not None and position in self._claimed:
                self._once.settled(self._claimed.pop(position))
        for at, error in published.errors.items():
            self._warn(
                "value",
                f"the result of {self._name(positions[at])}, {with_article(type(step.values[positions[at]]).__qualname__)}, cannot be cached: "
                f"{type(error).__name__}: {error}; it is used in this run",
            )
            break

    def cached_from(self, positions: Sequence[int]) -> CachedFrom | None:
        """Return where the values of these positions come from; None if all were executed."""
        numbers = part_of(self._numbers, positions)
        if not any(numbers):
            return None
        indices = part_of(self._indices, positions)
        own = self._batch.order.indices
        is_own = all(
            not number or index == own[position]
            for number, index, position in zip(numbers, indices, positions, strict=True)
        )
        used = sorted(set(numbers) - {0})
        renumbered = {number: place for place, number in enumerate(used, 1)}
        renumbered[0] = 0
        return CachedFrom(
            origins=tuple(self._listed[number - 1] for number in used),
            numbers=array("I", map(renumbered.__getitem__, numbers)),
            indices=array("I") if is_own else indices,
        )

    def land(self, held: Sequence[int] = ()) -> None:
        """Release everything that waits for this batch, except for what is executed at these positions."""
        if self._claims is None or not self._open:
            return
        flights, self._open = self._open, []
        going_on = [key for key in self._keys_of(held) if key != NO_KEY]
        if going_on:
            self._open.append(self._claims.claim(going_on, self._claims.seen))
        for each in flights:
            self._claims.release(each, self._made)
        self._made = []

    def close(self) -> None:
        """Release the claims."""
        self.land()
        if self._once is not None and self._claimed:
            # Claimed, and never reached a report: nothing of these was executed, or it was told as failed.
            states = self._step.states
            left = [key for position, key in self._claimed.items() if not states[position]]
            self._once.give_back(left)
            self._claimed.clear()

    # -- small things -----------------------------------------------------------------------------------

    def _name(self, position: int) -> str:
        return self._step.name_of(self._batch.order.indices[position])

    def _warn(self, kind: str, text: str) -> None:
        """Warn once per task, run and process."""
        mark = (self._batch.order.run_id, self._step.order.node, kind)
        if mark in _warned:
            return
        if len(_warned) > 10_000:
            _warned.clear()
        _warned.add(mark)
        self._batch.sink.add(
            self._step.context, logging.WARNING, f"{text} (reported once per task)", logger.name
        )
