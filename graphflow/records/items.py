"""The body of an `ITEMS` record: what one report says of one node, in packed columns."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, overload

from graphflow.model.anomalies import NO_ERROR, Anomaly, AnomalyTable, Faults
from graphflow.model.orders import Ref
from graphflow.model.reports import CachedFrom, CachedOrigin, StepReport, Stored, ValueInfo
from graphflow.records.packing import Packer, Unpacker, pressed, unpressed

__all__ = ["DIGEST_NBYTES", "ItemsBody", "Labels", "decode_items", "encode_items", "info_of", "info_row"]

VERSION = 2
"""The newest layout; what has nothing of it is written in the first."""
DIGEST_NBYTES = 8

_IS_RANGE = 1
_HAS_STORED = 2
_HAS_DIGESTS = 4
_HAS_INFO = 8
_HAS_LABELS = 16
_HAS_FAULTS = 32
_HAS_ANOMALIES = 64
_HAS_ERRORS = 128
_HAS_VARIANTS = 256
_LANDS = 512
_IS_HELD = 1024
_IS_PARTIAL = 2048
_HAS_CACHED = 4096
_ANOMALY_COLUMNS = (
    ("positions", "I"),
    ("attempts", "H"),
    ("errors", "i"),
    ("started", "d"),
    ("durations", "f"),
    ("delays", "d"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsBody:
    """What one report says of one node.

    The numbers of errors are the batch's own: `errors` has, per record of the batch, its number in the run, and `variants` is the
    number of the report's first chunk of variants in the run. `held` are the positions of the batch that are out
    still, None where another record of the same report tells that.
    """

    batch: int
    worker: str
    started: float
    indices: Sequence[int]
    step: StepReport
    errors: Sequence[int] = ()
    variants: int | None = None
    held: Sequence[int] | None = None


class Labels(Sequence[str | None]):
    """The labels of a column, unpacked when one is asked for."""

    __slots__ = ("_count", "_data", "_texts")

    def __init__(self, data: bytes, count: int) -> None:
        self._data = data
        self._count = count
        self._texts: list[str | None] | None = None

    def __len__(self) -> int:
        return self._count

    def _all(self) -> list[str | None]:
        if self._texts is None:
            self._texts = unpressed(self._data)
        return self._texts

    @overload
    def __getitem__(self, which: int) -> str | None: ...
    @overload
    def __getitem__(self, which: slice) -> list[str | None]: ...
    def __getitem__(self, which: int | slice) -> str | list[str | None] | None:
        return self._all()[which]

    def __iter__(self) -> Iterator[str | None]:
        return iter(self._all())


def encode_items(body: ItemsBody, labels: Sequence[str | None] | None = None) -> bytes:
    """Return the bytes of a body. The header has the first index and the count."""
    step, indices = body.step, body.indices
    faults = step.faults
    flags = (
        (_IS_RANGE if isinstance(indices, range) else 0)
        | (_HAS_STORED if step.stored is not None else 0)
        | (_HAS_DIGESTS if step.digests else 0)
        | (_HAS_INFO if step.info is not None else 0)
        | (_HAS_LABELS if labels is not None else 0)
        | (_HAS_FAULTS if len(faults) else 0)
        | (_HAS_ANOMALIES if len(step.anomalies) else 0)
        | (_HAS_ERRORS if len(body.errors) else 0)
        | (_HAS_VARIANTS if body.variants is not None else 0)
        | (_LANDS if body.held is not None else 0)
        | (_IS_HELD if body.held else 0)
        | (_IS_PARTIAL if step.stored is not None and not step.stored.is_whole else 0)
        | (_HAS_CACHED if step.cached is not None else 0)
    )
    out = Packer(1 if step.cached is None else VERSION)
    out.number(flags)
    out.number(body.batch)
    out.double(body.started)
    out.text(body.worker)
    if not isinstance(indices, range):
        out.ints(indices)
    out.column(step.states)
    out.column(step.attempts)
    out.words(step.starts)
    out.words(step.durations)
    if step.stored is not None:
        out.text(step.stored.name)
        out.number(step.stored.offset)
        out.number(step.stored.nbytes)
        out.number(step.stored.count)
        out.blob(step.stored.digest)
        out.number(len(step.stored.missing))
        out.ints(step.stored.missing)
    if step.digests:
        out.column(step.digests)
    if step.info is not None:
        out.blob(_info_bytes(step.info))
    if labels is not None:
        out.blob(pressed(labels))
    if len(faults):
        _pack_faults(out, faults)
    if len(step.anomalies):
        _pack_anomalies(out, AnomalyTable.of(step.anomalies))
    if len(body.errors):
        out.number(len(body.errors))
        out.ints(body.errors)
    if body.variants is not None:
        out.number(body.variants)
    if body.held:
        out.number(len(body.held))
        out.ints(body.held)
    if step.cached is not None:
        _pack_cached(out, step.cached)
    return out.data()


def decode_items(data: bytes, *, node: int, lo: int, count: int) -> ItemsBody:
    """Return the body of these bytes; raises what an `Unpacker` does."""
    come = Unpacker(data)
    flags = come.number()
    batch, started, worker = come.number(), come.double(), come.text()
    indices: Sequence[int] = range(lo, lo + count) if flags & _IS_RANGE else come.ints(count)
    states, attempts = come.column(count), come.column(count)
    starts, durations = come.words("f", count), come.words("f", count)
    stored: Stored | None = None
    if flags & _HAS_STORED:
        stored = Stored(
            name=come.text(),
            offset=come.number(),
            nbytes=come.number(),
            count=come.number(),
            digest=come.blob(),
            missing=tuple(come.ints(come.number())),
            is_whole=not flags & _IS_PARTIAL,
        )
    digests = come.column(count * DIGEST_NBYTES) if flags & _HAS_DIGESTS else b""
    info = info_of(come.json()) if flags & _HAS_INFO else None
    labels: Ref | None = None
    if flags & _HAS_LABELS:
        labels = Ref(kind="local", id="labels", count=count, data=Labels(come.blob(), count))
    faults = _unpack_faults(come) if flags & _HAS_FAULTS else Faults()
    anomalies: Sequence[Anomaly] = _unpack_anomalies(come) if flags & _HAS_ANOMALIES else ()
    errors = come.ints(come.number()) if flags & _HAS_ERRORS else ()
    variants = come.number() if flags & _HAS_VARIANTS else None
    held: Sequence[int] | None = None
    if flags & _LANDS:
        held = come.ints(come.number()) if flags & _IS_HELD else ()
    cached = _unpack_cached(come, count) if flags & _HAS_CACHED else None
    come.end()
    step = StepReport(
        node=node,
        states=states,
        attempts=attempts,
        starts=starts,
        durations=durations,
        labels=labels,
        info=info,
        faults=faults,
        anomalies=anomalies,
        stored=stored,
        digests=digests,
        cached=cached,
    )
    return ItemsBody(
        batch=batch,
        worker=worker,
        started=started,
        indices=indices,
        step=step,
        errors=errors,
        variants=variants,
        held=held,
    )


def _pack_cached(out: Packer, cached: CachedFrom) -> None:
    out.json(
        [[each.store, each.pack, each.run_id, each.node, each.host, each.created] for each in cached.origins]
    )
    out.words(array("I", cached.numbers))
    out.number(len(cached.indices))
    if len(cached.indices):
        out.words(cached.indices)


def _unpack_cached(come: Unpacker, count: int) -> CachedFrom:
    origins = tuple(
        CachedOrigin(
            store=str(store),
            pack=str(pack),
            run_id=str(run_id),
            node=str(node),
            host=str(host),
            created=float(created),
        )
        for store, pack, run_id, node, host, created in come.json()
    )
    numbers = come.words("I", count)
    known = come.number()
    return CachedFrom(
        origins=origins, numbers=numbers, indices=come.words("I", known) if known else array("I")
    )


def _pack_faults(out: Packer, faults: Faults) -> None:
    out.number(len(faults))
    out.ints(faults.positions)
    if isinstance(faults.errors, int):
        out.number(1)
        out.words(array("i", [faults.errors]))
    else:
        out.number(0)
        out.words(_signed(faults.errors))
    _pack_inputs(out, faults.inputs)


def _signed(values: Sequence[int]) -> array[int]:
    return values if isinstance(values, array) and values.typecode == "i" else array("i", values)


def _unpack_faults(come: Unpacker) -> Faults:
    count = come.number()
    positions = come.ints(count)
    errors: Sequence[int] | int = NO_ERROR
    if come.number():
        errors = come.words("i", 1)[0]
    else:
        errors = come.words("i", count)
    return Faults(positions=positions, errors=errors, inputs=_unpack_inputs(come))


def _pack_inputs(out: Packer, inputs: Any) -> None:
    """Summaries of arguments by their position, or row."""
    out.number(len(inputs))
    if inputs:
        out.ints(array("I", inputs))
        out.blob(pressed(list(inputs.values())))


def _unpack_inputs(come: Unpacker) -> dict[int, str]:
    count = come.number()
    if not count:
        return {}
    places = come.ints(count)
    return dict(zip(places, unpressed(come.blob()), strict=True))


def _pack_anomalies(out: Packer, table: AnomalyTable) -> None:
    out.number(len(table))
    size = len(table)
    out.column(bytes(table.codes[:size]))
    out.column(bytes(table.outcomes[:size]))
    for name, _ in _ANOMALY_COLUMNS:
        out.words(getattr(table, name)[:size])
    _pack_inputs(out, table.inputs)


def _unpack_anomalies(come: Unpacker) -> AnomalyTable:
    size = come.number()
    table = AnomalyTable()
    table.codes = bytearray(come.column(size))
    table.outcomes = bytearray(come.column(size))
    for name, kind in _ANOMALY_COLUMNS:
        setattr(table, name, come.words(kind, size))
    table.inputs = _unpack_inputs(come)
    return table


@lru_cache(256)
def _info_bytes(info: ValueInfo) -> bytes:
    return json.dumps(info_row(info), separators=(",", ":")).encode("ascii")


def info_row(info: ValueInfo) -> list[Any]:
    """Return what a value is to a map as a row of JSON."""
    return [info.kind, info.type_name, info.length, info.hint]


def info_of(row: Any) -> ValueInfo:
    """Return what a row says; `ValueError` or `TypeError` where it is none."""
    kind, type_name, length, hint = row
    if kind not in ("sized", "scalar", "refused"):
        raise ValueError(f"unknown kind of value {kind!r}")
    made: Literal["sized", "scalar", "refused"] = kind
    return ValueInfo(kind=made, type_name=str(type_name), length=int(length), hint=str(hint))
