"""Whether this installation can run flows: each check says what it found, and what to do where something is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from graphflow.common import settings
from graphflow.errors import GraphflowError
from graphflow.results.stores.opening import default_store_url, open_store

__all__ = ["Check", "Verdict", "check_all"]

LOW_DISK, NO_DISK = 1 << 30, 100 << 20
"""Free bytes below which a disk is a warning, and below which runs are likely to fail."""
FEW_FILES = 1024
SKEW_SECONDS = 2.0
CLUSTER_SECONDS = 10


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, and what to do unless all is well."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def check_all() -> Iterator[Check]:
    """Return the checks as they are made; one that breaks with an error is broken, with the error's text.

    Nothing is left behind: a home that is not there is not made, and what is written to the result store is removed.
    """
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("versions", _versions),
        ("settings", _settings),
        ("home", _home),
        ("key", _key),
        ("histories", _histories),
        ("result store", _result_store),
        ("cluster", _cluster),
        ("ports", _ports),
        ("clock", _clock),
        ("disk", _disk),
        ("file limits", _limits),
    )
    for name, check in checks:
        try:
            yield check()
        except (GraphflowError, OSError) as error:
            yield _broken(name, str(error), "")


def _ok(name: str, found: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, found=found)


def _warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, verdict=Verdict.WARNING, found=found, advice=advice)


def _broken(name: str, found: str, advice: str) -> Check:
    return Check(name=name, verdict=Verdict.BROKEN, found=found, advice=advice)


def _versions() -> Check:
    from packaging.requirements import Requirement

    wrong: list[str] = []
    for line in metadata.requires("graphflow") or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            there = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is not installed")
            continue
        if not needed.specifier.contains(there, prereleases=True):
            wrong.append(f"{needed.name} is {there}, needed is {needed.specifier}")
    found = f"graphflow {metadata.version('graphflow')}, Python {platform.python_version()}, dask {metadata.version('dask')}"
    if wrong:
        return _broken(
            "versions", f"{found}; {', '.join(wrong)}", "install it again: python -m pip install -U graphflow"
        )
    return _ok("versions", found)


def _settings() -> Check:
    values = settings.resolved()
    changed = sum(values[each.key] != each.default for each in settings.SETTINGS)
    files = [file for file, _ in settings.config_files()]
    return _ok("settings", f"{changed} changed{', from ' + ', '.join(files) if files else ''}")


def _home() -> Check:
    home = settings.home()
    if not home.exists():
        above = next(each for each in home.parents if each.exists())
        if os.access(above, os.W_OK | os.X_OK):
            return _ok("home", f"{home} is not there yet; the first run makes it")
        return _broken(
            "home",
            f"{home} cannot be made: {above} is not writable",
            "set GRAPHFLOW_HOME to a folder of yours",
        )
    if not home.is_dir():
        return _broken("home", f"{home} is not a folder", "set GRAPHFLOW_HOME to a folder")
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"graphflow")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return _broken(
            "home", f"{home} is not writable: {error.strerror}", f"make it writable: chmod u+rwx {home}"
        )
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return _warning(
            "home", f"{home} is writable by others (mode {mode:04o})", f"make it private: chmod 700 {home}"
        )
    return _ok("home", f"{home} is writable")


def _key() -> Check:
    given = settings.given_key() is not None
    place = settings.home() / settings.KEY_FILE
    if not given and not place.exists():
        return _ok("key", "none yet; the first run makes one")
    settings.secret_key()
    return _ok("key", "from the environment" if given else str(place))


def _histories() -> Check:
    if settings.history_kind() == "memory":
        return _warning(
            "histories",
            "runs are recorded in memory alone",
            "to keep them: graphflow config set runs.history disk",
        )
    if not settings.home().exists():
        return _ok("histories", "none yet")
    from graphflow.runs.history import history

    with history() as found:
        runs = found.runs(limit=1)
    return _ok("histories", f"readable; the last run is {runs[0].id}" if runs else "readable; no runs")


def _result_store() -> Check:
    url = default_store_url()
    if settings.result_storage() is None and not settings.home().exists():
        return _ok("result store", f"{settings.without_user(url)} is not there yet; the first run makes it")
    advice = "check the place, the credentials and the network: docs/s3.md"
    try:
        # With a key of its own: nothing is signed, and a home that has none yet is left so.
        store = open_store(url, key=os.urandom(settings.KEY_NBYTES))
        begin = time.perf_counter()
        store.check()
    except (GraphflowError, OSError) as error:
        return _broken("result store", f"{settings.without_user(url)}: {error}", advice)
    return _ok(
        "result store", f"{store.url} can be written and read ({1000 * (time.perf_counter() - begin):.0f} ms)"
    )


def _cluster() -> Check:
    spec = settings.backend()
    if spec is None or ("://" not in spec and not spec.endswith(".json")):
        from graphflow.backends import resolve

        backend, _ = resolve(spec)
        backend.close()
        return _ok("cluster", f"none configured; flows run on {spec or 'local'}")
    from graphflow.backends import dask

    options = {"timeout": CLUSTER_SECONDS}
    backend = (
        dask(scheduler_file=spec, client_kwargs=options)
        if spec.endswith(".json")
        else dask(address=spec, client_kwargs=options)
    )
    try:
        backend.start()
        slots = backend.capacity().slots
    except GraphflowError as error:
        return _broken(
            "cluster",
            f"{spec}: {error}",
            "start the scheduler and its workers, or change runs.backend: graphflow config set runs.backend local",
        )
    finally:
        backend.close()
    return _ok("cluster", f"{spec} has {slots} slots")


def _ports() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                pass
    except OSError as error:
        return _broken(
            "ports",
            f"this process cannot connect to itself on 127.0.0.1: {error}",
            "worker processes need it: look at the firewall or sandbox, or use --backend threads",
        )
    return _ok("ports", f"127.0.0.1 works (tried {port})")


def _clock() -> Check:
    now = time.time()
    home = settings.home()
    place = home if home.exists() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=place) as file:
        skew = os.stat(file.name).st_mtime - now
    if abs(skew) > SKEW_SECONDS:
        return _warning(
            "clock",
            f"the clock of the disk at {place} is {skew:+.1f} s off this machine's",
            "synchronise the clocks: leases and expiry compare them",
        )
    return _ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)))


def _disk() -> Check:
    places = {str(settings.home()): settings.home(), tempfile.gettempdir(): Path(tempfile.gettempdir())}
    texts: list[str] = []
    least = LOW_DISK
    for name, place in places.items():
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        least = min(least, free)
        texts.append(f"{free / 2**30:.1f} GiB free at {name}")
    found = ", ".join(texts)
    advice = "free some space, remove old runs (graphflow runs rm) and cached results (graphflow cache), or use another home"
    if least < NO_DISK:
        return _broken("disk", found, advice)
    return _warning("disk", found, advice) if least < LOW_DISK else _ok("disk", found)


def _limits() -> Check:
    try:
        import resource
    except ImportError:  # not on this system
        return _ok("file limits", "this system tells none")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEW_FILES:
        return _warning(
            "file limits",
            f"at most {soft:,} open files",
            f"raise it before runs with many workers: ulimit -n {FEW_FILES if hard < 0 else min(4096, hard)}",
        )
    return _ok(
        "file limits",
        f"{soft:,} open files" if soft != resource.RLIM_INFINITY else "no limit of open files",
    )
