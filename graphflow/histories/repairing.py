"""Repairing the file of a run: what verifies is kept, in a new file with the same chain; the damaged one stays beside it.

Kept is the longest chain of commits that verifies, from wherever its rows were found, and then each record that verifies by
itself. A record that is lost is left out alone where no later one can build on it; at any other one the run ends, as if its
driver had died there. So what is lost runs again, and what is kept is never in doubt.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphflow.common.failpoints import failpoint
from graphflow.common.wording import count_text
from graphflow.errors import HistoryDamaged, HistoryError, HistoryTooNew, HistoryTooOld
from graphflow.histories import schema
from graphflow.histories.anchors import NAME as ANCHOR
from graphflow.histories.anchors import Anchor, anchor_bytes, read_anchor
from graphflow.histories.carving import Carved, CommitRow, carve
from graphflow.histories.checks import is_final
from graphflow.histories.databases import build
from graphflow.histories.readers import RunReader
from graphflow.histories.runfiles import RUN_FILE, RunRow, sync_folder
from graphflow.histories.seals import Head, Seal
from graphflow.model.records import NO_NODE, Entry, Kind, Record, RunHeader
from graphflow.model.states import FINAL_CODES, Code
from graphflow.records.codec import decode
from graphflow.records.replay import Replay

__all__ = ["kept_beside", "repair_run"]

REPAIRED = f"{RUN_FILE}.repaired"
_LEAVES = frozenset(
    {
        Kind.ITEMS,
        Kind.JOINED,
        Kind.ERRORS,
        Kind.VARIANTS,
        Kind.LOG,
        Kind.LOST,
        Kind.ANSWER,
        Kind.DISPATCH,
        Kind.DISPATCHES,
    }
)
"""Kinds of records that may be missing: what they tell runs again, or is only shown."""
MOST_CHOICES = 64


@dataclass(slots=True)
class _Commit:
    seq: int
    epoch: int
    at: float
    state: str | None
    records: list[tuple[Head, bytes]]


@dataclass(slots=True)
class _Salvage:
    """What verifies of a run, and what does not, as texts."""

    row: RunRow
    seal: Seal
    commits: list[_Commit] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    dropped: int = 0
    """How many records are missing between others, or left out with them."""


def kept_beside(path: Path, moment: str) -> Path:
    """Return where a damaged file is kept: beside its place, under a name that is not taken."""
    for number in itertools.count():
        place = path.with_name(f"{path.name}.damaged-{moment}" + (f"-{number}" if number else ""))
        if not place.exists():
            return place
    raise AssertionError


def repair_run(
    folder: Path, seal: Seal, *, run_id: str, header: RunHeader | None, epoch: int = 0
) -> list[str]:
    """Repair the file of a run that has no driver; return what was done and what was lost, empty if nothing had to be.

    It may be killed at any moment, and repeated: the original is linked beside before anything changes, and the new file
    takes its place in one step, once it is complete.

    Parameters
    ----------
    header
        What the catalog says of the run, if anything: its name, its flow and when it was created.
    epoch
        The least epoch of the new file.

    Raises
    ------
    HistoryError
        If nothing of it can be verified, or the new file cannot be written; nothing was changed then.
    """
    path, finished = folder / RUN_FILE, folder / REPAIRED
    wrong, is_anchor_alone = _faults(folder, seal, run_id)
    if not wrong:
        finished.unlink(missing_ok=True)
        return []
    if is_anchor_alone:
        _anchor(folder, seal, run_id)
        return [f"{folder / ANCHOR} was missing or damaged, and is written again"]
    told = ["a repair that was interrupted is finished"]
    if not finished.exists():
        told = _rebuild(folder, seal, run_id=run_id, header=header, epoch=epoch)
    beside = _put_in_place(folder)
    failpoint("repair.placed")
    count = _anchor(folder, seal, run_id)
    return [
        f"{count_text(count, 'commit')} of {path} verified and kept; the damaged files are there as {', '.join(beside)}",
        *told,
    ]


def _faults(folder: Path, seal: Seal, run_id: str) -> tuple[list[str], bool]:
    """Return what is wrong with a run's file, and whether that is its anchor alone."""
    try:
        with RunReader(folder, seal, run_id=run_id) as reader:
            wrong = reader.faults()
            return wrong, len(wrong) == 1 and not reader.is_anchor_whole
    except (HistoryTooNew, HistoryTooOld):
        raise
    except HistoryError as error:
        return [str(error)], False


def _rebuild(folder: Path, seal: Seal, *, run_id: str, header: RunHeader | None, epoch: int) -> list[str]:
    """Write what verifies as a new file; return what was lost."""
    path = folder / RUN_FILE
    files = [(path.with_name(f"{RUN_FILE}-wal"), True), (path, False)]
    with carve([(each, is_log) for each, is_log in files if each.is_file()]) as carved:
        salvage = _salvaged(carved, seal, run_id, header)
        foreign = {each.key_id for each in carved.runs if each.id == run_id and seal.of(each.key_id) is None}
        if salvage is None or (foreign and not salvage.commits):
            raise HistoryDamaged(_hopeless(path, foreign))
        _thin(salvage)
        _tell_of_loss(salvage, carved, _anchored(folder, seal))
        epochs = [epoch, *(each.epoch for each in carved.runs), *(each.epoch for each in salvage.commits)]
        _write(folder, salvage, max(epochs))
    return salvage.lost


def _anchored(folder: Path, seal: Seal) -> int:
    """Return the last commit that the anchor tells of, 0 where it does not."""
    with suppress(HistoryError):
        content = anchor_bytes(folder)
        for each in seal.all():
            found, _ = read_anchor(content, each)
            if found is not None:
                return found[0]
    return 0


def _anchor(folder: Path, seal: Seal, run_id: str) -> int:
    """Write the anchor of a file that verifies, in one step; return its last commit."""
    with RunReader(folder, seal, run_id=run_id, is_anchored=False) as reader:
        row = reader.row
    temporary = folder / f".{ANCHOR}.{os.getpid()}.{os.urandom(4).hex()}"
    temporary.mkdir(mode=0o700)
    try:
        anchor = Anchor(temporary, seal.of(row.key_id) or seal)
        anchor.write(row.seq, row.head)
        anchor.close()
        os.replace(temporary / ANCHOR, folder / ANCHOR)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder)
    return row.seq


def _hopeless(path: Path, foreign: Collection[bytes]) -> str:
    if foreign:
        keys = ", ".join(sorted(each.hex() for each in foreign))
        return (
            f"{path} was signed with another key ({keys}), so nothing of it can be verified, and nothing unverified is kept;"
            " it was not changed. Restore secret.key from a backup, or import that key: `graphflow key import --only-accept`"
        )
    return f"nothing is left of {path} that verifies; it was not changed. Start a new run: what is in the cache is used again"


# -- what verifies -----------------------------------------------------------------------------------------


def _salvaged(carved: Carved, seal: Seal, run_id: str, header: RunHeader | None) -> _Salvage | None:
    """Return the longest chain, of all beginnings that the run may have."""
    found = [
        _chain(carved, _Salvage(row, mine))
        for row in _beginnings(carved, seal, run_id, header)
        if (mine := seal.of(row.key_id)) is not None
    ]
    return max(found, key=lambda each: len(each.commits), default=None)


def _beginnings(carved: Carved, seal: Seal, run_id: str, header: RunHeader | None) -> Iterator[RunRow]:
    seen: set[tuple[Any, ...]] = set()
    rows = [row for row in carved.runs if row.id == run_id]
    if header is not None:
        rows += [
            RunRow(run_id, header.name, header.flow_name, header.created, each.key_id, 0, 0, 0, b"")
            for each in seal.all()
        ]
    for row in rows:
        key = (row.name, row.flow_name, row.created, row.key_id)
        if key not in seen:
            seen.add(key)
            yield row


def _chain(carved: Carved, salvage: _Salvage) -> _Salvage:
    """Follow the chain as far as it verifies, and then record by record."""
    seal, row = salvage.seal, salvage.row
    before, number = seal.genesis(row.name, row.flow_name, row.created), 1
    for seq in itertools.count(1):
        found = next(_verified(carved, seal, seq, before, number), None)
        if found is None:
            break
        (epoch, at, _, count, state, mac), heads = found
        kept, lost, digests = _Commit(seq, epoch, at, state, []), 0, 0
        for place, head in enumerate(heads, number):
            if head[0] == Kind.DIGEST:
                # It names records by their numbers, which change; the next driver writes another.
                digests += 1
                continue
            body = next(_bodies(carved, seal, place, seq, epoch, head), None)
            if body is not None:
                kept.records.append((head, body))
            elif head[0] in _LEAVES:
                lost += 1
            else:
                break
        if len(kept.records) + lost + digests < count:
            break
        salvage.dropped += lost
        salvage.commits.append(kept)
        before, number = mac, number + count
    _follow_records(carved, salvage, number)
    return salvage


def _follow_records(carved: Carved, salvage: _Salvage, number: int) -> None:
    """Add records that verify by themselves, though their commits do not: those that follow without a gap.

    In the first launch of a flow that is tried once, a gap can hide nothing that takes back what is there.
    """
    seal, commits = salvage.seal, salvage.commits
    epoch = commits[-1].epoch if commits else 1
    seq = len(commits)
    expected = number
    skips = False
    for place in sorted(each for each in carved.heads if each >= number):
        found = next(
            (
                (of, head, body)
                for of, head in carved.heads[place]
                if of >= seq
                for body in carved.bodies(place, of, head)
                if seal.record(place, of, epoch, head[:5], body) == head[5]
            ),
            None,
        )
        if found is None:
            continue
        if place > expected:
            skips = skips or (epoch == 1 and _is_tried_once(commits))
            if not skips:
                return
            salvage.dropped += place - expected
        seq, head, body = found
        expected = place + 1
        if head[0] == Kind.DIGEST:
            continue
        if not commits or commits[-1].seq != seq:
            commits.append(_Commit(seq, epoch, head[4], None, []))
        last = commits[-1]
        last.records.append((head, body))
        last.at = max(last.at, head[4])
        if head[0] == Kind.STATE and head[1] == NO_NODE:
            last.state = Code(_decoded(head, body).code).state_name
        elif head[0] == Kind.LAUNCH:
            epoch = _decoded(head, body).epoch


def _is_tried_once(commits: Sequence[_Commit]) -> bool:
    launches = [
        _decoded(head, body) for commit in commits for head, body in commit.records if head[0] == Kind.LAUNCH
    ]
    return len(launches) == 1 and launches[0].attempts == 1


def _decoded(head: Head, body: bytes) -> Any:
    kind, node, lo, count, at, _ = head
    return decode(Record(kind, at, body, node, lo, count))


def _bodies(carved: Carved, seal: Seal, number: int, seq: int, epoch: int, head: Head) -> Iterator[bytes]:
    """Yield the bodies of a record of a verified commit."""
    for body in carved.bodies(number, seq, head):
        if seal.is_record(head[5], number, seq, epoch, head, body):
            yield body


def _verified(
    carved: Carved, seal: Seal, seq: int, before: bytes, number: int
) -> Iterator[tuple[CommitRow, Sequence[Head]]]:
    for commit in carved.commits.get(seq, ()):
        epoch, at, first, count, state, mac = commit
        if first != number or not 0 <= count <= len(carved.heads):
            continue
        columns = [
            [head for of, head in carved.heads.get(each, {}) if of == seq]
            for each in range(first, first + count)
        ]
        for heads in itertools.islice(itertools.product(*columns), MOST_CHOICES):
            with suppress(struct.error, TypeError, OverflowError):
                if seal.commit(before, seq, epoch, at, first, state, heads) == mac:
                    yield commit, heads


def _tell_of_loss(salvage: _Salvage, carved: Carved, anchored: int) -> None:
    last = salvage.commits[-1].seq if salvage.commits else 0
    end = max([anchored, *(row.seq for row in carved.runs if row.id == salvage.row.id)], default=0)
    if salvage.dropped:
        salvage.lost.append(f"{count_text(salvage.dropped, 'record')} in between: what these told runs again")
    if end > last:
        which = f"commits {last + 1} to {end}" if end > last + 1 else f"commit {end}"
        salvage.lost.append(f"{which} at the end: what was told there runs again")


def _thin(salvage: _Salvage) -> None:
    """Leave out what refers to records that are missing, and the end of a run that has lost something: it goes on."""
    if not salvage.dropped:
        return
    replay = Replay()
    # Nodes that stand on nodes that are lost.
    broken: set[int] = set()
    for commit in salvage.commits:
        kept = []
        if commit.state is not None and is_final(commit.state):
            commit.state = None
        for place, (head, body) in enumerate(commit.records):
            kind, node, lo, count, at, _ = head
            if kind == Kind.STATE and node == NO_NODE and _decoded(head, body).code in FINAL_CODES:
                continue
            try:
                if node in broken or _refers_to_lost(replay, head, body):
                    broken.add(node)
                    raise HistoryDamaged("it refers to a node that is lost")
                replay.add(Entry(commit.seq, place, commit.epoch, Record(kind, at, body, node, lo, count)))
            except HistoryDamaged:
                salvage.dropped += 1
                continue
            kept.append((head, body))
        commit.records = kept


def _refers_to_lost(replay: Replay, head: Head, body: bytes) -> bool:
    if head[0] == Kind.ALIAS:
        return _decoded(head, body).root not in replay.nodes
    if head[0] != Kind.NODE:
        return False
    entry = _decoded(head, body)
    named = {dep.upstream for dep in entry.deps} | ({entry.parent[0]} if entry.parent else set())
    return not named <= replay.nodes.keys()


# -- the new file ------------------------------------------------------------------------------------------


def _write(folder: Path, salvage: _Salvage, epoch: int) -> None:
    """Write the new file, durably, under the name of one that is complete."""
    seal, row = salvage.seal, salvage.row
    genesis = seal.genesis(row.name, row.flow_name, row.created)
    begin = (row.id, row.name, row.flow_name, row.created, row.key_id, epoch, genesis)
    fill: list[tuple[str, Sequence[Any]]] = [(schema.BEGIN_RUN, begin)]
    head, number = genesis, 0
    for seq, commit in enumerate(salvage.commits, 1):
        first = number + 1
        heads = [
            (*head[:5], seal.record(place, seq, commit.epoch, head[:5], body))
            for place, (head, body) in enumerate(commit.records, first)
        ]
        mac = seal.commit(head, seq, commit.epoch, commit.at, first, commit.state, heads)
        row_of = (seq, commit.epoch, commit.at, first, len(heads), commit.state, mac)
        fill.append((schema.ADD_COMMIT, row_of))
        for head_of, (_, body) in zip(heads, commit.records, strict=True):
            number += 1
            fill.append((schema.ADD_RECORD, (number, seq, *head_of, body)))
        head = mac
    fill.append((schema.ADVANCE, (len(salvage.commits), number, head, row.id, epoch, genesis)))
    temporary = folder / f".{REPAIRED}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        build(temporary, schema.RUN, schema.RUN_WRITER_PRAGMAS, fill=fill)
        _sync(temporary)
        os.rename(temporary, folder / REPAIRED)
        sync_folder(folder)
    except OSError as error:
        raise HistoryError(f"{folder / REPAIRED} cannot be written: {error.strerror}") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(f"{temporary.name}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(folder: Path) -> list[str]:
    """Replace the damaged file, which stays under another name with its log; return these names."""
    failpoint("repair.written")
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    log = f"{RUN_FILE}-wal"
    try:
        for name in (RUN_FILE, log):
            path = folder / name
            is_there = path.exists() and path.stat().st_size > 0
            if is_there and not any(each.samefile(path) for each in folder.glob(f"{name}.damaged-*")):
                os.link(path, kept_beside(path, moment))
        sync_folder(folder)
        failpoint("repair.linked")
        # A log that is left would be applied to the new file.
        for name in (log, f"{RUN_FILE}-shm"):
            (folder / name).unlink(missing_ok=True)
        sync_folder(folder)
        failpoint("repair.emptied")
        os.replace(folder / REPAIRED, folder / RUN_FILE)
        sync_folder(folder)
    except OSError as error:
        raise HistoryError(
            f"{folder / RUN_FILE} cannot be replaced: {error.strerror}; repeat the repair"
        ) from error
    return sorted(each.name for each in folder.glob(f"{RUN_FILE}*.damaged-*"))
