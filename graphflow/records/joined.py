"""The body of a `JOINED` record: what several reports of one commit say of one node, in columns that they share.

Reports that come together are many and small where items are ordinary: one record for each would weigh more than what it tells.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from graphflow.model.orders import Ref
from graphflow.model.reports import StepReport, Stored
from graphflow.records.items import DIGEST_NBYTES, ItemsBody, Labels
from graphflow.records.packing import MAX_ENTRIES, Packer, Unpacker, pressed, unpressed

__all__ = ["VERSION", "Joined", "Part", "can_join", "decode_joined", "encode_joined"]

VERSION = 1
_HAS_STORED = 1
_IS_PARTIAL = 2
_LANDS = 4
_HAS_LABELS = 8
_HAS_DIGESTS = 16


@dataclass(frozen=True, slots=True)
class Joined:
    """What each of several reports says of one node, in the order in which they came."""

    bodies: tuple[ItemsBody, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one report says of one node, and the labels of its items."""

    body: ItemsBody
    labels: Sequence[str | None] | None = None


def can_join(body: ItemsBody) -> bool:
    """Return whether a report has nothing but columns that can be joined: no failures, no lengths, nothing from a cache."""
    step = body.step
    return bool(
        len(body.indices)
        and not len(step.faults)
        and not len(step.anomalies)
        and not len(body.errors)
        and body.variants is None
        and step.info is None
        and step.cached is None
    )


def encode_joined(parts: Sequence[Part]) -> bytes:
    """Return the bytes of what several reports say."""
    bodies = [part.body for part in parts]
    steps = [body.step for body in bodies]
    texts: dict[str, int] = {}
    for body in bodies:
        texts.setdefault(body.worker, len(texts))
        if body.step.stored is not None:
            texts.setdefault(body.step.stored.name, len(texts))
    out = Packer(VERSION)
    out.json(list(texts))
    out.number(len(parts))
    for part in parts:
        _pack_part(out, part, texts)
    out.column(b"".join(step.states for step in steps))
    out.column(b"".join(step.attempts for step in steps))
    out.words(_joined([step.starts for step in steps]))
    out.words(_joined([step.durations for step in steps]))
    if any(part.labels is not None for part in parts):
        out.blob(pressed([*chain.from_iterable(part.labels or () for part in parts)]))
    out.column(b"".join(step.digests for step in steps))
    return out.data()


def _pack_part(out: Packer, part: Part, texts: dict[str, int]) -> None:
    body, stored = part.body, part.body.step.stored
    out.number(
        (_HAS_STORED if stored is not None else 0)
        | (_IS_PARTIAL if stored is not None and not stored.is_whole else 0)
        | (_LANDS if body.held is not None else 0)
        | (_HAS_LABELS if part.labels is not None else 0)
        | (_HAS_DIGESTS if body.step.digests else 0)
    )
    out.number(body.batch)
    out.number(texts[body.worker])
    out.double(body.started)
    out.number(len(body.indices))
    out.ints(body.indices)
    if body.held is not None:
        out.number(len(body.held))
        out.ints(body.held)
    if stored is not None:
        out.number(texts[stored.name])
        out.number(stored.offset)
        out.number(stored.nbytes)
        out.number(stored.count)
        out.blob(stored.digest)
        out.number(len(stored.missing))
        out.ints(stored.missing)


def _joined(columns: Sequence[array[float]]) -> array[float]:
    joined = array("f")
    for column in columns:
        joined.extend(column)
    return joined


@dataclass(slots=True)
class _Head:
    """What is told of one report before the columns."""

    flags: int
    batch: int
    worker: str
    started: float
    indices: Sequence[int]
    held: Sequence[int] | None
    stored: Stored | None


def decode_joined(data: bytes, *, node: int) -> Joined:
    """Return what the reports say; raises what an `Unpacker` does."""
    come = Unpacker(data)
    texts = [str(text) for text in come.json()]
    heads = [_unpack_head(come, texts) for _ in range(come.number())]
    count = sum(len(head.indices) for head in heads)
    if count > MAX_ENTRIES:
        raise ValueError(f"reports of {count:,} items are too large")
    states, attempts = come.column(count), come.column(count)
    starts, durations = come.words("f", count), come.words("f", count)
    labels = unpressed(come.blob()) if any(head.flags & _HAS_LABELS for head in heads) else []
    digested = sum(len(head.indices) for head in heads if head.flags & _HAS_DIGESTS)
    digests = come.column(digested * DIGEST_NBYTES)
    come.end()
    bodies: list[ItemsBody] = []
    at = label_at = digest_at = 0
    for head in heads:
        size = len(head.indices)
        label_ref: Ref | None = None
        if head.flags & _HAS_LABELS:
            own = labels[label_at : label_at + size]
            label_at += size
            label_ref = Ref(kind="local", id="labels", count=size, data=Labels(pressed(own), size))
        own_digests = b""
        if head.flags & _HAS_DIGESTS:
            own_digests = digests[digest_at : digest_at + size * DIGEST_NBYTES]
            digest_at += size * DIGEST_NBYTES
        step = StepReport(
            node=node,
            states=states[at : at + size],
            attempts=attempts[at : at + size],
            starts=starts[at : at + size],
            durations=durations[at : at + size],
            labels=label_ref,
            stored=head.stored,
            digests=own_digests,
        )
        bodies.append(
            ItemsBody(
                batch=head.batch,
                worker=head.worker,
                started=head.started,
                indices=head.indices,
                step=step,
                held=head.held,
            )
        )
        at += size
    return Joined(tuple(bodies))


def _unpack_head(come: Unpacker, texts: Sequence[str]) -> _Head:
    flags, batch, worker, started = come.number(), come.number(), texts[come.number()], come.double()
    indices = come.ints(come.number())
    held = come.ints(come.number()) if flags & _LANDS else None
    stored: Stored | None = None
    if flags & _HAS_STORED:
        stored = Stored(
            name=texts[come.number()],
            offset=come.number(),
            nbytes=come.number(),
            count=come.number(),
            digest=come.blob(),
            missing=tuple(come.ints(come.number())),
            is_whole=not flags & _IS_PARTIAL,
        )
    return _Head(flags, batch, worker, started, indices, held, stored)
