"""What caching costs, and what it saves: first runs, reruns in which all is found, on a disk and on S3, beside peers.

python benchmarks/caching.py [--smoke] [--items 1000000] [--repeats 3] [--only disk s3 slots throttled peers hash]

`slots` compares stores for several numbers of slots, backends and lengths of items: a disk, S3 on loopback, and S3 whose every
request takes 20 ms longer; requests are counted by a proxy. S3 is moto's server on loopback, in a process of its own, which shares the machine; requests are counted in its log. Peers keep one object per item: they are measured with fewer items. Prints one JSON line per figure.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import util
from pathlib import Path
from typing import Any

from _measure import home, show
from _measure import timed as seconds

from graphflow import INPUTS, backends, flow, task
from graphflow.identity.hashing import canonical_digest
from graphflow.testing.faults.s3proxy import Fault, S3Proxy
from graphflow.testing.faults.s3server import S3Server

SLOTS = 2
PEER_ITEMS = 1_000


@task
def plain(x: int) -> int:
    """Nothing."""
    return x


@task(cache_policy=INPUTS)
def cached(x: int) -> int:
    """Nothing, and kept."""
    return x


def _busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@task
def plain_work(x: int) -> int:
    """20 µs of work."""
    _busy(20e-6)
    return x


@task(cache_policy=INPUTS)
def cached_work(x: int) -> int:
    """20 µs of work, and kept."""
    _busy(20e-6)
    return x


def objects(folder: Path) -> tuple[int, int]:
    """How many objects the cache has, and their bytes."""
    sizes = [each.stat().st_size for each in folder.glob("cache/**/*") if each.is_file()]
    return len(sizes), sum(sizes)


def disk(items: int, repeats: int) -> None:
    """First runs with and without caching, and reruns in which all is found, on the local disk."""
    with backends.processes(slots=SLOTS) as backend:

        @flow(backend=backend)
        def body(which: Any, count: int, start: int) -> None:
            which.map(range(start, start + count))

        with home() as folder:
            body(plain, items // 10, 0)
            for what, one, other, count in (
                ("no-op", plain, cached, items),
                ("20 us of work", plain_work, cached_work, max(1, items // 5)),
            ):
                without = statistics.median(
                    seconds(lambda one=one, count=count: body(one, count, 0)) for _ in range(repeats)
                )
                starts = iter(range(10 * items, 10**12, 10 * items))
                first = statistics.median(
                    seconds(lambda other=other, count=count, starts=starts: body(other, count, next(starts)))
                    for _ in range(repeats)
                )
                show(
                    {
                        "what": f"first run with caching, {what}",
                        "items": count,
                        "us_per_item": round(first / count * 1e6, 2),
                        "without": round(without / count * 1e6, 2),
                        "times": round(first / without, 2),
                        "budget": 2.0,
                    }
                )
            body(cached, items, 0)
            found = [seconds(lambda: body(cached, items, 0)) for _ in range(repeats)]
            show(
                {
                    "what": "all found again, local disk",
                    "items": items,
                    "us_per_item": round(statistics.median(found) / items * 1e6, 2),
                    "budget": 10.0,
                }
            )
            number, nbytes = objects(folder / "results")
            show({"what": "objects before compaction", "objects": number, "bytes": nbytes})
            command = [sys.executable, "-m", "graphflow", "cache", "compact", "--grace", "0"]
            took = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
            number, nbytes = objects(folder / "results")
            show(
                {
                    "what": "objects after compaction",
                    "results": (repeats + 1) * items + repeats * max(1, items // 5),
                    "objects": number,
                    "bytes": nbytes,
                    "seconds": round(took, 2),
                    "budget": 200,
                }
            )
            with backends.processes(slots=SLOTS) as others:
                # Workers that know nothing of what they wrote themselves.
                anew = body.with_options(backend=others)
                anew(plain, 1_000, 0)
                again = seconds(lambda: anew(cached, items, 0))
            show(
                {
                    "what": "all found by new processes, after compaction, local disk",
                    "items": items,
                    "us_per_item": round(again / items * 1e6, 2),
                    "budget": 10.0,
                }
            )


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """moto's server; each request is a line of the log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=file,
        )
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(url, timeout=1)
                    break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def requests(log: Path) -> int:
    """Requests that the server answered so far."""
    return sum(" HTTP/1.1" in line for line in log.read_text(errors="replace").splitlines())


def s3(items: int, repeats: int) -> None:
    """The same on S3, with the requests of all processes."""
    with home() as folder, s3_server(folder / "s3.log") as url:
        os.environ.update(
            AWS_ENDPOINT_URL=url,
            AWS_ACCESS_KEY_ID="bench",
            AWS_SECRET_ACCESS_KEY="bench",
            AWS_DEFAULT_REGION="us-east-1",
        )
        import s3fs

        s3fs.S3FileSystem(endpoint_url=url).mkdir("bench-bucket")
        with backends.processes(slots=SLOTS) as backend:

            @flow(backend=backend)
            def body(which: Any, count: int) -> None:
                which.with_options(result_storage="s3://bench-bucket/cache").map(range(count))

            body(plain, 1_000)
            first = seconds(lambda: body(cached, items))
            made = requests(folder / "s3.log")
            show(
                {
                    "what": "first run with caching, S3 on loopback",
                    "items": items,
                    "us_per_item": round(first / items * 1e6, 2),
                    "requests": made,
                }
            )
            found, counts = [], []
            for _ in range(repeats):
                with backends.processes(slots=SLOTS) as others:
                    # Workers that know nothing of what they wrote themselves.
                    anew = body.with_options(backend=others)
                    anew(plain, 1_000)
                    before = requests(folder / "s3.log")
                    found.append(seconds(lambda anew=anew: anew(cached, items)))
                    counts.append(requests(folder / "s3.log") - before)
            show(
                {
                    "what": "all found by new processes, S3 on loopback",
                    "items": items,
                    "us_per_item": round(statistics.median(found) / items * 1e6, 2),
                    "budget": 20.0,
                    "requests": int(statistics.median(counts)),
                    "requests_budget": 2_000,
                }
            )


@task(cache_policy=INPUTS)
def cached_sleep(x: int, seconds: float) -> int:
    """Wait, and be kept."""
    if seconds:
        time.sleep(seconds)
    return x


@contextmanager
def counted_store() -> Iterator[tuple[Path, str, S3Proxy]]:
    """Give a home, the URL of a bucket, and the proxy that all requests to it pass."""
    server = S3Server()
    proxy = S3Proxy(server.endpoint)
    try:
        with home() as folder:
            bucket = server.bucket()
            os.environ.update(bucket.environment)
            os.environ.update({name: proxy.endpoint for name in bucket.environment if "ENDPOINT" in name})
            yield folder, bucket.url, proxy
    finally:
        proxy.close()
        server.close()


def throttled(items: int, repeats: int) -> None:
    """A store that refuses one request in ten, beside the same store: right values, each item once, how much longer."""
    count = 100 if items <= 2_000 else 1_000
    with counted_store() as (folder, url, proxy):
        tally = folder / "tally"

        @task(cache_policy=INPUTS, run_once=True, result_storage=f"{url}/cache")
        def once(x: int) -> int:
            time.sleep(0.02)
            with tally.open("a") as file:
                file.write(f"{x}\n")
            return 2 * x

        @flow(backend="threads:16")
        def body(start: int) -> int:
            return once.map(range(start, start + count))

        starts = iter(range(0, 10**12, 10**6))
        body(next(starts))
        took: dict[bool, list[float]] = {True: [], False: []}
        asked, refused = 0, 0
        for repeat in range(2 * repeats):
            is_throttled = bool(repeat % 2)
            refuses = Fault(times=None, every=10, status=503, code="SlowDown")
            proxy.plan(*([refuses] if is_throttled else []))
            proxy.forget()
            tally.write_text("")
            start, begin = next(starts), time.perf_counter()
            values = body(start)
            took[is_throttled].append(time.perf_counter() - begin)
            if [*values] != [2 * x for x in range(start, start + count)]:
                raise SystemExit("a value is wrong")
            if sorted(map(int, tally.read_text().split())) != [*range(start, start + count)]:
                raise SystemExit("an item was not executed once")
            if is_throttled:
                asked, refused = len(proxy.seen()), refuses.hits
        show(
            {
                "what": "first run with caching, a tenth of all requests refused",
                "backend": "threads:16",
                "items": count,
                "item_seconds": 0.02,
                "seconds": round(statistics.median(took[True]), 2),
                "seconds_otherwise": round(statistics.median(took[False]), 2),
                "allowed_seconds": round(2 * statistics.median(took[False]), 2),
                "requests": asked,
                "refused": refused,
            }
        )


def slots(items: int, repeats: int) -> None:
    """First runs on several numbers of slots, with items of several lengths, on several stores."""
    lengths = ((0.0, 2_000), (0.002, 1_000), (0.02, 1_000))
    places = ("inline", "threads:1", "threads:4", "threads:16", "local", "processes:2")
    if items <= 2_000:
        lengths, places = lengths[:2], places[1:3]
    with counted_store() as (folder, url, proxy):
        stores = (
            (str(folder / "disk"), 0.0),
            (f"{url}/cache", 0.0),
            (f"{url}/cache", 0.02),
        )
        starts = iter(range(0, 10**12, 10**6))
        for place in places:
            for length, count in lengths:
                _first_runs(place, stores, proxy, length=length, count=count, repeats=repeats, starts=starts)


def _first_runs(
    place: str,
    stores: Sequence[tuple[str, float]],
    proxy: S3Proxy,
    *,
    length: float,
    count: int,
    repeats: int,
    starts: Iterator[int],
) -> None:
    """One line per store; the allowed seconds are 1.5 times those on the disk, and 10 ms or the latency per request."""
    on_disk = 0.0
    is_own = place.startswith("processes")
    with backends.processes(slots=int(place.partition(":")[2])) if is_own else nullcontext(place) as backend:

        @flow(backend=backend)
        def body(storage: str, start: int) -> None:
            cached_sleep.with_options(result_storage=storage).map(range(start, start + count), length)

        for storage, latency in stores:
            proxy.plan(*([Fault(times=None, delay_seconds=latency)] if latency else []))
            body(storage, next(starts))
            took, counts = [], []
            for _ in range(repeats):
                proxy.forget()
                took.append(seconds(lambda storage=storage: body(storage, next(starts))))
                counts.append(len(proxy.seen()))
            median, asked = statistics.median(took), int(statistics.median(counts))
            on_disk = on_disk or median
            show(
                {
                    "what": "first run with caching",
                    "backend": place,
                    "items": count,
                    "item_seconds": length,
                    "store": storage.partition(":")[0] if "://" in storage else "disk",
                    "latency_seconds": latency,
                    "seconds": round(median, 2),
                    "allowed_seconds": round(1.5 * on_disk + asked * max(0.01, latency), 2),
                    "requests": asked,
                    "requests_budget": 60,
                }
            )


def peers(items: int, repeats: int) -> None:
    """All found again: graphflow, joblib.Memory and, where it is installed, Prefect."""
    count = min(items, PEER_ITEMS)
    with home():

        @flow(backend="threads:2")
        def body() -> None:
            cached.map(range(count))

        body()
        ours = statistics.median(seconds(body) for _ in range(repeats))
        show(
            {"what": "all found again", "peer": "graphflow", "items": count, "us_per_item": _us(ours, count)}
        )
    import joblib

    with tempfile.TemporaryDirectory() as place:
        remembered = joblib.Memory(place, verbose=0).cache(_same)
        for x in range(count):
            remembered(x)
        theirs = statistics.median(
            seconds(lambda: [remembered(x) for x in range(count)]) for _ in range(repeats)
        )
        show(
            {
                "what": "all found again",
                "peer": "joblib.Memory",
                "items": count,
                "us_per_item": _us(theirs, count),
            }
        )
    if util.find_spec("prefect") is None:
        show({"what": "all found again", "peer": "prefect", "skipped": "it is not installed (group peers)"})
        return
    with tempfile.TemporaryDirectory() as place:
        code = _PREFECT.format(count=count)
        environ = {
            **os.environ,
            "PREFECT_HOME": place,
            "PREFECT_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            show({"what": "all found again", "peer": "prefect", "error": done.stderr[-300:]})
        else:
            took = float(done.stdout.strip().splitlines()[-1])
            show(
                {
                    "what": "all found again",
                    "peer": "prefect",
                    "items": count,
                    "us_per_item": _us(took, count),
                }
            )


_PREFECT = """
import time
from prefect import flow, task
from prefect.cache_policies import INPUTS

@task(cache_policy=INPUTS, persist_result=True)
def same(x):
    return x

@flow
def body():
    same.map(range({count})).result()

body()
begin = time.perf_counter()
body()
print(time.perf_counter() - begin)
"""


def _same(x: int) -> int:
    return x


def _us(took: float, count: int) -> float:
    return round(took / count * 1e6, 2)


def hashes(items: int, repeats: int) -> None:
    """The canonical hash of a small dict."""
    value = {"name": "a name", "size": 3, "ratio": 0.5, "tags": ["a", "b"], "on": True}
    count = min(items, 100_000)
    found = statistics.median(
        seconds(lambda: [canonical_digest(value) for _ in range(count)]) for _ in range(repeats)
    )
    show({"what": "canonical hash of a small dict", "us": _us(found, count), "budget": 5.0})


def main() -> None:
    """Measure and print."""
    parts: dict[str, Callable[[int, int], None]] = {
        "disk": disk,
        "s3": s3,
        "slots": slots,
        "throttled": throttled,
        "peers": peers,
        "hash": hashes,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts))
    given = parser.parse_args()
    items, repeats = (2_000, 1) if given.smoke else (given.items, given.repeats)
    for name in given.only:
        parts[name](items, repeats)


if __name__ == "__main__":
    main()
