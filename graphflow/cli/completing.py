"""What a shell offers on Tab: runs, nodes, flows, targets and backends.

Only what is there already is read, nothing is made or imported, and nothing is raised: a shell has no place for an error.
"""

from __future__ import annotations

import ast
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from graphflow.orchestration.stores.opening import Stores
    from graphflow.runs.history import RunHistory

__all__ = [
    "automations",
    "backends",
    "deployments",
    "flow_names",
    "nodes",
    "notifications",
    "pools",
    "run_ids",
    "targets",
]

P = ParamSpec("P")
Offers = list[tuple[str, str]]
_MOST_RUNS = 50
_MOST_FILES = 200
_MOST_NBYTES = 1 << 20


def _quiet(offer: Callable[P, Offers]) -> Callable[P, Offers]:
    """Offer nothing instead of an error, and log nothing."""

    @functools.wraps(offer)
    def safe(*args: P.args, **kwargs: P.kwargs) -> Offers:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            return offer(*args, **kwargs)
        except Exception:
            return []
        finally:
            logging.disable(before)

    return safe


@_quiet
def run_ids(incomplete: str) -> Offers:
    """Offer the newest runs by their ids, with flow and state, and the names for the latest."""
    found: Offers = [("@latest", "the newest run"), ("@latest-failed", "the newest run that failed")]
    if not incomplete.startswith("@"):
        with _history() as history:
            for run in history.runs(limit=_MOST_RUNS):
                told = f"{run.flow_name}, {run.state_name}"
                found.append((run.id, told))
                if run.name != run.id and incomplete:
                    found.append((run.name, told))
    return [each for each in found if each[0].lower().startswith(incomplete.lower())]


@_quiet
def flow_names(incomplete: str) -> Offers:
    """Offer the flows of the newest runs."""
    with _history() as history:
        names = dict.fromkeys(run.flow_name for run in history.runs(limit=10 * _MOST_RUNS))
    return [(name, "") for name in names if name.startswith(incomplete)]


@_quiet
def nodes(ctx: typer.Context, incomplete: str) -> Offers:
    """Offer the nodes of the run that the command names."""
    # Before the value of an option is there, arguments are not parsed.
    run = ctx.params.get("run") or next((each for each in ctx.args if not each.startswith("-")), None)
    if not run:
        return []
    with _history() as history:
        found = [(node.name, node.state.name) for node in history.run(str(run)).nodes]
    return [each for each in found if each[0].startswith(incomplete)]


@_quiet
def deployments(incomplete: str) -> Offers:
    """Offer the deployments by flow and name."""
    with _stores() as stores:
        found = [(each.deployment.full_name, each.deployment.pool) for each in stores.plans.all()]
    return [each for each in found if each[0].startswith(incomplete)]


@_quiet
def pools(incomplete: str) -> Offers:
    """Offer the pools."""
    with _stores() as stores:
        return [(each.name, "") for each in stores.pools.all() if each.name.startswith(incomplete)]


@_quiet
def limits(incomplete: str) -> Offers:
    """Offer the limits."""
    with _stores() as stores:
        found = [(each.name, f"{each.in_use} of {each.size}") for each in stores.limits.all()]
    return [each for each in found if each[0].startswith(incomplete)]


@_quiet
def rates(incomplete: str) -> Offers:
    """Offer the rates."""
    with _stores() as stores:
        found = [(each.name, f"{each.per_second:g}/s") for each in stores.limits.rates()]
    return [each for each in found if each[0].startswith(incomplete)]


@_quiet
def automations(incomplete: str) -> Offers:
    """Offer the automations."""
    with _stores() as stores:
        names = [each.automation.name for each in stores.rules.all()]
    return [(name, "") for name in names if name.startswith(incomplete)]


@_quiet
def notifications(incomplete: str) -> Offers:
    """Offer the notifications that have an address here."""
    from graphflow.orchestration.notifying import names

    return [(name, "") for name in names() if name.startswith(incomplete)]


@_quiet
def backends(incomplete: str) -> Offers:
    """Offer the kinds of backends."""
    cores = os.cpu_count() or 1
    found = [
        ("local", "threads, then worker processes for CPU work"),
        ("inline", "the calling thread; a debugger works"),
        ("threads", "threads of this process"),
        (f"threads:{2 * cores}", ""),
        ("processes", "a Dask worker process per core"),
        (f"processes:{cores}", ""),
        ("tcp://", "a Dask scheduler"),
        *[(name, "a scheduler file") for name in sorted(os.listdir()) if name.endswith(".json")],
    ]
    return [each for each in found if each[0].startswith(incomplete)]


@_quiet
def targets(incomplete: str) -> Offers:
    """Offer folders, Python files that use graphflow, and after `file.py:` their flows; the files are read, not imported."""
    place, colon, name = incomplete.rpartition(":")
    if colon:
        return [(f"{place}:{each}", "") for each in _flows_in(Path(place)) if each.startswith(name)]
    folder, _, start = incomplete.rpartition("/")
    found: Offers = []
    with os.scandir(folder or ("/" if incomplete.startswith("/") else ".")) as entries:
        for entry in sorted(entries, key=lambda each: each.name)[: 10 * _MOST_FILES]:
            if not entry.name.startswith(start) or entry.name.startswith((".", "__pycache__")):
                continue
            path = f"{folder}/{entry.name}" if folder or incomplete.startswith("/") else entry.name
            if entry.is_dir():
                found.append((f"{path}/", ""))
            elif entry.name.endswith(".py") and len(found) < _MOST_FILES:
                flows = list(_flows_in(Path(path)))
                if len(flows) == 1:
                    found.append((path, flows[0]))
                found += [(f"{path}:{each}", "") for each in flows if len(flows) > 1]
    return found


def _flows_in(path: Path) -> Iterator[str]:
    """Yield the names of functions that are decorated as flows."""
    if path.stat().st_size > _MOST_NBYTES:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if "graphflow" not in text:
        return
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            map(_is_flow, node.decorator_list)
        ):
            yield node.name


def _is_flow(decorator: Any) -> bool:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    name = decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")
    return bool(name == "flow")


def _history() -> RunHistory:
    from graphflow.common import settings

    if not (settings.home() / settings.KEY_FILE).exists() and settings.given_key() is None:
        raise FileNotFoundError("there is no run yet, and nothing is to be made")
    from graphflow.runs.history import history

    return history()


def _stores() -> Stores:
    from graphflow.common import settings

    if not (settings.home() / "catalog.db").exists():
        raise FileNotFoundError("nothing is deployed yet, and nothing is to be made")
    from graphflow.orchestration.stores.opening import open_stores

    return open_stores()
