"""Exports: the values of a map as files of a common format, in index order, with a manifest that says what is where.

    manifest.json
    part-000000000000.jsonl     the values of items 0 to n - 1, without those that have none
    part-000000000n00.jsonl     and so on

The manifest is rewritten after each part, so an interrupted export continues after its last complete part.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, overload

from graphflow.errors import ResultDamaged, ResultStoreError, ValueUnavailable
from graphflow.model.states import Code
from graphflow.ports import ResultStore
from graphflow.results.exports.formats import FORMATS, PartContent, read_values
from graphflow.results.stores.opening import open_store

__all__ = ["PART_NBYTES", "Block", "Export", "ExportOf", "read_export", "write_export"]

PART_NBYTES = 64 << 20
MANIFEST = "manifest.json"
KIND = "graphflow export"
VERSION = 1
_MAC_PERSON = b"graphflow-export"
MAX_BLOCK = 4_096
BLOCK_NBYTES = 4 << 20
Ranges = list[list[int]]
_WITH_VALUE = frozenset({Code.COMPLETED, Code.CACHED})


@dataclass(frozen=True, slots=True)
class Block:
    """Items that ended, one after the other: their states, and the values of those that have one."""

    codes: bytes
    values: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOf:
    """Whose values are written: a node of a run. `key` is the same in another launch of the run."""

    run_id: str
    node: str
    key: str
    flow: str
    task: str


# -- writing -------------------------------------------------------------------------------------------------


def write_export(
    url: str,
    of: ExportOf,
    *,
    file: str,
    width: int | None,
    block: Callable[[int, int], Block | None],
    codes: Callable[[int, int], bytes] | None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    part_nbytes: int = PART_NBYTES,
) -> Export:
    """Write the items of a map, or what of them is not written yet.

    Parameters
    ----------
    file
        The format: a name of `FORMATS`.
    width
        How many items there are; None while that is not known.
    block
        Gives items from an index on, at most so many, once they ended; None behind the last one.
    codes
        Gives the states of items that a former call wrote, where they can be had.

    Raises
    ------
    ResultStoreError
        If there is another export, or the place cannot be written.
    SerializationError
        If a value cannot be written in this format.
    """
    writer = _Writer(url, of, file, width, storage_options, part_nbytes)
    writer.begin(overwrite=overwrite, codes=codes)
    writer.write(block)
    return Export(writer.store, writer.manifest())


class _Writer:
    def __init__(
        self,
        url: str,
        of: ExportOf,
        file: str,
        width: int | None,
        storage_options: Mapping[str, Any] | None,
        part_nbytes: int,
    ) -> None:
        if file not in FORMATS:
            raise ResultStoreError(f"format must be one of {', '.join(map(repr, FORMATS))}, not {file!r}")
        if type(part_nbytes) is not int or part_nbytes < 1:
            raise ResultStoreError(f"part_nbytes must be a number of bytes, 1 or more, not {part_nbytes!r}")
        self.store = open_store(url, storage_options=storage_options)
        self._of = of
        self._file = file
        self._width = width
        self._part_nbytes = part_nbytes
        self._parts: list[dict[str, Any]] = []

    # -- what is there already ----------------------------------------------------------------------------

    def begin(self, *, overwrite: bool, codes: Callable[[int, int], bytes] | None) -> None:
        """Keep the complete parts, or clear the folder."""
        there = {each.name: each.nbytes for each in self.store.entries()}
        if MANIFEST in there:
            known = _manifest_of(self.store)
            is_same = all(known[name] == value for name, value in self._identity().items())
            if overwrite:
                # The manifest goes first: without it, nothing is taken for whole.
                self.store.delete([MANIFEST])
                self.store.delete([name for name in there if name.startswith("part-")])
            elif not is_same:
                raise ResultStoreError(
                    f"{self.store.url} contains another export: {known['node']} of run {known['run_id']} as {known['format']}, not "
                    f"{self._of.node} of run {self._of.run_id} as {self._file}; write to another location, or pass overwrite=True"
                )
            else:
                self._take_over(known["parts"], there, codes)
        elif any(name.startswith("part-") for name in there) and not overwrite:
            raise ResultStoreError(
                f"{self.store.url} has parts of an export, but no {MANIFEST}; write to another location, or pass overwrite=True"
            )
        self._write_manifest()

    def _take_over(
        self,
        parts: Sequence[Mapping[str, Any]],
        there: Mapping[str, int],
        codes: Callable[[int, int], bytes] | None,
    ) -> None:
        position = 0
        for part in parts:
            if part["start"] != position or there.get(part["name"]) != part["nbytes"]:
                break
            if codes is not None:
                known = codes(part["start"], part["stop"])
                if len(known) != part["stop"] - part["start"] or _missing(known, part["start"]) != (
                    part["failed"],
                    part["skipped"],
                ):
                    # Items were run again since.
                    break
            self._parts.append(dict(part))
            position = part["stop"]

    def _identity(self) -> dict[str, Any]:
        of = self._of
        return {"run_id": of.run_id, "node_key": of.key, "format": self._file}

    # -- parts --------------------------------------------------------------------------------------------

    def write(self, block: Callable[[int, int], Block | None]) -> None:
        """Write what is missing."""
        position = start = self._parts[-1]["stop"] if self._parts else 0
        part, codes, size = FORMATS[self._file](), bytearray(), 1
        while (found := block(position, size)) is not None:
            before = part.nbytes
            with_value = [position + at for at, code in enumerate(found.codes) if code in _WITH_VALUE]
            part.add(found.values, lambda place, indices=with_value: f"{self._of.node}[{indices[place]}]")  # type: ignore[misc]
            codes += found.codes
            position += len(found.codes)
            if part.nbytes >= self._part_nbytes:
                self._close(part.content(), bytes(codes), start)
                part, start = FORMATS[self._file](), position
                codes.clear()
            size = _next_size(size, part.nbytes - before, self._part_nbytes)
        if codes:
            self._close(part.content(), bytes(codes), start)
        self._width = position
        self._write_manifest()
        names = {MANIFEST, *(part["name"] for part in self._parts)}
        self.store.delete([name for name in self.store.names("part-") if name not in names])

    def _close(self, content: PartContent, codes: bytes, start: int) -> None:
        name = f"part-{start:012d}.{self._file}"
        self.store.publish(name, [content.data])
        failed, skipped = _missing(codes, start)
        part: dict[str, Any] = {
            "name": name,
            "start": start,
            "stop": start + len(codes),
            "nbytes": len(content.data),
            "digest": _digest(content.data),
            "failed": failed,
            "skipped": skipped,
        }
        if content.kind:
            part["kind"] = content.kind
        if content.rows:
            part["rows"] = list(content.rows)
        if self._file == "pickle":
            part["mac"] = _mac(self.store.keys[0], part)
        self._parts.append(part)
        self._write_manifest()

    # -- the manifest -------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Return the current manifest of the export."""
        of, stop = self._of, self._parts[-1]["stop"] if self._parts else 0
        failed = _joined(each for part in self._parts for each in part["failed"])
        skipped = _joined(each for part in self._parts for each in part["skipped"])
        return {
            "kind": KIND,
            "version": VERSION,
            **self._identity(),
            "node": of.node,
            "task": of.task,
            "flow": of.flow,
            "width": self._width,
            "is_complete": self._width is not None and stop >= self._width,
            "succeeded": _others([*failed, *skipped], stop),
            "failed": failed,
            "skipped": skipped,
            "pending": [[stop, self._width]] if self._width is None or stop < self._width else [],
            "parts": self._parts,
        }

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest(), indent=1, ensure_ascii=False)
        self.store.publish(MANIFEST, [text.encode("utf-8", "surrogatepass")])


def _next_size(size: int, nbytes: int, part_nbytes: int) -> int:
    """Return how many items to take next, so that they are neither many nor large."""
    limit = min(BLOCK_NBYTES, part_nbytes // 4)
    if nbytes > limit:
        return max(1, size // 2)
    return min(MAX_BLOCK, size * 2) if nbytes * 2 <= limit else size


def _missing(codes: bytes, start: int) -> tuple[Ranges, Ranges]:
    """Return the ranges of items that failed (or were cancelled), and of those that were skipped."""
    failed, skipped = [], []
    for at, code in enumerate(codes):
        if code == Code.SKIPPED:
            skipped.append([start + at, start + at + 1])
        elif code not in _WITH_VALUE:
            failed.append([start + at, start + at + 1])
    return _joined(failed), _joined(skipped)


def _joined(ranges: Any) -> Ranges:
    """Return the ranges with neighbours made one."""
    found: Ranges = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            found[-1][1] = stop
        else:
            found.append([start, stop])
    return found


def _others(ranges: Ranges, stop: int) -> Ranges:
    """Return what is not in the ranges, up to an index."""
    found, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            found.append([at, low])
        at = high
    return [*found, [at, stop]] if at < stop else found


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _mac(key: bytes, part: Mapping[str, Any]) -> str:
    text = json.dumps([part[name] for name in ("name", "start", "stop", "nbytes", "digest")])
    return blake2b(text.encode(), digest_size=16, key=key, person=_MAC_PERSON).hexdigest()


# -- reading -------------------------------------------------------------------------------------------------


def read_export(
    url: str,
    *,
    missing: Literal["raise", "none"] = "raise",
    storage_options: Mapping[str, Any] | None = None,
    allow_unsigned: bool = False,
) -> Export:
    """Return an export as a sequence of values by map index, read part by part as they are asked for.

    Parameters
    ----------
    missing
        What stands for an item without a value (it failed, was skipped, or is not written yet): `"raise"` an error where it
        is asked for, or `"none"`.
    storage_options
        Options for fsspec to open a URL.
    allow_unsigned
        Whether to load pickles that were not signed with this installation's keys; they can run any code.

    Raises
    ------
    ResultStoreError
        If there is no export, or it cannot be read.
    """
    if missing not in ("raise", "none"):
        raise ResultStoreError(f'missing must be "raise" or "none", not {missing!r}')
    store = open_store(url, storage_options=storage_options, allow_unsigned=allow_unsigned)
    return Export(store, _manifest_of(store), missing=missing, allow_unsigned=allow_unsigned)


def _manifest_of(store: ResultStore) -> dict[str, Any]:
    size = next((each.nbytes for each in store.entries(MANIFEST) if each.name == MANIFEST), None)
    if size is None:
        raise ResultStoreError(f"there is no export at {store.url}: it has no {MANIFEST}")
    try:
        manifest = json.loads(store.read(MANIFEST, 0, size))
        is_ours = manifest["kind"] == KIND
        version = manifest["version"]
    except (ValueError, KeyError, TypeError):
        is_ours, version = False, None
    if not is_ours:
        raise ResultStoreError(f"{MANIFEST} of {store.url} is not the manifest of a graphflow export")
    if version != VERSION:
        raise ResultStoreError(
            f"the export at {store.url} has version {version}, but this graphflow reads version {VERSION}; upgrade graphflow"
        )
    found: dict[str, Any] = manifest
    return found


class Export(Sequence[Any]):
    """The values of an export by map index; made by `read_export` or `mapped.write(...)`.

    Attributes
    ----------
    manifest
        What there is to know of it, as it is written.
    """

    def __init__(
        self,
        store: ResultStore,
        manifest: Mapping[str, Any],
        *,
        missing: str = "raise",
        allow_unsigned: bool = False,
        indices: range | None = None,
    ) -> None:
        self.manifest = manifest
        self._store = store
        self._missing = missing
        self._allow_unsigned = allow_unsigned
        self._starts = [part["start"] for part in manifest["parts"]]
        self._stop = manifest["parts"][-1]["stop"] if manifest["parts"] else 0
        width = manifest["width"]
        self._indices = range(self._stop if width is None else width) if indices is None else indices
        self._kept: tuple[int, dict[int, Any]] = (-1, {})

    def __repr__(self) -> str:
        return f"<Export of {self.manifest['node']}: {len(self):,} items at {self._store.url}>"

    @property
    def url(self) -> str:
        """Where it is; without credentials."""
        return self._store.url

    @property
    def is_complete(self) -> bool:
        """Whether all items are in it, or known to have no value."""
        return bool(self.manifest["is_complete"])

    @property
    def failed(self) -> list[range]:
        """The indices of items that failed."""
        return [range(*each) for each in self.manifest["failed"]]

    @property
    def skipped(self) -> list[range]:
        """The indices of items that were skipped."""
        return [range(*each) for each in self.manifest["skipped"]]

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, which: int) -> Any: ...
    @overload
    def __getitem__(self, which: slice) -> Export: ...
    def __getitem__(self, which: int | slice) -> Any:
        """Return the value of an item, or a part of the sequence, which is as lazy.

        Raises
        ------
        ValueUnavailable
            If the item has none.
        ResultDamaged
            If what was written is not there, or was changed.
        """
        if isinstance(which, slice):
            return Export(
                self._store,
                self.manifest,
                missing=self._missing,
                allow_unsigned=self._allow_unsigned,
                indices=self._indices[which],
            )
        return self._value(self._indices[which])

    def __iter__(self) -> Iterator[Any]:
        return map(self._value, self._indices)

    def _value(self, index: int) -> Any:
        at = bisect.bisect_right(self._starts, index) - 1
        if at >= 0 and index < self.manifest["parts"][at]["stop"]:
            if self._kept[0] != at:
                self._kept = at, self._read(self.manifest["parts"][at])
            values = self._kept[1]
            if index in values:
                return values[index]
            part = self.manifest["parts"][at]
            was_skipped = any(low <= index < high for low, high in part["skipped"])
            why = "was skipped" if was_skipped else "failed, or was cancelled"
        else:
            why = "is not written yet"
        if self._missing == "none":
            return None
        raise ValueUnavailable(
            f"{self.manifest['node']}[{index}] has no value in the export at {self.url}: it {why}; read it with "
            'missing="none" to get None in its place'
        )

    def _read(self, part: Mapping[str, Any]) -> dict[int, Any]:
        what = f"{part['name']} of the export at {self.url}"
        try:
            data = self._store.read(part["name"], 0, part["nbytes"])
        except ResultDamaged as error:
            raise ResultDamaged(f"{what} is incomplete: {error}") from error
        if _digest(data) != part["digest"]:
            raise ResultDamaged(f"{what} is damaged: its bytes differ from what was written")
        if self.manifest["format"] == "pickle" and not self._allow_unsigned:
            signed = part.get("mac")
            if not any(_mac(key, part) == signed for key in self._store.keys):
                raise ResultStoreError(
                    f"{what} was signed with none of this installation's keys, and a pickle can run any code; import the key of "
                    "the installation that wrote it, or pass allow_unsigned=True if you trust the location"
                )
        content = PartContent(data, part.get("kind", ""), tuple(part.get("rows", ())))
        try:
            values = read_values(self.manifest["format"], content)
        except ResultStoreError:
            raise
        except Exception as error:
            raise ResultDamaged(f"{what} cannot be read: {type(error).__name__}: {error}") from error
        gone = [*part["failed"], *part["skipped"]]
        indices = [
            index
            for low, high in _others(
                [[low - part["start"], high - part["start"]] for low, high in gone],
                part["stop"] - part["start"],
            )
            for index in range(low + part["start"], high + part["start"])
        ]
        if len(indices) != len(values):
            raise ResultDamaged(f"{what} has {len(values)} values, where {len(indices)} were written")
        return dict(zip(indices, values, strict=True))
