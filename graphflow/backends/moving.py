"""Batches of this process on their way to another: columns that are lists here become bytes, once each."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphflow.common.pickling import hindrance
from graphflow.common.secrets import is_secret
from graphflow.common.wording import with_article
from graphflow.errors import ResultStoreError, SerializationError
from graphflow.model.orders import BatchOrder, Column, Elements, Gathered, Input, Ref, StepOrder, Whole
from graphflow.ports import ResultStore
from graphflow.runner.columns import MAX_INLINE, encode, read_stored, write_pack

__all__ = ["Carrier", "Sender", "can_travel"]

logger = logging.getLogger("graphflow.backends")
MAX_COLUMNS = 4_096
MAX_SENT = 256
SAMPLE_VALUES = 3
SAMPLE_NBYTES = 32 << 20


class Carrier:
    """Encodes the columns that a run's batches refer to.

    Parameters
    ----------
    folder
        Gives the folder for columns that are too large for a message; None if there is no such folder.
    """

    def __init__(self, folder: Callable[[], Path | None]) -> None:
        self._folder = folder
        self._known: dict[int, tuple[Ref, Ref | SerializationError]] = {}

    def order(self, order: BatchOrder) -> BatchOrder:
        """Return the same order without a column that only this process has.

        Raises
        ------
        SerializationError
            If a value cannot be pickled.
        """
        return replace(order, inputs=tuple(_with_refs(each, self._carried) for each in order.inputs))

    def forget(self, refs: Iterable[Ref]) -> None:
        """Forget released columns."""
        for ref in refs:
            self._known.pop(id(ref), None)

    def _carried(self, ref: Ref) -> Ref:
        if ref.kind != "local":
            return ref
        # The ref itself is kept, so that its id is not given to another.
        _, found = self._known.get(id(ref)) or (ref, None)
        if found is None:
            found = self._encoded(ref)
            if len(self._known) >= MAX_COLUMNS:
                self._known.pop(next(iter(self._known)), None)
            self._known[id(ref)] = (ref, found)
        if isinstance(found, SerializationError):
            raise found
        return found

    def _encoded(self, ref: Ref) -> Ref | SerializationError:
        data, errors = encode(ref.data)
        if errors:
            position, error = next(iter(errors.items()))
            return SerializationError(
                f"{with_article(type(ref.data[position]).__qualname__)} cannot be sent to another process: {error}"
            )
        name = f"moved-{uuid.uuid4().hex[:12]}"
        folder = self._folder() if len(data) > MAX_INLINE else None
        if folder is not None:
            return write_pack(folder, name, [data])[0]
        return Ref(kind="inline", id=name, count=0, nbytes=len(data), data=data)


class Sender:
    """Sends stored columns along with batches whose workers do not reach the result store.

    Parameters
    ----------
    share
        Stores bytes where all workers reach them, and gives a ref.
    unshare
        Lets such a ref go.
    """

    def __init__(self, share: Callable[[bytes], Ref], unshare: Callable[[Ref], None]) -> None:
        self._share = share
        self._unshare = unshare
        self._known: OrderedDict[str, Ref] = OrderedDict()
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def order(self, order: BatchOrder) -> BatchOrder:
        """Return the same order without a column, or a place for results, that only this machine has.

        Raises
        ------
        ResultDamaged, ResultStoreError
            If a column cannot be read.
        """
        results = order.results if order.results is None or order.results.is_shared else None
        inputs = tuple(_with_refs(each, self._sent) for each in order.inputs)
        steps = tuple(self._reachable(each, lambda store: store.is_shared) for each in order.steps)
        return replace(order, inputs=inputs, results=results, steps=steps)

    def within_reach(self, order: BatchOrder) -> BatchOrder:
        """Return the same order without a store that only this process has, for workers on this machine."""
        has_own = order.results is not None and _is_own(order.results)
        if not has_own and not any(step.cache and _is_own(step.cache.store) for step in order.steps):
            return order
        steps = tuple(self._reachable(each, lambda store: not _is_own(store)) for each in order.steps)
        return replace(order, results=None if has_own else order.results, steps=steps)

    def _reachable(self, step: StepOrder, is_reached: Callable[[ResultStore], bool]) -> StepOrder:
        """Return the step without a cache that the workers do not reach."""
        if step.cache is None or is_reached(step.cache.store):
            return step
        url = step.cache.store.url
        options = step.program.options.cache
        if options is not None and options.run_once:
            raise ResultStoreError(
                f"task {step.program.options.name!r} has run_once=True, but the workers do not reach {url}, where its items are claimed; "
                'set result_storage="s3://..." or another location that all of them reach'
            )
        if url not in self._warned:
            self._warned.add(url)
            logger.warning(
                "the workers do not reach %s, so nothing is cached there and nothing found; set result_storage= to a location that all "
                'of them reach, such as "s3://bucket/prefix"',
                url,
            )
        return replace(step, cache=None)

    def _sent(self, ref: Ref) -> Ref:
        if ref.kind != "stored" or ref.data.is_shared:
            return ref
        with self._lock:
            known = self._known.get(ref.id)
            if known is None:
                data = read_stored(ref)
                if len(data) <= MAX_INLINE:
                    return Ref(kind="inline", id=ref.id, count=ref.count, nbytes=len(data), data=data)
                known = self._known[ref.id] = self._share(data)
                if len(self._known) > MAX_SENT:
                    # Batches that need it have it, or are about to.
                    self._unshare(self._known.popitem(last=False)[1])
            self._known.move_to_end(ref.id)
            return known


def _is_own(store: ResultStore) -> bool:
    """Return whether a store is in the memory of this process."""
    return bool(getattr(store, "is_in_process", False))


def _with_refs(source: Input, change: Callable[[Ref], Ref]) -> Input:
    """Return the input with its columns at other places; the same object where none is."""
    if isinstance(source, Whole | Elements):
        ref = change(source.ref)
        return source if ref is source.ref else replace(source, ref=ref)
    if isinstance(source, Column | Gathered):
        parts = tuple((change(ref), positions) for ref, positions in source.parts)
        if all(new is old for (new, _), (old, _) in zip(parts, source.parts, strict=True)):
            return source
        return replace(source, parts=parts)
    return source


def can_travel(values: list[Any]) -> Exception | None:
    """Return why values cannot be pickled, by a look at the first few and the last; None if they can."""
    # A secret can travel, though it is never written.
    sample = [each for each in [*values[:SAMPLE_VALUES], *values[-1:]] if not is_secret(each)]
    return hindrance(sample, sample_nbytes=SAMPLE_NBYTES)
