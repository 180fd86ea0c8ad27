"""Runs the measurements of a plan, each in a process of its own, and gives a line for each."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from graphflow.bench import cold
from graphflow.bench.isolated import Ended, run_isolated
from graphflow.bench.lines import BenchError, Line, Status
from graphflow.bench.measure import Order
from graphflow.bench.peers import PEERS
from graphflow.bench.place import commit, machine, versions
from graphflow.bench.plan import Asked, Case, cases_of, refusal, seconds_expected
from graphflow.bench.workloads import WORKLOADS, durations_of, ideal_seconds

__all__ = ["check", "run_benchmark"]

_SMOKE_JOBS = 2


def check(asked: Asked) -> None:
    """Raise if something that was asked for is not there.

    Raises
    ------
    BenchError
        For an unknown workload or peer, or a number that makes no sense.
    """
    known = list(dict.fromkeys(name for each in WORKLOADS for name in (each.name, each.key)))
    for name in asked.workloads:
        if name not in known:
            raise BenchError(f"unknown workload {name!r}; use {', '.join(known)}")
    for name in asked.peers:
        if name not in PEERS:
            raise BenchError(f"unknown peer {name!r}; use {', '.join(PEERS)}")
    for what, value in (("sizes", min(asked.sizes, default=1)), ("repeats", asked.repeats)):
        if value < 1:
            raise BenchError(f"{what} must be an integer, 1 or more, not {value}")
    if asked.slots < 1:
        raise BenchError(f"slots must be an integer, 1 or more, not {asked.slots}")
    for what, seconds in (("limit", asked.limit_seconds), ("timeout", asked.timeout_seconds)):
        if not seconds > 0:
            raise BenchError(f"{what} must be a positive number of seconds, not {seconds:g}")


def run_benchmark(asked: Asked) -> Iterator[Line]:
    """Measure, and give each line as soon as it is there."""
    check(asked)
    cases = list(cases_of(asked))
    needs_server = any(case.workload.name == "W8" for case in cases)
    with _server(is_needed=needs_server) as port:
        bench = _Bench(asked, port)
        if asked.is_smoke:
            yield from bench.in_groups(cases)
        else:
            for case in cases:
                yield from bench.one(case)


@contextmanager
def _server(*, is_needed: bool) -> Iterator[int]:
    """Start the server for W8 in its own process; it exits when its stdin is closed."""
    if not is_needed:
        yield 0
        return
    command = [sys.executable, "-m", "graphflow.bench.requests"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        try:
            port = server.stdout.readline()
            if not port:
                raise BenchError("the server for W8 did not start; see its output above")
            yield int(port)
        finally:
            server.stdin.close()


class _Bench:
    """Measures cases, and remembers what they took."""

    def __init__(self, asked: Asked, port: int) -> None:
        self._asked = asked
        self._port = port
        self._measured: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)

    def one(self, case: Case) -> Iterator[Line]:
        """Yield a case in a process of its own."""
        line = self._refused(case)
        if line is None and case.workload.is_whole_process:
            line = self._whole_process(case)
        yield from [line] if line is not None else self._together([case])

    def in_groups(self, cases: Sequence[Case]) -> Iterator[Line]:
        """Yield the cases of a peer in one process, two processes at a time: quick, for smoke runs."""

        def group(case: Case) -> tuple[Any, ...]:
            whole = (case.workload.key, case.n) if case.workload.is_whole_process else ("", 0)
            return case.peer, case.slots, *whole

        def measure(group: list[Case]) -> list[Line]:
            if group[0].workload.is_whole_process:
                return [line for case in group for line in self.one(case)]
            refused = [(case, self._refused(case)) for case in group]
            lines = [line for _, line in refused if line is not None]
            return [*lines, *self._together([case for case, line in refused if line is None])]

        groups = [list(each) for _, each in groupby(sorted(cases, key=group), group)]
        jobs = ThreadPoolExecutor(_SMOKE_JOBS)
        try:
            for lines in jobs.map(measure, groups):
                yield from lines
        finally:
            # After Ctrl-C what has not begun is left out.
            jobs.shutdown(cancel_futures=True)

    def _refused(self, case: Case) -> Line | None:
        if reason := refusal(case):
            return self._line(case, status=Status.CANNOT, reason=reason)
        is_named = case.workload.key in self._asked.workloads
        if self._asked.is_smoke and case.workload.key == "W3/cold" and not is_named:
            reason = "a smoke run starts each script once, for W6"
            return self._line(case, status=Status.SKIPPED, reason=reason)
        package = PEERS[case.peer].package
        if package and find_spec(package) is None:
            return self._line(case, status=Status.SKIPPED, reason=f"package {package!r} is not installed")
        limit = self._asked.limit_seconds
        known = self._measured[case.workload.key, case.peer]
        expected = seconds_expected(case, known, is_smoke=self._asked.is_smoke)
        if expected > limit:
            reason = f"one run would take about {expected:,.0f} s, and the limit is {limit:g} s"
            return self._line(case, status=Status.SKIPPED, reason=reason)
        return None

    def _together(self, cases: list[Case]) -> Iterator[Line]:
        """Cases of one peer and number of slots in one process."""
        if not cases:
            return
        asked, first = self._asked, cases[0]
        order = Order(
            peer=first.peer,
            slots=first.slots,
            cases=[(case.workload.key, case.n) for case in cases],
            repeats=asked.repeats,
            limit_seconds=asked.limit_seconds,
            is_smoke=asked.is_smoke,
            port=self._port,
        )
        command = [sys.executable, "-m", "graphflow.bench.measure", order.to_json()]
        ended = run_isolated(command, timeout_seconds=asked.timeout_seconds)
        found = {(each.pop("key"), each.pop("n")): each for each in _documents(ended.out)}
        for case in cases:
            document = found.get((case.workload.key, case.n)) or _no_document(ended, asked.timeout_seconds)
            document["tree_peak_rss_bytes"] = ended.tree_peak_rss_bytes or None
            yield self._line(case, **document)

    def _whole_process(self, case: Case) -> Line:
        """Scripts from their cold start to their exit."""
        asked = self._asked
        seconds_each = max(durations_of(case.workload, case.n, is_smoke=asked.is_smoke), default=0.0)
        words = [case.peer, str(case.n), repr(seconds_each), str(case.slots)]
        # -P: the script's own folder is not searched for the packages that it imports.
        command = [sys.executable, "-P", str(Path(cold.__file__)), *words]
        seconds: list[float] = []
        cpu: list[float] = []
        peak = tree = 0
        # The first one fills the caches of files and compiled modules, and is not counted.
        for number in range(asked.repeats + (0 if asked.is_smoke else 1)):
            ended = run_isolated(command, timeout_seconds=asked.timeout_seconds)
            if ended.code or ended.is_timeout:
                return self._line(case, **_no_document(ended, asked.timeout_seconds))
            outcome, kilobytes = map(int, ended.out.split()[-2:])
            if outcome != case.n:
                reason = f"returned {outcome}, but a plain loop returns {case.n}"
                return self._line(case, status=Status.WRONG, reason=reason)
            if number or asked.is_smoke:
                seconds.append(round(ended.seconds, 6))
                cpu.append(ended.cpu_seconds)
                peak, tree = max(peak, kilobytes * 1024), max(tree, ended.tree_peak_rss_bytes)
        return self._line(
            case,
            repeats=len(seconds),
            seconds=statistics.median(seconds),
            seconds_all=seconds,
            cpu_us_per_item=round(statistics.median(cpu) / case.n * 1e6, 3),
            peak_rss_bytes=peak or None,
            tree_peak_rss_bytes=tree or None,
        )

    def _line(self, case: Case, **found: Any) -> Line:
        seconds: float | None = found.get("seconds")
        if seconds is not None:
            self._measured[case.workload.key, case.peer][case.n] = seconds
            found["us_per_item"] = round(seconds / case.n * 1e6, 3)
            ideal = ideal_seconds(case.workload, case.n, slots=case.slots, is_smoke=self._asked.is_smoke)
            if ideal is not None:
                found["ideal_seconds"] = round(ideal, 6)
                found["percent_of_ideal"] = round(100 * ideal / seconds, 2)
                found["times_ideal"] = round(seconds / ideal, 4)
        return Line(
            workload=case.workload.name,
            variant=case.workload.variant,
            peer=case.peer,
            n=case.n,
            slots=case.slots,
            is_smoke=self._asked.is_smoke,
            versions=versions(_packages_of(case.peer)),
            machine=machine(),
            commit=commit(),
            command=self._asked.command(),
            **found,
        )


def _packages_of(peer: str) -> Iterable[str]:
    return dict.fromkeys(["graphflow", "dask", "distributed", *filter(None, [PEERS[peer].package])])


def _documents(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        document = json.loads(line)
        yield document


def _no_document(ended: Ended, timeout_seconds: float) -> dict[str, Any]:
    """Return what a case's line says whose process gave none."""
    if ended.is_timeout:
        return {"status": Status.TIMEOUT, "reason": f"not done after {timeout_seconds:g} s"}
    what = f"ended by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    return {"status": Status.ERROR, "reason": f"{what}; {ended.last_words}".rstrip("; ")}
