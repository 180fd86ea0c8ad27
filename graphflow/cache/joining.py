"""What several batches of a process make at the same time, published as one pack.

While one is written, others that come wait; the next of them to write takes along all that waits (group commit). So the slower
a store is, the more is in a pack, and no batch waits for more than two writes. Where a write is a request, a write also keeps
some distance from the one before, so that their number follows the time that passes, not the number of slots.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from graphflow.common.grouping import GroupCommit
from graphflow.identity.cache_keys import KEY_NBYTES

__all__ = ["Joiner", "Lot"]

MAX_DISTANCE_SECONDS = 0.25


@dataclass(slots=True, kw_only=True)
class Lot:
    """Values of one batch that are to be published; `name` and `errors` tell what became of them."""

    keys: bytes
    values: Sequence[Any]
    indices: Sequence[int]
    run_id: str
    node: str
    created: float
    expires: float | None
    parts: Mapping[str, bytes]
    serializer: str
    name: str = ""
    errors: dict[int, Exception] = field(default_factory=dict)
    failure: BaseException | None = None
    is_over: bool = False

    @property
    def kin(self) -> tuple[Any, ...]:
        """Lots that are alike in this can go together."""
        return self.run_id, self.node, self.serializer, self.expires is None, tuple(sorted(self.parts))


class Joiner(GroupCommit[Lot]):
    """Publishes lots, one pack at a time.

    Parameters
    ----------
    write
        Publishes a lot, and notes its name and errors.
    distance
        So many times what the last write took, and at most `MAX_DISTANCE_SECONDS`, pass from its end to the next one.
    clock, wait
        Seconds, and what lets them pass.
    """

    def __init__(
        self,
        write: Callable[[Lot], None],
        *,
        distance: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__()
        self._write = write
        self._distance = distance
        self._clock = clock
        self._wait = wait
        self._next = -math.inf

    def before(self) -> None:
        if (left := self._next - self._clock()) > 0:
            self._wait(left)

    def write_all(self, lots: Sequence[Lot]) -> None:
        kinds: dict[tuple[Any, ...], list[Lot]] = {}
        for each in lots:
            kinds.setdefault(each.kin, []).append(each)
        for together in kinds.values():
            self._publish(together)

    def _publish(self, lots: list[Lot]) -> None:
        joined = lots[0] if len(lots) == 1 else _joined(lots)
        begun = self._clock()
        try:
            self._write(joined)
        except BaseException as error:
            for each in lots:
                each.failure = error
            if not isinstance(error, Exception):
                raise
            return
        ended = self._clock()
        self._next = ended + min(MAX_DISTANCE_SECONDS, self._distance * (ended - begun))
        if joined is lots[0]:
            return
        start = 0
        for each in lots:
            stop = start + len(each.values)
            each.name = joined.name
            each.errors = {at - start: error for at, error in joined.errors.items() if start <= at < stop}
            start = stop


def _joined(lots: Sequence[Lot]) -> Lot:
    first = lots[0]
    expiries = [each.expires for each in lots if each.expires is not None]
    return Lot(
        keys=b"".join(each.keys for each in lots),
        values=[*chain.from_iterable(each.values for each in lots)],
        indices=[*chain.from_iterable(each.indices for each in lots)],
        run_id=first.run_id,
        node=first.node,
        created=max(each.created for each in lots),
        expires=min(expiries) if expiries else None,
        parts={
            name: _part([(each.parts[name], len(each.keys) // KEY_NBYTES) for each in lots])
            for name in first.parts
        },
        serializer=first.serializer,
    )


def _part(parts: Sequence[tuple[bytes, int]]) -> bytes:
    """Return a part of the keys of all lots: 8 bytes where it is the same for all, else 4 per value."""
    first = parts[0][0]
    if len(first) == 8 and all(part == first for part, _ in parts):
        return first
    return b"".join(part if len(part) == 4 * count else part[:4] * count for part, count in parts)
