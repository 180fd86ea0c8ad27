"""Flights: several processes and threads want the same keys, and each is executed once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

WORKER = """
import os, random, sys, threading, time
from graphflow.cache.cached import cache_folder
from graphflow.cache.sites import claims_of
from graphflow.results.stores.opening import open_store

place, seed = sys.argv[1], int(sys.argv[2])
store = open_store(place + "/store")
claims, folder = claims_of(store, "cache/x-1", "token"), cache_folder(store, "cache/x-1", "token")
log = os.open(place + "/log", os.O_WRONLY | os.O_APPEND)


def missing(keys):
    found = folder.find(b"".join(keys), now=time.time())
    return [key for key, is_hit in zip(keys, found.hits) if not is_hit]


def work(drawn):
    for _ in range(6):
        keys = list({b"%016d" % drawn.randrange(1, 200): None for _ in range(40)})
        while True:
            seen = claims.seen
            keys = missing(keys)
            if not keys:
                break
            claimed = claims.claim(keys, seen)
            if claimed.must_list:
                folder.refresh()
                claims.listed(claimed)
            left = missing(keys) if claimed.has_news else keys
            # A batch hands back what it does not reach.
            chosen = [key for key in left if key not in claimed.taken][: drawn.randrange(1, 40)]
            for key in chosen:
                os.write(log, key + b"\\n")
            if chosen:
                folder.publish(
                    keys=b"".join(chosen), values=chosen, indices=range(len(chosen)), run_id="r", node="n",
                    created=time.time(), expires=None, parts={},
                )
            claims.release(claimed, chosen)


threads = [threading.Thread(target=work, args=(random.Random(seed * 100 + each),)) for each in range(3)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""


def test_each_key_is_executed_once_by_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFLOW_HOME", str(tmp_path / "home"))
    log = tmp_path / "log"
    log.touch()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(seed)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(2)
    ]
    for each in workers:
        _, err = each.communicate(timeout=90)
        assert each.returncode == 0, err

    seen = Counter(log.read_text().split())

    assert len(seen) > 100
    assert max(seen.values()) == 1
