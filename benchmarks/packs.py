"""What cached results cost: bytes and time to publish, find and load a million small ones, and objects after compaction.

    python benchmarks/packs.py [--smoke]

A small result is a dict of two entries; its key has parts of one argument and of the code. Beside them: the pickles alone.
Several sizes of batches stand for quick tasks and slow ones. The last lines count requests, as a store far away would see them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _measure import Line, print_line, timed

from graphflow.cache.cached import MISSING, CacheFolder
from graphflow.cache.compacting import compact
from graphflow.results.stores.local import LocalStore

FOLDER = "cache/small-0123456789abcdef"
KEY = bytes(range(32))
REPEATS = 3


def line(question: str, seconds: list[float], items: int, batch: int, **extra: float) -> None:
    """Print a measurement."""
    print_line(
        Line(
            question=question,
            system="graphflow",
            sizes={"items": items, "batch": batch},
            seconds=seconds,
            items=items,
        ),
        **extra,
    )


def small(start: int, stop: int) -> list[Any]:
    """Small results."""
    return [{"id": number, "name": f"item {number}"} for number in range(start, stop)]


class Counting(LocalStore):
    """A store that counts requests, and is far away by its URL."""

    __slots__ = ("listings", "reads")

    def __init__(self, folder: str) -> None:
        super().__init__(folder, key=KEY)
        self.listings = 0
        self.reads = 0

    @property
    def url(self) -> str:
        """Not that of a folder."""
        return "s3://bucket/prefix"

    def entries(self, prefix: str = "") -> Any:
        """A listing: a request per 1,000 objects."""
        found = list(super().entries(prefix))
        self.listings += 1 + len(found) // 1000
        return iter(found)

    def read_many(self, ranges: Any) -> Any:
        """A request per range."""
        self.reads += len(ranges)
        return super().read_many(ranges)


def in_batches(items: int, batch: int, act: Callable[[int, int], None]) -> None:
    """Call with each batch's start and stop."""
    for start in range(0, items, batch):
        act(start, min(items, start + batch))


def measure(items: int, batch: int, repeats: int) -> None:
    """All about batches of a size."""
    keys = np.random.default_rng(1).bytes(16 * items)
    with tempfile.TemporaryDirectory(prefix="graphflow-bench-") as place:
        seconds: dict[str, list[float]] = {
            name: []
            for name in ("pickle", "publish", "know", "find", "miss", "load", "compact", "know after")
        }
        for repeat in range(repeats):
            store = LocalStore(f"{place}/{repeat}", key=KEY)
            folder = CacheFolder(store, FOLDER)
            pickled = published = 0.0
            for start in range(0, items, batch):
                stop = min(items, start + batch)
                values = small(start, stop)
                begin = time.perf_counter()
                pickled_nbytes = len(pickle.dumps(values, protocol=5))
                pickled += time.perf_counter() - begin
                begin = time.perf_counter()
                folder.publish(
                    keys=keys[16 * start : 16 * stop],
                    values=values,
                    indices=range(start, stop),
                    run_id="0123456789abcdef",
                    node="small",
                    created=time.time(),
                    expires=None,
                    parts={"argument x": keys[4 * start : 4 * stop], "code": b"12345678"},
                )
                published += time.perf_counter() - begin
            seconds["pickle"].append(pickled)
            seconds["publish"].append(published)

            reader = CacheFolder(store, FOLDER)
            seconds["know"].append(timed(reader.refresh))

            def find(start: int, stop: int, reader: CacheFolder = reader) -> None:
                found = reader.find(keys[16 * start : 16 * stop], now=0.0)
                assert found.hits.count(1) == stop - start

            def load(start: int, stop: int, reader: CacheFolder = reader) -> None:
                found = reader.find(keys[16 * start : 16 * stop], now=0.0)
                assert MISSING not in reader.load(found, range(stop - start))[:1]

            seconds["find"].append(timed(lambda find=find: in_batches(items, batch, find)))
            load_all = timed(lambda load=load: in_batches(items, batch, load))
            seconds["load"].append(max(0.0, load_all - seconds["find"][-1]))
            others = os.urandom(16 * items)
            seconds["miss"].append(timed(lambda reader=reader, others=others: reader.find(others, now=0.0)))

            before = list(store.entries(f"{FOLDER}/"))
            if repeat == 0:
                count_requests(store.folder, keys, items, batch, "as written")
            seconds["compact"].append(
                timed(lambda store=store: compact(store, FOLDER, now=time.time(), grace_seconds=0.0))
            )
            after = list(store.entries(f"{FOLDER}/"))
            if repeat == 0:
                count_requests(store.folder, keys, items, batch, "after compaction")
            fresh = CacheFolder(store, FOLDER)
            seconds["know after"].append(timed(fresh.refresh))
            assert len(fresh) == items and fresh.find(keys, now=0.0).hits.count(1) == items
        raw = sum(len(pickle.dumps(value, protocol=5)) for value in small(0, min(items, 10_000))) / min(
            items, 10_000
        )
        values_nbytes = sum(int(pack.sizes.sum()) for pack in reader._packs)
        after_values = sum(int(pack.sizes.sum()) for pack in fresh._packs)
        line("pickle alone, a batch at once", seconds["pickle"], items, batch)
        beyond = statistics.median(seconds["publish"]) - statistics.median(seconds["pickle"])
        line(
            "publish",
            seconds["publish"],
            items,
            batch,
            us_beyond_pickling=beyond / items * 1e6,
            objects=len(before),
            bytes_per_item=sum(each.nbytes for each in before) / items,
            overhead_bytes_per_item=(sum(each.nbytes for each in before) - values_nbytes) / items,
            pickle_bytes_per_item_alone=raw,
            last_batch_pickle_nbytes=pickled_nbytes,
        )
        line("know a folder: list it and read all indexes", seconds["know"], items, batch)
        line("find, all hits", seconds["find"], items, batch)
        line("find, all misses, at once", seconds["miss"], items, batch)
        line("load", seconds["load"], items, batch)
        line(
            "compact",
            seconds["compact"],
            items,
            batch,
            objects=len(after),
            bytes_per_item=sum(each.nbytes for each in after) / items,
            overhead_bytes_per_item=(sum(each.nbytes for each in after) - after_values) / items,
        )
        line("know a folder, after compaction", seconds["know after"], items, batch)


def count_requests(place: str, keys: bytes, items: int, batch: int, when: str) -> None:
    """How many requests two processes make that share the batches; each knows the folder by itself."""
    far = Counting(place)
    begin = time.perf_counter()
    for worker in range(2):
        distant = CacheFolder(far, FOLDER)
        distant.refresh()
        for start in range(worker * batch, items, 2 * batch):
            stop = min(items, start + batch)
            found = distant.find(keys[16 * start : 16 * stop], now=0.0)
            assert MISSING not in distant.load(found, range(stop - start))[:1]
    line(
        f"all hits from afar, {when}",
        [time.perf_counter() - begin],
        items,
        batch,
        requests=far.listings + far.reads,
    )


def main() -> None:
    """Measure in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, to see that it works")
    is_small = parser.parse_args().smoke
    items = 5_000 if is_small else 1_000_000
    for batch in (50, 1_000) if is_small else (2_500, 20_000):
        measure(items, batch, 1 if is_small else REPEATS)


if __name__ == "__main__":
    main()
